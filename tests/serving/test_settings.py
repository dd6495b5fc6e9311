"""Where a server listens, and the key that it asks for."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from t2.serving.server import bind
from t2.serving.settings import KEY_VARIABLE, Settings, is_loopback, read_api_key


def test_a_taken_port_is_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"Port {port} of 127.0.0.1 is taken. Give another one, as port={port + 1}"):
            bind("127.0.0.1", port)
    with bind("127.0.0.1", 0) as loading:  # another server, whose model is not there yet
        port = loading.getsockname()[1]
        with pytest.raises(OSError, match=rf"Port {port} of 127.0.0.1 is taken"):
            bind("127.0.0.1", port)
    with pytest.raises(OSError, match=r"Cannot listen on 192\.0\.2\.1"):
        bind("192.0.2.1", 0)
    with pytest.raises(ValueError, match="at most 65535"):
        bind("127.0.0.1", 70000)


@pytest.mark.parametrize(
    ("host", "alone"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("some.name", False), ("localhost.evil.example", False)],
)  # fmt: skip
def test_which_hosts_are_this_machine_alone(host: str, alone: bool) -> None:
    assert is_loopback(host) is alone


def test_where_a_key_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    assert read_api_key(None, "127.0.0.1") is None
    with pytest.raises(ValueError, match="can be reached from other machines, and no API key is set"):
        read_api_key(None, "0.0.0.0")
    monkeypatch.setenv(KEY_VARIABLE, "of-the-environment")
    assert read_api_key(None, "0.0.0.0") == "of-the-environment"
    (tmp_path / "key").write_text("of-a-file\n")
    assert read_api_key(tmp_path / "key", "0.0.0.0") == "of-a-file"
    (tmp_path / "key").write_text("\n")
    with pytest.raises(ValueError, match="is empty"):
        read_api_key(tmp_path / "key", "127.0.0.1")


@pytest.mark.parametrize("wrong", [{"max_concurrent": 0}, {"timeout_s": float("inf")}, {"max_prompt_tokens": 0}])
def test_limits_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="allowed"):
        Settings(**wrong)  # type: ignore[arg-type]
