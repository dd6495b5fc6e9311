"""What a dtype and a mode of rollouts cost in exactness: drift, and how much of what z has learned gets through.

    python bench/precision.py [--dtypes float32,bfloat16,float16] [--modes merged,factored] [--std 0.002,0.008]

z is 1 + std N(0, 1). Completions are sampled in one mode; drift is the mean and the largest |training - sampling| of a
log-prob, where training computes in the factored mode. `kept` and `noise` compare log-probs of the same tokens with
those of a float32 model with the same rounded weights: its change by the adapter is d, that of the mode is kept * d
plus a rest (least squares), and noise is the rest's root mean square in units of d's. `weights kept` and `weights
noise` are the same of the merged weights alone. Seconds are of the rollout, and say little on a machine that is shared.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any, get_args

import torch
from measure import count, finish, machine, names_of, parser, table, timed
from models import inject_svf, load
from torch import Tensor

from t2.adapters.svf import SVF
from t2.adapters.svf_linear import dense_weight
from t2.models.language_model import LanguageModel
from t2.models.precision import DTYPES, RolloutMode, parse_dtype
from t2.policy.hf import HFGenerator
from t2.policy.log_probs import token_log_probs
from t2.types import Completion, Example, Sampling

QUESTION = "State the final answer to the following arithmetic problem: {} + {} ="
MODES = tuple(mode for mode in get_args(RolloutMode) if mode != "auto")


def measure(dtype: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of one dtype, a row for each spread of z and each mode."""
    lm, exact = (_load(args.model, dtype, as_dtype) for as_dtype in (dtype, "float32"))
    svf, reference = inject_svf(lm), inject_svf(exact)
    rows = []
    for std in args.std:
        noise = torch.Generator().manual_seed(0)
        state = {name: 1 + std * torch.randn(s.shape, generator=noise) for name, s in svf.singular_values.items()}
        svf.load(state)
        reference.load(state)
        for mode in args.modes:
            seconds, found = _rollout(HFGenerator(lm, svf, mode=mode), args)
            difference = (_log_probs(lm, found) - torch.cat([torch.tensor(c.log_probs) for c in found])).abs()
            row = {"dtype": dtype, "std z": std, "mode": mode, "seconds": seconds}
            row |= {"drift mean": float(difference.mean()), "drift max": float(difference.max())}
            rows.append(row | _kept(_change(lm, svf, found, mode), _change(exact, reference, found, "factored")))
            rows[-1] |= _in_weights(svf) if mode == "merged" else {"weights kept": 1.0, "weights noise": 0.0}
    return rows


def _rollout(generator: HFGenerator, args: argparse.Namespace) -> tuple[float, list[Completion]]:
    """Seconds and completions of a generator."""
    examples = [Example(QUESTION.format(number, 3 * number + 1)) for number in range(args.prompts)]
    sampling = Sampling(max_new_tokens=args.new_tokens, temperature=1.0, samples=args.samples, seed=1)
    found: list[Completion] = []
    seconds = timed(lambda: found.extend(chain(*generator.generate(examples, sampling))))()
    return seconds, found


def _load(model: str, rounded: str, dtype: str) -> LanguageModel:
    """A model in `dtype` whose weights lie on the grid of `rounded`, without end tokens."""
    lm = load(model, dtype)
    lm.end_ids = frozenset()
    for parameter in lm.model.parameters():
        parameter.data = parameter.data.to(parse_dtype(rounded)).to(parameter.dtype)
    return lm


@torch.no_grad()
def _log_probs(lm: LanguageModel, completions: Sequence[Completion]) -> Tensor:
    token = token_log_probs(lm, completions)
    return token.log_probs[token.mask]  # (L,)


def _change(lm: LanguageModel, svf: SVF, completions: Sequence[Completion], mode: str) -> Tensor:
    """What the adapter adds to the base's log-probs, (L,)."""
    applied: AbstractContextManager[None] = svf.merged() if mode == "merged" else nullcontext()
    with applied:
        adapted = _log_probs(lm, completions)
    with svf.disabled():
        return adapted - _log_probs(lm, completions)


def _kept(change: Tensor, exact: Tensor) -> dict[str, float]:
    """The share of the exact change (L,) that gets through, and the root mean square of the rest in its units."""
    kept = (change @ exact) / (exact @ exact)
    return {"kept": float(kept), "noise": float((change - kept * exact).norm() / exact.norm())}


@torch.no_grad()
def _in_weights(svf: SVF) -> dict[str, float]:
    """`_kept` of the merged weights themselves, over all matrices; no activation is rounded there."""
    cross = change = exact = 0.0
    for layer in svf.layers.values():
        z = layer.parametrization()
        wanted = (layer.output_factor.float() * (z - 1)) @ layer.input_factor.float()
        merged = layer.compose(z).float() - dense_weight(layer.base).float()
        cross += float((merged * wanted).sum())
        change += float(merged.square().sum())
        exact += float(wanted.square().sum())
    return {"weights kept": cross / exact, "weights noise": max(0.0, (change - cross**2 / exact) / exact) ** 0.5}


def numbers(text: str) -> list[float]:
    """Comma-separated numbers; ValueError for what is none, which argparse reports."""
    return [float(part) for part in text.split(",")]


def main(argv: Sequence[str]) -> None:
    """Measure each dtype in turn, print the table, write the JSON."""
    made = parser(__doc__)
    made.add_argument("--model", choices=("smollm2", "tiny"), default="smollm2")
    made.add_argument("--dtypes", type=names_of(DTYPES), default=list(DTYPES), help="comma-separated")
    made.add_argument("--modes", type=names_of(MODES), default=list(MODES), help="of rollouts, comma-separated")
    made.add_argument("--std", type=numbers, default=[0.002, 0.008], help="spreads of z, comma-separated")
    made.add_argument("--prompts", type=count, default=4)
    made.add_argument("--samples", type=count, default=4, help="completions per prompt")
    made.add_argument("--new-tokens", type=count, default=24, help="tokens of every completion")
    args = made.parse_args(argv)
    rows = [row for dtype in args.dtypes for row in measure(dtype, args)]
    shown = [{key: f"{value:.2g}" if isinstance(value, float) else value for key, value in row.items()} for row in rows]
    finish(args, table(shown), {"machine": machine(), "rows": rows})


if __name__ == "__main__":
    main(sys.argv[1:])
