"""Several tasks as one: whose examples come when, who grades them, and where answers end."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from conftest import LetterTask

from t2.tasks.form import Form
from t2.tasks.union import TaskUnion
from t2.types import Example


@dataclass(frozen=True)
class Ending(LetterTask):
    """Letters whose answers end with one of `stop`, and that score what they are told."""

    name: str = "letters"
    stop: tuple[str, ...] = ()
    worth: float = 1.0

    @property
    def form(self) -> Form:  # type: ignore[override]
        return Form(stop=self.stop)

    def score(self, example: Example, text: str) -> float:
        return self.worth


def test_examples_take_turns_and_are_graded_by_their_own_task() -> None:
    union = TaskUnion({"a": Ending("one", worth=0.25), "b": Ending("two", worth=0.75)})
    first, second, *_ = union.split("train")
    assert [one.metadata["task"] for one in (first, second)] == ["one", "two"]
    assert [union.score(one, "x") for one in (first, second)] == [0.25, 0.75]
    assert len(union.split("train")) == 2 * len(Ending().split("train"))


def test_a_union_of_unions_is_refused() -> None:
    """The name of an example's task would be that of the inner union."""
    inner = TaskUnion({"a": Ending("one")}, name="inner")
    with pytest.raises(ValueError, match=r"mixed is made of \['inner'\], which are unions themselves; give the tasks"):
        TaskUnion({"a": inner, "b": Ending("two")})


@pytest.mark.parametrize(
    ("stops", "shared"),
    [((("\n",), ("\n", ".")), ("\n",)), ((("\n", "."), (".", "\n")), ("\n", ".")), ((("\n",), ()), ())],
)
def test_what_ends_the_answers_of_all_its_tasks_ends_its_answers(stops, shared) -> None:
    union = TaskUnion({name: Ending(name, stop=stop) for name, stop in zip("ab", stops, strict=True)})
    assert union.form.stop == shared


@pytest.mark.parametrize("tasks", [{}, {"a": LetterTask(), "b": LetterTask()}])
def test_no_task_and_one_twice_are_refused(tasks) -> None:
    with pytest.raises(ValueError, match="give one task or more, of different names"):
        TaskUnion(tasks)
