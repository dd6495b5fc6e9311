"""The command line that starts a vLLM server, and a port that is taken."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from tiny_models import original

from t2.policy import vllm_serve
from t2.policy.vllm_serve import EXTENSION, check_free, command, main


@pytest.fixture
def folder(tmp_path: Path) -> str:
    original().model.save_pretrained(tmp_path)
    return str(tmp_path)


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_serve, "check_installed", lambda: "0.32.0")


def test_options_that_are_not_its_own_are_passed_on(folder: str) -> None:
    words = command([folder, "--port", "0", "--dtype", "bfloat16", "--tensor-parallel-size", "2", "--block-size", "64"])
    options = dict(zip(words[::2], words[1::2], strict=False))
    assert (options["--model"], options["--dtype"], options["--port"]) == (folder, "bfloat16", "0")
    assert words[words.index("--worker-extension-cls") + 1] == EXTENSION
    assert words[words.index("--logprobs-mode") + 1] == "processed_logprobs"
    assert words[words.index("--host") + 1] == "127.0.0.1", "nobody else may change the weights"
    assert "--enable-scale-out" in words
    assert words[-4:] == ["--tensor-parallel-size", "2", "--block-size", "64"]
    assert words.count("--block-size") == 1


def test_a_revision_of_the_hub_is_vllms_option() -> None:
    words = command(["org/name@abc", "--port", "0"])
    assert words[:2] == ["--model", "org/name"]
    assert words[words.index("--revision") + 1] == "abc"
    assert words[words.index("--block-size") + 1] == "32"


def test_a_taken_port_is_one_sentence(folder: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            SystemExit, match=rf"error: Port {port} of 127.0.0.1 cannot be listened on \(Address already"
        ):
            main([folder, "--port", str(port)])
    check_free("127.0.0.1", port)


def test_a_bad_source_is_one_sentence() -> None:
    with pytest.raises(SystemExit, match=r"error: No file or folder '\./nothing'"):
        main(["./nothing", "--port", "0"])
