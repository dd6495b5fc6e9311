"""Few-shot adaptation: a search for the mixture that does best on a few solved examples (paper §3.2, strategy C).

That one mixture then serves all examples. The base model and the uniform mixture are always tried, so the result is
never worse than either on the support set; the result is the best member that was met, not the mean of the search.
Nothing but the support set decides, also where the configuration is searched for (the paper chose its own on test
examples). The search itself is in `t2.adaptation.search`, what a mixture is worth in `t2.adaptation.fitness`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

from torch import Tensor
from tqdm import tqdm

from t2.adaptation.fitness import Accuracy, FitnessFunction, Likelihood, each_once
from t2.adaptation.mixture_space import MixtureSpace
from t2.adaptation.search import Fitness, Generation, SearchSettings, search
from t2.adaptation.strategy import Choice, PooledModel
from t2.experts.mixture import Mixture
from t2.experts.mixture_file import save_mixture
from t2.experts.pool import ExpertPool
from t2.run.messages import check_choice
from t2.tasks.base import Task
from t2.tasks.prompt_hash import prompt_hashes
from t2.types import Example

FitnessName = Literal["accuracy", "likelihood"]


@dataclass(frozen=True)
class Iteration:
    """One line of the history; `weight_mean`, `weight_std` (K,) are the search distribution's, over matrices."""

    iteration: int
    per_matrix: bool
    normalize: bool
    best: float
    likelihood: float  # what broke ties
    mean: float
    weight_mean: tuple[float, ...]
    weight_std: tuple[float, ...]


@dataclass(frozen=True)
class Fitted:
    """The result of a search, and the pool that it is for."""

    mixture: Mixture
    best: Fitness
    space: MixtureSpace
    history: tuple[Iteration, ...]
    pool: tuple[str, tuple[str, ...]]  # identity, and the domains in the order of the mixing weights
    support: tuple[str, ...]  # prompts


