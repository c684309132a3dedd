"""What ComfyUI's page and its users elsewhere can ask of us, and what they learn."""
import asyncio
import json
import types

import pytest

from sd_debias.core.errors import DebiasError

web = pytest.importorskip("aiohttp.web")


@pytest.fixture
def ask(comfyui, tmp_path, monkeypatch):
    """ask(method, path, ...) -> (status, text) of our routes, on a server of their own."""
    from aiohttp.test_utils import TestClient, TestServer

    from sd_debias.nodes import panel, report
    monkeypatch.setattr(report, "folder", lambda: tmp_path / "output" / "debias")
    monkeypatch.setattr(panel, "labels_folder", lambda: tmp_path / "temp" / "debias")
    for place, file in (("output/debias/mine", "report.html"), ("temp/debias", "3.html"), ("home", "secret.html")):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / file).write_text(f"this is {file}")

    def run(method, path, **how):
        async def once():
            server = types.SimpleNamespace(routes=web.RouteTableDef())
            panel.register(server)
            app = web.Application()
            app.add_routes(server.routes)
            async with TestClient(TestServer(app)) as client:
                answer = await client.request(method, path, **how)
                return answer.status, await answer.text(), answer.headers
        return asyncio.run(once())
    return run


def test_reports_and_labels_are_served_in_a_sandbox(ask):
    for path, text in (("/sd-debias/report/mine/report.html", "this is report.html"),
                       ("/sd-debias/labels/3.html", "this is 3.html")):
        status, found, headers = ask("GET", path)
        assert (status, found) == (200, text) and headers["Content-Security-Policy"].startswith("sandbox")
        assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", [
    "/sd-debias/report/..%2f..%2fhome/secret.html", "/sd-debias/report/out/secret.html",
    "/sd-debias/report/mine/link.html", "/sd-debias/report/%2e%2e/secret.html", "/sd-debias/labels/link.html",
    "/sd-debias/labels/..%2f..%2fhome%2fsecret.html", "/sd-debias/labels/%2e%2e",
    "/sd-debias/report/mine/profile.json"])
def test_no_address_and_no_link_leads_to_another_file(ask, tmp_path, path):
    (tmp_path / "output" / "debias" / "out").symlink_to(tmp_path / "home")
    for place in ("output/debias/mine", "temp/debias"):
        (tmp_path / place / "link.html").symlink_to(tmp_path / "home" / "secret.html")
    (tmp_path / "output" / "debias" / "mine" / "profile.json").write_text("secret")
    status, found, _ = ask("GET", path)
    assert status == 404 and "secret.html" not in found


@pytest.mark.parametrize("body, status", [
    (b'{"client": "x"}', 200), (b"[]", 200), (b"3", 200), (b'{"client": 3}', 200), (b" " * 2000, 413)])
def test_a_pages_announcement_is_small(ask, body, status):
    assert ask("POST", "/sd-debias/pages", data=body)[0] == status


@pytest.mark.parametrize("query", ["sure=normal&prompts=" + "9" * 5000, "sure=x&prompts=1", "sure=normal&prompts=-1",
                                   "sure=normal&prompts=\u0663x", "prompts="])
def test_an_estimate_of_anything_else_is_empty(ask, query):
    status, found, _ = ask("GET", f"/sd-debias/estimate?{query}")
    assert status == 200 and json.loads(found) == {"text": ""}


# --- what is shared says no folder of this machine -------------------------------------------------------------------

def test_a_place_outside_of_comfyui_is_said_from_its_folder_on_or_by_its_name(comfyui, tmp_path, monkeypatch):
    import folder_paths

    from sd_debias.nodes import messages
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "ComfyUI" / "models"))
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path / "elsewhere"))
    for path, said in (("ComfyUI/models/debias_profiles/p.json", "models/debias_profiles/p.json"),
                       ("elsewhere/debias/p/report.html", "output/debias/p/report.html"),
                       ("home/profiles/p.json", "p.json")):
        assert messages.place(tmp_path / path) == said


def test_a_damaged_profile_is_said_without_its_folder(call, said, tmp_path, monkeypatch):
    from sd_debias.nodes import profiles
    (tmp_path / "p.json").write_text("{")
    monkeypatch.setattr(profiles, "_path", lambda name: tmp_path / "p.json")
    with pytest.raises(DebiasError) as caught:
        call(profiles.DebiasLoadProfile, profile="p.json")
    assert "p.json" in str(caught.value) and str(tmp_path) not in str(caught.value)


def test_texts_for_pages_that_show_no_panel_hold_no_markup(comfyui, monkeypatch):
    from sd_debias.nodes import messages
    sent = []
    server = types.SimpleNamespace(client_id="another", send_progress_text=lambda text, node: sent.append(text))
    monkeypatch.setattr(messages, "_server", lambda: server)
    messages.say("3", "<img src=x onerror=alert(1)> & more")
    assert len(sent) == 1 and "<" not in sent[0] and "img src=x" in sent[0]
