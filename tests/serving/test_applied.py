"""Pass 1 of a server knows nothing of the mixtures that are being served beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_lora import save_lora
from tiny_models import IDS, adapt, adapted, logits
from tiny_pool import make_expert, tiny_pool

from t2.adaptation.dispatch import PromptDispatch
from t2.adaptation.strategy import PooledModel
from t2.adapters.svf import SVF
from t2.experts.lora_expert import LoraExpert
from t2.experts.mixture import Mixture
from t2.experts.pool import ExpertPool
from t2.models.language_model import LanguageModel
from t2.models.tiny import tiny_model
from t2.policy.hf import HFGenerator
from t2.serving.applied import Applied, Unmerged
from t2.serving.merged import MergedCopies
from t2.types import Example

QUESTIONS = [Example("What is 3 + 4?"), Example("Spell cat")]


@pytest.fixture
def parts(tmp_path: Path) -> tuple[LanguageModel, SVF, ExpertPool]:
    """A pool of an SVF expert, a LoRA and an expert of dispatch."""
    lm, svf = adapted()

    def expert(seed: int, domain: str):
        about = {"domain": domain, "description": f"questions about {domain}"}
        return make_expert(seed, svf.singular_values, spread=0.2, base_model=lm.source, **about)

    lora = LoraExpert.load(save_lora(tmp_path), "lora")
    pool = ExpertPool({"svf": expert(1, "svf"), "lora": lora}, dispatch=expert(3, "dispatch"))
    pool.check(svf, source=lm.source)
    return lm, svf, pool


@torch.inference_mode()
def test_loras_that_are_served_are_not_applied_in_pass_1(parts) -> None:
    lm, svf, pool = parts
    model = PooledModel(HFGenerator(lm, Unmerged(svf)), pool)
    strategy = PromptDispatch(expert="dispatch", calibrate=False)
    expected = [choice.scores for choice in strategy.choose(model, QUESTIONS)]
    applied = Applied(svf, pool, lm.index_device)
    for served in ([Mixture.of(0, 1)], [Mixture.of(0, 1), Mixture.of(0, 0.5), Mixture.of(1, 0.2)]):
        with applied.rows(served):
            pass
        assert [choice.scores for choice in strategy.choose(model, QUESTIONS)] == expected


@torch.inference_mode()
def test_what_was_served_does_not_reach_pass_1_of_a_quantized_base() -> None:
    """It merges nothing, so that pass 1 loads its expert: into the mode that is left open between two requests."""
    lm = tiny_model(quantization="int8")
    svf = adapt(lm)
    pool = tiny_pool(HFGenerator(lm, svf), dispatch=True)
    model = PooledModel(HFGenerator(lm, Unmerged(svf)), pool)
    strategy = PromptDispatch(expert="dispatch", calibrate=False)
    expected = [choice.scores for choice in strategy.choose(model, QUESTIONS[:1])]
    applied = Applied(svf, pool, lm.index_device)
    for served in ([Mixture.of(0, 1)], [Mixture.of(1, 0), Mixture.of(0, 1), Mixture.of(0.5, 0.5)]):
        with applied.rows(served):
            pass
        assert [choice.scores for choice in strategy.choose(model, QUESTIONS[:1])] == expected
    assert MergedCopies(svf, pool, 1).most == 0  # nor is anything merged in idle time


@torch.inference_mode()
def test_a_state_with_a_lora_is_loaded_as_it_is_merged(parts) -> None:
    lm, svf, pool = parts
    state = pool.state(Mixture.of(0.5, 1))
    with svf.merged(state):
        expected = logits(lm, IDS)
    with Unmerged(svf).merged(state):
        torch.testing.assert_close(logits(lm, IDS), expected, rtol=0, atol=1e-4)
