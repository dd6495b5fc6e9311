"""The records refuse what no stage could use, and rollouts can be cut without changing their totals."""

import math
import statistics
from dataclasses import FrozenInstanceError

import pytest
import torch

from t2.evaluation.report import Report
from t2.training.rollout import Rollout
from t2.types import Completion, Example, Sampling


def completion(tokens: int = 1) -> Completion:
    return Completion((1,), tuple(range(tokens)), (-0.5,) * tokens, "text", "stop")


def rollout(n: int = 4) -> Rollout:
    return Rollout(
        completions=tuple(completion(i + 1) for i in range(n)),
        rewards=torch.arange(n, dtype=torch.float32),
        advantages=torch.arange(n, dtype=torch.float32) * 10,
        temperature=0.7,
        total_samples=n,
        total_tokens=n * (n + 1) // 2,
        max_new_tokens=8,
    )


def report(scores: tuple[float, ...]) -> Report:
    examples = (Example("?"),) * len(scores)
    return Report("task", "base", examples, (completion(),) * len(scores), scores, None, {})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0),
        ("temperature", -0.1),
        ("temperature", 1e-06),
        ("temperature", math.nan),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_p", math.nan),
        ("samples", 0),
    ],
)
def test_impossible_sampling_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=rf"sampling\.{name} is {value}; allowed: "):
        Sampling(**{name: value})


def test_stop_strings_of_a_yaml_list_become_a_tuple():
    assert Sampling(stop=["a", "b"]).stop == ("a", "b")  # type: ignore[arg-type]


@pytest.mark.parametrize(("temperature", "expected"), [(0.0, 1.0), (0.7, 0.7), (1.0, 1.0)])
def test_greedy_answers_are_scored_at_temperature_one(temperature, expected):
    assert Sampling(temperature=temperature).scoring_temperature == expected


def test_records_cannot_be_edited():
    with pytest.raises(FrozenInstanceError):
        Sampling().samples = 2  # type: ignore[misc]


def test_completion_wants_a_log_prob_per_token():
    with pytest.raises(AssertionError, match="2 tokens with 1 log-probs"):
        Completion((1,), (2, 3), (-0.5,), "text", "stop")


def test_completion_wants_a_token():
    with pytest.raises(AssertionError, match="at least one token"):
        Completion((1,), (), (), "", "stop")


@pytest.mark.parametrize("name", ["rewards", "advantages"])
def test_rollout_refuses_shapes_that_would_broadcast(name):
    parts = {**vars(rollout()), name: torch.zeros(4, 1)}
    with pytest.raises(AssertionError, match=rf"{name} \(4, 1\), expected \(4,\)"):
        Rollout(**parts)


def test_select_takes_the_same_rows_of_everything():
    whole = rollout()
    part = whole.select([3, 1])
    assert part.completions == (whole.completions[3], whole.completions[1])
    assert part.rewards.tolist() == [3.0, 1.0]
    assert part.advantages.tolist() == [30.0, 10.0]


def test_select_keeps_the_totals_of_the_whole():
    part = rollout().select([0])
    assert (part.total_samples, part.total_tokens, part.temperature, part.max_new_tokens) == (4, 10, 0.7, 8)


def test_report_mean_and_standard_error():
    scores = (1.0, 0.0, 0.5, 1.0)
    assert report(scores).mean == pytest.approx(statistics.mean(scores))
    assert report(scores).stderr == pytest.approx(statistics.stdev(scores) / 2)


def test_one_score_has_no_standard_error():
    assert math.isnan(report((1.0,)).stderr)


@pytest.mark.parametrize(
    ("prefix", "answer", "completion"),
    [
        ("", "four", "four"),
        ("It is", "four", " four"),  # a turn is begun without a space, so that the answer's first token has its own
        ("It is ", "four", "four"),
        ("def f():", "\n    pass", "\n    pass"),
        ("[", "['1', '2']", "'1', '2']"),  # the prefix is the beginning of the answer
        ("4", "4", " 4"),  # an answer is never empty
        ("It is", None, None),
    ],
)
def test_a_reference_answer_goes_on_where_the_turn_was_begun(
    prefix: str, answer: str | None, completion: str | None
) -> None:
    assert Example("Which?", answer=answer, response_prefix=prefix).reference_completion == completion
