"""Two passes: every example answers under the mixture chosen for it, however the second pass is divided."""

import copy
import functools
from collections.abc import Sequence

import pytest
import torch

from t2.adaptation.dispatch import PromptDispatch
from t2.adaptation.pass_plan import Costs, ForwardCosts, Plan
from t2.adaptation.strategy import Choice, PooledModel
from t2.adaptation.two_pass import TwoPass, call_seed
from t2.adapters.svf import SVF
from t2.experts.expert import Expert, ExpertMetadata
from t2.experts.fingerprint import fingerprint_of
from t2.experts.mixture import Mixture
from t2.experts.pool import ExpertPool
from t2.models.language_model import LanguageModel
from t2.models.tiny import tiny_model
from t2.policy.generator import Generator, RowGenerator
from t2.policy.hf import HFGenerator
from t2.types import Completion, Example, Sampling

EXAMPLES = [Example(prompt="x" * n) for n in (3, 30, 11, 1, 25, 30, 7)]
BASE, A, B, C = Mixture.base(3), Mixture.of(1, 0, 0), Mixture.of(0.5, 0.5, 0), Mixture.of(0, 0, 1.3)
WORN = [B, A, BASE, C, A, B, A]
GREEDY = Sampling(max_new_tokens=12)
SAMPLED = Sampling(max_new_tokens=12, temperature=1.0, samples=2, seed=5)
LINE = ForwardCosts(((1, 1.0), (2, 1.0)), 0.0)
MERGE_ALL = Costs(0.0, LINE, ForwardCosts(((1, 1e6), (2, 1e6)), 0.0))
ROWS_ALL = Costs(1e9, LINE, LINE)
MIXED = Costs(10.0, ForwardCosts(((1, 0.0), (2, 0.0)), 0.0), ForwardCosts(((1, 1.0), (2, 2.0)), 0.0))

original = functools.cache(tiny_model)


class Given:
    """Chooses what it was given, and remembers what it saw."""

    name = "given"

    def __init__(self, mixtures: Sequence[Mixture], says: int = 0) -> None:
        self.mixtures, self.says = list(mixtures), says
        self.seen: list[tuple[PooledModel, list[Example]]] = []

    def fit(self, model, task, support) -> None: ...

    def choose(self, model: PooledModel, examples: Sequence[Example]) -> list[Choice]:
        self.seen.append((model, list(examples)))
        if self.says:
            model.generator.generate(examples, Sampling(max_new_tokens=self.says))
            model.generator.with_state({}).generate(examples[:1], Sampling(max_new_tokens=self.says))
        return [Choice(mixture, label=str(place)) for place, mixture in enumerate(self.mixtures)]


class Merging:
    """A generator without rows, as vLLM's is."""

    def __init__(self, inner: HFGenerator) -> None:
        self.inner, self.lm, self.adapter = inner, inner.lm, inner.adapter

    def generate(self, examples: Sequence[Example], sampling: Sampling) -> list[list[Completion]]:
        return self.inner.generate(examples, sampling)

    def with_state(self, state) -> Generator:
        return self.inner.with_state(state)


def plain() -> LanguageModel:
    """A model whose answers end after some twelve random tokens."""
    lm = copy.deepcopy(original())
    lm.end_ids = frozenset(range(0, len(lm.tokenizer), 12))
    return lm


def adapted(**settings) -> tuple[LanguageModel, SVF]:
    lm = plain()
    svf = SVF(cache=False, progress=False, **settings)
    svf.inject(lm.model, lm.source)
    return lm, svf


def some_pool(svf: SVF, source: str = "tiny:llama", domains: Sequence[str] = ("add", "gcd", "sort")) -> ExpertPool:
    generator = torch.Generator().manual_seed(3)
    experts = {}
    for domain in domains:
        scales = {name: 1 + 0.2 * torch.randn(s.shape, generator=generator) for name, s in svf.singular_values.items()}
        experts[domain] = Expert(
            scales,
            ExpertMetadata(
                base_model=source,
                fingerprint=fingerprint_of(svf.singular_values),
                parametrization="direct",
                task=domain,
                domain=domain,
                description=f"about {domain}",
                objective="RLOO",
                step=1,
                t2_version="0",
            ),
        )
    return ExpertPool(experts)


def two_pass(mixtures: Sequence[Mixture] = WORN, *, by="auto", costs: Costs | None = None, **settings) -> TwoPass:
    lm, svf = adapted()
    system = TwoPass(HFGenerator(lm, svf, **settings), some_pool(svf), Given(mixtures), by=by)
    system.costs = costs
    return system


