"""backend=vllm: the answers of the local engine, out of LoRAs on a server; with vLLM itself, and with a stand-in."""

from __future__ import annotations

import importlib.util
import queue
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from fake_upstream import base_of, upstreamed
from hydra.utils import instantiate
from omegaconf import OmegaConf
from served import (
    BASE,
    BOTH,
    LETTERS,
    MATH,
    answers,
    ask,
    client,
    make_service,
    outcome,
    running,
    tiny_pooled,
    wait_until,
)
from tiny_models import token_ids
from tiny_pool import make_expert

from t2.adaptation.strategy import PooledModel
from t2.adapters.svf import SVF
from t2.experts.mixture import Mixture
from t2.experts.pool import ExpertPool
from t2.policy.hf import HFGenerator
from t2.serving import backends
from t2.serving.app import Service
from t2.serving.backends import Model, VLLMBackend
from t2.serving.catalog import Catalog
from t2.serving.job import Event, Failed
from t2.serving.metrics import Metrics
from t2.serving.settings import Settings
from t2.serving.vllm_limits import Limits
from t2.types import Sampling

needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: make test-vllm"
)
PROMPTS = ["What is 3 + 4?", "How many e are in tree?", "x"]


def test_answers_are_those_of_the_local_engine(tmp_path: Path) -> None:
    """Catches: a LoRA of another mixture, a name that is used twice, prompts or ends other than ours."""
    model = tiny_pooled(ends=True)
    local, upstream = make_service(model), base_of(model)
    by = [MATH, BASE, BOTH, LETTERS, local.catalog.strategies["prompt"], local.catalog.strategies["classifier"]]
    asks = [ask(local, prompt, one) for prompt in PROMPTS for one in by]
    with running(local) as engine:
        expected = answers(engine, asks)
    with upstreamed(model, upstream, tmp_path) as service, running(service) as engine:
        assert answers(engine, asks) == expected
        assert len(upstream.loaded) == 3, "two experts and one mixture, each once"
        assert len({name.split("-")[1] for name in upstream.loaded}) == 3
    assert list(upstream.models) == ["theirs"], "all LoRAs are unloaded in the end"
    assert not list(tmp_path.iterdir())
    assert all(request["top_k"] == 0 and request["repetition_penalty"] == 1 for request in upstream.requests[1:])


def test_the_api_is_the_same(tmp_path: Path) -> None:
    model = tiny_pooled()
    request = {"model": "prompt", "messages": [{"role": "user", "content": "x"}], "temperature": 0, "max_tokens": 5}
    asked = [request, {**request, "model": "math", "n": 2}, {**request, "t2": {"mixing_weights": {"math": 0.5}}}]
    with client(make_service(model)) as local:
        expected = [local.post("/v1/chat/completions", json=one).json() for one in asked]
        stream = local.post("/v1/chat/completions", json={**request, "stream": True}).text
    with upstreamed(model, base_of(model), tmp_path) as service, client(service) as ours:
        got = [ours.post("/v1/chat/completions", json=one).json() for one in asked]
        streamed = ours.post("/v1/chat/completions", json={**request, "stream": True}).text
        assert "t2_completion_tokens_total 25.0" in ours.get("/metrics").text
        assert ours.get("/v1/t2/pool").json()["context_length"] == 300, "the server's, which is the shorter one"
    for one, other in zip(got, expected, strict=True):
        assert one["choices"] == other["choices"]
        assert one["usage"] == other["usage"]
        assert one["t2"].keys() == other["t2"].keys()
        assert one["t2"]["mixing_weights"] == other["t2"]["mixing_weights"]
    assert streamed.count('"content"') == stream.count('"content"')
    assert streamed.rstrip().endswith("[DONE]")


def test_a_bounded_number_of_mixtures_is_held(tmp_path: Path) -> None:
    """Catches: a mixture that is unloaded while it is in use, one that is never unloaded."""
    model, mixtures = tiny_pooled(), [Mixture.of(0.1 * n, 0.2) for n in range(1, 6)]
    upstream = base_of(model)
    with upstreamed(model, upstream, tmp_path, mixtures=1) as service, running(service) as engine:
        found = answers(engine, [ask(service, "x", one) for one in [*mixtures, *mixtures[::-1]]])
        assert found[:5] == found[:4:-1]
        assert len(upstream.models) == 1 + 2 + 1
        assert len(list((tmp_path / "loras").iterdir())) == 2 + 1
    assert len(upstream.loaded) > 2 + 5 - 1


def test_mixtures_of_one_state_and_one_that_is_the_base(tmp_path: Path) -> None:
    """Catches: a folder that is written twice, a LoRA without a matrix."""
    model = tiny_pooled()
    upstream = base_of(model)
    with upstreamed(model, upstream, tmp_path) as service, running(service) as engine:
        paper, tiny = Mixture.of(1, 0, rule="paper"), Mixture.of(1e-12, 0)
        one, other, nearly, base = answers(engine, [ask(service, "x", by) for by in (MATH, paper, tiny, BASE)])
        assert one == other != nearly == base
        assert len(upstream.loaded) == 2 + 1


