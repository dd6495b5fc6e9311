"""The embedded model, for real: SmolLM2-135M out of a package-index wheel, decomposed, trained one step, asked."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from conftest import ROOT
from hydra.utils import instantiate
from omegaconf import OmegaConf
from test_tasks_contract import NAMES, build, config_of

from t2.adaptation.strategy import Choice, PooledModel
from t2.adaptation.two_pass import TwoPass
from t2.adapters.svf import SVF
from t2.experts.mixture import Mixture
from t2.experts.pool import ExpertPool
from t2.models.language_model import LanguageModel
from t2.policy.hf import HFGenerator
from t2.policy.log_probs import token_log_probs
from t2.policy.prompt_sharing import prompts_can_be_shared
from t2.tasks.base import Task
from t2.training.objectives import RLOO
from t2.training.rollout import Rollout
from t2.types import Example, Sampling

pytestmark = [pytest.mark.embedded, pytest.mark.slow]
EXAMPLES = [Example(f"State the final answer to the following arithmetic problem: {a} + 4 =") for a in (2, 13, 125)]


@pytest.fixture(scope="module")
def model() -> tuple[LanguageModel, SVF]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    lm = instantiate(OmegaConf.load(ROOT / "conf" / "base_model" / "smollm2_135m.yaml"))
    # Text: on special tokens in a row, which no training has seen, single positions amplify rounding tenfold and more.
    lm.ids = lm.tokenizer(EXAMPLES[0].prompt, return_tensors="pt").input_ids  # (1, T)
    with torch.no_grad():
        lm.base_logits = lm.model(lm.ids).logits
    svf = SVF()
    svf.inject(lm.model, lm.source)
    yield lm, svf
    torch.set_num_threads(before)


def test_it_is_decomposed_exactly(model: tuple[LanguageModel, SVF]) -> None:
    lm, svf = model
    assert len(svf.layers) == 210
    assert sum(p.numel() for p in svf.trainable()) == 97_920
    with torch.no_grad():
        assert (lm.model(lm.ids).logits - lm.base_logits).abs().max() < 2e-3
        with svf.merged():
            assert torch.equal(lm.model(lm.ids).logits, lm.base_logits)
        with svf.disabled():
            assert torch.equal(lm.model(lm.ids).logits, lm.base_logits)


def test_a_second_decomposition_comes_from_the_cache(
    model: tuple[LanguageModel, SVF], monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = instantiate(OmegaConf.load(ROOT / "conf" / "base_model" / "smollm2_135m.yaml"))
    monkeypatch.setattr(torch.linalg, "svd", None)
    SVF().inject(lm.model, lm.source)


def test_it_answers_and_learns_from_its_answers(model: tuple[LanguageModel, SVF]) -> None:
    lm, svf = model
    assert prompts_can_be_shared(lm)
    sampling = Sampling(max_new_tokens=8, temperature=1.0, samples=3)
    groups = HFGenerator(lm, svf).generate(EXAMPLES, sampling)
    flat = tuple(c for group in groups for c in group)
    tokens = {shared: token_log_probs(lm, flat, shared=shared) for shared in (False, True)}
    for token in tokens.values():
        for row, completion in zip(token.log_probs.detach(), flat, strict=True):
            sampled = torch.tensor(completion.log_probs)
            torch.testing.assert_close(row[: len(sampled)], sampled, rtol=0, atol=1e-3)
    rollout = Rollout(
        completions=flat,
        rewards=torch.zeros(9),
        advantages=torch.linspace(-1, 1, 9),
        temperature=1.0,
        total_samples=9,
        total_tokens=sum(len(c.token_ids) for c in flat),
        max_new_tokens=8,
    )
    gradients = []
    for token in tokens.values():
        gradient = torch.autograd.grad(RLOO().loss(token, rollout).total, svf.trainable())
        gradients.append(torch.cat(gradient))
    plain, shared = gradients
    assert float(plain.norm()) > 0
    assert float((plain - shared).norm() / plain.norm()) < 1e-4


def test_greedy_answers_are_those_of_transformers(model: tuple[LanguageModel, SVF]) -> None:
    lm, svf = model
    ours = HFGenerator(lm, svf, weights="base").generate(EXAMPLES, Sampling(max_new_tokens=10))
    for example, (completion,) in zip(EXAMPLES, ours, strict=True):
        prompt = torch.tensor([lm.encode(example)])
        with svf.disabled():
            theirs = lm.model.generate(prompt, max_new_tokens=10, do_sample=False)[0, prompt.shape[1] :].tolist()
        assert list(completion.token_ids) == theirs


def test_the_experts_that_ship_answer_per_example_as_merged(model: tuple[LanguageModel, SVF]) -> None:
    lm, svf = model
    pool = ExpertPool.load(ROOT / "experts" / "smollm2_135m")
    assert pool.dispatch is not None
    mixtures = [Mixture.of(*(float(domain == one) for one in pool.domains)) for domain in pool.domains]
    mixtures += [Mixture.base(len(mixtures)), Mixture.of(*(0.7 for _ in mixtures))]
    examples = [EXAMPLES[0]] * len(mixtures)
    sampling = Sampling(max_new_tokens=8)
    found = {}
    for pass2 in ("per_example", "merged"):
        system = TwoPass(HFGenerator(lm, svf), pool, Given(mixtures), pass2=pass2)
        found[pass2] = system.generate(examples, sampling)
    for (each,), (merged,) in zip(found["per_example"], found["merged"], strict=True):
        assert each.token_ids == merged.token_ids
        torch.testing.assert_close(torch.tensor(each.log_probs), torch.tensor(merged.log_probs), rtol=0, atol=1e-3)
    answers = [group[0].token_ids for group in found["per_example"]]
    assert answers[-2] == HFGenerator(lm, svf, weights="base").generate(EXAMPLES[:1], sampling)[0][0].token_ids
    assert len(set(answers)) > 1  # the experts do something


@pytest.mark.parametrize("name", [name for name in NAMES if "_target_" in config_of(name).get("form", {})])
def test_a_begun_turn_and_the_answer_after_it_are_the_tokens_of_the_whole_turn(
    model: tuple[LanguageModel, SVF], name: str
) -> None:
    """Else solved examples in a prompt would show other tokens than those that a begun turn is gone on with."""
    tokenizer, task = model[0].tokenizer, build(name)
    for one in map(task.form.with_prefix, list(task.split("val"))[:50]):
        prefix, answer = one.response_prefix, one.reference_completion
        parts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prefix, answer, prefix + answer)]
        assert parts[0] + parts[1] == parts[2]


class Given:
    """A strategy that was told what to choose."""

    name = "given"

    def __init__(self, mixtures: Sequence[Mixture]) -> None:
        self.mixtures = mixtures

    def fit(self, model: PooledModel, task: Task, support: Sequence[Example]) -> None:
        """Nothing to learn."""

    def choose(self, model: PooledModel, examples: Sequence[Example]) -> list[Choice]:
        return [Choice(mixture) for mixture in self.mixtures]
