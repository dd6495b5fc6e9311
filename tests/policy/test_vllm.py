"""vLLM rollouts: the same answers as transformers' under the same weights, before and after z moves. Needs vLLM."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from conftest import ROOT
from hydra.utils import instantiate
from omegaconf import OmegaConf
from tiny_models import original, random_state

from t2.adapters.svf import SVF
from t2.models.language_model import LanguageModel
from t2.policy import vllm as back_end
from t2.policy.hf import HFGenerator
from t2.policy.log_probs import token_log_probs
from t2.policy.vllm import VLLMGenerator
from t2.policy.vllm_engine import EngineSettings, check_installed, get_engine
from t2.types import Example, Sampling

needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: make test-vllm"
)
EXAMPLES = [Example(f"State the final answer to the following arithmetic problem: {a} + {b} =") for a, b in
            ((2, 4), (13, 4), (125, 7), (8, 8), (31, 9), (6, 3))]  # fmt: skip
Adapted = tuple[LanguageModel, SVF]


@pytest.fixture(scope="module")
def adapted() -> Iterator[Adapted]:
    """SmolLM2 with an adapter whose z is not 1."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    lm = instantiate(OmegaConf.load(ROOT / "conf" / "base_model" / "smollm2_135m.yaml"))
    svf = SVF()
    svf.inject(lm.model, lm.source)
    yield lm, svf
    torch.set_num_threads(threads)


def move(svf: SVF, seed: int, width: float = 0.02) -> None:
    svf.load(random_state(svf, seed, width))


