"""Two passes: every example answers with the mixture chosen for it, merged or per example."""

from collections.abc import Sequence

import pytest
import torch
from tiny_models import tiny
from tiny_models import token_ids as ids
from tiny_pool import Merging

from t2.adaptation.dispatch import PromptDispatch
from t2.adaptation.two_pass import TwoPass, call_seed
from t2.experts.mixture import Mixture
from t2.policy.generator import Generator
from t2.policy.hf import HFGenerator
from t2.types import Completion, Example, Sampling
from tests.adaptation.two_pass_setup import (
    BASE,
    EXAMPLES,
    GREEDY,
    MIXTURES,
    A,
    B,
    C,
    Given,
    adapted,
    some_pool,
    two_pass,
)

SAMPLED = Sampling(max_new_tokens=12, temperature=1.0, samples=2, seed=5)


def alone(sampling: Sampling, mixtures: Sequence[Mixture] = MIXTURES) -> list[list[Completion]]:
    """Each example by itself, under its merged mixture."""
    lm, svf = adapted()
    pool, generator = some_pool(svf), HFGenerator(lm, svf)
    return [
        generator.with_state(pool.state(mixture)).generate([example], sampling)[0]
        for mixture, example in zip(mixtures, EXAMPLES, strict=True)
    ]


# Every way is the same function

