"""What needs a real server with options of its own: no extension at all."""
from __future__ import annotations

import pytest
from webui_hosts import ROOT, generate
from webui_settings import debias, same, save_profile

pytestmark = [pytest.mark.webui, pytest.mark.slow]


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
