"""A vLLM server of our own: started on a free port of this machine, waited for, and ended with what it has started.

Its words are in a file of its own. Where this process is killed, the server ends, too. Not done here: talking to it
(`t2.serving.vllm_api`), servers that others started.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

MODULE = "vllm.entrypoints.openai.api_server"  # not the program `vllm`: that of the CPU build looks for another name
POLL_S = 0.25
END_S = 20.0  # what it gets to end by itself


@dataclass
class VLLMProcess:
    """A server that runs, or has ended; `log_file` has what it says."""

    process: subprocess.Popen[bytes]
    url: str
    log_file: Path

    @property
    def is_up(self) -> bool:
        """Whether it runs."""
        return self.process.poll() is None

    def wait(self, timeout_s: float) -> None:
        """Return once it answers.

        Raises:
            ConnectionError: it has ended instead, or is not ready in time.
        """
        end = time.monotonic() + timeout_s
        with httpx.Client(trust_env=False, timeout=5.0) as client:
            while time.monotonic() < end:
                if not self.is_up:
                    raise ConnectionError(
                        f"vLLM ended with status {self.process.returncode} while it started: {self._last_words()} Its "
                        f"log is {self.log_file}."
                    )
                with suppress(httpx.TransportError):
                    if client.get(f"{self.url}/health").is_success:
                        return
                time.sleep(POLL_S)
        raise ConnectionError(
            f"vLLM was not ready after {timeout_s:g} s. Raise backend.start_timeout_s, or see its log {self.log_file}."
        )

    def stop(self) -> None:
        """End it and all that it has started."""
        if self.is_up:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(END_S)
        with suppress(ProcessLookupError):  # its group, which is empty where it ended in order
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _last_words(self) -> str:
        lines = self.log_file.read_text(errors="replace").strip().splitlines()
        said = [line for line in lines if "Error" in line or "No module named" in line] or lines
        return said[-1].strip()[:400] if said else "it says nothing."


@contextmanager
def started(words: Sequence[str], *, python: str | None, port: int, key: str, log_file: Path) -> Iterator[VLLMProcess]:
    """A server with these words for it, which ends with the block; `python` is that of its environment, None: ours.

    Raises:
        ImportError: our environment has no vLLM.
        FileNotFoundError: there is no such `python`.
    """
    if python is None and importlib.util.find_spec("vllm") is None:
        raise ImportError(
            "backend=vllm needs vLLM, which is not installed: give backend.python=VENV/bin/python of an environment "
            "that has it (`make vllm` builds one with the CPU build), or the address of a server as backend.url."
        )
    program = sys.executable if python is None else shutil.which(python)
    if program is None:
        raise FileNotFoundError(f"backend.python is {python!r}, which is no program. Give a Python that has vLLM.")
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1"} | os.environ
    environment |= {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "VLLM_API_KEY": key}
    # Should this process be killed, the server gets SIGTERM from the kernel.
    guard = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
    command = [*guard, program, "-m", MODULE, "--host", "127.0.0.1", "--port", str(port), *words]
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("wb") as said:
        # A session of its own: Ctrl-C reaches this process alone, which lets answers end before the server does.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=environment, start_new_session=True
        )
    running = VLLMProcess(process, f"http://127.0.0.1:{port}", log_file)
    try:
        yield running
    finally:
        running.stop()
