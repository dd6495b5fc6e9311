"""Mixtures, examples and a two-pass system, for tests of two passes."""

from collections.abc import Sequence

from tiny_models import adapted as at_one
from tiny_models import original
from tiny_pool import tiny_pool

from t2.adaptation.strategy import Choice, PooledModel
from t2.adaptation.two_pass import TwoPass
from t2.adapters.svf import SVF
from t2.experts.mixture import Mixture
from t2.experts.pool import ExpertPool
from t2.models.language_model import LanguageModel
from t2.policy.hf import HFGenerator
from t2.types import Example, Sampling

EXAMPLES = [Example(prompt="x" * n) for n in (3, 30, 11, 1, 25, 30, 7)]
BASE, A, B, C = Mixture.base(3), Mixture.of(1, 0, 0), Mixture.of(0.5, 0.5, 0), Mixture.of(0, 0, 1.3)
MIXTURES = [B, A, BASE, C, A, B, A]
GREEDY = Sampling(max_new_tokens=12)


class Given:
    """Chooses what it was given, and remembers what it saw."""

    name = "given"

    def __init__(self, mixtures: Sequence[Mixture], says: int = 0) -> None:
        self.mixtures, self.says = list(mixtures), says
        self.seen: list[tuple[PooledModel, list[Example]]] = []

    def fit(self, model, task, support) -> None: ...

    def choose(self, model: PooledModel, examples: Sequence[Example]) -> list[Choice]:
        self.seen.append((model, list(examples)))
        return [Choice(mixture, label=str(index), tokens=self.says) for index, mixture in enumerate(self.mixtures)]


def adapted(**settings) -> tuple[LanguageModel, SVF]:
    return at_one(ends=True, **settings)


def some_pool(svf: SVF, source: str = "tiny:llama") -> ExpertPool:
    return tiny_pool(HFGenerator(original(), svf), ("add", "gcd", "sort"), base_model=source)


def two_pass(mixtures: Sequence[Mixture] = MIXTURES, *, pass2="auto", **settings) -> TwoPass:
    lm, svf = adapted()
    return TwoPass(HFGenerator(lm, svf, **settings), some_pool(svf), Given(mixtures), pass2=pass2)
