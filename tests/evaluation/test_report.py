"""What an evaluation says of completions besides their mean: samples.jsonl, reasons, groups, pass@k, data, choices."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import LetterTask
from graded_task import GradedLetters

from t2.evaluation.report import Outcome, Report, describe_data, summarize_choices, summarize_reports, write_samples
from t2.evaluation.results import Confusion, Statistic
from t2.evaluation.scoring import evaluate
from t2.evaluation.statistics import pass_at_k
from t2.tasks.images import FileImage
from t2.types import Completion, Example, Grade, Sampling

TASK = GradedLetters()
EXAMPLES = tuple(TASK.split("test")[:4])


class Script:
    """Answers the examples with the texts it is given: an example's samples are one string, parted by blanks."""

    def __init__(self, *texts: str) -> None:
        self.texts = [text.split(" ") for text in texts]

    def generate(self, examples: Sequence[Example], sampling: Sampling) -> list[list[Completion]]:
        return [[Completion((1,), (2, 3), (0.0, 0.0), text, "length") for text in texts] for texts in self.texts]


def report(*texts: str, system: str = "base", examples: Sequence[Example] = EXAMPLES) -> Report:
    samples = len(texts[0].split(" "))
    sampling = Sampling(samples=samples, temperature=1.0)
    return evaluate(Script(*texts), TASK, examples[: len(texts)], sampling, system=system)


def lines_of(path: Path, *reports: Report) -> list[dict[str, Any]]:
    write_samples(path / "samples.jsonl", reports)
    return [json.loads(line) for line in (path / "samples.jsonl").read_text().splitlines()]


def test_the_report_has_every_grade_and_every_sample() -> None:
    made = report("abc 12", "a1 xyz")
    assert made.grades == (
        (Grade(1.0, None, "abc"), Grade(0.0, "empty", None)),
        (Grade(0.5, "partly", "a"), Grade(1.0, None, "xyz")),
    )
    assert [[c.text for c in group] for group in made.samples] == [["abc", "12"], ["a1", "xyz"]]
    assert made.scores == (0.5, 0.75)


def test_evaluation_grades_as_many_answers_at_a_time_as_it_is_told() -> None:
    barrier = threading.Barrier(3)

    class Together(LetterTask):
        def score(self, example: Example, text: str) -> float:
            barrier.wait(timeout=10)  # broken unless three answers are graded at once
            return 1.0

    made = evaluate(Script("a", "b", "c"), Together(), EXAMPLES[:3], Sampling(), system="base", workers=3)
    assert made.scores == (1.0, 1.0, 1.0)


def test_no_worker_grades_nothing() -> None:
    with pytest.raises(ValueError, match="score_workers is 0; allowed: at least 1"):
        evaluate(Script("a"), TASK, EXAMPLES[:1], Sampling(), system="base", workers=0)


def test_a_line_has_what_there_is_to_know_of_an_answer(tmp_path: Path) -> None:
    (line,) = lines_of(tmp_path, report("a1"))
    assert line == {
        "task": "graded",
        "system": "base",
        "id": "Letters/0",
        "system_message": "Letters, please.",
        "prompt": "number 48",
        "reference": "abc",
        "answer": "a1",
        "score": 0.5,
        "reason": "partly",
        "extracted": "a",
        "finish": "length",
        "tokens": 2,
    }


def test_what_an_example_lacks_is_not_written(tmp_path: Path) -> None:
    (line,) = lines_of(tmp_path, report("abc", examples=[Example("q")]))
    assert not line.keys() & {"id", "system_message", "images", "sample"}
    assert (line["reference"], line["reason"]) == (None, None)


def test_an_id_may_be_zero(tmp_path: Path) -> None:
    (line,) = lines_of(tmp_path, report("abc", examples=[Example("q", metadata={"id": 0})]))
    assert line["id"] == 0


def test_images_are_counted_and_not_read(tmp_path: Path) -> None:
    images = (FileImage(tmp_path / "no.png"), FileImage(tmp_path / "such.png"))
    (line,) = lines_of(tmp_path, report("abc", examples=[Example("q", images=images)]))
    assert line["images"] == 2


def test_several_samples_are_a_line_each_with_their_own_score(tmp_path: Path) -> None:
    lines = lines_of(tmp_path, report("abc 12", "a1 xyz"), report("1 2", "3 4", system="expert"))
    assert [(line["id"], line["sample"], line["score"]) for line in lines[:4]] == [
        ("Letters/0", 0, 1.0), ("Letters/0", 1, 0.0), ("Letters/1", 0, 0.5), ("Letters/1", 1, 1.0),
    ]  # fmt: skip
    assert [line["system"] for line in lines] == ["base"] * 4 + ["expert"] * 4


@pytest.mark.parametrize("text", ["a\u2028b", "a\x85b", "a\x0cb", "\ud800", 'a"b', "a\nb\r"])
def test_any_answer_is_one_line(text: str, tmp_path: Path) -> None:
    (line,) = lines_of(tmp_path, report(text))
    assert line["answer"] == text


