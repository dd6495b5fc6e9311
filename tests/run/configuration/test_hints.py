"""What a value of the configuration may be, by an annotation: strict types, ranges, parts, and words for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import pytest
from lightning.pytorch.loggers import WandbLogger
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from t2.run.configuration.hints import Allowed, OneOf, allowed_in, hints_of, is_part


class Built(Protocol):
    """Stands for a class: its value is a part."""


PART = {"_target_": "some.Class", "x": 1}
NAN, INF = float("nan"), float("inf")
CASES: list[tuple[Any, list[Any], list[Any], str]] = [
    (bool, [True, False], [0, 1, "no", "true", None], "true or false"),
    (int, [0, -3], [True, 1.0, "1", None, NAN], "an integer"),
    (float, [0, -3, 0.5], [True, "1", None, NAN, INF, -INF], "a number"),
    (str, ["", "abc"], [3, True, None, ["a"]], "text"),
    (int | None, [1, None], ["null", 1.5], "an integer, or null"),
    (PositiveInt, [1], [0, -1, True, 1.0], "at least 1 (an integer)"),
    (NonNegativeInt, [0], [-1], "at least 0 (an integer)"),
    (PositiveFloat | None, [0.1, None], [0, -1, NAN], "above 0 (a number), or null"),
    (Annotated[float, Field(gt=0, le=1)], [1, 0.5], [0, 1.1], "above 0 and at most 1 (a number)"),
    (Literal["b", "a"], ["a"], ["c", None, 3], "a, b"),
    (bool | float, [True, 0.5], ["yes", None], "true or false, or a number"),
    (tuple[str, ...], [["a", "b"], []], ["abc", [1], [None], None], "a list, each of it text"),
    (tuple[float, float], [[0.9, 1]], [[0.9], [0.1, 0.2, 0.3], 0.9, ["a", 1]], "a list of 2, each a number"),
    (str | Sequence[str], ["abc", ["a"]], [[1], 3], "text, or a list, each of it text"),
    (Sequence[int] | None, [[0], None], ["x", [0.5], True], "a list, each of it an integer, or null"),
    (Mapping[str, float], [{"a": 1}, {}], [{"a": "b"}, {"a": NAN}, ["a"], "a"], "a mapping of names, each to a number"),
    (Path | str, ["a/b"], [3, None], "text"),
    (Built, [PART], ["x", {"x": 1}, None], "a part (a mapping with _target_)"),
    (list[Built], [[PART]], [[1], PART], "a list, each of it a part (a mapping with _target_)"),
    (Annotated[str, OneOf("t2.tasks.base.Split")], ["val"], ["validation", 3], "test, train, val"),
    (Any, [1, None, PART, "x"], [], "any value"),
]  # fmt: skip


@pytest.mark.parametrize(("hint", "good", "bad", "said"), CASES, ids=[str(case[0]) for case in CASES])
def test_a_value_fits_exactly_what_its_annotation_says(hint: Any, good: list[Any], bad: list[Any], said: str) -> None:
    """Lax parsing anywhere (text for a number, 1 for true, text for a list) would pass one of the bad ones."""
    allowed = Allowed(hint)
    assert [value for value in good if not allowed.fits(value)] == []
    assert [value for value in bad if allowed.fits(value)] == []
    assert str(allowed) == said


@dataclass
class Settings:
    """Of a dataclass the annotations of the fields count."""

    sizes: Sequence[int]
    name: str = "x"


def test_annotations_of_classes_functions_and_dataclasses_are_found() -> None:
    assert hints_of(Settings) == {"sizes": Sequence[int], "name": str}
    assert hints_of(allowed_in.__wrapped__)["target"] is Any


def test_a_name_for_type_checkers_alone_leaves_the_other_arguments_checked() -> None:
    """WandbLogger imports the class of `experiment` for type checkers only."""
    hints = hints_of(WandbLogger)
    assert hints["experiment"] is Any
    assert hints["offline"] is bool


def test_a_part_is_a_mapping_with_a_target() -> None:
    assert is_part(PART)
    assert not is_part({"x": 1})
    assert not is_part("_target_")
