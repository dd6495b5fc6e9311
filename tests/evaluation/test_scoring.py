"""Scoring beside generation: order, overlap, streams and errors."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from t2.evaluation.scoring import check_workers, complete_and_score
from t2.models.tiny import tiny_model
from t2.policy.hf import HFGenerator
from t2.run.phases import Phases
from t2.types import Completion, Example, Grade, Sampling

EXAMPLES = [Example(f"question {number}", str(number)) for number in range(5)]
TWO = Sampling(max_new_tokens=2, samples=2)


def answer(text: str) -> Completion:
    return Completion((1,), (2,), (0.0,), text, "stop")


class Streamed:
    """Hands out answers in the order it is given, and says when it goes on to the next."""

    def __init__(self, order: Sequence[int]) -> None:
        self.order, self.made = order, [threading.Event() for _ in order]

    def generate(self, examples: Sequence[Example], sampling: Sampling) -> list[list[Completion]]:
        raise AssertionError("the stream is what is asked for")

    def stream(self, examples: Sequence[Example], sampling: Sampling) -> Iterator[tuple[int, list[Completion]]]:
        for place in self.order:
            yield place, [answer(f"{place}.{g}") for g in range(sampling.samples)]
            self.made[place].set()


class Begun:
    """Says the same of each example, whose model's turn it has begun."""

    def rewrite(self, example: Example) -> Example:
        return replace(example, prompt="another", response_prefix="The answer is")

    def generate(self, examples: Sequence[Example], sampling: Sampling) -> list[list[Completion]]:
        return [[answer(" 3")] for _ in examples]


class Graded:
    """Scores by a table; where `wait` names an event, grading an example waits for it."""

    name, max_new_tokens = "graded", 2

    def __init__(self, scores: dict[str, float], wait: dict[str, threading.Event] | None = None) -> None:
        self.scores, self.wait = scores, wait or {}

    def split(self, split: str) -> Sequence[Example]:
        return EXAMPLES

    def score(self, example: Example, text: str) -> float:
        if example.prompt in self.wait:
            assert self.wait[example.prompt].wait(timeout=10), "the next answers were not made meanwhile"
        return self.scores.get(text, 0.0)


TABLE = {f"{b}.{g}": (b * 2 + g) / 10 for b in range(5) for g in range(2)}


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 2, 0, 3, 1)])
@pytest.mark.parametrize("workers", [1, 4])
def test_results_are_in_the_order_of_the_examples(order: tuple[int, ...], workers: int) -> None:
    scored = complete_and_score(Streamed(order), Graded(TABLE), EXAMPLES, TWO, workers=workers, phases=Phases())
    assert [[c.text for c in group] for group in scored.completions] == [[f"{b}.0", f"{b}.1"] for b in range(5)]
    assert scored.scores.shape == (5, 2)
    assert scored.scores.flatten().tolist() == pytest.approx([number / 10 for number in range(10)])
    assert [[grade.score for grade in grades] for grades in scored.grades] == [
        [2 * b / 10, (2 * b + 1) / 10] for b in range(5)
    ]


def test_grading_runs_while_the_next_answers_are_made() -> None:
    generator = Streamed((0, 1, 2, 3, 4))
    # The first example's grade waits for the last answers: a deadlock unless both go on at once.
    task = Graded(TABLE, {EXAMPLES[0].prompt: generator.made[4]})
    scored = complete_and_score(generator, task, EXAMPLES, TWO, workers=2, phases=Phases())
    assert scored.scores[0].tolist() == pytest.approx([0.0, 0.1])


class Reasoned(Graded):
    """Says why, in a time that is the shorter the later an answer was made."""

    def score(self, example: Example, text: str) -> float:
        raise AssertionError("grade is what is asked for")

    def grade(self, example: Example, text: str) -> Grade:
        time.sleep(0.02 * (5 - int(text[0])))
        return Grade(0.0, f"reason {text}", text)


@pytest.mark.parametrize("workers", [1, 5])
def test_grades_stand_beside_their_answers_whatever_ends_first(workers: int) -> None:
    scored = complete_and_score(Streamed(range(5)), Reasoned({}), EXAMPLES, TWO, workers=workers, phases=Phases())
    for group, grades in zip(scored.completions, scored.grades, strict=True):
        assert grades == tuple(Grade(0.0, f"reason {c.text}", c.text) for c in group)


def test_a_task_that_only_scores_has_grades_without_a_reason() -> None:
    scored = complete_and_score(Streamed(range(5)), Graded({"0.1": True}), EXAMPLES, TWO, workers=2, phases=Phases())
    assert scored.grades[0] == (Grade(0.0), Grade(1.0))
    assert type(scored.grades[0][1].score) is float


