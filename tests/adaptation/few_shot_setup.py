"""A quick search with a known target, for tests of few-shot adaptation."""

from __future__ import annotations

import pytest
from graded_task import SUPPORT
from graded_task import OneLetter as Letters
from tiny_pool import pooled

from t2.adaptation import few_shot as few_shot_module
from t2.adaptation.few_shot import FewShot
from t2.adaptation.search import Fitness, SearchSettings
from t2.experts.mixture import Mixture

QUICK = SearchSettings(population=6, iterations=3, elite_share=0.4)
TARGET = (0.3, 1.2)


def fitted(task=None, **arguments) -> FewShot:
    strategy = few_shot(**arguments)
    strategy.fit(pooled(), task or Letters(), SUPPORT)
    return strategy


def few_shot(shots=4, search=QUICK, **arguments) -> FewShot:
    return FewShot(shots, search=search, progress=False, **arguments)


def distance(mixture: Mixture) -> float:
    return sum((mean - goal) ** 2 for mean, goal in zip(mixture.means, TARGET, strict=True))


@pytest.fixture
def by_distance(monkeypatch):
    """Fitness without a model: the nearer the mean mixing weights are to TARGET, the better; calls are recorded."""
    calls: list[list[Mixture]] = []

    def measure(mixtures):
        calls.append(list(mixtures))
        return [Fitness(-distance(mixture)) for mixture in mixtures]

    monkeypatch.setattr(few_shot_module, "Accuracy", lambda *_: measure)
    return calls
