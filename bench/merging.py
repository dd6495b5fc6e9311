"""Seconds to merge an expert for a rollout, by the part of the spectrum that it has.

    python bench/merging.py [--model smollm2|tiny] [--ranks 16,64] [--repeats 5] [--output FILE.json]

    all, top K    every matrix of the decoder blocks merged for a rollout (W' = W + U (s (z - 1)) Vh, the triplets that
                  may differ from 1 alone), in turns, after a warm-up round; z is 1 + 0.008 N(0, 1)

Not measured: what a rollout costs after its merge (`bench/rollout.py`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from measure import count, counts, finish, parser, ratio, spread, table, take_turns, timed
from models import MODELS, inject_svf, load

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


def main(argv: Sequence[str]) -> None:
    """Measure, print the table, and write it with all raw timings where `--output` says."""
    made = parser(__doc__)
    made.add_argument("--model", choices=MODELS, default="smollm2")
    made.add_argument("--ranks", type=counts, default=[16, 64], help="triplets of each matrix")
    made.add_argument("--repeats", type=count, default=5, help="rounds after the warm-up round")
    args = made.parse_args(argv)
    spectra: dict[str, dict[str, Any]] = {"all": {}} | {f"top {k}": {"spectrum": "top", "rank": k} for k in args.ranks}
    systems = {name: merging(args.model, settings) for name, settings in spectra.items()}
    for run in systems.values():
        run()
    seconds = take_turns({name: timed(run) for name, run in systems.items()}, args.repeats)
    rows = [
        {"system": name, "seconds [min, max]": spread(values), "ratio": f"{ratio(values, seconds['all']):.2f}"}
        for name, values in seconds.items()
    ]
    finish(args, table(rows), {"systems": [{"system": name, "seconds": values} for name, values in seconds.items()]})


if __name__ == "__main__":
    main(sys.argv[1:])
