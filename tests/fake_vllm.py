"""A stand-in for a vLLM server over real HTTP: it loads z as t2's worker does, and answers with what it was asked."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from safetensors.torch import load
from torch import Tensor

from t2.policy.vllm_compose import Specification


class FakeServer:
    """What it is, what it has been asked, and what it has loaded; `answers` replaces the answer to a path."""

    def __init__(self) -> None:
        self.version, self.spec = "default", None
        self.wrong: str | None = None  # what t2_prepare says of the weights
        self.logprobs_mode = "processed_logprobs"
        self.prepared, self.states = 0, list[dict[str, Tensor]]()
        self.asked: list[str] = []
        self.requests: list[dict[str, Any]] = []
        self.answers: dict[str, Callable[[], tuple[int, Any] | None]] = {}
        self.spec: Specification | None

    def answer(self, path: str, body: Any) -> tuple[int, Any] | None:
        """Status and JSON; None closes the connection."""
        self.asked.append(path)
        if path in self.answers:
            return self.answers[path]()
        if path == "/v1/models":
            return 200, {"data": [{"id": "x", "max_model_len": 64}]}
        if path == "/weight_info":
            return 200, {"weight_version": self.version}
        if path == "/update_weight_version":
            self.version = body["new_version"]
        if path == "/collective_rpc":
            return 200, {"results": [getattr(self, body["method"])(*body["args"])]}
        if path == "/inference/v1/generate":
            self.requests.append(body)
            return 200, {"choices": [self._choice(body, n) for n in range(body["sampling_params"]["n"])][::-1]}
        return 200, {}

    def t2_prepare(self, specification: str) -> dict[str, Any]:
        if self.wrong is not None:
            return {"error": self.wrong}
        self.prepared += 1
        self.spec = Specification.from_json(specification)
        return {"logprobs_mode": self.logprobs_mode}

    def t2_load(self, digest: str, version: str, state: str) -> dict[str, Any]:
        if self.spec is None or self.spec.digest != digest:
            return {"unprepared": True}
        self.states.append(load(base64.b64decode(state)))
        return {}

    def _choice(self, body: dict[str, Any], n: int) -> dict[str, Any]:
        """A token that is the seed's, and one that is the prompt's length."""
        ids = [(body["sampling_params"]["seed"] + n) % 256, len(body["token_ids"])]
        return {
            "index": n, "token_ids": ids, "text": f"{ids[0]} stop", "finish_reason": "stop",
            "logprobs": {"content": [{"logprob": -0.5}, {"logprob": -float(n)}]},
            "weight_versions": [{"version": self.version, "start": 0, "end": 2}],
        }  # fmt: skip


@contextmanager
def serving(fake: FakeServer) -> Iterator[str]:
    """Within the block it answers at the yielded address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            said = fake.answer(self.path, body)
            if said is None:
                self.close_connection = True
                return
            status, answer = said
            data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
