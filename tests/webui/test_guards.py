"""Who may ask our routes: they stand beside the host's own, whose guards do not cover them."""
from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
import types

import pytest
from webui_settings import save_profile


@pytest.fixture
def guards(a_double, monkeypatch):
    """The module; of the host's options, only those that a test sets."""
    from importlib import import_module
    module = import_module("sd_debias.webui_extension.guards")
    util = types.ModuleType("modules.initialize_util")
    module.creds = {}
    util.get_gradio_auth_creds = lambda: iter(module.creds.items())
    monkeypatch.setitem(sys.modules, "modules.initialize_util", util)
    return module


@pytest.fixture
def options(a_double):
    return a_double.shared.cmd_opts


def test_users_of_the_api_count_then_the_page_s_then_those_of_a_page_that_is_not_there(guards, options):
    assert guards.known_users(None) is None
    guards.creds = {"me": "secret"}
    assert guards.known_users(None) == {"me": "secret"}, "without a page, a password was wanted all the same"
    assert guards.known_users({"page": "word"}) == {"page": "word"}
    options.api_auth = "a:b:c,d:e"
    assert guards.known_users({"page": "word"}) == {"a": "b:c", "d": "e"}


def test_a_password_is_right_for_its_own_user_alone(guards):
    known = {"me": "sécret", "other": "x"}
    assert guards.right(known, "me", "sécret")
    for user, password in ("me", "x"), ("me", ""), ("nobody", ""), ("", ""), ("nobody", "x"):
        assert not guards.right(known, user, password)
    assert guards.right(lambda user, password: user == password, "a", "a")
    assert not guards.right(lambda user, password: user == password, "a", "b")


def test_a_login_is_a_cookie_of_gradio_s_that_the_page_knows(guards):
    tokens = {"token": "me"}
    for name in ("access-token", "access-token-unsecure", "access-token-x1"):
        assert guards.logged_in(tokens, {name: "token"})
    for cookies in ({}, {"access-token": "guess"}, {"other": "token"}, {"access-token": ""}):
        assert not guards.logged_in(tokens, cookies)


@pytest.mark.parametrize("origin, host, expected", [
    (None, "127.0.0.1:7860", False),  # a program
    ("http://127.0.0.1:7860", "127.0.0.1:7860", False), ("https://Me.example", "me.example", False),
    ("https://me.example", "me.example:443", False), ("http://[::1]:7860", "[::1]:7860", False),
    ("http://evil.example", "127.0.0.1:7860", True), ("http://127.0.0.1:8000", "127.0.0.1:7860", True),
    ("null", "127.0.0.1:7860", True), ("", "127.0.0.1:7860", True), ("http://127.0.0.1:7860.evil", "127.0.0.1:7860",
                                                                     True), ("http://a@evil", "a", True)])
def test_a_page_of_another_site_is_told_by_its_origin(guards, origin, host, expected):
    assert guards.foreign(origin, host) is expected


def test_sites_that_the_host_was_told_of_are_not_foreign(guards, options):
    asked = "http://mine.example", "127.0.0.1:7860"
    assert guards.foreign(*asked)
    options.cors_allow_origins = "http://other.example,http://mine.example"
    assert not guards.foreign(*asked) and guards.foreign("http://third.example", asked[1])
    options.cors_allow_origins, options.cors_allow_origins_regex = None, r"http://mine\..*"
    assert not guards.foreign(*asked) and guards.foreign("http://yours.example", asked[1])


def test_no_more_than_a_request_needs_is_read(guards):
    async def receive():
        return dict(type="http.request", body=b"x" * 600, more_body=True)

    async def read(times):
        limited = guards.at_most(receive, 1000, lambda: ValueError("too large"))
        return [await limited() for _ in range(times)]

    assert len(asyncio.run(read(1))) == 1
    with pytest.raises(ValueError, match="too large"):
        asyncio.run(read(2))


def test_no_other_folder_is_looked_at_for_a_request_before_its_classifier_is_refused(bench, tmp_path):
    """A sweep's unit has all files of its classifier read: of any folder of this machine, before it was refused."""
    measuring = sys.modules["sd_debias.webui_extension.workbench"]
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.json").write_text("{}")
    own = tmp_path / "classifiers" / "mine"
    own.mkdir(parents=True)
    for by_api in (True, False):
        p = sys.modules["modules.processing"].StableDiffusionProcessingTxt2Img(sd_model=bench.shared.sd_model)
        p.is_api, looked = by_api, []
        for name in (str(tmp_path / "home"), f"gender={tmp_path / 'home'}", "../home", "mine", "gender=mine"):
            measuring.Workbench(p, name, tell=looked.append)
        outside = [place for place in looked if place not in (None, str(own.resolve()))]  # None: no VAE is chosen
        assert looked.count(str(own.resolve())) == 2 and bool(outside) is not by_api


