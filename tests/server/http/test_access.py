"""Who may ask: the token, other sites' pages, names that point here, and what the page may load."""

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("python_multipart")

from autoseg.server.http.gate import is_same_secret, names_this_machine
from tests.server.served import StandIn, serve_here

TOKEN = "a-token-of-this-server"
VIEWER = "https://viewer.example.org"
FILES = [("image", "a.nii.gz", b"\x1f\x8b" + bytes(100))]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    with serve_here(
        StandIn(), tmp_path_factory.mktemp("uploads"), token=TOKEN, checks_host=False, allowed_origins=(VIEWER,)
    ) as (client, _jobs):
        yield client


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    with serve_here(StandIn(), tmp_path_factory.mktemp("uploads")) as (client, _jobs):
        yield client


PROTECTED = ("/v1/models", "/v1/jobs/x", "/metrics", "/openapi.json", "/info/", "/datastore/", "/session/x", "/nothing")


@pytest.mark.parametrize("path", PROTECTED)
@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", "Bearer \u00fc"],
)  # fmt: skip
def test_nothing_is_told_without_the_token(guarded, path, header):
    headers = {} if header is None else {"authorization": header.encode("latin-1", "replace").decode("latin-1")}
    answer = guarded.ask(path, headers=headers)
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert "Authorization: Bearer TOKEN" in answer.detail


def test_an_image_without_the_token_is_not_taken(guarded):
    assert guarded.send("/v1/jobs", FILES).status == 401
    assert guarded.send("/infer/made", [("file", "a.nii.gz", b"x")]).status == 401


def test_with_the_token(guarded):
    for scheme in ("Bearer", "bearer"):
        headers = {"authorization": f"{scheme} {TOKEN}"}
        assert guarded.ask("/v1/models", headers=headers).status == 200
        assert guarded.send("/v1/jobs", FILES, headers=headers).status == 202


@pytest.mark.parametrize("path", ["/", "/page.js", "/page.css", "/health", "/ready"])
def test_the_page_and_the_health_are_open(guarded, path):
    answer = guarded.ask(path)
    assert answer.status == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"


def test_viewers_log_in_with_the_token_as_password(guarded):
    assert guarded.ask("/auth/").json == {"enabled": True}
    form = {"content-type": "application/x-www-form-urlencoded"}
    wrong = guarded.ask("/auth/token", "POST", b"username=x&password=wrong", form)
    assert (wrong.status, wrong.detail) == (401, "the password is not this server's token")
    given = guarded.ask("/auth/token", "POST", f"username=x&password={TOKEN}".encode(), form).json
    header = {"authorization": f"{given['token_type']} {given['access_token']}"}
    assert guarded.ask("/auth/token/valid", headers=header).status == 200
    assert guarded.ask("/auth/token/valid").status == 401


def test_a_server_without_a_token_gives_none(local):
    assert local.ask("/auth/").json == {"enabled": False}
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert local.ask("/auth/token", "POST", b"password=x", form).status == 401


@pytest.mark.parametrize(
    "origin", ["https://evil.example.org", "null", "http://127.0.0.1:1", "http://localhost.evil.org"]
)
def test_pages_of_other_sites_are_refused(local, origin):
    for method, path in (("GET", "/v1/models"), ("POST", "/v1/jobs"), ("DELETE", "/v1/jobs/x")):
        answer = local.ask(path, method, headers={"origin": origin})
        assert (answer.status, "--allow-origin" in answer.detail) == (403, True)
        assert answer.headers["access-control-allow-origin"] is None


def test_the_own_page_and_an_allowed_one_may_ask(local, guarded):
    assert local.ask("/v1/models", headers={"origin": local.url}).status == 200
    headers = {"origin": VIEWER, "authorization": f"Bearer {TOKEN}"}
    answer = guarded.ask("/v1/models", headers=headers)
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, VIEWER)
    asked_first = {
        "origin": VIEWER,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization",
    }
    assert guarded.ask("/v1/jobs", "OPTIONS", headers=asked_first).status == 200


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        ("localhost", True), ("localhost:8000", True), ("127.0.0.1:8000", True), ("127.8.9.1", True),
        ("[::1]:80", True),
        ("evil.example.org", False), ("localhost.evil.org", False), ("127.0.0.1.evil.org", False), ("", False),
        ("192.168.1.5:8000", False), ("[fe80::1]", False),
    ],
)  # fmt: skip
def test_names_of_this_machine(local, host, is_local):
    assert names_this_machine(host) == is_local
    if host:
        assert local.ask("/v1/models", headers={"host": host}).status == (200 if is_local else 403)


def test_secrets():
    assert is_same_secret(TOKEN, TOKEN)
    assert not is_same_secret("", TOKEN)
    assert not is_same_secret("\udce4\u00fc", TOKEN)
