"""Log-likelihoods of continuations: those of a plain forward, whatever the batch, and of the generator's weights."""

from __future__ import annotations

import pytest
import torch
from tiny_models import adapted, original, random_state

from t2.policy import continuations
from t2.policy.continuations import score_continuations
from t2.policy.hf import HFGenerator
from t2.types import Example, Sampling

PAIRS = [([1, 5, 9], [7, 8]), ([1, 40, 41, 42, 43, 44], [3]), ([1], [20, 21, 22, 23])]


@pytest.mark.parametrize("tokens", [4096, 4])  # one forward, and one for each
def test_scores_are_those_of_the_models_own_logits(tokens, monkeypatch) -> None:
    monkeypatch.setattr(continuations, "BATCH_TOKENS", tokens)
    lm = original()
    for (prompt, continuation), (score, _) in zip(PAIRS, score_continuations(lm, PAIRS), strict=True):
        logs = lm.model(input_ids=torch.tensor([prompt + continuation])).logits.log_softmax(-1)[0]
        wanted = sum(logs[len(prompt) - 1 + n, token] for n, token in enumerate(continuation))
        assert score == pytest.approx(float(wanted), abs=1e-4)


def test_what_was_decoded_greedily_is_greedy_and_another_token_is_not() -> None:
    lm = original()
    [[found]] = HFGenerator(lm).generate([Example("hello")], Sampling(max_new_tokens=6))
    other = (*found.token_ids[:-1], (found.token_ids[-1] + 1) % 256)
    pairs = [(found.prompt_ids, found.token_ids), (found.prompt_ids, other)]
    assert [greedy for _, greedy in score_continuations(lm, pairs)] == [True, False]
    assert score_continuations(lm, pairs)[0][0] == pytest.approx(sum(found.log_probs), abs=1e-4)


@pytest.mark.parametrize("mode", ["merged", "factored"])
def test_applied_gives_the_weights_that_generate(mode) -> None:
    lm, svf = adapted(spread=0.1)
    state = random_state(svf, seed=3)
    generator = HFGenerator(lm, svf, mode=mode)
    scores = {}
    for name, one in {"own": generator, "given": generator.with_state(state), "base": generator.with_state({})}.items():
        [[found]] = one.generate([Example("hello")], Sampling(max_new_tokens=6))
        with one.applied() as select:
            pairs = [(found.prompt_ids, found.token_ids), PAIRS[0]]
            [(score, greedy), (scores[name], _)] = score_continuations(lm, pairs, select)
        assert greedy
        assert score == pytest.approx(sum(found.log_probs), abs=1e-4)
    assert len(set(scores.values())) == 3


@pytest.mark.parametrize("pair", [([], [1]), ([1], []), ([1] * 600, [2])])
def test_what_cannot_be_scored_is_refused(pair) -> None:
    with pytest.raises(ValueError, match=r"at least one token|context"):
        score_continuations(original(), [pair])
