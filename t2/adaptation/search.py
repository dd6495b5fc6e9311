"""Search for mixing weights: two optimizers with one ask-and-tell protocol, and the loop over generations (§3.2, C).

    cem      the cross-entropy method as in the authors' code (`optim_modules.py:213-593`): a normal distribution with a
             diagonal covariance, refitted to the best members of each generation
    cmaes    CMA-ES (arXiv 1604.00772) of the package `cmaes`; it sees ranks alone, so ties are broken for it too

Unlike the authors' code, the search has a seeded generator of its own, and mixing weights to be normalized cannot be
all zero. The space of mixtures is `t2.adaptation.mixture_space`. Nothing here runs a model: the caller gives the
fitness.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import cmaes
import numpy as np
import torch
from torch import Tensor

from t2.adaptation.mixture_space import MixtureSpace
from t2.run.messages import check_choice

OptimizerName = Literal["cem", "cmaes"]
GIVEN_MEMBERS = 2  # of a generation, at most: the base and the uniform mixture in the first, then the best so far


@dataclass(frozen=True, order=True)
class Fitness:
    """The fitness of a member; `likelihood` breaks ties."""

    value: float
    likelihood: float = 0.0

    def __post_init__(self) -> None:
        """Raise ValueError for NaN and infinity."""
        if not (math.isfinite(self.value) and math.isfinite(self.likelihood)):
            raise ValueError(
                f"A member's fitness is {self.value} and its likelihood {self.likelihood}; both must be finite. "
                "Narrow the bounds of mixing weight, or look for what is damaged in the experts."
            )


class Optimizer(Protocol):
    """Proposes members and learns from their fitness, which it maximizes."""

    mean: Tensor  # (n,)
    std: Tensor  # (n,)

    def ask(self, given: int) -> Tensor:
        """At most P - given new members (P - given, n), for a generation of P."""
        ...

    def tell(self, members: Tensor, fitness: Sequence[Fitness], given: int) -> None:
        """Learn from a generation (P, n), whose first `given` members are not the optimizer's own."""
        ...


@dataclass(frozen=True)
class SearchSettings:
    """Settings of the search. `elite_share`, `ema` and `std_floor` are for the cross-entropy method only."""

    optimizer: OptimizerName = "cem"
    population: int = 16
    iterations: int = 10
    elite_share: float = 0.2
    ema: float = 0.0
    std_floor: float = 0.0

    def __post_init__(self) -> None:
        """Raise ValueError for values outside the allowed ranges."""
        check_choice("search.optimizer", self.optimizer, get_args(OptimizerName))
        checks = {
            "population": (
                self.population >= GIVEN_MEMBERS + 4,
                f"at least {GIVEN_MEMBERS + 4}",
            ),  # CMA-ES wants 4 of its own
            "iterations": (self.iterations >= 1, "at least 1"),
            "elite_share": (0.0 < self.elite_share <= 1.0, "above 0 and at most 1"),
            "ema": (0.0 <= self.ema < 1.0, "from 0 to below 1"),
            "std_floor": (0.0 <= self.std_floor < math.inf, "0 or above"),
        }
        for name, (fine, allowed) in checks.items():
            if not fine:
                raise ValueError(f"search.{name} is {getattr(self, name)}; allowed: {allowed}.")
        if self.optimizer == "cem" and self.elites < 2:
            raise ValueError(
                f"search.elite_share={self.elite_share} of population={self.population} is {self.elites} elites, and a "
                "standard deviation needs 2. Raise one of them."
            )

    @property
    def elites(self) -> int:
        """The number of members that the distribution is refitted to, rounded down as in the authors' code."""
        return int(self.elite_share * self.population + 1e-9)  # 0.29 * 100 is just below 29

    def start(self, space: MixtureSpace, experts: int, matrices: int, seed: int) -> Optimizer:
        """An optimizer that starts around the uniform mixture."""
        mean = space.first(experts, matrices)[1].clamp(space.low, space.high)
        if self.optimizer == "cmaes":
            return CMAES(mean, space, self.population - GIVEN_MEMBERS, seed)
        return CEM(mean, space, self, seed)


