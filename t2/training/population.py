"""The members of a step of evolution strategies: perturbed adapters, and their completions in shared batches.

    member 2k      theta + sigma e_k       e_k (n,) standard normal, a function of (seed, step, k)
    member 2k + 1  theta - sigma e_k       theta: the adapter's n trained numbers

Every member completes the same prompts with the same random numbers, so that members differ by their perturbation
alone. Perturbations are drawn again where they are needed and never kept. Not done here: what the scores make of them
(`t2.training.es`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

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

    `rows` bounds how many members' states are held at once (None: all). No result depends on it. `numbers` are those of
    the examples that are asked for, among the P * B = `total` (None: all are).
    """

    generator: PerExampleGenerator
    population: Population
    rows: int | None = None
    numbers: range | None = None
    total: int | None = None

    def for_rows(self, numbers: range, total: int) -> PopulationGenerator:
        """The same generator for the examples with these numbers among P * B = `total`."""
        return replace(self, numbers=numbers, total=total)

    def generate(self, examples: Sequence[Example], sampling: Sampling) -> list[list[Completion]]:
        """P * B examples -> as many lists of G completions."""
        done = dict(self.stream(examples, sampling))
        return [done[index] for index in range(len(examples))]

    def stream(self, examples: Sequence[Example], sampling: Sampling) -> Iterator[tuple[int, list[Completion]]]:
        """Yield (index, G completions) of each example as soon as they are finished.

        Raises:
            torch.OutOfMemoryError: with what to lower.
        """
        total = len(examples) if self.total is None else self.total
        numbers = range(total) if self.numbers is None else self.numbers
        members, size = self.population.size, total // self.population.size  # B
        assert total == members * size, f"{total} examples for {members} members"
        assert len(numbers) == len(examples), f"{len(examples)} examples with {len(numbers)} numbers"
        rows = (members if self.rows is None else self.rows) * size
        for first in range(numbers.start // size * size, numbers.stop, rows):
            part = range(max(first, numbers.start), min(first + rows, numbers.stop))
            before = part.start - numbers.start
            try:
                for index, group in self._part(part, size, examples[before : before + len(part)], sampling):
                    yield before + index, group
            except torch.OutOfMemoryError as error:
                raise torch.OutOfMemoryError(_advice(part[-1] // size - part[0] // size + 1)) from error

    def _part(
        self, part: range, size: int, examples: Sequence[Example], sampling: Sampling
    ) -> Iterator[tuple[int, list[Completion]]]:
        first = part[0] // size
        states = self.population.states(range(first, part[-1] // size + 1))
        generator = self.generator.with_per_example_scales(
            lambda numbers: {name: of_all[list(numbers)] for name, of_all in states.items()},
            [number // size - first for number in part],
            [number % size for number in part],
        )
        return stream(generator, examples, sampling)


def _advice(members: int) -> str:
    states = f"; objective.population_rows holds fewer states at once (here {members})" if members > 1 else ""
    return (
        "The members of the population do not fit into memory. Lower generation.batch_rows, the rows that are decoded "
        f"at once{states}. If one row alone does not fit, lower sampling.max_new_tokens or adapt fewer matrices "
        "(adapter.modules, adapter.spectrum)."
    )