def alone(sampling: Sampling, mixtures: Sequence[Mixture] = WORN) -> list[list[Completion]]:
    """Each example by itself, under its merged mixture."""
    lm, svf = adapted()
    pool, generator = some_pool(svf), HFGenerator(lm, svf)
    return [
        generator.with_state(pool.state(mixture)).generate([example], sampling)[0]
        for mixture, example in zip(mixtures, EXAMPLES, strict=True)
    ]


def ids(answers: list[list[Completion]]) -> list[list[tuple[int, ...]]]:
    return [[completion.token_ids for completion in group] for group in answers]


# Every way is the same function

WAYS = {
    "rows": {"by": "rows"},
    "small rows": {"by": "rows", "batch_rows": 2},
    "groups": {"by": "groups"},
    "auto, rows": {"costs": ROWS_ALL},
    "auto, groups": {"costs": MERGE_ALL},
    "auto, both": {"costs": MIXED},
    "auto, timed": {},
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_each_example_answers_as_alone_under_its_mixture(way):
    found = two_pass(**way).generate(EXAMPLES, GREEDY)
    expected = alone(GREEDY)
    assert ids(found) == ids(expected)
    for group, others in zip(found, expected, strict=True):
        assert group[0].log_probs == pytest.approx(others[0].log_probs, abs=1e-3)
        assert group[0].prompt_ids == others[0].prompt_ids


def test_the_mixtures_answer_differently():
    by_mixture = [ids(alone(GREEDY, [mixture] * len(EXAMPLES))) for mixture in (BASE, A, B, C)]
    for place in range(len(EXAMPLES)):
        assert len({answers[place][0] for answers in by_mixture}) == 4


@pytest.mark.parametrize(
    ("costs", "merged", "rows"), [(ROWS_ALL, 0, 7), (MERGE_ALL, 7, 0), (MIXED, 4, 3)], ids=["rows", "groups", "both"]
)
def test_auto_does_what_is_planned(costs, merged, rows):
    system = two_pass(costs=costs)
    system.generate(EXAMPLES, GREEDY)
    assert (system.records[0].merged, system.records[0].rows) == (merged, rows)


def test_auto_times_the_model_once(monkeypatch):
    calls = []
    monkeypatch.setattr("t2.adaptation.two_pass.measure", lambda *arguments: calls.append(arguments) or ROWS_ALL)
    system = two_pass(dtype="bfloat16")
    for _ in range(2):
        system.generate(EXAMPLES, GREEDY)
    assert calls == [(system.generator.lm, system.generator.adapter, torch.bfloat16)]
    assert ["calibration" in record.seconds for record in system.records] == [True, False]


@pytest.mark.parametrize("by", ["rows", "groups"])
def test_what_is_said_is_not_timed(monkeypatch, by):
    monkeypatch.setattr("t2.adaptation.two_pass.measure", None)
    two_pass(by=by).generate(EXAMPLES, GREEDY)


def test_auto_plans_for_half_the_budget_in_the_generators_batches(monkeypatch):
    asked = []

    def remember(sizes, costs, work, *, base):
        asked.append((sizes, work, base))
        return Plan(tuple(range(len(sizes))), ())

    monkeypatch.setattr("t2.adaptation.two_pass.plan", remember)
    system = two_pass(costs=ROWS_ALL, batch_rows=5)
    system.generate(EXAMPLES, Sampling(max_new_tokens=11, samples=2, temperature=1.0))
    sizes, work, base = asked[0]
    assert (sizes, base) == ([2, 3, 1, 1], 2)
    assert (work.new_tokens, work.samples, work.batch_rows) == (6, 2, 5)
    lengths = [len(system.generator.lm.encode(example)) for example in EXAMPLES]
    assert work.prompt_tokens == pytest.approx(sum(lengths) / 7)


# The base


@pytest.mark.parametrize("by", ["groups", "auto"])
def test_no_expert_at_all_is_the_base_bit_for_bit(monkeypatch, by):
    lm, svf = adapted()
    expected = HFGenerator(lm, svf, worn="base").generate(EXAMPLES, SAMPLED)
    system = two_pass([BASE] * 7, by=by)
    monkeypatch.setattr("t2.adapters.svf_linear.SVFLinear.compose", None)  # nothing is merged, or timed
    assert system.generate(EXAMPLES, SAMPLED) == expected


def test_the_base_is_the_base_in_a_group_of_its_own():
    system = two_pass(by="groups")
    svf = system.generator.adapter
    svf.load({name: torch.full_like(s, 1.3) for name, s in svf.singular_values.items()})  # what was learned is no base
    found = system.generate(EXAMPLES, GREEDY)
    assert found[2] == HFGenerator(plain()).generate([EXAMPLES[2]], GREEDY)[0]


def test_zeros_per_matrix_are_the_same_base():
    system = two_pass(by="groups")
    zeros = Mixture(((0.0,) * len(system.pool.modules),) * 3)
    system.strategy.mixtures = [BASE, zeros, Mixture.of(-0.0, 0.0, 0.0), A, A, zeros, A]
    system.generate(EXAMPLES, GREEDY)
    assert system.records[0].mixtures == 2


def test_mixtures_of_both_rules_and_per_matrix_go_together():
    system = two_pass(by="rows")
    per_matrix = Mixture(tuple(tuple(0.1 * (m + k) for m in range(len(system.pool.modules))) for k in range(3)))
    mixtures = [per_matrix, A, Mixture.of(0.3, 0.3, 0.4, rule="paper"), BASE, per_matrix, B, C]
    system.strategy.mixtures = mixtures
    assert ids(system.generate(EXAMPLES, GREEDY)) == ids(alone(GREEDY, mixtures))
    assert system.records[0].mixtures == 6


# Samples


@pytest.mark.parametrize("by", ["rows", "groups"])
def test_samples_are_drawn_again_with_the_same_seed(by):
    first, second = (two_pass(by=by).generate(EXAMPLES, SAMPLED) for _ in range(2))
    assert first == second
    assert [len(group) for group in first] == [2] * 7


def test_equal_prompts_in_different_groups_do_not_share_their_samples():
    almost_base = [Mixture.of(1e-9, 0, 0), Mixture.of(0, 1e-9, 0)]  # equal weights in fp32, in two groups
    system = two_pass(almost_base, by="groups")
    (first,), (second,) = system.generate([EXAMPLES[1]] * 2, Sampling(max_new_tokens=12, temperature=1.0, seed=5))
    assert system.records[0].mixtures == 2
    assert first.token_ids != second.token_ids


def test_rows_draw_what_one_model_would():
    system = two_pass([A] * 7, by="rows")
    expected = system.generator.with_state(system.pool.state(A)).generate(EXAMPLES, SAMPLED)
    assert ids(system.generate(EXAMPLES, SAMPLED)) == ids(expected)


def test_seeds_of_calls_differ_and_fit_every_generator():
    seeds = {call_seed(seed, number) for seed in (0, 1, 10**12) for number in range(100)}
    assert len(seeds) == 300
    assert all(0 <= call_seed(seed, number) < 2**31 for seed in (0, 10**12) for number in range(1, 100))
    assert call_seed(7, 0) == 7


# What is kept


def test_the_strategy_sees_the_examples_and_the_pool_once():
    system = two_pass(by="rows")
    system.generate(EXAMPLES, GREEDY)
    ((model, examples),) = system.strategy.seen
    assert examples == EXAMPLES
    assert (model.pool, model.lm, model.adapter) == (system.pool, system.generator.lm, system.generator.adapter)


def test_choices_are_those_of_the_latest_call():
    system = two_pass(by="rows")
    system.generate(EXAMPLES, GREEDY)
    assert [choice.mixture for choice in system.choices] == WORN
    assert [choice.label for choice in system.choices] == list("0123456")
    system.strategy.mixtures = [A]
    system.generate(EXAMPLES[:1], GREEDY)
    assert [choice.mixture for choice in system.choices] == [A]


def test_a_record_tells_what_was_done():
    system = two_pass(by="groups")
    answers = system.generate(EXAMPLES, SAMPLED)
    (record,) = system.records
    assert (record.examples, record.mixtures, record.merged, record.rows) == (7, 4, 7, 0)
    assert record.tokens == {"pass1": 0, "pass2": sum(len(one.token_ids) for group in answers for one in group)}
    assert record.seconds.keys() == {"pass1", "pass2"}
    assert min(record.seconds.values()) > 0


def test_seconds_add_up_over_calls():
    system = two_pass(by="rows")
    for _ in range(2):
        system.generate(EXAMPLES, GREEDY)
    for part in ("pass1", "pass2"):
        assert system.phases.total_seconds[part] == pytest.approx(sum(one.seconds[part] for one in system.records))


def test_tokens_that_pass_one_generates_are_counted():
    system = two_pass(by="rows")
    system.generator.lm.end_ids = frozenset()
    system.strategy.says = 5
    system.generate(EXAMPLES, GREEDY)
    assert system.records[0].tokens == {"pass1": 7 * 5 + 5, "pass2": 7 * 12}


def test_a_strategy_sees_rows_where_there_are_rows():
    with_rows = two_pass(by="rows")
    with_rows.generate(EXAMPLES, GREEDY)
    seen = with_rows.strategy.seen[0][0].generator
    assert isinstance(seen, RowGenerator)
    rows = seen.with_rows(lambda numbers: with_rows.pool.scales([WORN[n] for n in numbers]), range(7))
    assert ids(rows.generate(EXAMPLES, GREEDY)) == ids(alone(GREEDY))
    lm, svf = adapted()
    without = TwoPass(Merging(HFGenerator(lm, svf)), some_pool(svf), Given(WORN))
    without.generate(EXAMPLES, GREEDY)
    assert not isinstance(without.strategy.seen[0][0].generator, RowGenerator)


def test_what_was_learned_stays():
    for by in ("rows", "groups"):
        system = two_pass(by=by)
        svf = system.generator.adapter
        svf.load({name: torch.full_like(s, 1.1) for name, s in svf.singular_values.items()})
        system.generate(EXAMPLES, GREEDY)
        assert all(bool((z == 1.1).all()) for z in svf.state().values())
        assert all(layer.merged_weight is None and layer.row_scales is None for layer in svf.layers.values())


def test_no_examples_no_answers_and_no_choices():
    system = two_pass(by="rows")
    system.generate(EXAMPLES, GREEDY)
    assert system.generate([], GREEDY) == []
    assert (system.choices, len(system.records), len(system.strategy.seen)) == ((), 1, 1)


def test_two_pass_is_a_generator():
    assert isinstance(two_pass(), Generator)


def test_the_library_example_works():
    lm, svf = adapted()
    system = TwoPass(HFGenerator(lm, svf), some_pool(svf), PromptDispatch(mode="score"))
    ((answer,),) = system.generate([Example(prompt="What is 7 * 8?")], Sampling(max_new_tokens=32))
    assert answer.prompt_ids == tuple(lm.encode(Example(prompt="What is 7 * 8?")))
    assert system.choices[0].label in ("add", "gcd", "sort", "other")


# Generators without rows


def test_without_rows_auto_is_groups():
    lm, svf = adapted()
    system = TwoPass(Merging(HFGenerator(lm, svf)), some_pool(svf), Given(WORN))
    assert ids(system.generate(EXAMPLES, GREEDY)) == ids(alone(GREEDY))
    assert (system.records[0].merged, system.records[0].rows, system.costs) == (7, 0, None)


def test_without_rows_rows_are_refused():
    lm, svf = adapted()
    with pytest.raises(ValueError, match="Merging cannot give every example its own mixture; use by=groups"):
        TwoPass(Merging(HFGenerator(lm, svf)), some_pool(svf), Given(WORN), by="rows")


# What does not fit


def test_an_unknown_way_is_refused():
    with pytest.raises(ValueError, match="by is 'row'; allowed: auto, rows, groups"):
        two_pass(by="row")


def test_a_generator_without_an_adapter_is_refused():
    lm, svf = adapted()
    with pytest.raises(ValueError, match="The generator has no adapter"):
        TwoPass(HFGenerator(lm), some_pool(svf), Given(WORN))


def test_a_pool_of_another_model_is_refused_unless_transferred():
    lm, svf = adapted()
    pool = some_pool(svf, source="tiny:other")
    with pytest.raises(ValueError, match="trained for tiny:other"):
        TwoPass(HFGenerator(lm, svf), pool, Given(WORN))
    TwoPass(HFGenerator(lm, svf), pool, Given(WORN), transfer=True)


def test_a_pool_of_other_modules_is_refused():
    _, everything = adapted()
    lm, svf = adapted(modules="mlp")
    with pytest.raises(ValueError, match="not adapted in this model"):
        TwoPass(HFGenerator(lm, svf), some_pool(everything), Given(WORN))


@pytest.mark.parametrize(
    ("mixtures", "message"),
    [
        (WORN[:-1], "given made 6 choices for 7 examples"),
        ([*WORN, A], "given made 8 choices for 7 examples"),
        ([*WORN[:-1], Mixture.of(1, 0)], "2 experts, expected 3"),
        ([*WORN[:-1], Mixture.base(2)], "2 experts, expected 3"),
        ([*WORN[:-1], Mixture(((0.0,) * 4,) * 3)], "4 alphas per expert, expected 1 or 14"),
    ],
)
@pytest.mark.parametrize("by", ["rows", "groups"])
def test_choices_that_do_not_fit_are_refused_before_anything_is_answered(monkeypatch, by, mixtures, message):
    system = two_pass(mixtures, by=by)
    monkeypatch.setattr(system.generator.lm.model, "forward", None)
    with pytest.raises(ValueError, match=message):
        system.generate(EXAMPLES, GREEDY)
    assert (system.choices, system.records) == ((), [])


def test_a_prompt_that_does_not_fit_is_refused_before_the_first_pass():
    system = two_pass(by="rows")
    with pytest.raises(ValueError, match="Shorten the prompt"):
        system.generate([*EXAMPLES[:6], Example(prompt="x" * 600)], GREEDY)
    assert system.strategy.seen == []
