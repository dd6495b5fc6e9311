"""The trainer's side of vLLM servers: requests, and one sentence for each way in which a server can fail.

A server is vLLM's own, with t2's worker extension (`t2.policy.vllm_serve` starts one). Weights have a version, a hash
of the adapter and its state, which the server knows and every completion carries: one that was sampled under other
weights than those that were asked for is an error, and never learned from.

Not done here: what is generated (`t2.policy.vllm_server`), what the server composes (`t2.policy.vllm_compose`).
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import shlex
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
from safetensors.torch import save
from torch import Tensor

from t2.policy.vllm_compose import Specification

log = logging.getLogger(__name__)
T = TypeVar("T")
CONNECT_TIMEOUT_S = 10.0
LOADING = "loading "


class VLLMServer:
    """One server; `start` is the command that starts such a server, for messages."""

    def __init__(self, url: str, *, timeout_s: float, start: Sequence[str]) -> None:
        """Keep the address; nothing is sent."""
        self.url, self.timeout_s = url.rstrip("/"), timeout_s
        self.start = shlex.join([*start, "--port", str(urlsplit(url).port or 80)])
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        timeout = httpx.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s))
        # Proxies are for what lies outside of a cluster.
        self._client = httpx.Client(base_url=self.url, timeout=timeout, limits=limits, trust_env=False)

    def check(self) -> int:
        """The tokens that a prompt and its completion may have on this server.

        Raises:
            ConnectionError: it cannot be reached.
            ValueError: it is no vLLM server, or one that was started without what t2 needs.
        """
        found = self._json("GET", "/v1/models", allow=(404,))
        models = found.get("data") if isinstance(found, dict) else None
        if not models or "max_model_len" not in models[0]:
            raise ValueError(f"{self.url} is no vLLM server. Give the address of one in generation.urls: {self.start}")
        if "weight_version" not in self._json("GET", "/weight_info", allow=(404,)):
            raise ValueError(
                f"The vLLM server at {self.url} takes no weights: it was started without VLLM_SERVER_DEV_MODE=1 and "
                f"t2's worker extension. Start it with: {self.start}"
            )
        return int(models[0]["max_model_len"])

    def version(self) -> str:
        """The version of its weights."""
        return str(self._json("GET", "/weight_info")["weight_version"])

    def prepare(self, spec: Specification) -> None:
        """Have every worker read and decompose the matrices of an adapter, which may take as long as in the trainer.

        Raises:
            ValueError: its weights are not the trainer's, or it was started without what t2 needs.
        """
        log.info("The vLLM server at %s compares its weights and decomposes them, or reads the cache.", self.url)
        for answer in self.rpc("t2_prepare", spec.to_json(), endless=True):
            if "error" in answer:
                raise ValueError(
                    f"The vLLM server at {self.url} holds another model than the trainer ({answer['error']}). Start it "
                    f"with: {self.start}"
                )
            if answer["logprobs_mode"] != "processed_logprobs":
                raise ValueError(
                    f"The vLLM server at {self.url} gives {answer['logprobs_mode']}, and t2 needs log-probs at the "
                    f"sampling temperature: --logprobs-mode processed_logprobs. Start it with: {self.start}"
                )

    def load(self, spec: Specification, state: bytes, version: str) -> int:
        """Send a state (safetensors) and give the weights their version; returns the bytes of the message.

        Raises:
            ValueError, ConnectionError: as `prepare`.
        """
        text = base64.b64encode(state).decode()
        # From now on it has the weights of nobody, also where the next message is the last that it gets.
        self._json("POST", "/update_weight_version", {"new_version": LOADING + version})
        answers = self.rpc("t2_load", spec.digest, version, text)
        if any("unprepared" in answer for answer in answers):
            self.prepare(spec)
            answers = self.rpc("t2_load", spec.digest, version, text)
        assert not any(answers), f"{self.url}: {answers}"
        self._json("POST", "/update_weight_version", {"new_version": version})
        return len(text)

    def generate(self, request: Mapping[str, Any], version: str) -> list[dict[str, Any]]:
        """The choices of one prompt, each with the text, ids and log-probs of a completion.

        `request` is that of vLLM's `/inference/v1/generate`. The prefix cache is salted with the version, so that
        nothing computed under other weights is used.

        Raises:
            ValueError: the server refuses the request.
            ConnectionError: it is gone, or its weights have changed meanwhile.
        """
        body = {**request, "output_mode": "text", "cache_salt": version}
        choices: list[dict[str, Any]] = self._json("POST", "/inference/v1/generate", body)["choices"]
        seen = {span["version"] for choice in choices for span in choice.get("weight_versions") or ()}
        if seen - {version, LOADING + version}:  # another rank may load the same weights once more
            raise ConnectionError(
                f"The vLLM server at {self.url} got other weights while it generated: another run uses it, too. Give "
                "each run servers of its own (generation.urls)."
            )
        return sorted(choices, key=lambda choice: int(choice["index"]))

    def post(self, path: str) -> None:
        """Send a request without a body, such as `/sleep`."""
        self._json("POST", path)

    def rpc(self, method: str, *words: str, endless: bool = False) -> list[dict[str, Any]]:
        """The answers of all workers to a method of `t2.policy.vllm_worker`."""
        body = {"method": method, "args": list(words)}
        answers: list[dict[str, Any]] = self._json("POST", "/collective_rpc", body, endless=endless)["results"]
        return answers

    def _json(
        self, method: str, path: str, body: Any = None, *, allow: Sequence[int] = (), endless: bool = False
    ) -> Any:
        """The answer to a request, waited for without end where it is `endless`; of a status in `allow`, {}."""
        timeout = httpx.Timeout(None, connect=CONNECT_TIMEOUT_S) if endless else self._client.timeout
        try:
            answer = self._client.request(method, path, json=body, timeout=timeout)
        except httpx.ConnectError as error:
            raise ConnectionError(
                f"No vLLM server answers at {self.url} ({error}). Start one with: {self.start}"
            ) from None
        except httpx.TimeoutException:
            raise ConnectionError(
                f"The vLLM server at {self.url} did not answer {path} within {self.timeout_s:g} s. Raise "
                "generation.timeout_s, or see its own log."
            ) from None
        except httpx.TransportError as error:  # the connection broke
            raise ConnectionError(
                f"The vLLM server at {self.url} ended while it answered {path} ({error}). Its own log says why; start "
                f"it again with: {self.start}"
            ) from None
        if answer.status_code in allow:
            return {}
        if answer.is_success:
            try:
                return answer.json() if answer.content else {}
            except json.JSONDecodeError:
                raise ValueError(f"{self.url} is no vLLM server: its answer to {path} is no JSON.") from None
        raise ValueError(f"The vLLM server at {self.url} refuses {path}: {_words(answer)} Start it with: {self.start}")


class VLLMServers:
    """Several servers with the same weights; whoever changes weights or generates holds `lock`."""

    def __init__(self, servers: Sequence[VLLMServer], specification: Callable[[], Specification]) -> None:
        """Ask each for its context length; `specification` is called when weights are first sent.

        Raises:
            ConnectionError, ValueError: see `VLLMServer.check`.
        """
        self.servers, self._specification = servers, specification
        self._spec: Specification | None = None
        self.lock = threading.RLock()
        self.max_length = min(server.check() for server in servers)
        self.asleep = False
        self.sync_seconds, self.sync_bytes = 0.0, 0  # of all states so far

    def follow(self, state: Mapping[str, Tensor]) -> str:
        """Have all servers hold the weights of a state, z (k,) by module; returns their version.

        Raises:
            ConnectionError, ValueError: see `VLLMServer.load`.
        """
        start = time.perf_counter()
        if self._spec is None:
            self._spec = self._specification()
        spec, packed = self._spec, save({name: z.contiguous() for name, z in sorted(state.items())})
        version = f"{spec.digest}-{hashlib.sha256(packed).hexdigest()[:16]}"

        def send(server: VLLMServer) -> int:
            return 0 if server.version() == version else server.load(spec, packed, version)

        self.sync_bytes += sum(self.on_all(send))
        self.sync_seconds += time.perf_counter() - start
        return version

    def on_all(self, act: Callable[[VLLMServer], T]) -> list[T]:
        """What `act` returns for each server; all at once."""
        with ThreadPoolExecutor(len(self.servers), thread_name_prefix="vllm") as threads:
            return list(threads.map(act, self.servers))


def _words(answer: httpx.Response) -> str:
    """What a server says of an error, in one line."""
    try:
        said = answer.json()
    except json.JSONDecodeError:
        said = answer.text
    error = said.get("error", said) if isinstance(said, dict) else said
    text = str(error.get("message", error) if isinstance(error, dict) else error)
    first = text.strip().splitlines()[0] if text.strip() else answer.reason_phrase
    return f"{answer.status_code}, {first[:400].rstrip('.')}."
