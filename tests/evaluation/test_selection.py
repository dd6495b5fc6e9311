"""What validation chooses, and the systems that are made of others."""

from dataclasses import dataclass

import pytest
from conftest import LetterTask
from results_files import report_of

from t2.evaluation.report import Outcome
from t2.evaluation.results import Selection
from t2.evaluation.selection import Controls, derived, passed_over, select
from t2.tasks.base import NoSplit
from t2.types import Completion, Sampling


@dataclass(frozen=True)
class Says:
    """A generator that gives every example the same text."""

    text: str

    def generate(self, examples, sampling):
        return [[Completion((1,), (2,), (0.0,), self.text, "stop")] for _ in examples]


NONE = NoSplit("all questions are for testing")


@dataclass(frozen=True)
class WithoutVal(LetterTask):
    why: Exception = NONE

    def split(self, split):
        if split == "val":
            raise self.why
        return super().split(split)


def choose(task=None, limit=5, **texts):
    task, systems = task or LetterTask(), {name: Says(text) for name, text in texts.items()}
    scored = task.split("test")
    return select(task, systems, Sampling(), scored=scored, split="test", limit=limit, workers=1)


def test_the_best_form_control_and_the_best_single_expert_are_chosen_apart():
    chosen = choose(**{"base": "AB", "base+prefix": "aB", "expert:a": "AB", "expert:b": "ab", "other": "ab"})
    assert chosen == Selection(
        "val", 5, "base+prefix", "expert:b", {"base": 0.0, "base+prefix": 0.5, "expert:a": 0.0, "expert:b": 1.0}
    )


def test_controls_that_were_not_chosen_are_passed_over_but_for_the_base():
    chosen = choose(**{"base": "AB", "base+prefix": "aB", "base+shots": "AB", "expert:b": "ab"})
    assert passed_over(chosen) == ["base+shots"]
    assert passed_over(choose(**{"base": "a", "base+shots": "A"})) == ["base+shots"]


def test_of_equals_the_base_stands_and_without_a_pool_there_is_no_single_expert():
    chosen = choose(**{"base": "a", "base+shots": "a"}, limit=100)
    assert (chosen.form, chosen.single, chosen.n) == ("base", None, 8)


def test_a_task_without_validation_chooses_on_what_is_scored_and_says_so(caplog):
    chosen = choose(WithoutVal(), **{"base": "A", "base+prefix": "a"})
    assert (chosen.split, chosen.form) == ("test", "base+prefix")
    assert "chosen on the scored split, which favours them: all questions are for testing" in caplog.text


def test_validation_that_cannot_be_read_is_not_taken_for_none():
    with pytest.raises(ValueError, match=r"val.jsonl, line 3"):
        choose(WithoutVal(why=ValueError("val.jsonl, line 3: no column 'answer'")), base="A")


def test_the_oracle_is_right_where_any_of_its_systems_is():
    scores = {"base": [1, 0, 0, 0], "expert:a": [0, 1, 0, 0], "expert:b": [0, 1, 1, 0], "strategy": [1, 1, 1, 1]}
    outcomes = [Outcome(report_of(system, of)) for system, of in scores.items()]
    best, oracle = derived(outcomes, Selection("val", 4, "base", "expert:a", {}))
    assert (best.report.system, best.report.scores) == ("best_single", (0.0, 1.0, 0.0, 0.0))
    assert (oracle.report.system, oracle.report.scores) == ("oracle", (1.0, 1.0, 1.0, 0.0))  # not the strategy's fourth
    assert [one.text for one in oracle.report.completions] == ["base 0", "expert:a 1", "expert:b 2", "base 3"]
    assert derived(outcomes[:1], Selection("val", 4, "base", None, {})) == []


@pytest.mark.parametrize("settings", [{"shots": -1}, {"limit": 0}])
def test_numbers_outside_their_range_are_refused(settings):
    with pytest.raises(ValueError, match="allowed: at least 0, and at least 1"):
        Controls(**settings)


def chosen_for(task, scored, split):
    systems = {"base": Says("AB"), "base+prefix": Says("ab")}
    return select(task, systems, Sampling(), scored=scored, split=split, limit=5, workers=1)


def test_scored_validation_questions_are_not_chosen_on(caplog):
    task = LetterTask()
    assert chosen_for(task, task.split("val")[:6], "val").n == 2  # of eight, six are scored
    assert "favours" not in caplog.text
    chosen = chosen_for(task, task.split("val"), "val")
    assert (chosen.split, chosen.n) == ("val", 5)
    assert "chosen on the scored split, which favours them" in caplog.text


@dataclass(frozen=True)
class Paper(LetterTask):
    def split(self, split):  # as FewShotSplit(splits="paper"): val is part of test
        return super().split("test")[2:] if split == "val" else super().split(split)


def test_a_validation_split_within_the_test_is_not_chosen_on(caplog):
    task = Paper()
    chosen = chosen_for(task, task.split("test"), "test")
    assert chosen.split == "test"
    assert "favours them" in caplog.text
