"""Questions that experts have seen are counted, and refused unless asked for."""

import logging
from dataclasses import replace

import pytest
from tiny_pool import make_expert

from t2.evaluation.leaks import check_unseen, count_seen
from t2.experts.expert import Expert
from t2.tasks.prompt_hash import prompt_hashes
from t2.types import Example

ASKED = {"sums": [Example("1 + 1"), Example("2 + 2"), Example("3 + 3")], "gcd": [Example("gcd of 4 and 6")]}


def knows(*questions: str) -> Expert:
    expert = make_expert(1)
    prompts = frozenset(prompt_hashes(Example(question) for question in questions))
    return replace(expert, metadata=replace(expert.metadata, prompts=prompts))


def test_questions_are_counted_by_expert_and_task(caplog):
    seen = count_seen({"a": knows("1 + 1", "3  + 3", "7"), "b": knows("7")}, ASKED)
    assert seen == {"a": {"sums": 2, "gcd": 0}, "b": {"sums": 0, "gcd": 0}}
    with pytest.raises(ValueError, match=r"a: 2 of sums.*allow_seen=true"):
        check_unseen(seen, allow=False)
    check_unseen({"b": seen["b"]}, allow=False)
    with caplog.at_level(logging.WARNING):
        check_unseen(seen, allow=True)
    assert "a: 2 of sums" in caplog.text


def test_an_expert_without_hashes_is_unknown_and_said(caplog):
    seen = count_seen({"old": make_expert(1)}, ASKED)
    assert seen == {"old": {"sums": None, "gcd": None}}
    with caplog.at_level(logging.WARNING):
        check_unseen(seen, allow=False)
    assert "Which questions old has seen is unknown" in caplog.text
