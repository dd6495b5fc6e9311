"""Seconds to decompose a model's matrices, by how many singular triplets of each are asked for, and their error.

    python bench/decomposition.py [--model smollm2|tiny] [--ranks 16,64] [--repeats 3] [--output FILE.json]

    all, top K    every matrix of the decoder blocks whole, or its K largest triplets (`t2.adapters.truncated_svd`), in
                  turns; no cache is read or written
    error         |W v - s u| / s or |Wᵀ u - s v| / s of the worst triplet of all matrices

Not measured: the cache, and putting an adapter into the model.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial

from measure import count, counts, finish, parser, ratio, spread, table, take_turns, timed
from models import MODELS, load
from torch import Tensor

from t2.adapters.dense_weights import DenseWeights
from t2.adapters.svd import Decomposition, decompose, decompose_top
from t2.adapters.targets import find_linears
from t2.adapters.truncated_svd import triplet_error

Decomposing = Callable[[Tensor], Decomposition]


def decompose_each(matrices: Sequence[Tensor], how: Decomposing) -> None:
    """Decompose matrices (m, n) one after the other, and forget what was found."""
    for matrix in matrices:
        how(matrix)


def worst_error(matrices: Sequence[Tensor], how: Decomposing) -> float:
    """The error of the worst triplet of all matrices (m, n)."""
    found = ((how(matrix), matrix) for matrix in matrices)
    return max(triplet_error((parts.U, parts.s, parts.Vh), matrix) for parts, matrix in found)


def main(argv: Sequence[str]) -> None:
    """Measure, print the table, and write it with all raw timings where `--output` says."""
    made = parser(__doc__)
    made.add_argument("--model", choices=MODELS, default="smollm2")
    made.add_argument("--ranks", type=counts, default=[16, 64], help="triplets of each matrix")
    made.add_argument("--repeats", type=count, default=3, help="rounds after the one in which errors are taken")
    args = made.parse_args(argv)
    matrices = list(DenseWeights(find_linears(load(args.model).model, "all", None), None).values())
    ways: dict[str, Decomposing] = {"all": decompose}
    ways |= {f"top {k}": partial(decompose_top, k=k) for k in args.ranks}
    errors = {name: worst_error(matrices, how) for name, how in ways.items()}
    runs = {name: timed(partial(decompose_each, matrices, how)) for name, how in ways.items()}
    seconds = take_turns(runs, args.repeats)
    rows = [
        {
            "triplets": name,
            "seconds [min, max]": spread(values),
            "ratio": f"{ratio(values, seconds['all']):.2f}",
            "error": f"{errors[name]:.1e}",
        }
        for name, values in seconds.items()
    ]
    systems = [{"triplets": name, "seconds": seconds[name], "error": errors[name]} for name in ways]
    finish(args, f"{len(matrices)} matrices\n{table(rows)}", {"matrices": len(matrices), "systems": systems})


if __name__ == "__main__":
    main(sys.argv[1:])
