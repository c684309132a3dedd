"""What needs a real server with options of its own: the page reloaded, no extension at all."""
from __future__ import annotations

import time

import pytest
from webui_hosts import ROOT, generate
from webui_settings import DIRECTIONS, debias, same, save_profile

pytestmark = [pytest.mark.webui, pytest.mark.slow]
HOSTS = ["A1111", "FORGE"]  # reForge itself ends where a request comes before its restart is complete


def reload_ui(server) -> None:
    """Press "Reload UI" on the settings page, and wait for the new page."""
    page, before = server.call("/config"), server.call("/app_id")
    button = next(c["id"] for c in page["components"] if c["props"].get("elem_id") == "settings_restart_gradio")
    press = next(i for i, d in enumerate(page["dependencies"])
                 if d["backend_fn"] and button in [t if isinstance(t, int) else t[0] for t in d["targets"]])
    server.call("/run/predict", dict(fn_index=press, data=[], session_hash="test"))
    until = time.time() + 120
    while time.time() < until:
        try:
            if server.call("/app_id") != before:
                return server.ready()
        except (OSError, ValueError):
            pass
        time.sleep(0.5)
    raise AssertionError("The page did not come back.")


@pytest.mark.parametrize("name", HOSTS)
def test_reloading_the_ui_twice_then_generating(start, name):
    server = start(name)
    made = {}
    for turn in range(3):
        for direction in DIRECTIONS:
            save_profile(server.profiles, direction, direction=direction)
            pictures, (said,) = generate(server, **debias(name=direction))
            assert said["Debias profile"] == direction and "Debias failed" not in said
            assert same(made.setdefault(direction, pictures), pictures), turn
        scripts = server.call("/sdapi/v1/scripts")["txt2img"]
        assert sorted(title for title in scripts if title.startswith("debias")) == [
            "debias", "debias: audit and calibrate"]
        plain, _ = generate(server)
        assert same(made.setdefault("plain", plain), plain) and not same(plain, made["prompt"])
        if turn < 2:
            reload_ui(server)


def test_off_is_bit_identical_to_a_host_without_the_extension(a1111, start, tmp_path, monkeypatch):
    # The demo model's settings name a function of the package, which a host without the extension must find elsewhere.
    (tmp_path / "sd_debias").symlink_to(ROOT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    bare = start("A1111", "--nowebui", "--disable-extra-extensions")
    assert not any("debias" in title for title in bare.call("/sdapi/v1/scripts")["txt2img"])
    save_profile(a1111.profiles, direction="embedding")
    for sampler in ("Euler", "DDIM", "DPM++ 2M"):
        page = dict(sampler_name=sampler, batch_size=2)
        without, _ = generate(bare, **page)
        for off in ({}, debias(enabled=False), debias(strength=0.0)):
            assert same(without, generate(a1111, **page, **off)[0]), (sampler, off)
