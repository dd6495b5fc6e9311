"""What each type costs in exactness: drift between rollout and training, and how much of a change of z is rounding.

    python bench/precision.py [--model smollm2|tiny] [--dtypes float32,bfloat16,float16] [--spreads 0.008,0.002]

For each type of the model, each spread of z around 1 and each way to generate (merged W', or factors as in training):

    drift       |log-prob at sampling - log-prob that training computes| of the same tokens, mean and largest
    noise       what rounding does to a log-prob, in the mean and as a share of its change by z: against the same
                weights computed in float32
    agreement   cosine of the policy gradient to that of float32 on the same tokens and weights

The float32 reference has the rounded weights of the type, so that only computing is compared.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from measure import count, finish, names_of, parser, table
from models import inject_svf, load
from torch import Tensor

from t2.adapters.svf import SVF
from t2.models.language_model import LanguageModel
from t2.models.precision import DTYPES, RolloutMode
from t2.policy.hf import HFGenerator
from t2.policy.log_probs import token_log_probs
from t2.types import Completion, Example, Sampling

QUESTION = "State the final answer to the following arithmetic problem: {} + {} ="
WAYS: tuple[RolloutMode, ...] = ("merged", "factored")


def multipliers(svf: SVF, spread: float) -> Mapping[str, Tensor]:
    """z of every matrix, normally distributed around 1, the same for every type."""
    generator = torch.Generator().manual_seed(0)
    return {name: 1 + spread * torch.randn(s.shape, generator=generator) for name, s in svf.singular_values.items()}


def log_probs(lm: LanguageModel, completions: Sequence[Completion]) -> Tensor:
    """Log-probs of all tokens as training computes them (L,)."""
    token = token_log_probs(lm, completions)
    return token.log_probs[token.mask]


def gradient(lm: LanguageModel, svf: SVF, completions: Sequence[Completion]) -> Tensor:
    """The gradient of an alternating sum of log-probs with respect to all z (P,)."""
    for parameter in svf.trainable():
        parameter.grad = None
    token = token_log_probs(lm, completions)
    signs = torch.tensor([1.0, -1.0]).repeat(len(completions))[: len(completions), None]
    (token.log_probs * signs).sum().backward()  # type: ignore[no-untyped-call]
    return torch.cat([p.grad.flatten() for p in svf.trainable() if p.grad is not None])


def rounded_to(lm: LanguageModel, dtype: str) -> LanguageModel:
    """The float32 model with its weights rounded to a type."""
    with torch.no_grad():
        for parameter in lm.model.parameters():
            parameter.copy_(parameter.to(getattr(torch, dtype)).float())
    return lm


def measure(args: argparse.Namespace, dtype: str) -> list[dict[str, Any]]:
    """A row per spread and way to generate."""
    lm, exact = load(args.model, dtype), rounded_to(load(args.model), dtype)
    svf, reference = inject_svf(lm), inject_svf(exact)
    examples = [Example(QUESTION.format(3 * i + 2, 7 - i)) for i in range(args.prompts)]
    sampling = Sampling(max_new_tokens=args.new_tokens, temperature=1.0, samples=args.samples, seed=1)
    rows = []
    for spread in args.spreads:
        z = multipliers(svf, spread)
        for way in WAYS:
            svf.load(z)
            generator = HFGenerator(lm, svf, mode=way)
            completions = [one for group in generator.generate(examples, sampling) for one in group]
            sampled = torch.tensor([value for one in completions for value in one.log_probs])
            with torch.no_grad():
                trained = log_probs(lm, completions)
                with svf.merged():
                    merged = log_probs(lm, completions)
                reference.load({})
                base = log_probs(exact, completions)
                reference.load(z)
                right = log_probs(exact, completions)
            change = (right - base).abs().mean()
            answer = merged if way == "merged" else trained
            cosine = torch.cosine_similarity(
                gradient(lm, svf, completions), gradient(exact, reference, completions), dim=0
            )
            drift = (sampled - trained).abs()
            noise = float((answer - right).abs().mean())
            rows.append(
                {
                    "dtype": dtype, "spread of z": spread, "way": way,
                    "drift mean": float(drift.mean()), "drift max": float(drift.max()), "change": float(change),
                    "noise": noise, "noise / change": noise / float(change), "gradient cosine": float(cosine),
                }
            )  # fmt: skip
    return rows


def main() -> None:
    """Measure, print and write."""
    made = parser(__doc__)
    made.add_argument("--model", choices=("smollm2", "tiny"), default="smollm2")
    made.add_argument("--dtypes", type=names_of(DTYPES), default=list(DTYPES), help="comma-separated")
    made.add_argument("--spreads", type=lambda text: [float(one) for one in text.split(",")], default=[0.008, 0.002])
    made.add_argument("--prompts", type=count, default=4)
    made.add_argument("--samples", type=count, default=4)
    made.add_argument("--new-tokens", type=count, default=16)
    args = made.parse_args()
    rows = [row for dtype in args.dtypes for row in measure(args, dtype)]
    finish(args, table(rows), {"rows": rows})


if __name__ == "__main__":
    main()
