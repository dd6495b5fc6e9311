"""Models whose examples cannot have states of their own: mixtures are merged one by one, or it is said what to use."""

from __future__ import annotations

import pytest
import torch
from graded_task import SUPPORT
from graded_task import OneLetter as Letters
from tiny_models import adapt
from tiny_pool import tiny_pool
from zoo_models import tiny_architecture

from t2.adaptation.confidence import Confidence
from t2.adaptation.fitness import token_log_probs_under
from t2.adaptation.gradient import Gradient
from t2.adaptation.strategy import PooledModel, applies_per_example
from t2.adaptation.two_pass import TwoPass
from t2.adapters.svf import SVF
from t2.experts.mixture import Mixture
from t2.policy.hf import HFGenerator
from t2.policy.log_probs import token_log_probs
from t2.serving.backends import HFBackend, Model
from t2.serving.metrics import Metrics
from t2.serving.settings import Settings
from t2.training.es import ES
from t2.types import Example, Sampling
from tests.adaptation.few_shot_setup import few_shot
from tests.adaptation.two_pass_setup import Given

MIXTURES = [Mixture.of(1, 0), Mixture.of(0, 1)]
EXAMPLES = [Example("Hello"), Example("There")]


@pytest.fixture(params=["mamba", "jetmoe"])
def model(request: pytest.FixtureRequest) -> PooledModel:
    """Mamba multiplies by the weight of `dt_proj` itself; the experts of JetMoe see tokens alone."""
    lm = tiny_architecture(request.param)
    generator = HFGenerator(lm, adapt(lm), mode="merged")
    return PooledModel(generator, tiny_pool(generator))


def test_it_is_known_from_the_start(model: PooledModel) -> None:
    assert isinstance(model.adapter, SVF)
    assert model.adapter.why_one_state is not None
    assert not applies_per_example(model.generator)
    llama = HFGenerator(lm := tiny_architecture("llama"), adapt(lm))
    assert applies_per_example(llama)


def test_pass_2_merges_each_mixture(model: PooledModel) -> None:
    sampling = Sampling(max_new_tokens=3)
    auto = TwoPass(model.generator, model.pool, Given(MIXTURES)).generate(EXAMPLES, sampling)
    alone = [
        model.generator.with_state(model.pool.state(mixture)).generate([example], sampling)[0]
        for mixture, example in zip(MIXTURES, EXAMPLES, strict=True)
    ]
    assert [[one.token_ids for one in group] for group in auto] == [[one.token_ids for one in group] for group in alone]


def test_searches_and_certainty_merge_each_mixture(model: PooledModel) -> None:
    strategy = few_shot()
    strategy.fit(model, Letters(), SUPPORT)
    assert strategy.mixture is not None
    for measure in ("mean", "first_entropy"):
        TwoPass(model.generator, model.pool, Confidence(measure)).generate(EXAMPLES, Sampling(max_new_tokens=3))


@torch.no_grad()
def test_log_probs_are_those_of_each_mixture_merged(model: PooledModel) -> None:
    completions = [group[0] for group in model.generator.with_state({}).generate(EXAMPLES, Sampling(max_new_tokens=4))]
    found = {}
    for rows, token in token_log_probs_under(model, MIXTURES, completions):
        found |= dict(zip(rows, token.log_probs.sum(dim=1).tolist(), strict=True))
    for number, mixture in enumerate(MIXTURES):
        with model.adapter.merged(model.pool.state(mixture)):
            expected = token_log_probs(model.lm, completions).log_probs.sum(dim=1).tolist()
        assert [found[2 * number], found[2 * number + 1]] == pytest.approx(expected, rel=1e-6)
    assert found[0] != found[2], "the mixtures must matter"


def test_what_needs_states_says_what_to_use(model: PooledModel) -> None:
    assert isinstance(model.adapter, SVF)
    with pytest.raises(ValueError, match=r"states of their own\. strategy=gradient needs them\. Use strategy=few_shot"):
        Gradient(4, progress=False).fit(model, Letters(), SUPPORT)
    with pytest.raises(ValueError, match=r"states of their own\. objective=es needs them\. Use objective=rloo"):
        ES().check_parts(model.adapter, model.generator)
    served = Model(model.lm, model, model.adapter)
    with (
        pytest.raises(ValueError, match=r"backend=hf answers .* in one batch\. Use backend=vllm, or serve merged"),
        HFBackend().engine(served, Settings(), Metrics()),
    ):
        pass
