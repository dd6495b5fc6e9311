"""The best guess, worked out by hand."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from conftest import LetterTask

from t2.evaluation.null import null_of
from t2.evaluation.results import Null
from t2.tasks.vqa import VQA, most_frequent
from t2.types import Example


@dataclass(frozen=True)
class Guessed(LetterTask):
    """A guess that is right where the prompt says so."""

    def chance(self, example: Example) -> Mapping[str, float]:
        return {"copy": float("copy" in example.prompt), "coin": 0.5}


def asked(*pairs: tuple[str, str | None], groups: Mapping[str, str] | None = None) -> list[Example]:
    return [Example(prompt, answer, metadata={"groups": groups} if groups else {}) for prompt, answer in pairs]


def test_the_best_of_the_guesses_and_the_most_frequent_answer():
    assert null_of(Guessed(), asked(("copy", "a"), ("copy", "b"), ("copy", "c"), ("d", "d"))) == Null("copy", 0.75)
    assert null_of(Guessed(), asked(("x", "a"), ("x", "a"), ("x", "a"), ("x", "b"))) == Null(
        "most frequent answer", 0.75
    )
    assert null_of(Guessed(), asked(("x", "a"), ("x", "b"), ("x", "c"))) == Null("coin", 0.5)
    assert null_of(LetterTask(), asked(("x", None))).score == 0.0


def test_the_most_frequent_answer_within_each_group_beats_that_of_all():
    color, yes_no = ({"kind": kind} for kind in ("color", "yes_no"))
    examples = [
        *asked(("x", "red"), ("x", "red"), ("x", "blue"), groups=color),
        *asked(("x", "yes"), ("x", "yes"), ("x", "no"), groups=yes_no),
    ]
    assert null_of(LetterTask(), examples) == Null("most frequent answer by kind", 4 / 6)
    assert null_of(LetterTask(), [*examples, Example("x", "yes")]).guess == "most frequent answer"  # one has no group


def test_an_answer_that_is_right_in_part_is_scored_as_a_completion_is():
    answers = [("yes",) * 10, ("no",) * 6 + ("yes",) * 4, ("red",) * 6 + ("yes",) * 4, ("blue",) * 8 + ("yes", "no")]
    examples = [Example("x", most_frequent(of), metadata={"answers": of}) for of in answers]
    task = VQA("toy", "{question}", "org/set", "validation")
    assert null_of(task, examples) == Null("most frequent answer", fmean(task.score(one, "yes") for one in examples))
    assert null_of(task, examples).score > 0.75  # a quarter of the questions has the same most frequent answer


def test_groups_that_are_the_answer_are_no_guess():
    digits = [*asked(("x", "1"), groups={"digit": "1"}), *asked(("x", "2"), ("y", "2"), groups={"digit": "2"})]
    assert null_of(LetterTask(), digits) == Null("most frequent answer", 2 / 3)


def test_groups_of_few_questions_are_no_better_guessed_than_large_ones():
    examples = [Example("x", f"{n}", metadata={"groups": {"subject": f"{n // 2}"}}) for n in range(9)]
    assert null_of(LetterTask(), examples) == Null("most frequent answer", 1 / 9)  # each answer is there once
