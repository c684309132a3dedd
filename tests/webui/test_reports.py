"""Who may read a report over the page, and which folders a request may have read."""
from __future__ import annotations

import os
import sys
from importlib import import_module

import pytest


def test_a_login_is_a_cookie_of_gradio_s_that_the_page_knows(a_double):
    pytest.importorskip("fastapi")
    logged_in = import_module("sd_debias.webui_extension.reports").logged_in
    known = {"token": "me"}
    assert logged_in(known, {"access-token": "token"}) and logged_in(known, {"access-token-unsecure": "token"})
    assert not logged_in(known, {"access-token": "other"}) and not logged_in(known, {"session": "token"})
    assert not logged_in({}, {"access-token": "token"})


def test_no_other_folder_is_looked_at_for_a_request_before_its_classifier_is_refused(bench, tmp_path, monkeypatch):
    """A judge's files are read for its fingerprint: of any folder of this machine, before it was refused."""
    workbench, classifiers = (sys.modules[f"sd_debias.webui_extension.{name}"] for name in ("workbench", "classifiers"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.json").write_text("{}")
    own = tmp_path / "classifiers" / "mine"
    own.mkdir(parents=True)
    for by_api in (True, False):
        p = sys.modules["modules.processing"].StableDiffusionProcessingTxt2Img(sd_model=bench.shared.sd_model)
        p.is_api, looked = by_api, []
        monkeypatch.setattr(classifiers, "fingerprint", looked.append)
        for name in (str(tmp_path / "home"), f"gender={tmp_path / 'home'}", "../home", "mine", "gender=mine"):
            workbench.Workbench(p, name)
        outside = [place for place in looked if place != str(own.resolve())]
        assert looked.count(str(own.resolve())) == 2 and bool(outside) is not by_api


@pytest.fixture
def site(a_double):
    """A client of the page's addresses, whose user is to log in."""
    pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    from fastapi import FastAPI
    from fastapi.testclient import TestClient
    app = FastAPI()
    app.auth, app.tokens = {"me": "secret"}, {"token": "me"}
    import_module("sd_debias.webui_extension.reports").register(app)
    return TestClient(app, base_url="http://127.0.0.1:7860")


def test_a_report_is_read_by_who_logged_in_and_no_link_leads_out_of_the_reports(site, a_double, tmp_path):
    folder = a_double.profiles / "reports" / "mine"
    folder.mkdir(parents=True)
    (folder / "report.html").write_text("a report")
    client, address = site, "/sd-debias/report/mine/report.html"
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
