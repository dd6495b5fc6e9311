"""Scoring beside generation: order, overlap, streams and errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import pytest

from t2.generation.hf import HFGenerator
from t2.runtime import Phases
from t2.scoring import answer_and_score
from t2.tiny import tiny_model
from t2.types import Completion, Example, Sampling

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
    groups, scores = answer_and_score(Streamed(order), Graded(TABLE), EXAMPLES, TWO, workers=workers, phases=Phases())
    assert [[c.text for c in group] for group in groups] == [[f"{b}.0", f"{b}.1"] for b in range(5)]
    assert scores.flatten().tolist() == pytest.approx([number / 10 for number in range(10)])


def test_grading_runs_while_the_next_answers_are_made() -> None:
    generator = Streamed((0, 1, 2, 3, 4))
    # The first example's grade waits for the last answers: a deadlock unless both go on at once.
    task = Graded(TABLE, {EXAMPLES[0].prompt: generator.made[4]})
    _, scores = answer_and_score(generator, task, EXAMPLES, TWO, workers=2, phases=Phases())
    assert scores[0].tolist() == pytest.approx([0.0, 0.1])


def test_a_grader_that_fails_is_heard() -> None:
    class Broken(Graded):
        def score(self, example: Example, text: str) -> float:
            raise RuntimeError(f"cannot grade {text}")

    with pytest.raises(RuntimeError, match=r"cannot grade 0\.0"):
        answer_and_score(Streamed((1, 0, 2, 3, 4)), Broken({}), EXAMPLES, TWO, workers=2, phases=Phases())


def test_a_score_outside_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match="graded"):
        answer_and_score(Streamed(range(5)), Graded({"3.1": 1.5}), EXAMPLES, TWO, workers=1, phases=Phases())


def test_a_real_generator_streams_what_it_generates() -> None:
    lm = tiny_model("llama")
    generator = HFGenerator(lm, batch_rows=4)
    sampling = Sampling(max_new_tokens=5, samples=2, temperature=1.0, seed=3)
    phases = Phases()
    groups, _ = answer_and_score(generator, Graded({}), EXAMPLES, sampling, workers=1, phases=phases)
    assert groups == generator.generate(EXAMPLES, sampling)
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
