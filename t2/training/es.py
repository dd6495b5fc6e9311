"""Evolution strategies: an expert learned from the scores of perturbed adapters, without log-probs or backward passes.

    f_m      = mean score of member m on the step's prompts        P members theta +- sigma e_k
    gradient = -1 / (P sigma) sum_k (u(f_2k) - u(f_2k+1)) e_k      u: the fitness shaping

The estimate of the gradient of minus the expected fitness (Salimans et al. 2017, arXiv 1703.03864: antithetic pairs,
centered ranks) goes through the run's own clipping, AdamW and schedule. The published relative is ESSA (arXiv
2507.04453), which searches singular values of LoRA factors with CMA-ES.

Not done here: the members and their completions (`t2.training.population`), a KL to the base, which would need
log-probs; weight decay is the optimizer's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from t2.adapters.base import Adapter, PerExampleAdapter
from t2.policy.generator import Generator, PerExampleGenerator
from t2.run.messages import check_choice, check_range
from t2.training.objectives import EQUAL_REWARDS
from t2.training.population import Population, PopulationGenerator
from t2.training.rollout import Rollout
from t2.types import Sampling


@runtime_checkable
class PopulationObjective(Protocol):
    """An objective whose gradient comes from the scores of several adapters: forward passes alone, and no loss.

    Its rewards and advantages are of P * B rows, the step's examples for the first member, for the second, ...
    """

    on_policy: bool

    def check_sampling(self, sampling: Sampling) -> None:
        """Raise ValueError where the objective cannot use completions sampled like this."""
        ...

    def check_parts(self, adapter: Adapter, generator: Generator) -> None:
        """Raise ValueError where these cannot apply a state per example."""
        ...

    def rewards(self, scores: Tensor, truncated: Tensor) -> Tensor:
        """Scores (P * B, G) in [0, 1] and truncation flags -> rewards (P * B, G)."""
        ...

    def advantages(self, rewards: Tensor, truncated: Tensor) -> Tensor:
        """Rewards (P * B, G) -> the shaped fitness of each row's member (P * B, G)."""
        ...

    def population(self, adapter: Adapter, *, seed: int, step: int) -> Population:
        """The members of a step."""
        ...

    def completing(self, generator: Generator, population: Population) -> Generator:
        """What completes P * B examples under the members."""
        ...

    def estimate_gradient(self, population: Population, rollout: Rollout) -> dict[str, float]:
        """Write the estimate to `.grad` of the adapter's parameters, which are None before; return metrics."""
        ...


