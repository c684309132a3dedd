"""What ComfyUI's page and others can ask of the pack's addresses, and what they are answered."""
import asyncio
import json
import types

import pytest

web = pytest.importorskip("aiohttp.web")


@pytest.fixture
def ask(comfyui, tmp_path, monkeypatch):
    """ask(method, path, ...) -> (status, text, headers) of our routes, on a server of their own."""
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
    assert status == 404 and "secret" not in found


@pytest.mark.parametrize("body, status", [
    (b'{"client": "x"}', 200), (b"", 200), (b"[]", 200), (b"3", 200), (b"{}", 200),
    (b'{"client": 3}', 200), (b'{"client": ""}', 200), (b" " * 2000, 413)])
def test_a_pages_announcement_is_small(ask, monkeypatch, body, status):
    from sd_debias.nodes import panel
    monkeypatch.setattr(panel, "_pages", {})
    assert ask("POST", "/sd-debias/pages", data=body)[0] == status
    assert list(panel._pages) == (["x"] if b'"x"' in body else [])


@pytest.mark.parametrize("query, text", [
    *((f"sure=normal&prompts={wrong}", "") for wrong in ("9" * 5000, "-1", "0", "x", "\u0663x")),
    ("sure=x&prompts=1", ""), ("prompts=", ""), ("sure=normal&prompts=\u0663", "About")])
def test_an_estimate_of_anything_but_a_number_is_empty(ask, query, text):
    """The last is a digit of another script."""
    status, found, _ = ask("GET", f"/sd-debias/estimate?{query}")
    assert status == 200 and json.loads(found)["text"][:5] == text
