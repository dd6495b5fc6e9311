"""Rows that do not fit the context are found before they are used, and named by number and length."""

from __future__ import annotations

import pytest
from tiny_models import tiny

from t2.policy.lengths import check_prompts, check_references
from t2.types import Example

SHORT, LONG = Example("short", answer="b"), Example("x" * 600, answer="b")
LONG_ANSWER = Example("short", answer="b" * 600)


def rows(*examples: Example) -> dict[int, Example]:
    return dict(enumerate(examples, start=1))


def test_the_first_row_that_is_too_long_is_named_with_its_number_and_length() -> None:
    lm = tiny()
    check_prompts(lm, rows(SHORT, LONG_ANSWER), "the split", max_new_tokens=8)
    message = r"Row 2 of the split is not usable: The prompt has 6\d\d tokens and 8 are kept .* 512.* 1 more of 4"
    with pytest.raises(ValueError, match=message):
        check_prompts(lm, rows(SHORT, LONG, SHORT, LONG), "the split", max_new_tokens=8)
    with pytest.raises(ValueError, match=r"Row 1 .* 510 are kept"):
        check_prompts(lm, rows(SHORT), "the split", max_new_tokens=510)


def test_reference_answers_count_where_they_are_what_is_read() -> None:
    lm = tiny()
    check_references(lm, rows(SHORT), "the split")
    with pytest.raises(ValueError, match="Row 2 of the split"):
        check_references(lm, rows(SHORT, LONG_ANSWER), "the split")
