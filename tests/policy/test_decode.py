"""What samples begin with alike is in one row of the cache; that tokens stay the same is tested in test_hf.py."""

import pytest
from tiny_models import original

from t2.models.forward_tokens import count_forward_tokens
from t2.policy.hf import HFGenerator
from t2.types import Example, Sampling


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_samples_begin_with_alike_is_computed_once(temperature):
    lm, sampling = original(), Sampling(max_new_tokens=5, samples=6, temperature=temperature, seed=3)
    with count_forward_tokens(lm) as tokens:
        ((*answers,),) = HFGenerator(lm).generate([Example("x" * 3)], sampling)
    beginnings = {one.token_ids[:length] for one in answers for length in range(1, len(one.token_ids))}
    waiting = sum(one.finish == "stop" for one in answers) * sampling.max_new_tokens  # at most: ended, not dropped yet
    least = len(answers[0].prompt_ids) + len(beginnings)
    assert least <= tokens.count <= least + waiting
    assert (len(beginnings) == 4) == (temperature == 0.0)
