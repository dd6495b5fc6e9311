"""What a decoding step of rows with different mixtures costs: all by the factors, or each kind by weights of its own.

    OMP_NUM_THREADS=1 python bench/mixed_rows.py

Random matrices of SmolLM2-135M's 30 blocks in fp32, a quarter of the rows the base's and three mixtures: CPU seconds,
the least of five rounds. `W` is one merged model for all; `factors` what `t2 serve` does; `base by W` and `one merged`
take the rows of the base, and of one mixture more, by dense weights; `all merged` has four dense weights.
"""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCKS, REPEATS = 30, 5
SHAPES = [(576, 576), (192, 576), (192, 576), (576, 576), (1536, 576), (1536, 576), (576, 1536)]
RANKS = [min(shape) for shape in SHAPES]


def dense() -> list[Tensor]:
    """A weight for every matrix."""
    return [torch.randn(shape) for _ in range(BLOCKS) for shape in SHAPES]


class Step:
    """The products of a step of `rows` rows of `tokens` tokens."""

    def __init__(self, rows: int, tokens: int) -> None:
        """Random weights and inputs."""
        self.weights = [dense() for _ in range(4)]
        self.outputs = [torch.randn(shape[0], rank) for _ in range(BLOCKS) for shape, rank in self.kinds()]
        self.inputs = [torch.randn(rank, shape[1]) for _ in range(BLOCKS) for shape, rank in self.kinds()]
        self.x = {width: torch.randn(rows, tokens, width) for _, width in SHAPES}
        self.z = {rank: torch.randn(rows, 1, rank) for rank in RANKS}
        self.rows = rows

    @staticmethod
    def kinds() -> list[tuple[tuple[int, int], int]]:
        """Shape and rank of a block's matrices."""
        return list(zip(SHAPES, RANKS, strict=True))

    def seconds(self, merged: int, *, factors: bool = True) -> float:
        """With `merged` quarters of the rows by dense weights of their own, and the rest by the factors, or one W."""
        start = time.process_time()
        for number in range(BLOCKS * len(SHAPES)):
            self._one(number, merged, factors)
        return time.process_time() - start

    def _one(self, number: int, merged: int, factors: bool) -> Tensor:
        kind, quarter = number % len(SHAPES), self.rows // 4
        x, z = self.x[SHAPES[kind][1]], self.z[RANKS[kind]]
        parts = [F.linear(x[n * quarter : (n + 1) * quarter], self.weights[n][number]) for n in range(merged)]
        if merged < 4:
            rest = slice(merged * quarter, None)
            if factors:
                parts.append(F.linear(F.linear(x[rest], self.inputs[number]) * z[rest], self.outputs[number]))
            else:
                parts.append(F.linear(x[rest], self.weights[3][number]))
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def main() -> None:
    """Print a table."""
    for rows, tokens in ((32, 1), (8, 1), (32, 16)):
        step = Step(rows, tokens)
        kinds = {"W": (0, False), "factors": (0, True), "base by W": (1, True), "one merged": (2, True)}
        kinds["all merged"] = (4, True)
        with torch.inference_mode():
            # Kind after kind in each round, so that what else the machine does meets all alike.
            rounds = [[step.seconds(merged, factors=by) for merged, by in kinds.values()] for _ in range(REPEATS)]
        found = zip(kinds, map(min, zip(*rounds, strict=True)), strict=True)
        print(f"{rows} rows of {tokens}:", ", ".join(f"{name} {1000 * least:.0f} ms" for name, least in found))


if __name__ == "__main__":
    main()
