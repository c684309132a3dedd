"""Who may read a report over the page's addresses."""
from __future__ import annotations

import os
from importlib import import_module

import pytest


def test_a_login_is_a_cookie_of_gradio_s_that_the_page_knows(a_double):
    pytest.importorskip("fastapi")
    logged_in, known = import_module("sd_debias.webui_extension.reports").logged_in, {"token": "me"}
    for cookie in ("access-token", "access-token-unsecure"):
        assert logged_in(known, {cookie: "token"}) and not logged_in({}, {cookie: "token"})
        assert not logged_in(known, {cookie: "other"})
    assert not logged_in(known, {"session": "token"})


def test_a_report_is_read_by_who_logged_in_and_no_link_leads_out_of_the_reports(a_double, tmp_path):
    pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    from fastapi import FastAPI
    from fastapi.testclient import TestClient
    app = FastAPI()
    app.auth, app.tokens = {"me": "secret"}, {"token": "me"}
    import_module("sd_debias.webui_extension.reports").register(app)
    client = TestClient(app, base_url="http://127.0.0.1:7860")
    address = "/sd-debias/report/mine/report.html"
    folder = a_double.profiles / "reports" / "mine"
    folder.mkdir(parents=True)
    (folder / "report.html").write_text("a report")
    assert client.get(address).status_code == 401
    client.cookies["access-token"] = "token"
    answer = client.get(address)
    assert answer.text == "a report" and answer.headers["content-security-policy"].startswith("sandbox")
    (tmp_path / "secret.html").write_text("secret")
    os.unlink(folder / "report.html")
    os.symlink(tmp_path / "secret.html", folder / "report.html")
    os.symlink(tmp_path, folder.parent / "out")
    (tmp_path / "report.html").write_text("secret")
    for path in (address, "/sd-debias/report/out/report.html", "/sd-debias/report/..%2Fout/report.html",
                 "/sd-debias/report/%2e%2e/report.html"):
        answer = client.get(path)
        assert answer.status_code == 404 and "secret" not in answer.text, path