def test_workers_wait_at_the_same_time() -> None:
    barrier = threading.Barrier(4)

    class Together(Graded):
        def score(self, example: Example, text: str) -> float:
            barrier.wait(timeout=10)  # broken unless four answers are graded at once
            return 1.0

    scored = complete_and_score(Streamed(range(2)), Together({}), EXAMPLES[:2], TWO, workers=4, phases=Phases())
    assert scored.scores.tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_after_an_error_the_grades_still_to_come_are_given_up() -> None:
    asked = []

    class Slow(Graded):
        def score(self, example: Example, text: str) -> float:
            asked.append(text)
            time.sleep(0.5)
            return 0.0

    class Interrupted(Streamed):
        def stream(self, examples: Sequence[Example], sampling: Sampling) -> Iterator[tuple[int, list[Completion]]]:
            yield from super().stream(examples, sampling)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        complete_and_score(Interrupted(range(5)), Slow({}), EXAMPLES, TWO, workers=1, phases=Phases())
    assert asked == ["0.0"]


def test_an_example_without_answers_is_found() -> None:
    class Forgetful(Streamed):
        def stream(self, examples: Sequence[Example], sampling: Sampling) -> Iterator[tuple[int, list[Completion]]]:
            yield from (group for group in super().stream(examples, sampling) if group[0] != 3)

    with pytest.raises(AssertionError, match="4 groups of completions for 5 examples"):
        complete_and_score(Forgetful(range(5)), Graded({}), EXAMPLES, TWO, workers=1, phases=Phases())


@pytest.mark.parametrize("workers", [0, -1])
def test_grading_needs_a_worker(workers: int) -> None:
    with pytest.raises(ValueError, match=f"score_workers is {workers}; allowed: at least 1"):
        check_workers(workers)
    with pytest.raises(ValueError, match=f"score_workers is {workers}"):
        complete_and_score(Streamed(range(5)), Graded({}), EXAMPLES, TWO, workers=workers, phases=Phases())


def test_a_grader_that_fails_is_heard() -> None:
    class Broken(Graded):
        def score(self, example: Example, text: str) -> float:
            raise RuntimeError(f"cannot grade {text}")

    with pytest.raises(RuntimeError, match=r"cannot grade 0\.0"):
        complete_and_score(Streamed((1, 0, 2, 3, 4)), Broken({}), EXAMPLES, TWO, workers=2, phases=Phases())


def test_a_score_outside_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Task graded scored 1\.5 for the example 'question 3', completion '3\.1'"):
        complete_and_score(Streamed((4, 3, 2, 1, 0)), Graded({"3.1": 1.5}), EXAMPLES, TWO, workers=1, phases=Phases())


def test_a_real_generator_streams_what_it_generates() -> None:
    lm = tiny_model("llama")
    generator = HFGenerator(lm, batch_rows=4)
    sampling = Sampling(max_new_tokens=5, samples=2, temperature=1.0, seed=3)
    phases = Phases()
    scored = complete_and_score(generator, Graded({}), EXAMPLES, sampling, workers=1, phases=phases)
    assert [list(group) for group in scored.completions] == generator.generate(EXAMPLES, sampling)
    assert set(phases.step_seconds) == {"rollout", "score"}


def test_short_answers_are_handed_out_before_long_ones() -> None:
    lm = tiny_model("llama")
    sampling = Sampling(max_new_tokens=40, temperature=1.0, seed=0)
    probe = HFGenerator(lm).generate(EXAMPLES, sampling)
    seen = sorted({token for (one,) in probe for token in one.token_ids[:20]})
    lm.end_ids = frozenset(seen[: len(seen) // 8])  # some answers now end early
    order = [place for place, _ in HFGenerator(lm).stream(EXAMPLES, sampling)]
    lengths = [len(one.token_ids) for (one,) in HFGenerator(lm).generate(EXAMPLES, sampling)]
    assert len(set(lengths)) > 1
    assert [lengths[place] for place in order] == sorted(lengths)


def test_a_grader_sees_the_turn_that_a_control_has_begun() -> None:
    """As it sees that of a task which begins all turns; what else the control told the model is not the question."""
    seen: list[Example] = []

    class Sees(Graded):
        def score(self, example: Example, text: str) -> float:
            seen.append(example)
            return 1.0

    complete_and_score(Begun(), Sees({}), EXAMPLES[:2], Sampling(max_new_tokens=2), workers=1, phases=Phases())
    assert seen == [replace(one, response_prefix="The answer is") for one in EXAMPLES[:2]]
