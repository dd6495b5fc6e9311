"""Confusion matrices count what was chosen for what, and refuse what they cannot count."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2.evaluation.statistics import confusion_matrix, dispatch_accuracy, row_shares

LABELS = ("math", "code", "other")


def test_rows_are_true_and_columns_chosen() -> None:
    counts = confusion_matrix(["math", "math", "code"], ["code", "math", "other"], LABELS)
    assert counts == ((1, 1, 0), (0, 0, 1), (0, 0, 0))


@given(st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS))))
def test_every_prompt_is_counted_once(pairs: list[tuple[str, str]]) -> None:
    true, chosen = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    counts = confusion_matrix(true, chosen, LABELS)
    assert [sum(row) for row in counts] == [true.count(label) for label in LABELS]
    assert [sum(column) for column in zip(*counts, strict=True)] == [chosen.count(label) for label in LABELS]
    right = sum(a == b for a, b in pairs)
    assert dispatch_accuracy(counts) == (pytest.approx(right / len(pairs)) if pairs else None)


def test_shares_of_a_domain_without_prompts_are_unknown() -> None:
    assert row_shares(((1, 3), (0, 0))) == ((0.25, 0.75), (None, None))


def test_a_chosen_label_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match=r"'mth' is no label; allowed: math, code, other. Did you mean 'math'"):
        confusion_matrix(["math"], ["mth"], LABELS)


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="2 true domains for 1"):
        confusion_matrix(["math", "math"], ["code"], LABELS)


def test_a_label_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="one twice"):
        confusion_matrix([], [], ("math", "math"))
