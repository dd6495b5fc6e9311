"""Answers of models with a sliding window: those of transformers, whatever else is in the batch."""

import copy

import pytest
import torch
from tiny_models import tiny

from t2.models.language_model import LanguageModel
from t2.policy.hf import HFGenerator
from t2.types import Example, Sampling

EXAMPLES = [Example("What is 3 + 4?"), Example("x"), Example("A longer question, to be padded " * 2)]


def windowed(architecture: str, window: int) -> LanguageModel:
    lm = tiny(architecture)
    config = copy.deepcopy(lm.model.config)
    config.sliding_window = window
    state = lm.model.state_dict()
    lm.model = type(lm.model)(config).eval()
    lm.model.load_state_dict(state)
    return lm


@pytest.mark.parametrize("architecture", ["mistral", "gemma2", "gemma3"])
def test_greedy_is_transformers_greedy_beyond_the_sliding_window(architecture):
    lm = windowed(architecture, 8)
    generator = HFGenerator(lm)
    for example, (answer,) in zip(EXAMPLES, generator.generate(EXAMPLES, Sampling(max_new_tokens=20)), strict=True):
        prompt = torch.tensor([lm.encode(example)])
        alone = lm.model.generate(prompt, do_sample=False, max_new_tokens=20, eos_token_id=None)
        assert answer.token_ids == tuple(alone[0, prompt.shape[1] :].tolist())


@pytest.mark.parametrize("architecture", ["mistral", "gemma3"])
def test_answers_that_leave_the_window_do_not_depend_on_a_common_beginning(architecture):
    examples = [Example("A common beginning: " + "b" * 14), Example("A common beginning: c")]
    lm, sampling = windowed(architecture, 64), Sampling(max_new_tokens=24)
    lengths = [len(lm.encode(example)) for example in examples]
    assert max(lengths) < 64 < max(lengths) + 24
    for example, (together,) in zip(examples, HFGenerator(lm).generate(examples, sampling), strict=True):
        ((alone,),) = HFGenerator(lm).generate([example], sampling)
        assert together.token_ids == alone.token_ids
        assert together.log_probs == pytest.approx(alone.log_probs, abs=1e-4)
