"""Seconds to merge an expert of part of the spectrum, and to decompose a model's matrices, by spectrum.

    python bench/merging.py [--model smollm2|tiny] [--ranks 16,64] [--repeats 5] [--no-decompose] [--output FILE.json]

    all, top K    every matrix of the decoder blocks merged for a rollout (W' = W + U (s (z - 1)) Vh, the triplets that
                  may differ from 1 alone), in turns, after a warm-up round; z is 1 + 0.008 N(0, 1)
    decompose     the thin SVD of every matrix without a cache, once, beside torch's of the matrices as they lie

Not measured: what a rollout costs after its merge (`bench/rollout.py`), GPUs' own solvers.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from measure import count, counts, finish, parser, ratio, spread, table, take_turns, timed
from models import MODELS, inject_svf, load

from t2.adapters.svd import decompose
from t2.adapters.svf import SVF

SPREAD = 0.008  # standard deviation of a z trained for 25 steps


def merging(model: str, settings: dict[str, Any]) -> Callable[[], None]:
    """A function that merges and takes back an expert of random z, of a model of its own."""
    svf = inject_svf(load(model), **settings)
    with torch.no_grad():
        for parameter in svf.trainable():
            parameter.add_(SPREAD * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    return partial(_merge, svf)


def _merge(svf: SVF) -> None:
    with torch.no_grad(), svf.merged():
        pass


def decomposing(model: str) -> dict[str, Callable[[], None]]:
    """Both ways to decompose all matrices that an adapter covers."""
    linears = [m for n, m in load(model).model.named_modules() if isinstance(m, torch.nn.Linear) and "lm_head" not in n]
    weights = [linear.weight.detach() for linear in linears]

    def every(one: Callable[[torch.Tensor], object]) -> None:
        for weight in weights:
            one(weight)

    as_it_lies = partial(torch.linalg.svd, full_matrices=False)
    return {"decompose": partial(every, decompose), "torch.linalg.svd": partial(every, as_it_lies)}


def main(argv: Sequence[str]) -> None:
    """Measure, print the table, and write it with all raw timings where `--output` says."""
    made = parser(__doc__)
    made.add_argument("--model", choices=MODELS, default="smollm2")
    made.add_argument("--ranks", type=counts, default=[16, 64], help="triplets of each matrix")
    made.add_argument("--repeats", type=count, default=5, help="rounds after the warm-up round")
    made.add_argument("--decompose", action=argparse.BooleanOptionalAction, default=True)
    args = made.parse_args(argv)
    spectra: dict[str, dict[str, Any]] = {"all": {}} | {f"top {k}": {"spectrum": "top", "rank": k} for k in args.ranks}
    systems = {name: merging(args.model, settings) for name, settings in spectra.items()}
    for run in systems.values():
        run()
    seconds = take_turns({name: timed(run) for name, run in systems.items()}, args.repeats)
    reference = dict.fromkeys(seconds, "all")
    if args.decompose:
        found = take_turns({name: timed(run) for name, run in decomposing(args.model).items()}, 1)
        seconds, reference = seconds | found, reference | dict.fromkeys(found, "torch.linalg.svd")
    rows = [
        {
            "system": name, "seconds [min, max]": spread(values),
            "ratio": f"{ratio(values, seconds[reference[name]]):.2f} of {reference[name]}",
        }
        for name, values in seconds.items()
    ]  # fmt: skip
    finish(args, table(rows), {"systems": [{"system": name, "seconds": values} for name, values in seconds.items()]})


if __name__ == "__main__":
    main(sys.argv[1:])