# --- the routes themselves -------------------------------------------------------------------------------------------

@pytest.fixture
def site(a_double, guards, options):
    """site(page users or None) -> a client of the routes, as the host has them."""
    pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    from importlib import import_module

    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    def start(users=None, page=True, **given):
        vars(options).update(given)
        app = FastAPI()
        if page:
            app.auth, app.tokens = users, {"token": "me"}
        import_module("sd_debias.webui_extension.api").register(app)
        save_profile(a_double.profiles)
        return TestClient(app, base_url="http://127.0.0.1:7860")
    return start


def asked(client, **how):
    """Statuses of every route of the API, in the order of its description."""
    found = {}
    for path, methods in client.app.openapi()["paths"].items():
        for method in methods:
            answer = client.request(method.upper(), path.format(name="test", identity="none"), **how)
            found[f"{method} {path.rpartition('/v1')[2]}"] = answer.status_code
    return found


def basic(user, password):
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


OPEN = {"get /profiles": 200, "get /profiles/{name}": 200, "post /audit": 422, "post /calibrate": 422,
        "post /measure": 422, "get /jobs/{identity}": 404, "delete /jobs/{identity}": 404}


def test_without_passwords_every_route_answers(site):
    assert asked(site()) == OPEN


@pytest.mark.parametrize("given", [
    dict(api_auth="me:secret"), dict(api_auth="me:secret", page=False), dict(users={"me": "secret"}),
    dict(users=lambda user, password: (user, password) == ("me", "secret"))])
def test_no_route_answers_without_the_password_of_the_api_or_of_the_page(site, given):
    """Beside --gradio-auth alone, the routes answered everybody."""
    client = site(**given)
    for headers in ({}, basic("me", "guessed"), basic("nobody", "secret"), {"Authorization": "Bearer secret"}):
        assert set(asked(client, headers=headers).values()) == {401}, headers
    assert asked(client, headers=basic("me", "secret")) == OPEN


def test_users_of_a_page_that_is_not_there_are_asked_all_the_same(site, guards):
    guards.creds = {"me": "secret"}
    client = site(page=False)
    assert set(asked(client).values()) == {401} and asked(client, headers=basic("me", "secret")) == OPEN


def test_who_logged_in_on_the_page_needs_no_other_password_but_that_of_the_api(site):
    client = site(users={"me": "secret"})
    client.cookies["access-token"] = "token"
    assert asked(client) == OPEN
    client = site(users={"me": "secret"}, api_auth="a:b")
    client.cookies["access-token"] = "token"
    assert set(asked(client).values()) == {401}


def test_no_page_of_another_site_can_ask_with_or_without_a_password(site):
    """A browser sends a body without a type unasked, and the password that it remembers."""
    client = site(api_auth="me:secret")
    for origin in ("http://evil.example", "null"):
        headers = {"Origin": origin, **basic("me", "secret")}
        assert set(asked(client, headers=headers).values()) == {403}
        body = json.dumps(dict(count=5)).encode()
        assert client.post("/sd-debias/v1/audit", content=body, headers=headers).status_code == 403
    assert asked(client, headers={"Origin": "http://127.0.0.1:7860", **basic("me", "secret")}) == OPEN


@pytest.mark.parametrize("path", ["/audit", "/calibrate", "/measure"])
def test_a_huge_request_is_not_read_to_its_end(site, guards, path):
    client, read = site(), []

    def body():
        for _ in range(40):
            read.append(1 << 20)
            yield b" " * (1 << 20)

    answer = client.post(f"/sd-debias/v1{path}", content=body(), headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 413)
    assert client.post(f"/sd-debias/v1{path}", content=b" " * (guards.LARGEST + 1)).status_code in (400, 413)


def test_a_report_is_read_by_who_logged_in_and_no_link_leads_out_of_the_reports(site, a_double, tmp_path):
    folder = a_double.profiles / "reports" / "mine"
    folder.mkdir(parents=True)
    (folder / "report.html").write_text("a report")
    client, address = site(users={"me": "secret"}), "/sd-debias/report/mine/report.html"
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