class CEM:
    """The cross-entropy method; given members count like its own, as the best so far does in the authors' code."""

    def __init__(self, mean: Tensor, space: MixtureSpace, settings: SearchSettings, seed: int) -> None:
        """Start at `mean` (n,) with half the range as standard deviation."""
        self.mean = mean
        self.std = torch.full_like(mean, (space.high - space.low) / 2)
        self._space, self._settings = space, settings
        self._random = torch.Generator().manual_seed(seed)

    def ask(self, given: int) -> Tensor:
        """A full population less the members given (P - given, n)."""
        shape = (self._settings.population - given, len(self.mean))
        noise = torch.randn(shape, generator=self._random, dtype=torch.float64)
        return (self.mean + self.std * noise).clamp(self._space.low, self._space.high)

    def tell(self, members: Tensor, fitness: Sequence[Fitness], given: int) -> None:
        """Refit to the elites (P', n); equal members keep their order."""
        order = sorted(range(len(members)), key=fitness.__getitem__, reverse=True)
        elites = members[order[: self._settings.elites]]
        ema = self._settings.ema
        self.mean = (1 - ema) * elites.mean(dim=0) + ema * self.mean
        std = (1 - ema) * elites.std(dim=0) + ema * self.std  # unbiased, as in the authors' code
        self.std = std.clamp(min=self._settings.std_floor)


class CMAES:
    """CMA-ES (arXiv 1604.00772); it learns from its own samples only: other members would inflate its step size."""

    def __init__(self, mean: Tensor, space: MixtureSpace, population: int, seed: int) -> None:
        """Start at `mean` (n,) with 0.3 of the range as step size, as arXiv 1604.00772, appendix B advises."""
        sigma = 0.3 * (space.high - space.low)
        self.mean, self.std = mean, torch.full_like(mean, sigma)
        self._population = population
        self._cma = cmaes.CMA(
            mean=mean.numpy(),
            sigma=sigma,
            bounds=np.array([[space.low, space.high]] * len(mean)),
            n_max_resampling=1,  # then clipped: with many mixing weights hardly a sample lies within all bounds
            seed=seed % 2**32,
            population_size=population,
        )

    def ask(self, given: int) -> Tensor:
        """Always as many members, (P - GIVEN_MEMBERS, n)."""
        assert given <= GIVEN_MEMBERS, f"{given} given members, room for {GIVEN_MEMBERS}"
        return torch.from_numpy(np.stack([self._cma.ask() for _ in range(self._population)]))

    def tell(self, members: Tensor, fitness: Sequence[Fitness], given: int) -> None:
        """Learn from the ranks; `std` is that of this generation's samples."""
        own, worth = members[given:], list(fitness)[given:]
        order = sorted(range(len(own)), key=worth.__getitem__, reverse=True)
        self._cma.tell([(own[index].numpy(), float(rank)) for rank, index in enumerate(order)])
        self.mean, self.std = torch.from_numpy(self._cma.mean.copy()), own.std(dim=0)


@dataclass(frozen=True)
class Generation:
    """The result of one iteration: its best member (n,), and the distribution after it."""

    member: Tensor  # (n,)
    best: Fitness
    mean_value: float
    mean: Tensor  # (n,)
    std: Tensor  # (n,)


def search(
    optimizer: Optimizer,
    evaluate: Callable[[Tensor], Sequence[Fitness]],
    first: Tensor,
    iterations: int,
    repaired: Callable[[Tensor], Tensor] = lambda members: members,
) -> Iterator[Generation]:
    """Yield the generations; the best member of the last one is the result of the search.

    `first` (2, n) are members of the first generation; from then on member 0 is the best so far, given to `evaluate`
    again, so that where that always says the same the best never gets worse. Of equals the first counts.
    `repaired` is applied to what the optimizer proposes.

    Raises:
        ValueError: a fitness is NaN or infinite.
    """
    given = first
    for _ in range(iterations):
        members = torch.cat([given, repaired(optimizer.ask(len(given)))])  # (P, n)
        fitness = list(evaluate(members))
        assert len(fitness) == len(members), f"{len(fitness)} values for {len(members)} members"
        optimizer.tell(members, fitness, len(given))
        top = max(range(len(members)), key=fitness.__getitem__)
        given = members[top : top + 1]
        mean_value = sum(one.value for one in fitness) / len(fitness)
        yield Generation(members[top], fitness[top], mean_value, optimizer.mean, optimizer.std)
