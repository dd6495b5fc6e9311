"""Rollouts by vLLM servers: how prompts are divided, what is refused, and with vLLM the tokens of one process."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from fake_vllm import FakeServer, serving
from hydra.utils import instantiate
from omegaconf import OmegaConf
from tiny_models import adapted, random_state

from t2.adapters.svf import SVF
from t2.models.language_model import LanguageModel
from t2.policy.generator import ApartGenerator, DivisibleGenerator
from t2.policy.hf import HFGenerator
from t2.policy.log_probs import token_log_probs
from t2.policy.vllm import VLLMGenerator
from t2.policy.vllm_server import VLLMServerGenerator
from t2.types import Example, Sampling

needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: make test-vllm"
)
PROMPTS = [Example("a" * n) for n in range(1, 8)]
SAMPLING = Sampling(max_new_tokens=2, temperature=1.0, samples=2, seed=3)


def test_prompts_are_divided_among_servers_and_come_back_in_their_order() -> None:
    fakes = [FakeServer(), FakeServer(), FakeServer()]
    with serving(fakes[0]) as a, serving(fakes[1]) as b, serving(fakes[2]) as c:
        lm, svf = adapted(spread=0.1)
        made = VLLMServerGenerator(lm, svf, urls=[a, b, c + "/"])
        assert isinstance(made, ApartGenerator)
        groups = made.generate(PROMPTS, SAMPLING)
        assert [len(fake.requests) for fake in fakes] == [3, 2, 2]
        assert [len(fake.states) for fake in fakes] == [1, 1, 1]
        for index, (group, example) in enumerate(zip(groups, PROMPTS, strict=True)):
            prompt = tuple(lm.encode(example))
            seed = 3 * 1_000_003 + 2 * index
            assert [c.prompt_ids for c in group] == [prompt, prompt]
            assert [c.token_ids for c in group] == [((seed + n) % 256, len(prompt)) for n in (0, 1)]
            assert [c.log_probs for c in group] == [(-0.5, 0.0), (-0.5, -1.0)]
        alone = VLLMServerGenerator(lm, svf, urls=[b]).generate(PROMPTS, SAMPLING)
        assert alone == groups
        assert isinstance(made, DivisibleGenerator)
        assert made.for_rows(range(2, 5), 7).generate(PROMPTS[2:5], SAMPLING) == groups[2:5]


def test_stop_strings_end_the_text() -> None:
    fake = FakeServer()
    with serving(fake) as url:
        ((one, _),) = VLLMServerGenerator(*adapted(), urls=[url]).generate(
            PROMPTS[:1], Sampling(max_new_tokens=2, samples=2, temperature=1.0, stop=(" st",))
        )
    assert one.text == str(one.token_ids[0])
    assert fake.requests[0]["sampling_params"]["stop"] == [" st"]


def test_servers_sleep_while_the_trainer_updates() -> None:
    fake = FakeServer()
    with serving(fake) as url:
        made = VLLMServerGenerator(*adapted(), urls=[url], sleep=True)
        for _ in range(2):
            made.generate(PROMPTS[:1], SAMPLING)
    slept = [path for path in fake.asked if path in ("/sleep?level=1", "/wake_up", "/inference/v1/generate")]
    generate = "/inference/v1/generate"
    assert slept == [generate, "/sleep?level=1", "/wake_up", generate, "/sleep?level=1"]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"urls": []}, r"generation.urls is \[\]"),
        ({"urls": ["http://a", "http://a"]}, "generation.urls is"),
        ({"urls": ["node1:8000"]}, "generation.urls has 'node1:8000'"),
        ({"urls": ["http://a"], "timeout_s": 0}, "generation.timeout_s is 0"),
        ({"urls": ["http://a"], "max_staleness": -1}, "generation.max_staleness is -1"),
        ({"urls": ["http://a"], "max_staleness": 1, "sleep": True}, "Set one of them"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        VLLMServerGenerator(*adapted(), **settings)


def test_other_adapters_and_requests_are_refused() -> None:
    lm, svf = adapted()
    with pytest.raises(ValueError, match="takes adapter=svf; got no adapter"):
        VLLMServerGenerator(lm, urls=["http://a"])
    with serving(FakeServer()) as url:
        made = VLLMServerGenerator(lm, svf, urls=[url])
        with pytest.raises(ValueError, match="was built for 64; start the server with a larger --max-model-len"):
            made.generate([Example("a" * 60)], SAMPLING)
        with pytest.raises(ValueError, match="top_p"):
            made.generate(PROMPTS, Sampling(temperature=1.0, top_p=0.9))


# With vLLM: one server of SmolLM2 for all


EXAMPLES = [Example(f"State the final answer to the following arithmetic problem: {a} + {b} =") for a, b in
            ((2, 4), (13, 4), (125, 7), (8, 8), (31, 9), (6, 3))]  # fmt: skip
MODEL = OmegaConf.load(ROOT / "conf" / "base_model" / "smollm2_135m.yaml")
START_S = 300


def started(folder: Path, *options: str) -> Iterator[str]:
    """The address of a server that answers; it has ended afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "t2.policy.vllm_serve",
        MODEL.source,
        "--sha256",
        MODEL.sha256,
        "--port",
        str(port),
    ]
    command += ["--max-model-len", "512", *options]
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
    try:
        end = time.monotonic() + START_S
        while server.poll() is None and time.monotonic() < end:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except OSError:
                time.sleep(0.5)
        else:
            pytest.fail(f"no server after {START_S} s:\n{(folder / 'server.log').read_text()[-3000:]}")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Takes fewer tokens a step than the prompts of a test have, which a CPU's random numbers must survive."""
    yield from started(tmp_path_factory.mktemp("server"), "--max-num-batched-tokens", "512")


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    lm = instantiate(MODEL)
    assert isinstance(lm, LanguageModel)
    return lm


