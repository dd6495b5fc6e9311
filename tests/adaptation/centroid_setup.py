"""A dispatch task of two domains and its centroids, for tests of the strategy centroid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from t2.adaptation.centroid_fit import make_centroids
from t2.adaptation.strategy import PooledModel
from t2.tasks.base import SPLITS, Split
from t2.tasks.dispatch import Dispatch
from t2.types import Example


@dataclass(frozen=True)
class Wording:
    """Questions of one wording with numbers of their own in each split."""

    text: str
    name: str
    size: int = 6
    max_new_tokens: int = 4

    def split(self, split: Split) -> Sequence[Example]:
        start = 100 * SPLITS.index(split)
        return [Example(self.text.format(start + i), answer="x") for i in range(self.size)]

    def score(self, example: Example, text: str) -> float:
        return 0.0


SUMS, PRODUCTS = Wording("{0} + {0} =", "sums"), Wording("{0} * {0} =", "products")
SPELL, TALK = Wording("How is tree number {} spelled?", "spell"), Wording("Hello there, guest {}.", "talk")


def dispatch_task(*, other: bool = True, more: Mapping[str, Wording] | None = None, **changes: object) -> Dispatch:
    domains = {"math": [SUMS, PRODUCTS], "words": SPELL} | dict(more or {})
    settings = {"train_size": 6, "val_size": 6, "test_size": 4} | changes
    return Dispatch(domains, other=TALK if other else None, **settings)


def with_centroids(model: PooledModel, *, layer: int | None = 1, other: bool = True) -> PooledModel:
    """The model with centroids in its pool."""
    made = make_centroids(model, dispatch_task(other=other), layer=layer)
    return PooledModel(model.generator, replace(model.pool, centroids=made))
