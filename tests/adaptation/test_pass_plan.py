"""Planning the second pass: the cheapest division, by an independent sum, and costs timed without leaving a trace."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from t2.adaptation.pass_plan import DECODE_ROWS, Costs, ForwardCosts, Plan, Work, measure, plan
from t2.adapters.svf import SVF
from t2.models.tiny import tiny_model

# Seconds as they were measured for SmolLM2-135M on one core.
MERGED = ForwardCosts(((1, 0.041), (8, 0.071), (32, 0.136)), 0.0023)
ROWS = ForwardCosts(((1, 0.056), (8, 0.091), (32, 0.181)), 0.0032)
COSTS = Costs(1.3, MERGED, ROWS)
WORK = Work(prompt_tokens=60, new_tokens=12, samples=1, batch_rows=64)


def seconds(division: Plan, sizes, costs: Costs, work: Work, base: int | None = None) -> float:
    """What a division costs, summed group by group and batch by batch."""

    def answer(prompts: int, forward: ForwardCosts) -> float:
        total, batch = 0.0, max(1, work.batch_rows // work.samples)
        while prompts > 0:
            here = min(prompts, batch)
            total += forward.prefill(here * work.prompt_tokens)
            total += (work.new_tokens - 1) * forward.step(here * work.samples)
            prompts -= here
        return total

    merges = sum(group != base for group in division.merged) * costs.merge
    alone = sum(answer(sizes[group], costs.merged) for group in division.merged)
    return merges + alone + answer(sum(sizes[group] for group in division.rows), costs.rows)


# Costs of a forward


@pytest.mark.parametrize(("rows", "expected"), [(1, 0.041), (8, 0.071), (32, 0.136), (20, 0.1035), (56, 0.201)])
def test_a_step_is_linear_between_measured_sizes_and_beyond(rows, expected):
    assert MERGED.step(rows) == pytest.approx(expected)


def test_a_prefill_of_one_token_is_a_step():
    assert MERGED.prefill(1) == MERGED.step(1)
    assert MERGED.prefill(101) == pytest.approx(0.041 + 100 * 0.0023)


@pytest.mark.parametrize(
    ("prompts", "work", "batches"),
    [
        (130, WORK, [64, 64, 2]),
        (128, WORK, [64, 64]),
        (0, WORK, []),
        (5, Work(60, 12, samples=3, batch_rows=8), [2, 2, 1]),
        (2, Work(60, 12, samples=9, batch_rows=4), [1, 1]),
    ],
)
def test_work_is_done_in_the_generators_batches(prompts, work, batches):
    each = [MERGED.prefill(n * 60) + 11 * MERGED.step(n * work.samples) for n in batches]
    assert work.seconds(prompts, MERGED) == pytest.approx(sum(each))


# Plans


def test_small_batches_of_many_mixtures_go_into_rows():
    assert plan([2, 2, 2, 2], COSTS, WORK) == Plan(merged=(), rows=(0, 1, 2, 3))


def test_a_large_batch_of_one_mixture_is_merged():
    assert plan([128], COSTS, WORK) == Plan(merged=(0,), rows=())


def test_one_large_group_is_merged_beside_rows_of_small_ones():
    assert plan([1, 2, 100, 1, 1], COSTS, WORK) == Plan(merged=(2,), rows=(0, 1, 3, 4))


def test_the_base_needs_no_merge():
    assert plan([30], COSTS, Work(10, 4, 1, 64), base=None).merged == ()
    assert plan([30], COSTS, Work(10, 4, 1, 64), base=0).merged == (0,)


def test_a_small_base_joins_the_rows():
    assert plan([6, 1], COSTS, WORK, base=1) == Plan(merged=(), rows=(0, 1))


def test_free_merges_are_made_where_forwards_do_not_suffer():
    free = Costs(0.0, ForwardCosts(((1, 1.0), (2, 2.0)), 1.0), ForwardCosts(((1, 1.5), (2, 3.0)), 1.5))
    assert plan([3, 1, 2], free, WORK).merged == (0, 1, 2)


def test_longer_answers_pay_for_more_merges():
    short, long = (plan([40, 40, 40], COSTS, Work(20, tokens, 1, 64)) for tokens in (2, 400))
    assert (len(short.merged), len(long.merged)) == (0, 3)


def test_more_samples_pay_for_more_merges():
    one, many = (plan([16, 16], COSTS, Work(20, 24, samples, 256)) for samples in (1, 16))
    assert (len(one.merged), len(many.merged)) == (0, 2)


costs = st.builds(
    lambda merge, merged, rows: Costs(
        merge,
        *(ForwardCosts(((1, a), (8, a + 7 * b), (32, a + 31 * b)), b / 2) for a, b in (merged, rows)),
    ),
    st.floats(0, 5),
    *[st.tuples(st.floats(0.001, 1), st.floats(0.0001, 0.1))] * 2,
)
works = st.builds(Work, st.floats(1, 200), st.integers(1, 64), st.integers(1, 4), st.integers(1, 64))
sizes = st.lists(st.integers(1, 40), min_size=1, max_size=7)


@given(sizes, costs, works, st.booleans())
def test_no_division_into_large_merged_and_small_joined_groups_is_cheaper(sizes, costs, work, has_base):
    base = 0 if has_base else None
    found = plan(sizes, costs, work, base=base)
    assert sorted(found.merged + found.rows) == list(range(len(sizes)))
    spent = seconds(found, sizes, costs, work, base)
    others = [group for group in range(len(sizes)) if group != base]
    for chosen in itertools.chain.from_iterable(itertools.combinations(range(len(sizes)), n) for n in range(8)):
        least = min((sizes[group] for group in chosen if group != base), default=math.inf)
        if all(sizes[group] <= least for group in others if group not in chosen):
            rest = tuple(group for group in range(len(sizes)) if group not in chosen)
            assert spent <= seconds(Plan(chosen, rest), sizes, costs, work, base) + 1e-9


def test_a_thousand_mixtures_are_planned_at_once():
    found = plan(range(1, 1001), COSTS, WORK)
    assert found.rows == tuple(range(len(found.rows))), "the smallest groups are the ones in rows"


# Timing


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_costs_are_timed_and_leave_no_trace(architecture, dtype):
    lm = tiny_model(architecture)
    svf = SVF(cache=False, progress=False)
    svf.inject(lm.model, lm.source)
    state = {name: torch.full_like(s, 1.1) for name, s in svf.singular_values.items()}
    svf.load(state)
    found = measure(lm, svf, dtype)
    assert found.merge > 0
    for forward in (found.merged, found.rows):
        assert [rows for rows, _ in forward.decode] == list(DECODE_ROWS)
        assert min(spent for _, spent in forward.decode) > 0
        assert forward.prefill_token >= 0
    assert (svf.face.name, svf.face.rows, svf.face.index) == ("factored", False, None)
    assert all(layer.merged_weight is None and layer.row_scales is None for layer in svf.layers.values())
    assert all(torch.equal(z, state[name]) for name, z in svf.state().items())


def test_a_merge_costs_what_all_matrices_cost(monkeypatch):
    lm = tiny_model(layers=3)
    svf = SVF(cache=False, progress=False)
    svf.inject(lm.model, lm.source)
    monkeypatch.setattr("t2.adaptation.pass_plan._seconds", lambda call, device: 1.0)
    assert measure(lm, svf).merge == len(svf.layers) == 21


def test_the_fastest_round_counts(monkeypatch):
    lm = tiny_model()
    svf = SVF(cache=False, progress=False)
    svf.inject(lm.model, lm.source)
    clock = itertools.count(10.0, -0.01)
    monkeypatch.setattr("t2.adaptation.pass_plan._seconds", lambda call, device: next(clock))
    found = measure(lm, svf)
    assert found.merged.decode[0][1] > found.rows.decode[0][1]  # rows are timed after merged ones in each round
    assert found.rows.decode[-1][1] == pytest.approx(10.0 - 0.01 * 23)
