"""Checks of a user's choices: what they accept, and what their messages name."""

from __future__ import annotations

import pytest

from t2.run.messages import check_range, nearest


@pytest.mark.parametrize(
    ("bounds", "fine", "refused", "allowed"),
    [
        ({"at_least": 1}, [1, 7], [0, float("nan")], "at least 1"),
        ({"above": 0, "at_most": 1}, [0.1, 1.0], [0.0, 1.5, float("nan")], "above 0 and at most 1"),
        ({"at_least": 0, "below": 1}, [0.0, 0.9], [-0.1, 1.0], "at least 0 and below 1"),
    ],
)
def test_ranges(bounds: dict, fine: list, refused: list, allowed: str) -> None:
    for number in fine:
        check_range("search.ema", number, **bounds)
    for number in refused:
        with pytest.raises(ValueError, match=f"search.ema is {number}; allowed: {allowed}"):
            check_range("search.ema", number, **bounds)


def test_the_nearest_name_is_as_near_as_the_cutoff_asks() -> None:
    assert nearest("fp16", ["float16", "bfloat16"], cutoff=0.3) == "float16"
    assert nearest("fp16", ["float16", "bfloat16"]) is None
    assert nearest("x", []) is None
