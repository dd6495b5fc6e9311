"""Merged weights of what is asked for most: the same answers, made in idle time, and never more than allowed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from served import BASE, BOTH, LETTERS, MATH, answers, ask, make_service, running, tiny_pooled, wait_until

from t2.adapters.svf import SVF
from t2.experts.mixture import Mixture
from t2.serving.local import LocalEngine
from t2.serving.merged import MergedCopies

PROMPTS = ["What is 3 + 4?", "How many e are in tree?", "x"]


def made(most: int) -> MergedCopies:
    model = tiny_pooled()
    assert isinstance(model.adapter, SVF)
    return MergedCopies(model.adapter, model.pool, most)


def finish(copies: MergedCopies) -> int:
    """How many matrices were merged."""
    steps = 0
    while copies.wants_work:
        copies.work()
        steps += 1
    return steps


def test_answers_are_the_same_with_merged_weights() -> None:
    """Catches: the weights of another mixture, a mode left behind, two mixtures read by one W'."""
    model = tiny_pooled(ends=True)
    service = make_service(model, merged_copies=2)
    by = [MATH, BASE, BOTH, LETTERS]
    asks = [ask(service, prompt, one) for one in by for prompt in PROMPTS]
    with running(service) as engine:
        expected = answers(engine, asks)
        assert isinstance(engine, LocalEngine)
        copies = engine.applied.copies
        assert copies is not None
        wait_until(lambda: sum(map(copies.has, by)) == 2)
        held = next(filter(copies.has, by))
        for number, (one, answer) in enumerate(zip(asks, expected, strict=True)):
            assert answers(engine, [one]) == [answer], number  # alone: merged where there is a copy
        assert answers(engine, asks) == expected
        assert copies.has(held)


def test_the_weights_are_those_of_the_mixture() -> None:
    """Catches: a copy that is no copy, weights in another order."""
    copies, model = made(1), tiny_pooled()
    copies.note(BOTH)
    assert finish(copies) == len(copies.adapter.units)
    with copies.applied(BOTH), model.adapter.merged(model.pool.state(BOTH)):  # type: ignore[union-attr]
        for unit, other in zip(copies.adapter.units.values(), model.adapter.units.values(), strict=True):  # type: ignore
            assert torch.equal(unit.layer.merged_weight, other.layer.merged_weight)
    assert all(unit.layer.merged_weight is None for unit in copies.adapter.units.values())


def test_the_most_used_are_held() -> None:
    """Catches: thrashing between two mixtures, copies beyond the limit, a copy of the base."""
    copies = made(1)
    copies.note(BASE)
    assert not copies.wants_work
    copies.note(MATH)
    finish(copies)
    for _ in range(3):  # as often as the other: no reason to merge again
        copies.note(LETTERS)
        copies.note(MATH)
        assert not copies.wants_work
    for _ in range(8):
        copies.note(LETTERS)
    assert finish(copies) > 0
    assert copies.has(LETTERS)
    assert not copies.has(MATH)
    for number in range(1000):  # a mixture for every prompt is not remembered for ever
        copies.note(Mixture.of(0.001 * number, 0.5))
    assert len(copies.uses) <= 257
    assert not made(0).wants_work


def test_half_precision_has_none() -> None:
    model = tiny_pooled()
    model.lm.model.to(torch.bfloat16)
    assert isinstance(model.adapter, SVF)
    copies = MergedCopies(model.adapter, model.pool, 2)
    copies.note(MATH)
    assert not copies.wants_work


def test_a_copy_for_which_there_is_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches: trying again for ever."""
    copies = made(1)

    def fails(state: object) -> Iterator[object]:
        raise MemoryError
        yield

    monkeypatch.setattr(copies.adapter, "merged_weights", fails)
    copies.note(MATH)
    copies.work()
    assert not copies.wants_work
    assert not copies.has(MATH)
