"""The files of the page as the server sends them; what they do in a browser is in tests/page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from served import client

from t2.serving.app import PAGE

FILES = sorted(PAGE.iterdir())
CODE = [path for path in FILES if path.suffix != ".svg"]
TYPES = {".html": "text/html", ".css": "text/css", ".js": "javascript", ".svg": "image/svg+xml"}


def test_every_file_is_sent_without_a_key_and_bound_to_this_server() -> None:
    """Catches: a page that cannot ask for a key since its own files want one, a policy that allows other servers."""
    with client(key="secret") as http:
        for path, address in ((PAGE / "index.html", "/"), *((path, f"/page/{path.name}") for path in FILES)):
            got = http.get(address)
            assert (got.status_code, got.text) == (200, path.read_text())
            assert TYPES[path.suffix] in got.headers["content-type"]
            policy = got.headers["content-security-policy"]
            assert "default-src 'self'" in policy
            assert "unsafe" not in policy
            assert got.headers["x-content-type-options"] == "nosniff"


def test_nothing_else_is_sent() -> None:
    """Catches: a name that climbs out of the folder, a path that passes the gate since it begins like the page's."""
    with client(key="secret") as http:
        assert http.get("/page/none.js").json()["error"]["message"] == "The page has no file 'none.js'."
        for path in (
            "/page/..%2fapp.py",
            "/page/%2e%2e/app.py",
            "/page/../v1/models",
            "/page/x/../../v1/models",
            "/page",
        ):
            assert http.get(path).status_code in (401, 404)


@pytest.mark.parametrize("path", CODE, ids=lambda path: path.name)
def test_a_file_is_short_and_loads_nothing_from_elsewhere(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 250
    assert max(map(len, text.splitlines())) <= 120
    assert not re.search(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}|@import|innerHTML|\son\w+=|\sstyle=|eval\(", text)
