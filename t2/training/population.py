"""The members of a step of evolution strategies: perturbed adapters, and their completions in shared batches.

    member 2k      theta + sigma e_k       e_k (n,) standard normal, a function of (seed, step, k)
    member 2k + 1  theta - sigma e_k       theta: the adapter's n trained numbers

Every member completes the same prompts with the same random numbers, so that members differ by their perturbation
alone. Perturbations are drawn again where they are needed and never kept. Not done here: what the scores make of them
(`t2.training.es`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from t2.adapters.base import Adapter
from t2.evaluation.scoring import stream
from t2.policy.generator import PerExampleGenerator
from t2.types import Completion, Example, Sampling


@dataclass(frozen=True)
class Population:
    """`size` members around an adapter's present parameters, half of them the mirror images of the others."""

    adapter: Adapter
    size: int
    sigma: float
    seed: int
    step: int

    def noise(self, pair: int) -> list[Tensor]:
        """The perturbation e_k of a pair in units of sigma: fp32, on the CPU, shaped as the trained parameters."""
        parameters = self.adapter.trainable()
        total = sum(parameter.numel() for parameter in parameters)
        drawn = np.random.default_rng([self.seed, self.step, pair]).standard_normal(total, dtype=np.float32)
        parts = torch.split(torch.from_numpy(drawn), [parameter.numel() for parameter in parameters])
        return [part.view(parameter.shape) for part, parameter in zip(parts, parameters, strict=True)]

    @torch.no_grad()
    def states(self, members: Sequence[int]) -> dict[str, Tensor]:
        """The states of D members, module -> (D, R); the adapter is left as it was, number for number.

        States are read from the adapter itself, under the members' parameters one after the other, so that shared
        numbers and parts of the spectrum need no rule of their own.
        """
        parameters = self.adapter.trainable()
        before = [parameter.clone() for parameter in parameters]
        found = []
        try:
            for member in members:
                scale = self.sigma if member % 2 == 0 else -self.sigma
                for parameter, present, noise in zip(parameters, before, self.noise(member // 2), strict=True):
                    parameter.copy_(present + scale * noise.to(present))
                found.append(self.adapter.state())
        finally:
            for parameter, present in zip(parameters, before, strict=True):
                parameter.copy_(present)
        return {name: torch.stack([state[name] for state in found]) for name in found[0]}


@dataclass(frozen=True)
class PopulationGenerator:
    """Completes a batch of B examples under each of P members: `examples` are the batch P times, member by member.

    `rows` bounds how many members' states are held at once (None: all). No result depends on it.
    """

    generator: PerExampleGenerator
    population: Population
    rows: int | None = None

    def generate(self, examples: Sequence[Example], sampling: Sampling) -> list[list[Completion]]:
        """P * B examples -> as many lists of G completions."""
        done = dict(self.stream(examples, sampling))
        return [done[index] for index in range(len(examples))]

    def stream(self, examples: Sequence[Example], sampling: Sampling) -> Iterator[tuple[int, list[Completion]]]:
        """Yield (index, G completions) of each example as soon as they are finished.

        Raises:
            torch.OutOfMemoryError: with what to lower.
        """
        members, size = self.population.size, len(examples) // self.population.size
        assert len(examples) == members * size, f"{len(examples)} examples for {members} members"
        rows = members if self.rows is None else self.rows
        for first in range(0, members, rows):
            part = range(first, min(first + rows, members))
            try:
                for index, group in self._members(part, examples[first * size : (part[-1] + 1) * size], sampling):
                    yield first * size + index, group
            except torch.OutOfMemoryError as error:
                raise torch.OutOfMemoryError(_advice(len(part))) from error

    def _members(
        self, members: Sequence[int], examples: Sequence[Example], sampling: Sampling
    ) -> Iterator[tuple[int, list[Completion]]]:
        states, size = self.population.states(members), len(examples) // len(members)
        generator = self.generator.with_per_example_scales(
            lambda numbers: {name: of_all[list(numbers)] for name, of_all in states.items()},
            [number for number in range(len(members)) for _ in range(size)],
            list(range(size)) * len(members),
        )
        return stream(generator, examples, sampling)


def _advice(members: int) -> str:
    states = f"; objective.population_rows holds fewer states at once (here {members})" if members > 1 else ""
    return (
        "The members of the population do not fit into memory. Lower generation.batch_rows, the rows that are decoded "
        f"at once{states}. If one row alone does not fit, lower sampling.max_new_tokens or adapt fewer matrices "
        "(adapter.modules, adapter.spectrum)."
    )