@pytest.fixture
def fresh(model: LanguageModel) -> Iterator[LanguageModel]:
    """The model, from which what a test injects is taken out again."""
    linears = {path: module for path, module in model.model.named_modules() if path.endswith("_proj")}
    yield model
    for path, module in linears.items():
        parent, _, child = path.rpartition(".")
        setattr(model.model.get_submodule(parent), child, module)


def token_ids(groups: list[Any]) -> list[Any]:
    return [[completion.token_ids for completion in group] for group in groups]


@needs_vllm
@pytest.mark.embedded
@pytest.mark.slow
class TestSmolLM2:
    @pytest.mark.parametrize("settings", [{}, {"spectrum": "top", "rank": 16}, {"modules": ["v_proj"]}], ids=str)
    def test_greedy_answers_follow_z(self, server: str, fresh: LanguageModel, settings: dict[str, Any]) -> None:
        """For one adapter after the other, so that what one has changed must be gone for the next."""
        svf = SVF(**settings)
        svf.inject(fresh.model, fresh.source)
        sampling, seen = Sampling(max_new_tokens=12), []
        for seed in (None, 1):
            if seed is not None:
                state = random_state(svf, seed, 0.2 if settings else 0.02)
                svf.load({name: torch.where(svf.learnable()[name], z, 1.0) for name, z in state.items()})
            ours = VLLMServerGenerator(fresh, svf, urls=[server]).generate(EXAMPLES, sampling)
            theirs = HFGenerator(fresh, svf).generate(EXAMPLES, sampling)
            assert token_ids(ours) == token_ids(theirs)
            assert [c.text for (c,) in ours] == [c.text for (c,) in theirs]
            assert [c.finish for (c,) in ours] == [c.finish for (c,) in theirs]
            for (one,), (other,) in zip(ours, theirs, strict=True):
                assert one.log_probs == pytest.approx(other.log_probs, abs=2e-3)
            seen.append(token_ids(ours))
        assert seen[0] != seen[1]  # z did matter

    def test_sampled_tokens_are_those_of_one_process(self, server: str, fresh: LanguageModel) -> None:
        svf = SVF()
        svf.inject(fresh.model, fresh.source)
        svf.load(random_state(svf, 3, 0.02))
        sampling = Sampling(max_new_tokens=12, temperature=0.8, samples=3, seed=5)
        ours = VLLMServerGenerator(fresh, svf, urls=[server]).generate(EXAMPLES, sampling)
        assert token_ids(ours) == token_ids(VLLMGenerator(fresh, svf).generate(EXAMPLES, sampling))
        assert any(len(set(group)) > 1 for group in token_ids(ours))
        flat = [completion for group in ours for completion in group]
        with torch.no_grad():
            token = token_log_probs(fresh, flat, temperature=0.8, shared=True)
        for row, completion in zip(token.log_probs, flat, strict=True):
            assert completion.log_probs == pytest.approx(row[: len(completion.log_probs)].tolist(), abs=2e-3)

    def test_other_weights_are_refused(self, server: str, fresh: LanguageModel) -> None:
        norm = fresh.model.model.norm.weight
        svf = SVF(modules=["v_proj"])
        svf.inject(fresh.model, fresh.source)
        norm.data += 1e-3
        try:
            with pytest.raises(ValueError, match=r"holds another model .*1 of 272 weights differ.*model.norm.weight"):
                VLLMServerGenerator(fresh, svf, urls=[server]).generate(EXAMPLES, Sampling(max_new_tokens=2))
        finally:
            norm.data -= 1e-3

    def test_a_run_learns_from_completions_of_the_step_before(
        self, server: str, run_script: Any, tmp_path: Path
    ) -> None:
        words = ["task=gcd", "generation=vllm_server", f"generation.urls=[{server}]", "generation.max_staleness=1"]
        words += ["objective.importance_cap=2", "steps=3", "prompts_per_step=2", "sampling.samples=3", "logger=csv"]
        words += ["callbacks.validation.every=3", "callbacks.validation.limit=2", "sampling.max_new_tokens=8"]
        run_script("train", *words, f"hydra.run.dir={tmp_path}")
        assert (tmp_path / "expert.safetensors").exists()
        text = (tmp_path / "metrics.csv").read_text()
        assert "seconds/weight_sync" in text
        assert "train/importance_ratio" in text