def test_what_a_lora_would_leave_out_is_refused(tmp_path: Path) -> None:
    model = tiny_pooled()
    with (
        pytest.raises(ValueError, match=r"\{math: 1\} changes up to \d+ .* rank 8 leaves out 0\.\d+ .* backend=hf"),
        upstreamed(model, base_of(model), tmp_path, rank=8),
    ):
        pass
    with (
        upstreamed(model, base_of(model), tmp_path, rank=8, max_error=0.9) as service,
        client(service) as api,
    ):
        assert service.engine.loras is not None
        service.engine.loras.limits = Limits(8, 0.01, 2)
        body = {"model": "base", "prompt": "x", "t2": {"mixing_weights": {"math": 0.5}}}
        answer = api.post("/v1/completions", json=body)
        assert answer.status_code == 400
        assert "leaves out" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        ({"weights": 0.1}, ValueError, r"has another model \(theirs\) .* differ by \d"),
        ({"takes_loras": False}, ConnectionError, "refuses /v1/load_lora_adapter: 404.*VLLM_ALLOW|vllm serve"),
        ({"models": {}}, ValueError, "is no vLLM server"),
        ({"says": "<html>A proxy</html>"}, ValueError, "is no vLLM server"),
    ],
)
def test_a_server_that_will_not_do(change: dict[str, Any], kind: type[Exception], says: str, tmp_path: Path) -> None:
    model = tiny_pooled()
    upstream = base_of(model)
    if "weights" in change:
        torch.manual_seed(0)
        for weight in upstream.lm.model.parameters():
            weight.data += 0.1 * torch.randn_like(weight)
    vars(upstream).update({key: value for key, value in change.items() if key != "weights"})
    with pytest.raises(kind, match=says), upstreamed(model, upstream, tmp_path):
        pass


def test_a_server_that_is_gone_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "model_words", lambda source: ["--model", "folder"])
    backend = VLLMBackend(tmp_path, url="http://127.0.0.1:9")
    with (
        pytest.raises(ConnectionError, match=r"No vLLM server answers at http://127.0.0.1:9 .* Start one with: VLLM_"),
        backend.engine(Model(tiny_pooled().lm, None, None), Settings(), Metrics()),
    ):
        pass


def test_an_answer_that_breaks_off_frees_its_places(tmp_path: Path) -> None:
    model = tiny_pooled()
    upstream = base_of(model)
    with upstreamed(model, upstream, tmp_path) as service, client(service) as api:
        upstream.ends = True
        answer = api.post("/v1/completions", json={"model": "math", "prompt": "x", "n": 8})
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "backend_unavailable"
        assert "before its last token" in answer.json()["error"]["message"]
        upstream.ends = False
        assert api.post("/v1/completions", json={"model": "math", "prompt": "x", "n": 8}).status_code == 200


def test_who_hangs_up_ends_the_request_at_the_server(tmp_path: Path) -> None:
    model = tiny_pooled()
    upstream = base_of(model)
    with upstreamed(model, upstream, tmp_path) as service, running(service) as engine:
        upstream.hold.clear()
        events: queue.Queue[Event] = queue.Queue()
        job = engine.submit(ask(service, "x", MATH), events.put)
        wait_until(lambda: len(upstream.requests) > 1)
        job.cancel()
        wait_until(lambda: upstream.left == 1 and engine.rows == 0)
        # What is left when the time to stop is over fails, and the engine ends.
        engine.submit(ask(service, "x", MATH), events.put)
        wait_until(lambda: len(upstream.requests) > 2)
        engine.stop(0.1)
        assert isinstance(outcome(events)[-1], Failed)
        assert upstream.left == 2


@needs_vllm
@pytest.mark.embedded
@pytest.mark.slow
def test_greedy_answers_of_vllm_are_those_of_merged_weights(tmp_path: Path) -> None:
    """Experts of 16 singular values, which are LoRAs of rank 16 exactly, and a mixture of both."""
    lm = instantiate(OmegaConf.load(ROOT / "conf" / "base_model" / "smollm2_135m.yaml"))
    svf = SVF(spectrum="top", rank=16)
    svf.inject(lm.model, lm.source)
    experts = {}
    for seed, domain in enumerate(("math", "letters")):
        made = make_expert(seed, svf.singular_values, spread=0.3, domain=domain)
        scales = {name: torch.where(svf.learnable()[name], z, 1.0) for name, z in made.scales.items()}
        experts[domain] = replace(made, scales=scales)
    pool = ExpertPool(experts)
    generator = HFGenerator(lm, svf, mode="merged")
    prompts = [f"State the final answer to the following arithmetic problem: {n} + {3 * n} =" for n in (17, 58)]
    mixtures, sampling = [Mixture.of(0, 0), Mixture.of(1, 0), Mixture.of(0, 1), BOTH], Sampling(max_new_tokens=12)
    parts = Model(lm, PooledModel(generator, pool), svf)
    backend = VLLMBackend(tmp_path, rank=16, mixtures=2, max_error=0.0)
    with backend.engine(parts, Settings(), Metrics()) as engine:
        service = Service(Catalog(lm, parts.pooled), engine, Settings(), Metrics())
        asks = [ask(service, prompt, mixture, max_new_tokens=12) for mixture in mixtures for prompt in prompts]
        with running(service):
            found = answers(engine, asks, timeout_s=300)  # a machine with other work needs a minute for a prompt
            assert engine.is_alive
        expected = []
        for mixture in mixtures:
            merged = generator.with_state(pool.state(mixture))
            expected += token_ids(merged.generate([one.example for one in asks[:2]], sampling))
        assert found == expected
        assert len({str(found[at : at + 2]) for at in range(0, 8, 2)}) == 4, "mixtures matter"
    assert not engine.is_alive
    assert not (tmp_path / "loras").exists()
