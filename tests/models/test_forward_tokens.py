"""Tokens through a model are counted with what is padded, and each token that is decoded once."""

from __future__ import annotations

from tiny_pool import tiny_generator

from t2.models.forward_tokens import count_forward_tokens
from t2.policy.mean_states import mean_states
from t2.types import Example, Sampling


def test_a_prompt_counts_in_full_and_each_decoded_token_once():
    generator = tiny_generator()
    example = Example("What is 1 + 1?")
    with count_forward_tokens(generator.lm) as tokens:
        ((one,),) = generator.generate([example], Sampling(max_new_tokens=4))
    assert tokens.count == len(one.prompt_ids) + len(one.token_ids) - 1  # the last one is not read
    with count_forward_tokens(generator.lm) as other:
        mean_states(generator.lm, ["abc", "abcdefgh"], [1])  # ends after the first block
    longest = len(generator.lm.tokenizer("abcdefgh")["input_ids"])
    assert other.count == 2 * longest
    assert tokens.count == len(one.prompt_ids) + len(one.token_ids) - 1  # its block is over
