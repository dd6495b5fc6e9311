"""A pool, questions and a model with planted answers, for tests of dispatch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import tiny_pool
import torch

import t2.adaptation.dispatch
from t2.adaptation.dispatch import PromptDispatch
from t2.adaptation.strategy import PooledModel
from t2.types import Completion, Example, Sampling

QUESTIONS = [Example("1 + 1", system="be brief", response_prefix="So"), Example("spell tree"), Example("hello there")]
DOMAINS = {"math": "questions about math", "words": "questions about words"}


def pooled() -> PooledModel:
    return tiny_pool.pooled("math", "words", dispatch=True, layers=2, context_length=4096)


class Scripted:
    """A generator that answers with given texts, and notes what it is asked."""

    def __init__(self, model: PooledModel, texts: Sequence[str]) -> None:
        self.lm, self.adapter = model.lm, model.adapter
        self.texts, self.asked, self.state = texts, [], None

    def with_state(self, state: Mapping[str, torch.Tensor]) -> Scripted:
        self.state = state
        return self

    def generate(self, examples: Sequence[Example], sampling: Sampling) -> list[list[Completion]]:
        self.asked.append((examples, sampling))
        return [[Completion((1,), (1,), (0.0,), text, "stop")] for text in self.texts]


@pytest.fixture
def planted(monkeypatch):
    """Make the labels' scores (B, K + 1), in the order math, words, other; gives out what was asked."""
    asked = []

    def plant(rows):
        def score(lm, examples, labels):
            assert tuple(labels) == (" math", " words", " other")
            asked.append([example.prompt for example in examples])
            return torch.tensor(rows)

        monkeypatch.setattr(t2.adaptation.dispatch, "score_labels", score)
        return asked

    return plant


def choose(strategy: PromptDispatch, model: PooledModel | None = None, examples: Sequence[Example] = QUESTIONS):
    return strategy.choose(model or pooled(), examples)
