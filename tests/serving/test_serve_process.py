"""`serve.py` as a process: streams by the token, frees the place of who hangs up, and ends in order."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from server_process import address_of
from tiny_pool import save_pool

from t2.cli.serve import serve
from t2.run.places import CONF, ROOT

pytestmark = pytest.mark.processes

QUESTION = [{"role": "user", "content": "What is 3 + 4?"}]


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "serve.py"), "base_model=tiny", "base_model.context_length=8192", *words]
    command += [f"hydra.run.dir={folder / 'run'}", f"--config-dir={folder / 'conf'}"]
    env = {**os.environ, "T2_CACHE": str(folder / "cache"), "T2_API_KEY": "secret"}
    return subprocess.Popen(command, cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], httpx2.Client]]:
    pool = tmp_path / "conf" / "experts" / "mine.yaml"
    pool.parent.mkdir(parents=True)
    folder = save_pool(tmp_path / "pool")
    pool.write_text(f"_target_: t2.experts.pool.ExpertPool.load\nexperts: {folder}\ndispatch: null\n")
    words = ("port=0", "experts=mine", "limits.max_completion_tokens=6000")
    process = start(tmp_path, *words)
    assert process.stdout is not None
    address = address_of(process)
    headers = {"Authorization": "Bearer secret"}
    with httpx2.Client(base_url=address, headers=headers, timeout=30) as client:
        yield process, client
    if process.poll() is None:
        process.kill()
    process.wait()
    process.stdout.close()


def test_a_process_serves_and_ends_in_order(served: tuple[subprocess.Popen[str], httpx2.Client]) -> None:
    process, client = served
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["base", "letters", "math", "prompt"]
    assert httpx2.get(f"{client.base_url}/v1/models").status_code == 401

    # Who hangs up frees the place, in a stream and before a whole answer: the rest is never computed.
    long = {"model": "base", "messages": QUESTION, "max_tokens": 6000, "temperature": 0}
    with client.stream("POST", "/v1/chat/completions", json={**long, "stream": True}) as stream:
        lines = (line for line in stream.iter_lines() if line)
        assert '"t2"' in next(lines), "what pass 1 found comes first"
        assert '"content"' in next(lines), "and the tokens one by one, long before the last"
    with pytest.raises(httpx2.ReadTimeout):
        client.post("/v1/chat/completions", json=long, timeout=0.3)
    deadline = time.monotonic() + 20
    while "t2_running_samples 0.0" not in (text := client.get("/metrics").text) or "t2_hung_up_total 2.0" not in text:
        assert time.monotonic() < deadline, text
        time.sleep(0.05)
    made = float(re.search(r"(?m)^t2_completion_tokens_total (\S+)", text)[1])  # type: ignore[index]
    assert made < 6000

    # A signal: what runs ends, and the process with status 0.
    request = {**long, "max_tokens": 200, "stream": True}
    with client.stream("POST", "/v1/chat/completions", json=request) as stream:
        lines = (line for line in stream.iter_lines() if line)
        next(lines)
        process.send_signal(signal.SIGTERM)
        assert [*lines][-1] == "data: [DONE]"
    assert process.wait(30) == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["host=0.0.0.0"], "no API key is set"),
        (["strategies=[prompt]"], "experts=POOL is not given"),
    ],
)
def test_what_cannot_be_served_is_said_before_the_model_is_loaded(words: list[str], says: str) -> None:
    """In this process: the command itself takes seconds to start."""
    with pytest.raises(ValueError, match=says):
        serve(composed(*words))


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ImportError, match=r'pip install "transformer2\[serve\]"'):
        serve(composed())


def composed(*words: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("serve", overrides=["base_model=tiny", *words])