WAYS = {
    "per_example": {"pass2": "per_example"},
    "small batches": {"pass2": "per_example", "batch_rows": 2},
    "merged": {"pass2": "merged"},
    "auto": {},
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_each_example_answers_as_alone_under_its_mixture(way):
    found = two_pass(**way).generate(EXAMPLES, GREEDY)
    expected = alone(GREEDY)
    assert ids(found) == ids(expected)
    for group, others in zip(found, expected, strict=True):
        assert group[0].log_probs == pytest.approx(others[0].log_probs, abs=1e-3)
        assert group[0].prompt_ids == others[0].prompt_ids


def test_the_mixtures_give_different_completions():
    by_mixture = [ids(alone(GREEDY, [mixture] * len(EXAMPLES))) for mixture in (BASE, A, B, C)]
    for index in range(len(EXAMPLES)):
        assert len({answers[index][0] for answers in by_mixture}) == 4


@pytest.mark.parametrize(("mixtures", "per_example"), [(MIXTURES, True), ([A] * 7, False), ([BASE] * 7, False)])
def test_auto_merges_one_mixture_and_gives_several_to_their_examples(mixtures, per_example):
    system = two_pass(mixtures)
    system.generate(EXAMPLES, GREEDY)
    assert system.records[0].per_example is per_example


def test_auto_merges_several_mixtures_of_many_prompts_each(monkeypatch):
    records = []
    for least in (4, 3):  # seven prompts of two mixtures have 3.5 in the mean
        monkeypatch.setattr("t2.adaptation.strategy.MERGING_PAYS_FROM", least)
        system = two_pass([A, B, A, B, A, B, A])
        records.append((ids(system.generate(EXAMPLES, GREEDY)), system.records[0].per_example))
    assert [per_example for _, per_example in records] == [True, False]
    assert records[0][0] == records[1][0]


# The base


@pytest.mark.parametrize("pass2", ["merged", "auto"])
def test_no_expert_at_all_is_the_base_bit_for_bit(monkeypatch, pass2):
    lm, svf = adapted()
    expected = HFGenerator(lm, svf, weights="base").generate(EXAMPLES, SAMPLED)
    system = two_pass([BASE] * 7, pass2=pass2)
    monkeypatch.setattr("t2.adapters.svf_linear.SVFLinear.compose", None)  # nothing is merged
    assert system.generate(EXAMPLES, SAMPLED) == expected


@pytest.mark.parametrize("pass2", ["per_example", "merged"])
def test_the_base_beside_other_mixtures_is_no_learned_state_which_stays(pass2):
    system = two_pass(pass2=pass2)
    svf, zeros = system.generator.adapter, Mixture(((0.0,) * len(system.pool.modules),) * 3)
    system.strategy.mixtures = [BASE, zeros, Mixture.of(-0.0, 0.0, 0.0), A, A, zeros, A]  # two mixtures
    svf.load({name: torch.full_like(s, 1.3) for name, s in svf.singular_values.items()})
    found = system.generate(EXAMPLES, GREEDY)
    assert system.records[0].mixtures == 2
    base = HFGenerator(tiny(ends=True)).generate([EXAMPLES[i] for i in (0, 1, 2, 5)], GREEDY)
    those = [found[i] for i in (0, 1, 2, 5)]
    assert those == base if pass2 == "merged" else ids(those) == ids(base)
    assert all(bool((z == 1.3).all()) for z in svf.state().values())
    assert all(layer.merged_weight is None and layer.example_scales is None for layer in svf.layers.values())


def test_mixtures_of_both_rules_and_per_matrix_go_together():
    system = two_pass(pass2="per_example")
    per_matrix = Mixture(tuple(tuple(0.1 * (m + k) for m in range(len(system.pool.modules))) for k in range(3)))
    mixtures = [per_matrix, A, Mixture.of(0.3, 0.3, 0.4, rule="paper"), BASE, per_matrix, B, C]
    system.strategy.mixtures = mixtures
    assert ids(system.generate(EXAMPLES, GREEDY)) == ids(alone(GREEDY, mixtures))
    assert system.records[0].mixtures == 6


# Samples


@pytest.mark.parametrize("pass2", ["per_example", "merged"])
def test_samples_are_drawn_again_with_the_same_seed_and_are_those_of_one_model(pass2):
    first, second = (two_pass(pass2=pass2).generate(EXAMPLES, SAMPLED) for _ in range(2))
    assert first == second
    assert [len(group) for group in first] == [2] * 7
    system = two_pass([A] * 7, pass2=pass2)
    expected = system.generator.with_state(system.pool.state(A)).generate(EXAMPLES, SAMPLED)
    assert ids(system.generate(EXAMPLES, SAMPLED)) == ids(expected)


def test_equal_prompts_in_different_groups_do_not_share_their_samples():
    almost_base = [Mixture.of(1e-9, 0, 0), Mixture.of(0, 1e-9, 0)]  # equal weights in fp32, in two groups
    system = two_pass(almost_base, pass2="merged")
    (first,), (second,) = system.generate([EXAMPLES[1]] * 2, Sampling(max_new_tokens=12, temperature=1.0, seed=5))
    assert system.records[0].mixtures == 2
    assert first.token_ids != second.token_ids


def test_seeds_of_calls_differ_and_fit_every_generator():
    seeds = {call_seed(seed, number) for seed in (0, 1, 10**12) for number in range(100)}
    assert len(seeds) == 300
    assert all(0 <= call_seed(seed, number) < 2**31 for seed in (0, 10**12) for number in range(1, 100))
    assert call_seed(7, 0) == 7


# What is kept


def test_the_strategy_sees_examples_and_pool_once_a_call_and_choices_are_the_latest():
    system = two_pass(pass2="per_example")
    system.generate(EXAMPLES, GREEDY)
    ((model, examples),) = system.strategy.seen
    assert examples == EXAMPLES
    assert (model.pool, model.lm, model.adapter) == (system.pool, system.generator.lm, system.generator.adapter)
    assert [choice.mixture for choice in system.choices] == MIXTURES
    assert [choice.label for choice in system.choices] == list("0123456")
    system.strategy.mixtures = [A]
    system.generate(EXAMPLES[:1], GREEDY)
    assert [choice.mixture for choice in system.choices] == [A]


def test_records_tell_what_each_call_did_and_phases_add_up_their_seconds():
    system = two_pass(pass2="merged")
    assert isinstance(system, Generator)
    system.strategy.says = 5
    answers = system.generate(EXAMPLES, SAMPLED)
    system.generate(EXAMPLES, GREEDY)
    record, other = system.records
    assert (record.examples, record.mixtures, record.per_example) == (7, 4, False)
    assert record.tokens == {"pass1": 7 * 5, "pass2": sum(len(one.token_ids) for group in answers for one in group)}
    assert record.seconds.keys() == {"pass1", "pass2"}
    assert min(record.seconds.values()) > 0
    for part in ("pass1", "pass2"):
        assert system.phases.total_seconds[part] == pytest.approx(record.seconds[part] + other.seconds[part])
    assert system.generate([], GREEDY) == []
    assert (system.choices, len(system.records), len(system.strategy.seen)) == ((), 2, 2)


def test_the_library_example_works():
    lm, svf = adapted()
    system = TwoPass(HFGenerator(lm, svf), some_pool(svf), PromptDispatch(mode="score"))
    ((answer,),) = system.generate([Example(prompt="What is 7 * 8?")], Sampling(max_new_tokens=32))
    assert answer.prompt_ids == tuple(lm.encode(Example(prompt="What is 7 * 8?")))
    assert system.choices[0].label in ("add", "gcd", "sort", "other")


# Generators without scales per example


def test_a_generator_without_per_example_scales_merges():
    lm, svf = adapted()
    system = TwoPass(Merging(HFGenerator(lm, svf)), some_pool(svf), Given(MIXTURES))
    assert ids(system.generate(EXAMPLES, GREEDY)) == ids(alone(GREEDY))
    assert system.records[0].per_example is False
