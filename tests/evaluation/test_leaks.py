"""Questions that were seen before are counted, by whom, and refused unless asked for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from conftest import LetterTask
from tiny_pool import make_expert

from t2.adaptation.centroid import Centroid
from t2.adaptation.dispatch import PromptDispatch
from t2.adaptation.fixed import Base
from t2.evaluation.leaks import check_unseen, count_seen
from t2.evaluation.results import seen_text
from t2.experts.expert import Expert
from t2.experts.pool import ExpertPool
from t2.tasks.base import Split
from t2.tasks.dispatch import Dispatch
from t2.tasks.prompt_hash import prompt_hashes
from t2.types import Example
from tests.adaptation.centroid_setup import dispatch_task
from tests.experts.test_centroids import some_centroids

ASKED = {"sums": [Example("1 + 1"), Example("2 + 2"), Example("3 + 3")], "gcd": [Example("gcd of 4 and 6")]}
TASKS = [LetterTask("sums"), LetterTask("gcd")]


def hashes(*questions: str) -> frozenset[str]:
    return frozenset(prompt_hashes(Example(question) for question in questions))


def knows(*questions: str, seed: int = 1) -> Expert:
    expert = make_expert(seed)
    return replace(expert, metadata=replace(expert.metadata, prompts=hashes(*questions)))


def pool_of(dispatch: Expert | None, centroids: frozenset[str] | None) -> ExpertPool:
    return ExpertPool({"math": make_expert(2)}, dispatch, replace(some_centroids("math"), prompts=centroids))


def test_questions_are_counted_by_expert_and_task(caplog):
    seen = count_seen(ASKED, experts={"a": knows("1 + 1", "3  + 3", "7"), "b": knows("7")})
    assert seen == {"a": {"sums": 2, "gcd": 0}, "b": {"sums": 0, "gcd": 0}}
    with pytest.raises(ValueError, match=r"a: 2 of sums.*allow_seen=true"):
        check_unseen(seen, allow=False)
    check_unseen({"b": seen["b"]}, allow=False)
    with caplog.at_level(logging.WARNING):
        check_unseen(seen, allow=True)
    assert "a: 2 of sums" in caplog.text


def test_an_expert_without_hashes_is_unknown_and_said(caplog):
    seen = count_seen(ASKED, experts={"old": make_expert(1)})
    assert seen == {"old": {"sums": None, "gcd": None}}
    with caplog.at_level(logging.WARNING):
        check_unseen(seen, allow=False)
    assert "Which questions old has seen is unknown" in caplog.text
    assert seen_text(seen | {"new": {"sums": 0, "gcd": 3}}) == "new: 3 of gcd\nnone: new\nunknown: old"


def test_what_a_strategy_chooses_by_counts_and_what_none_uses_does_not():
    pool = pool_of(knows("1 + 1"), hashes("gcd of 4 and 6"))
    choosers = [PromptDispatch(expert="dispatch"), Centroid()]

    def count(*strategies):
        return count_seen(ASKED, experts={}, tasks=TASKS, strategies=strategies, pool=pool)

    assert count(*choosers) == {"dispatch": {"sums": 1, "gcd": 0}, "centroids": {"sums": 0, "gcd": 1}}
    assert count(PromptDispatch(), Base()) == {}
    unknown = count_seen(ASKED, experts={}, tasks=TASKS, strategies=choosers, pool=pool_of(make_expert(1), None))
    assert unknown == {name: {"sums": None, "gcd": None} for name in ("dispatch", "centroids")}


def test_centroids_that_are_made_of_the_scored_task_know_its_train_and_validation_prompts():
    task = dispatch_task()
    for split, count in (("train", 18), ("val", 18), ("test", 0)):
        scored = {task.name: task.split(split)}
        seen = count_seen(scored, experts={}, tasks=[task], strategies=[Centroid()], pool=pool_of(None, None))
        assert seen == {"centroids": {"dispatch": count}}


def test_solved_examples_are_those_of_their_own_task():
    support = {"sums": [Example("9 + 9"), Example("2 +  2")], "gcd": [Example("1 + 1")]}
    seen = count_seen(ASKED, experts={}, support=support, shown={"sums": [], "gcd": ASKED["gcd"]})
    assert seen == {"support": {"sums": 1, "gcd": 0}, "base+shots": {"gcd": 1}}
    with pytest.raises(ValueError, match=r"support: 1 of sums; base\+shots: 1 of gcd"):
        check_unseen(seen, allow=False)


@dataclass(frozen=True)
class Told:
    """Questions with an instruction after them, which their hashes leave out."""

    name: str
    asks: str
    max_new_tokens: int = 4

    def split(self, split: Split) -> Sequence[Example]:
        numbers = [3, 4, 5] if split == "train" else [6] if split == "val" else [7]
        return [
            Example(f"{n} {self.asks} 2\nBe brief.", "x", metadata={"question": f"{n} {self.asks} 2"}) for n in numbers
        ]

    def score(self, example: Example, text: str) -> float:
        return 0.0


def test_a_dispatch_task_has_the_hashes_of_the_questions_in_their_own_tasks():
    own = [Told("sums", "+"), Told("products", "*")]
    made = Dispatch(dict(zip("ab", own, strict=True)), train_size=3, val_size=1, test_size=1)
    assert prompt_hashes(made.split("train")) == prompt_hashes([*own[0].split("train"), *own[1].split("train")])
