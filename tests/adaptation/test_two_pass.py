"""Two passes: every example answers with the mixture chosen for it, merged or per example."""

from collections.abc import Sequence

import pytest
import torch
from tiny_models import adapted as at_one
from tiny_models import original, tiny
from tiny_models import token_ids as ids
from tiny_pool import Merging, tiny_pool

from t2.adaptation.dispatch import PromptDispatch
from t2.adaptation.strategy import Choice, PooledModel
from t2.adaptation.two_pass import TwoPass, call_seed
from t2.adapters.svf import SVF
from t2.experts.mixture import Mixture
from t2.experts.pool import ExpertPool
from t2.models.language_model import LanguageModel
from t2.policy.generator import Generator
from t2.policy.hf import HFGenerator
from t2.types import Completion, Example, Sampling

EXAMPLES = [Example(prompt="x" * n) for n in (3, 30, 11, 1, 25, 30, 7)]
BASE, A, B, C = Mixture.base(3), Mixture.of(1, 0, 0), Mixture.of(0.5, 0.5, 0), Mixture.of(0, 0, 1.3)
MIXTURES = [B, A, BASE, C, A, B, A]
GREEDY = Sampling(max_new_tokens=12)
SAMPLED = Sampling(max_new_tokens=12, temperature=1.0, samples=2, seed=5)


class Given:
    """Chooses what it was given, and remembers what it saw."""

    name = "given"

    def __init__(self, mixtures: Sequence[Mixture], says: int = 0) -> None:
        self.mixtures, self.says = list(mixtures), says
        self.seen: list[tuple[PooledModel, list[Example]]] = []

    def fit(self, model, task, support) -> None: ...

    def choose(self, model: PooledModel, examples: Sequence[Example]) -> list[Choice]:
        self.seen.append((model, list(examples)))
        return [Choice(mixture, label=str(index), tokens=self.says) for index, mixture in enumerate(self.mixtures)]


def adapted(**settings) -> tuple[LanguageModel, SVF]:
    return at_one(ends=True, **settings)


def some_pool(svf: SVF, source: str = "tiny:llama") -> ExpertPool:
    return tiny_pool(HFGenerator(original(), svf), ("add", "gcd", "sort"), base_model=source)


def two_pass(mixtures: Sequence[Mixture] = MIXTURES, *, pass2="auto", **settings) -> TwoPass:
    lm, svf = adapted()
    return TwoPass(HFGenerator(lm, svf, **settings), some_pool(svf), Given(mixtures), pass2=pass2)


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


# What does not fit


@pytest.mark.parametrize(
    ("generator", "pool", "options", "message"),
    [
        (lambda g: g, some_pool, {"pass2": "row"}, "pass2 is 'row'; allowed: auto, merged, per_example"),
        (
            Merging,
            some_pool,
            {"pass2": "per_example"},
            "Merging cannot give every example its own mixture; use pass2=merged",
        ),
        (lambda g: HFGenerator(g.lm), some_pool, {}, "The generator has no adapter"),
        (lambda g: g, lambda svf: some_pool(svf, "tiny:other"), {}, "trained for tiny:other"),
        (lambda g: HFGenerator(*adapted(modules="mlp")), some_pool, {}, "not adapted in this model"),
    ],
    ids=["pass2", "per example", "no adapter", "another model", "other modules"],
)
def test_what_does_not_go_together_is_refused(generator, pool, options, message):
    lm, svf = adapted()
    with pytest.raises(ValueError, match=message):
        TwoPass(generator(HFGenerator(lm, svf)), pool(svf), Given(MIXTURES), **options)


def test_a_pool_of_another_model_can_be_transferred():
    lm, svf = adapted()
    TwoPass(HFGenerator(lm, svf), some_pool(svf, "tiny:other"), Given(MIXTURES), transfer=True)


@pytest.mark.parametrize(
    ("mixtures", "message"),
    [
        (MIXTURES[:-1], "given made 6 choices for 7 examples"),
        ([*MIXTURES, A], "given made 8 choices for 7 examples"),
        ([*MIXTURES[:-1], Mixture.of(1, 0)], "2 experts, expected 3"),
        ([*MIXTURES[:-1], Mixture.base(2)], "2 experts, expected 3"),
        ([*MIXTURES[:-1], Mixture(((0.0,) * 4,) * 3)], "4 mixing weights per expert, expected 1, or 14"),
    ],
)
@pytest.mark.parametrize("pass2", ["per_example", "merged"])
def test_choices_that_do_not_fit_are_refused_before_anything_is_answered(monkeypatch, pass2, mixtures, message):
    system = two_pass(mixtures, pass2=pass2)
    monkeypatch.setattr(system.generator.lm.model, "forward", None)
    with pytest.raises(ValueError, match=message):
        system.generate(EXAMPLES, GREEDY)
    assert (system.choices, system.records) == ((), [])


def test_a_prompt_that_does_not_fit_is_refused_before_the_first_pass():
    system = two_pass(pass2="per_example")
    with pytest.raises(ValueError, match="Shorten the prompt"):
        system.generate([*EXAMPLES[:6], Example(prompt="x" * 600)], GREEDY)
    assert system.strategy.seen == []