def test_reasons_are_counted_over_samples_and_right_answers_have_none() -> None:
    reports = [
        report("abc 12", "a1 34"),
        report("abc b1", "abc abc", system="expert"),
        report("a a", "a a", system="x"),
    ]
    reasons = summarize_reports(reports)["reasons"]
    assert reasons == {"graded": {"base": {"empty": 2, "partly": 1}, "expert": {"partly": 1}, "x": {}}}
    assert list(reasons["graded"]["base"]) == ["empty", "partly"]  # the most frequent first


def test_groups_have_the_statistics_of_their_examples() -> None:
    by_group = summarize_reports([report("abc", "1", "ab12", "a1")])["by_group"]["graded"]["base"]
    assert by_group["parity"]["even"] == Statistic(0.75, pytest.approx(0.25), 2)
    assert by_group["parity"]["odd"] == Statistic(0.25, pytest.approx(0.25), 2)
    assert list(by_group) == ["parity", "level"]
    assert list(by_group["level"]) == ["0", "1", "2"]
    assert by_group["level"]["2"].stderr is None
    assert by_group["level"]["0"] == Statistic(0.75, pytest.approx(0.25), 2)


def test_an_example_without_a_group_is_in_none() -> None:
    examples = [EXAMPLES[0], Example("q"), Example("r", metadata={"groups": {"level": "0"}})]
    by_group = summarize_reports([report("a", "a", "1", examples=examples)])["by_group"]["graded"]["base"]
    assert {kind: {value: of.n for value, of in values.items()} for kind, values in by_group.items()} == {
        "parity": {"even": 1},
        "level": {"0": 2},
    }


def test_groups_of_several_samples_are_over_examples() -> None:
    by_group = summarize_reports([report("a 1", "1 1", "a a")])["by_group"]["graded"]["base"]
    assert by_group["parity"]["even"].n == 2
    assert by_group["parity"]["even"].mean == 0.75


@pytest.mark.parametrize(("samples", "ks"), [(2, [1]), (5, [1, 5]), (9, [1, 5]), (10, [1, 5, 10])])
def test_pass_at_k_goes_up_to_the_number_of_samples(samples: int, ks: Sequence[int]) -> None:
    texts = (" ".join(["abc", *["a1"] * (samples - 1)]), " ".join(["1"] * samples))
    found = summarize_reports([report(*texts)])["pass_at_k"]["graded"]["base"]
    assert list(found) == [str(k) for k in ks]
    for k in ks:  # one right of the first example's, none of the second's: half right is not right
        assert found[str(k)] == pytest.approx((pass_at_k(samples, 1, k) + pass_at_k(samples, 0, k)) / 2)
    assert found["1"] == pytest.approx(0.5 / samples)


def test_one_sample_has_no_pass_at_k() -> None:
    assert "pass_at_k" not in summarize_reports([report("abc", "1")])


def test_a_plain_task_adds_nothing() -> None:
    examples = LetterTask().split("test")[:2]
    made = evaluate(Script("a", "1"), LetterTask(), examples, Sampling(), system="base")
    assert summarize_reports([made]).keys() == {"scores", "paired", "truncated"}


def test_data_is_that_of_documented_tasks() -> None:
    assert describe_data([LetterTask()]) == {}
    assert describe_data([LetterTask(), TASK]).keys() == {"graded"}
    assert describe_data([TASK])["graded"]["protocol"] == "letters"


def outcome(task: str, system: str, chosen: tuple[str, ...]) -> Outcome:
    seconds = {"fit": 0.0, "pass1": 1.0, "pass2": 2.0, "score": 0.0}
    return Outcome(Report(task, system, (), (), (0.0,), None, seconds), {"math": 0.25, "letters": 0.5}, chosen)


def test_confusion_is_over_the_tasks_that_have_a_domain() -> None:
    outcomes = [
        outcome("sums", "prompt", ("math", "other")),
        outcome("spelling", "prompt", ("letters", "math")),
        outcome("poems", "prompt", ("math", "math")),
        outcome("sums", "few_shot", ()),
    ]
    labels = ("math", "letters", "other")
    parts = summarize_choices(outcomes, domains={"sums": "math", "spelling": "letters"}, labels=labels)
    assert parts["confusion"] == {"prompt": Confusion(labels, ((1, 0, 1), (1, 1, 0), (0, 0, 0)))}
    assert parts["mixing_weights"]["sums"]["few_shot"] == {"math": 0.25, "letters": 0.5}
    assert parts["pass_seconds"]["poems"]["prompt"] == {"fit": 0.0, "pass1": 1.0, "pass2": 2.0}


def test_scores_are_by_task_and_differences_to_the_base() -> None:
    parts = summarize_reports([report("abc", "1"), report("abc", "abc", system="expert")])
    scores = parts["scores"]["graded"]
    assert (scores["base"].mean, scores["base"].n, scores["base"].majority) == (0.5, 2, 1.0)
    assert (parts["paired"]["graded"].keys(), parts["paired"]["graded"]["expert"].difference) == ({"expert"}, 0.5)