@dataclass(frozen=True, kw_only=True)
class ES:
    """Antithetic evolution strategies.

    Attributes:
        population: P, the adapters that are scored in a step; even, since they are pairs.
        sigma: the deviation of the perturbations, in units of the trained numbers (of z itself with
            parametrization=direct).
        shaping: of the members' fitnesses: centered ranks from -1/2 to 1/2 (`rank`, Salimans et al.), their difference
            to the mean (`center`: the estimate is then that of the smoothed mean score), or that divided by their
            deviation (`standardize`).
        truncated: completions cut off by the token budget count as they are (`keep`) or as wrong.
        population_rows: how many members' states are held at once; None: all.
    """

    on_policy = True
    population_size: int = 16
    sigma: float = 0.02
    shaping: Literal["rank", "center", "standardize"] = "rank"
    truncated: Literal["keep", "wrong"] = "keep"
    population_rows: int | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for values that are not allowed."""
        if self.population_size < 2 or self.population_size % 2:
            raise ValueError(
                f"objective.population_size is {self.population_size}; allowed: an even number, at least 2. Evolution "
                "strategies compare pairs of adapters, one the mirror image of the other."
            )
        check_range("objective.sigma", self.sigma, above=0, below=float("inf"))
        check_choice("objective.shaping", self.shaping, ("rank", "center", "standardize"))
        check_choice("objective.truncated", self.truncated, ("keep", "wrong"))
        if self.population_rows is not None:
            check_range("objective.population_rows", self.population_rows, at_least=1)

    def check_sampling(self, sampling: Sampling) -> None:
        """Raise ValueError for several samples that are all the same."""
        if sampling.samples > 1 and sampling.temperature == 0.0:
            raise ValueError(
                f"objective=es scores {sampling.samples} samples of each prompt, which are all the same at "
                "sampling.temperature=0; set sampling.samples=1, or the temperature above 0."
            )

    def check_parts(self, adapter: Adapter, generator: Generator) -> None:
        """Raise ValueError where these cannot apply a state per example."""
        if not isinstance(adapter, PerExampleAdapter):
            raise ValueError(
                f"objective=es scores many states of an adapter in one batch, which {type(adapter).__name__} cannot "
                "apply. Use adapter=svf, or objective=rloo."
            )
        if adapter.why_one_state is not None:
            raise ValueError(f"{adapter.why_one_state} objective=es needs them. Use objective=rloo.")
        if not isinstance(generator, PerExampleGenerator):
            raise ValueError(
                f"objective=es scores many states of an adapter in one batch, which {type(generator).__name__} cannot "
                "generate with. Use generation=hf, or objective=rloo."
            )

    def rewards(self, scores: Tensor, truncated: Tensor) -> Tensor:
        """Scores (P * B, G) in [0, 1] -> the same as rewards, float64."""
        scores = scores.double()
        return scores.masked_fill(truncated, 0.0) if self.truncated == "wrong" else scores

    def advantages(self, rewards: Tensor, truncated: Tensor) -> Tensor:
        """Rewards (P * B, G) -> the shaped fitness of each row's member (P * B, G), float64."""
        weights = shape_fitness(self._fitness(rewards), self.shaping)
        return weights.repeat_interleave(len(rewards) // self.population_size)[:, None].expand_as(rewards)

    def population(self, adapter: Adapter, *, seed: int, step: int) -> Population:
        """The members of a step."""
        return Population(adapter, self.population_size, self.sigma, seed, step)

    def completing(self, generator: Generator, population: Population) -> Generator:
        """What completes P * B examples under the members."""
        assert isinstance(generator, PerExampleGenerator), "check_parts refused it"
        return PopulationGenerator(generator, population, self.population_rows)

    def estimate_gradient(self, population: Population, rollout: Rollout) -> dict[str, float]:
        """Write the estimate to `.grad` of the adapter's parameters, and return metrics of the members' fitnesses.

        Where no pair differs there is no gradient at all: zeros would still move z by AdamW's momentum.
        """
        fitness = self._fitness(rollout.rewards)
        weights = rollout.advantages.view(self.population_size, -1)[:, 0]
        gradient = antithetic_gradient(weights, population.noise, self.sigma)
        if gradient is not None:
            for parameter, part in zip(population.adapter.trainable(), gradient, strict=True):
                parameter.grad = part.to(parameter)
        return {"es/fitness_std": float(fitness.std()), "es/fitness_max": float(fitness.max())}

    def _fitness(self, rewards: Tensor) -> Tensor:
        """The mean reward of each member (P,), of rewards ordered by member."""
        return rewards.reshape(self.population_size, -1).double().mean(dim=1)


def shape_fitness(fitness: Tensor, shaping: str) -> Tensor:
    """Fitnesses (P,) -> weights (P,) that sum to 0; equal fitnesses have equal weights, and if all are, exactly 0."""
    above = fitness[:, None] - fitness[None, :]
    if shaping == "rank":
        better = (above > EQUAL_REWARDS).double() - (above < -EQUAL_REWARDS).double()
        return better.sum(dim=1) / (2 * (len(fitness) - 1))
    if above.max() < EQUAL_REWARDS:
        return torch.zeros_like(fitness)
    centered = fitness - fitness.mean()
    return centered / fitness.std() if shaping == "standardize" else centered


def antithetic_gradient(weights: Tensor, noise: Callable[[int], Sequence[Tensor]], sigma: float) -> list[Tensor] | None:
    """-1 / (P sigma) sum_k (w_2k - w_2k+1) e_k of weights (P,), e_k = noise(k); None where all differences are 0.

    With weights that are fitnesses of theta +- sigma e_k, its expectation is the gradient of minus the fitness smoothed
    by a Gaussian of deviation sigma (arXiv 1703.03864, section 2).
    """
    differences = (weights[0::2] - weights[1::2]).tolist()
    total: list[Tensor] | None = None
    for pair, difference in enumerate(differences):
        if difference:
            terms = [-difference / (len(weights) * sigma) * part for part in noise(pair)]
            total = terms if total is None else [a + b for a, b in zip(total, terms, strict=True)]
    return total