class FewShot:
    """Finds one mixture for a task.

    Args:
        shots: how many support examples are used, the first of those given; each counts the same.
        fitness: `accuracy` of greedy completions, or `likelihood` of right ones of the single experts (decoded once).
        space: which mixtures are searched.
        search: the optimizer and its settings.
        seed: the source of every random choice.
        search_configurations: search with one mixing weight per expert and one per matrix, free and normalized, and
            keep what is best on the support set, ties by likelihood; `space` says the rest.
        progress: show a progress bar.
    """

    name = "few_shot"
    wants_support = True

    def __init__(
        self,
        shots: int = 10,
        fitness: FitnessName = "accuracy",
        space: MixtureSpace | None = None,
        search: SearchSettings | None = None,
        seed: int = 0,
        search_configurations: bool = False,
        progress: bool = True,
    ) -> None:
        """Keep the choices; nothing is computed before `fit`.

        Raises:
            ValueError: values outside what is allowed.
        """
        if shots < 1:
            raise ValueError(f"strategy.shots is {shots}; allowed: at least 1.")
        check_choice("strategy.fitness", fitness, get_args(FitnessName))
        self.shots, self.fitness, self.seed = shots, fitness, seed
        self.progress = progress
        self.search = search or SearchSettings()
        self.spaces = _configurations(space or MixtureSpace()) if search_configurations else [space or MixtureSpace()]
        self._fitted: Fitted | None = None
        self._prompts: tuple[str, ...] = ()  # hashes of what it was fitted to

    @property
    def mixture(self) -> Mixture | None:
        """The mixture that was found; None before `fit`."""
        return None if self._fitted is None else self._fitted.mixture

    @property
    def history(self) -> tuple[Iteration, ...]:
        """The course of the latest `fit`, all configurations one after the other."""
        return () if self._fitted is None else self._fitted.history

    def fit(self, model: PooledModel, task: Task, support: Sequence[Example]) -> None:
        """Search on the first `shots` support examples; a search that fails keeps the previous result.

        Raises:
            ValueError: fewer examples than `shots`, examples that cannot be used, or a fitness that is not finite.
        """
        if len(support) < self.shots:
            raise ValueError(
                f"{len(support)} support examples of {task.name} were given for shots={self.shots}. Lower "
                "strategy.shots, or give more examples."
            )
        self._fitted = self._fit(model, task, list(support[: self.shots]))
        self._prompts = prompt_hashes(support[: self.shots])

    def _fit(self, model: PooledModel, task: Task, examples: Sequence[Example]) -> Fitted:
        """Search in every configuration; the result is the best on the examples."""
        make = Accuracy if self.fitness == "accuracy" else Likelihood
        measure = each_once(make(model, task, examples))
        generations = len(self.spaces) * self.search.iterations
        history: list[Iteration] = []
        with tqdm(
            total=generations,
            desc=f"{self.name} {task.name}",
            unit="generation",
            leave=False,
            disable=None if self.progress else True,
        ) as bar:
            found = [(self._search(model.pool, space, measure, history, bar), space) for space in self.spaces]
        last, space = max(found, key=lambda one: one[0].best)
        return Fitted(
            mixture=space.mixture(last.member, len(model.pool.domains)),
            best=last.best,
            space=space,
            history=tuple(history),
            pool=(model.pool.identity, model.pool.domains),
            support=tuple(example.prompt for example in examples),
        )

    def _about(self) -> dict[str, Any]:
        """The settings of the search, for the saved mixture."""
        return {"fitness": self.fitness, "search": asdict(self.search)}

    def choose(self, model: PooledModel, examples: Sequence[Example]) -> list[Choice]:
        """The mixture that was found, for every example.

        Raises:
            ValueError: it has not been fitted, or not to this pool.
        """
        return [Choice(self._found(model.pool).mixture)] * len(examples)

    def save(self, path: Path, pool: ExpertPool, task: Task) -> None:
        """Write the mixture, how it was found and on which examples.

        Raises:
            ValueError: it has not been fitted, or not to this pool.
            OSError: the file cannot be written.
        """
        fitted = self._found(pool)
        details = {
            **self._about(),
            "best": asdict(fitted.best),
            "shots": self.shots,
            "support": list(fitted.support),
            "prompts": list(self._prompts),
            "space": asdict(fitted.space),
            "history": [asdict(line) for line in fitted.history],
        }
        save_mixture(path, fitted.mixture, pool, strategy=self.name, task=task.name, seed=self.seed, details=details)

    def _search(
        self,
        pool: ExpertPool,
        space: MixtureSpace,
        measure: FitnessFunction,
        history: list[Iteration],
        bar: tqdm[NoReturn],
    ) -> Generation:
        """Run one search and return its last generation; each generation adds a line to `history`."""
        experts, matrices = len(pool.domains), len(pool.modules)

        def evaluate(members: Tensor) -> list[Fitness]:
            return measure([space.mixture(member, experts) for member in members])

        generations = search(
            self.search.start(space, experts, matrices, self.seed),
            evaluate,
            space.first(experts, matrices),
            self.search.iterations,
            lambda members: space.repaired(members, experts),
        )
        for number, generation in enumerate(generations):
            history.append(_line(number, generation, space, experts))
            bar.set_postfix(best=f"{generation.best.value:.4g}", refresh=False)
            bar.update()
        return generation

    def _found(self, pool: ExpertPool) -> Fitted:
        if self._fitted is None:
            raise ValueError(f"{self.name} has no mixture yet: call fit with solved examples of the task first.")
        identity, domains = self._fitted.pool
        if (pool.identity, pool.domains) != self._fitted.pool:
            raise ValueError(
                f"The mixture was found for the experts {', '.join(domains)} ({identity}), and this pool has "
                f"{', '.join(pool.domains)} ({pool.identity}). Fit again."
            )
        return self._fitted


def check_disjoint(support: Sequence[Example], examples: Sequence[Example]) -> None:
    """Raise ValueError if a support example is among the test examples; spaces around a prompt do not count."""
    asked = {(example.prompt.strip(), example.images) for example in examples}
    shared = [example for example in support if (example.prompt.strip(), example.images) in asked]
    if shared:
        raise ValueError(
            f"{len(shared)} of {len(support)} support examples are among the {len(examples)} test examples, "
            f"{shared[0].prompt.strip()[:80]!r} for one, so the score would be of what was fitted. Take the support "
            "from another split, or leave these out of the test."
        )


def _configurations(space: MixtureSpace) -> list[MixtureSpace]:
    """The grid of the paper's appendix, the simplest first: of equals the first counts."""
    grid = product((False, True), (False, True))
    return [replace(space, per_matrix=per_matrix, normalize=normalize) for per_matrix, normalize in grid]


def _line(number: int, generation: Generation, space: MixtureSpace, experts: int) -> Iteration:
    return Iteration(
        iteration=number,
        per_matrix=space.per_matrix,
        normalize=space.normalize,
        best=generation.best.value,
        likelihood=generation.best.likelihood,
        mean=generation.mean_value,
        weight_mean=tuple(generation.mean.view(experts, -1).mean(dim=1).tolist()),
        weight_std=tuple(generation.std.view(experts, -1).mean(dim=1).tolist()),
    )