@needs_vllm
@pytest.mark.embedded
@pytest.mark.slow
class TestSmolLM2:
    def test_greedy_answers_follow_z(self, adapted: Adapted) -> None:
        lm, svf = adapted
        sampling = Sampling(max_new_tokens=16)
        seen = []
        for seed in (None, 1, 2):
            if seed is not None:
                move(svf, seed)
            ours = VLLMGenerator(lm, svf).generate(EXAMPLES, sampling)
            theirs = HFGenerator(lm, svf).generate(EXAMPLES, sampling)
            assert [c.token_ids for (c,) in ours] == [c.token_ids for (c,) in theirs]
            assert [c.text for (c,) in ours] == [c.text for (c,) in theirs]
            assert [c.finish for (c,) in ours] == [c.finish for (c,) in theirs]
            seen.append([c.token_ids for (c,) in ours])
        assert seen[0] != seen[1] != seen[2]  # z did matter
        base = VLLMGenerator(lm, svf, weights="base").generate(EXAMPLES, sampling)
        assert [c.token_ids for (c,) in base] == seen[0]

    def test_log_probs_are_the_trainers(self, adapted: Adapted) -> None:
        lm, svf = adapted
        move(svf, 3)
        sampling = Sampling(max_new_tokens=12, temperature=0.8, samples=3, seed=5)
        groups = VLLMGenerator(lm, svf).generate(EXAMPLES, sampling)
        flat = [c for group in groups for c in group]
        with torch.no_grad():
            token = token_log_probs(lm, flat, temperature=0.8, shared=True)
        for row, completion in zip(token.log_probs, flat, strict=True):
            sampled = torch.tensor(completion.log_probs)
            torch.testing.assert_close(row[: len(sampled)], sampled, rtol=0, atol=2e-3)

    def test_samples_differ_and_seeds_repeat(self, adapted: Adapted) -> None:
        lm, svf = adapted
        generator = VLLMGenerator(lm, svf)
        first, again, other = (
            [
                [c.token_ids for c in group]
                for group in generator.generate(
                    EXAMPLES, Sampling(max_new_tokens=12, temperature=1.0, samples=4, seed=s)
                )
            ]
            for s in (5, 5, 6)
        )
        assert first == again
        assert first != other
        assert any(len(set(group)) > 1 for group in first)

    def test_sending_the_weights_is_quick_and_happens_once(self, adapted: Adapted) -> None:
        lm, svf = adapted
        move(svf, 4)
        generator = VLLMGenerator(lm, svf)
        sampling = Sampling(max_new_tokens=1)
        generator.generate(EXAMPLES[:1], sampling)
        engine = get_engine(lm, EngineSettings())
        held = engine.state
        generator.generate(EXAMPLES[:1], sampling)
        assert engine.state is held

    @pytest.mark.parametrize("samples", [1, 3])
    def test_whoever_takes_no_more_leaves_nothing_for_the_next(self, adapted: Adapted, samples: int) -> None:
        lm, svf = adapted
        svf.load({})
        sampling = Sampling(max_new_tokens=16, temperature=1.0, samples=samples, seed=2)
        whole = VLLMGenerator(lm, svf).generate(EXAMPLES, sampling)
        left = VLLMGenerator(lm, svf).stream(EXAMPLES, sampling)
        next(left)
        left.close()
        assert not get_engine(lm, EngineSettings()).llm.llm_engine.has_unfinished_requests()
        again = VLLMGenerator(lm, svf).generate(EXAMPLES, sampling)
        assert [[c.token_ids for c in group] for group in again] == [[c.token_ids for c in group] for group in whole]

    def test_weights_whose_sending_broke_off_are_sent_again(
        self, adapted: Adapted, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lm, svf = adapted
        svf.load({})
        engine, sampling = get_engine(lm, EngineSettings()), Sampling(max_new_tokens=16)
        before = VLLMGenerator(lm, svf).generate(EXAMPLES, sampling)
        send = engine.llm.collective_rpc

        def broken(method: str, kwargs: dict[str, Any]) -> None:
            assert method == "reload_weights"
            send(method, kwargs={"weights_iterator": kwargs["weights_iterator"]})
            raise KeyboardInterrupt

        move(svf, 7, 0.1)
        monkeypatch.setattr(engine.llm, "collective_rpc", broken)
        with pytest.raises(KeyboardInterrupt):
            VLLMGenerator(lm, svf).generate(EXAMPLES, sampling)
        monkeypatch.undo()
        svf.load({})  # the state before, which the engine no longer has
        after = VLLMGenerator(lm, svf).generate(EXAMPLES, sampling)
        assert [c.token_ids for (c,) in after] == [c.token_ids for (c,) in before]

    def test_stop_strings_and_end_tokens(self, adapted: Adapted) -> None:
        lm, svf = adapted
        svf.load({})
        (plain,), *_ = VLLMGenerator(lm, svf).generate(EXAMPLES, Sampling(max_new_tokens=40))
        assert plain.finish == "stop"
        assert plain.token_ids[-1] in lm.end_ids
        word = plain.text.split()[1]
        (cut,), *_ = VLLMGenerator(lm, svf).generate(EXAMPLES, Sampling(max_new_tokens=40, stop=(word,)))
        assert cut.text == plain.text[: plain.text.index(word)]

    def test_what_does_not_fit_is_refused(self, adapted: Adapted) -> None:
        lm, svf = adapted
        with pytest.raises(ValueError, match="was built for"):
            VLLMGenerator(lm, svf).generate([Example("word " * 2500)], Sampling(max_new_tokens=8))
        with pytest.raises(ValueError, match="top_p"):
            VLLMGenerator(lm, svf).generate(EXAMPLES, Sampling(temperature=1.0, top_p=0.9))


def test_a_missing_vllm_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    with pytest.raises(ImportError, match="generation=hf needs nothing more"):
        check_installed()


def test_an_untried_version_is_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9.9.9")
    assert check_installed() == "9.9.9"
    assert "was not tried with t2 (tried: 0.32.0)" in caplog.text


def test_a_model_without_files_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(back_end, "check_installed", lambda: "0.32.0")
    with pytest.raises(ValueError, match="use generation=hf"):
        VLLMGenerator(original())


@pytest.mark.parametrize(
    ("setting", "match"),
    [({"dtype": "float8"}, "float"), ({"memory_share": 0}, "memory_share"), ({"block_tokens": 0}, "block_tokens is 0")],
)
def test_impossible_settings_are_refused(setting: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        EngineSettings(**setting)
