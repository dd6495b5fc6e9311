"""Requests to servers: z is sent when it has changed, and each way in which a server fails is one sentence."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from fake_vllm import FakeServer, serving
from tiny_models import adapted, random_state

from t2.policy.vllm_server import VLLMServerGenerator
from t2.types import Example, Sampling

EXAMPLES = [Example(f"{'a' * n}") for n in range(1, 6)]
SAMPLING = Sampling(max_new_tokens=2, temperature=1.0, samples=2, seed=3)
START = "python -m t2.policy.vllm_serve"


@pytest.fixture
def fake() -> FakeServer:
    return FakeServer()


@pytest.fixture
def url(fake: FakeServer) -> Iterator[str]:
    with serving(fake) as address:
        yield address


def generator(*urls: str, **settings: Any) -> VLLMServerGenerator:
    return VLLMServerGenerator(*adapted(), urls=list(urls), **settings)


def test_z_is_sent_once_for_each_state(fake: FakeServer, url: str) -> None:
    made = generator(url)
    assert "/collective_rpc" not in fake.asked, "nothing is sent before something is generated"
    made.generate(EXAMPLES, SAMPLING)
    made.generate(EXAMPLES, SAMPLING)
    assert (fake.prepared, fake.states) == (1, [{}])  # z = 1
    state = random_state(made.adapter, 1)
    made.with_state(state).generate(EXAMPLES, SAMPLING)
    made.adapter.load(state)
    made.generate(EXAMPLES, SAMPLING)
    assert (fake.prepared, len(fake.states)) == (1, 2)
    assert all(torch.equal(z, state[name]) for name, z in fake.states[1].items())
    assert fake.states[1].keys() == state.keys()
    VLLMServerGenerator(made.lm, made.adapter, urls=[url], weights="base").generate(EXAMPLES, SAMPLING)
    assert fake.states[2] == {}
    assert {request["cache_salt"] for request in fake.requests[-5:]} == {fake.version}
    assert len({request["cache_salt"] for request in fake.requests}) == 2
    assert made.sync_seconds > 0


def test_only_what_is_learned_is_sent(fake: FakeServer, url: str) -> None:
    lm, svf = adapted(spectrum="top", rank=3, spread=0.0)
    svf.load({name: torch.where(svf.learnable()[name], 1.5, 1.0) for name in svf.layers})
    VLLMServerGenerator(lm, svf, urls=[url]).generate(EXAMPLES, SAMPLING)
    assert {tuple(z.shape) for z in fake.states[0].values()} == {(3,)}


def test_a_server_that_was_started_again_gets_all_again(fake: FakeServer, url: str) -> None:
    made = generator(url)
    made.generate(EXAMPLES, SAMPLING)
    fake.version, fake.spec = "default", None
    made.generate(EXAMPLES, SAMPLING)
    assert (fake.prepared, len(fake.states)) == (2, 2)


def refused(made: VLLMServerGenerator, kind: type[Exception], match: str) -> None:
    with pytest.raises(kind, match=match) as caught:
        made.generate(EXAMPLES, SAMPLING)
    assert START in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_model_is_refused(fake: FakeServer, url: str) -> None:
    fake.wrong = "2 of 21 weights differ"
    refused(generator(url), ValueError, r"holds another model than the trainer \(2 of 21 weights differ\)")
    assert fake.states == []


def test_a_server_whose_loading_failed_has_no_version_that_anybody_asks_for(fake: FakeServer, url: str) -> None:
    """Else the trainer that was there first would take the base's completions for its own."""
    first = generator(url)
    first.generate(EXAMPLES, SAMPLING)
    fake.wrong = "2 of 21 weights differ"
    other = VLLMServerGenerator(*adapted(modules=["up_proj"]), urls=[url])
    refused(other, ValueError, "holds another model")
    fake.wrong, fake.spec = None, None
    first.generate(EXAMPLES, SAMPLING)
    assert (fake.prepared, len(fake.states)) == (2, 2)


def test_another_rank_may_send_the_same_weights_meanwhile(fake: FakeServer, url: str) -> None:
    made = generator(url)
    made.generate(EXAMPLES, SAMPLING)
    version = fake.version
    fake.answers["/weight_info"] = lambda: (200, {"weight_version": version})
    fake.version = f"loading {version}"
    assert len(made.generate(EXAMPLES, SAMPLING)) == len(EXAMPLES)


def test_log_probs_of_another_kind_are_refused(fake: FakeServer, url: str) -> None:
    fake.logprobs_mode = "raw_logprobs"
    refused(generator(url), ValueError, "gives raw_logprobs, and t2 needs log-probs at the sampling temperature")


def test_nobody_there_is_said_at_once() -> None:
    with pytest.raises(ConnectionError, match=r"No vLLM server answers at \S+:9 .*vllm_serve tiny:llama"):
        generator("http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("path", "answer", "match"),
    [
        ("/v1/models", (200, {"hello": 1}), "is no vLLM server"),
        ("/v1/models", (404, {}), "is no vLLM server"),
        ("/v1/models", (200, b"<html>"), "is no vLLM server: its answer to /v1/models is no JSON"),
        ("/weight_info", (404, {}), "was started without VLLM_SERVER_DEV_MODE=1"),
    ],
)
def test_another_server_is_said_at_once(fake: FakeServer, url: str, path: str, answer: Any, match: str) -> None:
    fake.answers[path] = lambda: answer
    with pytest.raises(ValueError, match=match):
        generator(url)


@pytest.mark.parametrize("path", ["/collective_rpc", "/inference/v1/generate"])
def test_a_server_that_ends_meanwhile_is_said(fake: FakeServer, url: str, path: str) -> None:
    made = generator(url)
    fake.answers[path] = lambda: None
    refused(made, ConnectionError, f"ended while it answered {path}")


def test_what_a_server_refuses_is_in_its_own_words(fake: FakeServer, url: str) -> None:
    made = generator(url)
    fake.answers["/inference/v1/generate"] = lambda: (403, {"error": {"message": "Scale-out is off.\nIndeed."}})
    refused(made, ValueError, r"refuses /inference/v1/generate: 403, Scale-out is off\. Start it with")


def test_a_server_that_takes_too_long_is_said(fake: FakeServer, url: str) -> None:
    made = generator(url, timeout_s=0.2)
    fake.answers["/inference/v1/generate"] = lambda: time.sleep(0.5)
    with pytest.raises(ConnectionError, match=r"did not answer /inference/v1/generate within 0\.2 s"):
        made.generate(EXAMPLES[:1], SAMPLING)


def test_completions_of_other_weights_are_never_returned(fake: FakeServer, url: str) -> None:
    made = generator(url)
    made.generate(EXAMPLES, SAMPLING)
    fake.answers["/weight_info"] = lambda: (200, {"weight_version": fake.requests[0]["cache_salt"]})
    fake.version = "of another run"
    with pytest.raises(ConnectionError, match="another run uses it, too"):
        made.generate(EXAMPLES, SAMPLING)
