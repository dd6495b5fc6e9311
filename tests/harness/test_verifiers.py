"""Our tasks in verifiers: one rollout against an endpoint that answers by rule, and rewards against the task's own.

It fails where a reward is of another example or of a trimmed reply, where a task that came over the wire scores
something else, and where the prompt, the system message or the sampling does not reach the endpoint.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import math
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from t2.tasks.base import grade
from t2.types import Example

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("verifiers") is None, reason="verifiers is not installed: make test-harness"
)
KEYS = {"train_size": 8, "val_size": 4, "test_size": 4}


class Endpoint(BaseHTTPRequestHandler):
    """An OpenAI-compatible endpoint that answers a greatest common divisor, or 0, between spaces."""

    asked: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body)
        text = f" {self.says(body['messages'][-1]['content'])}\n"
        message = {"role": "assistant", "content": text}
        reply = {
            "id": "1", "object": "chat.completion", "created": 0, "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }  # fmt: skip
        content = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    @staticmethod
    def says(prompt: str) -> str:
        numbers = [int(one) for one in re.findall(r"[0-9]+", prompt)]
        return str(math.gcd(*numbers) if numbers[0] % 4 else 0)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def endpoint() -> Iterator[str]:
    Endpoint.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()


def episodes(env: Any, url: str) -> list[Any]:
    """An episode of every task."""
    import verifiers.v1 as vf

    context = vf.ModelContext(model="stub", client=vf.EvalClientConfig(base_url=url), sampling=vf.SamplingConfig())

    async def run() -> list[Any]:
        async with env.serving():
            return [await env.run_slot(slot, context) for task in env.taskset for slot in env.slots(task)]

    return asyncio.run(run())


def test_a_rollout_is_rewarded_as_the_task_scores(endpoint: str) -> None:
    import verifiers.v1 as vf

    from t2.cli.verifiers import build_task
    from t2_verifiers import load_environment

    env = load_environment("gcd", split="val", **KEYS)
    found = episodes(env, endpoint)
    task = build_task("gcd", KEYS)
    examples = task.split("val")
    expected = [grade(task, one, f" {Endpoint.says(one.prompt)}\n").score for one in examples]
    assert set(expected) == {0.0, 1.0}
    assert [episode.errors for episode in found] == [[]] * len(examples)
    assert [episode.traces[0].reward for episode in found] == expected
    assert [body["messages"][-1]["content"] for body in Endpoint.asked] == [one.prompt for one in examples]
    assert {body["max_tokens"] for body in Endpoint.asked} == {task.max_new_tokens}
    assert all(isinstance(episode, vf.Episode) for episode in found)


def test_a_task_from_the_wire_scores_the_same_example() -> None:
    from t2_verifiers import T2Taskset, T2TasksetConfig

    tasks = list(T2Taskset(T2TasksetConfig(id="t2-verifiers", choice="gcd", split="test", keys=KEYS)))
    kind = T2Taskset.task_type()
    sent = kind(kind.data_type().model_validate_json(tasks[2].data.model_dump_json()))
    assert sent._example == tasks[2]._example
    assert sent._example.answer == tasks[2].data.answer


def test_what_a_chat_endpoint_cannot_be_asked_is_refused() -> None:
    from t2.cli.verifiers import check, turns

    with pytest.raises(ValueError, match="begun"):
        check(Example("3 + 4 =", response_prefix="3 + 4 ="), "add2")
    assert [one["role"] for one in turns(Example("c", shots=(("a", "b"),)))] == ["user", "assistant", "user"]
