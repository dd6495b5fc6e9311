"""The limits of a server, and where it listens."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

from t2.run.messages import check_range

KEY_VARIABLE = "T2_API_KEY"


@dataclass(frozen=True)
class Settings:
    """What a server accepts at once.

    Args:
        max_concurrent: samples that are decoded together; a request has n of them.
        max_waiting: requests that wait for a place, beyond which one gets 429.
        max_prompt_tokens: of a prompt; None: what the model's context has room for. Longer ones get 413.
        max_completion_tokens: of a completion, and what a chat request gets that names no number.
        prefill_tokens: of prompts that are read between two decoding steps.
        timeout_s: after which a request gets 503.
        stop_timeout_s: for requests that run when the server is stopped.
        max_body_bytes: of a request.

    Raises:
        ValueError: a number below 1, or that is not finite.
    """

    max_concurrent: int = 32
    max_waiting: int = 128
    max_prompt_tokens: int | None = None
    max_completion_tokens: int = 512
    prefill_tokens: int = 2048
    timeout_s: float = 300.0
    stop_timeout_s: float = 60.0
    max_body_bytes: int = 2**20

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("max_concurrent", "max_waiting", "max_prompt_tokens", "max_completion_tokens", "prefill_tokens"):
            if (value := getattr(self, name)) is not None:
                check_range(name, value, at_least=1)
        check_range("timeout_s", self.timeout_s, above=0, below=float("inf"))
        check_range("stop_timeout_s", self.stop_timeout_s, at_least=0, below=float("inf"))
        check_range("max_body_bytes", self.max_body_bytes, at_least=1)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which may mean anything
        return False


def read_api_key(file: Path | str | None, host: str) -> str | None:
    """The key that requests have to bring: the first line of a file, else the variable T2_API_KEY; None: none.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is empty or has signs that no header holds, or none is given and others than this machine reach
            the server.
    """
    key = os.environ.get(KEY_VARIABLE) if file is None else Path(file).read_text().partition("\n")[0].strip()
    if key is None:
        if not is_loopback(host):
            raise ValueError(
                f"host={host} can be reached from other machines, and no API key is set, so that anybody could use the "
                f"model. Give api_key_file=FILE or set {KEY_VARIABLE}, or listen on host=127.0.0.1."
            )
        return None
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        where = KEY_VARIABLE if file is None else str(file)
        raise ValueError(f"The API key in {where} is empty or holds spaces or signs outside ASCII. Give another one.")
    return key
