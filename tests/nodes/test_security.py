"""What ComfyUI's page and others can ask of the pack's addresses, and what they are answered."""
import asyncio
import json
import types

import pytest
from nodes_given import ours

web = pytest.importorskip("aiohttp.web")


@pytest.fixture
def ask(comfyui, tmp_path, monkeypatch):
    """ask(method, path, ...) -> (status, text, headers) of our routes, on a server of their own."""
    from aiohttp.test_utils import TestClient, TestServer

    reports, labels = tmp_path / "output" / "debias", tmp_path / "temp" / "debias"
    monkeypatch.setattr(ours.report, "folder", lambda: reports)
    monkeypatch.setattr(ours.panel, "labels_folder", lambda: labels)
    monkeypatch.setattr(ours.panel, "_pages", {})
    for file in (reports / "mine" / "report.html", labels / "3.html", tmp_path / "secret.html",
                 reports / "mine" / "profile.json"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"this is {file.name}")
    (reports / "out").symlink_to(tmp_path)
    for folder in (reports / "mine", labels):
        (folder / "link.html").symlink_to(tmp_path / "secret.html")

    def run(method, path, **how):
        async def once():
            server = types.SimpleNamespace(routes=web.RouteTableDef())
            ours.panel.register(server)
            app = web.Application()
            app.add_routes(server.routes)
            async with TestClient(TestServer(app)) as client:
                answer = await client.request(method, f"/sd-debias/{path}", **how)
                return answer.status, await answer.text(), answer.headers
        return asyncio.run(once())
    return run


@pytest.mark.parametrize("path", ["report/mine/report.html", "labels/3.html"])
def test_reports_and_labels_are_served_in_a_sandbox(ask, path):
    status, found, headers = ask("GET", path)
    assert (status, found) == (200, f"this is {path.rpartition('/')[2]}")
    assert headers["Content-Security-Policy"].startswith("sandbox")
    assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", [
    "report/..%2f../secret.html", "report/out/secret.html", "report/mine/link.html",
    "report/%2e%2e/secret.html", "report/mine/profile.json", "labels/link.html",
    "labels/..%2f..%2fsecret.html", "labels/%2e%2e"])
def test_no_address_and_no_link_leads_to_another_file(ask, path):
    status, found, _ = ask("GET", path)
    assert status == 404 and "this is" not in found


@pytest.mark.parametrize("body, status", [
    (b'{"client": "x"}', 200), (b"", 200), (b"[]", 200), (b"3", 200), (b"{}", 200),
    (b'{"client": 3}', 200), (b'{"client": ""}', 200), (b" " * 2000, 413)])
def test_a_pages_announcement_is_small(ask, body, status):
    assert ask("POST", "pages", data=body)[0] == status
    assert list(ours.panel._pages) == (["x"] if b'"x"' in body else [])


@pytest.mark.parametrize("query, text", [
    *((f"sure=normal&prompts={wrong}", "") for wrong in ("9" * 5000, "-1", "0", "x", "\u0663x")),
    ("sure=x&prompts=1", ""), ("prompts=", ""), ("sure=normal&prompts=\u0663", "About")])
def test_an_estimate_of_anything_but_a_number_is_empty(ask, query, text):
    """The last is a digit of another script."""
    status, found, _ = ask("GET", f"estimate?{query}")
    assert status == 200 and json.loads(found)["text"][:5] == text
