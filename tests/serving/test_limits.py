"""What a server refuses has the status that a client can act upon, and what it rounds is said."""

from __future__ import annotations

import queue

import pytest
from served import ask, client, make_service

from t2.serving.job import Event

CHAT = {"model": "base", "messages": [{"role": "user", "content": "What is 3 + 4?"}], "max_tokens": 4}
TEXT = {"model": "base", "prompt": "one two", "max_tokens": 4}


def test_limits_have_their_statuses() -> None:
    with client(make_service(max_body_bytes=300, timeout_s=0.001)) as http:
        assert http.post("/v1/chat/completions", json={**CHAT, "user": "x" * 300}).status_code == 413
        in_chunks = http.post("/v1/chat/completions", content=iter([b"{", b" " * 300]))
        assert (in_chunks.status_code, in_chunks.json()["error"]["code"]) == (413, "request_too_large")
        late = http.post("/v1/chat/completions", json={**CHAT, "max_tokens": 400})
        assert (late.status_code, late.json()["error"]["code"]) == (503, "timeout")
        assert late.headers["retry-after"] == "1"
    service = make_service(max_waiting=1, max_concurrent=1)
    with client(service) as http:
        alone = http.post("/v1/completions", json={**TEXT, "prompt": ["a", "b"]})  # which no waiting would help
        assert (alone.status_code, alone.json()["error"]["message"]) == (400, "prompt: has 2; allowed: 1 to 1")
        first: queue.Queue[Event] = queue.Queue()
        service.engine.submit(ask(service, "x", max_new_tokens=400), first.put)
        first.get(timeout=30)  # it runs
        service.engine.submit(ask(service, "y", max_new_tokens=400), lambda _: None)
        refused = http.post("/v1/chat/completions", json=CHAT)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        service.engine.refuse()
        stopping = http.post("/v1/chat/completions", json=CHAT)
        assert (stopping.status_code, stopping.json()["error"]["code"]) == (503, "stopping")
        assert http.get("/health").status_code == 503


@pytest.mark.parametrize("temperature", [1e-6, 1e-40, 1e-300])
def test_a_temperature_that_no_logits_survive_is_greedy(temperature: float) -> None:
    with client() as http:
        greedy, tiny = (
            http.post("/v1/chat/completions", json={**CHAT, "temperature": given}) for given in (0, temperature)
        )
    assert tiny.status_code == 200
    assert tiny.json()["choices"][0]["message"] == greedy.json()["choices"][0]["message"]
