"""Seconds to try a population of mixtures on a few prompts: one batch with per-example scales, or merging each.

    python bench/cem.py [--model smollm2|tiny] [--rank 64] [--population 16] [--repeats 5] [--device cuda]
                        [--output FILE.json]

    per_example   one batch of population x prompts, every example with its own mixture, factored; nothing is merged
    merged        for each mixture: every matrix is merged with it, then the prompts are completed in one batch

Both give greedy completions of exactly `--new-tokens` tokens (end tokens are switched off) by the code that the
few-shot search runs, in one process, in turns, after a warm-up round in which their completions are compared. The
experts are random, as far from 1 as trained ones, on all linears, of all singular values or of the `--rank` largest;
mixing weights are uniform in [0, 1.5]. Not measured: scoring completions, and the optimizer that proposes mixtures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from measure import count, finish, parser, ratio, spread, table, take_turns, timed
from models import inject_svf, load_endless, random_experts

from t2.adaptation.fitness import complete_merged, complete_per_example
from t2.adaptation.strategy import PooledModel
from t2.experts.mixture import Mixture
from t2.experts.pool import ExpertPool
from t2.policy.hf import HFGenerator
from t2.types import Completion, Example, Sampling

DOMAINS = ("math", "code", "language")
SPREAD = 0.008  # standard deviation of a z trained for 25 steps
HIGHEST_WEIGHT = 1.5
EQUAL_SHARE = 0.9  # of the completions at least: a near tie of two tokens may turn on the order of a sum
QUESTIONS = (
    "What is 17 + 25? Answer with a number.",
    "Is the word 'level' a palindrome?",
    "A train leaves at 9:40 and takes 95 minutes. When does it arrive?",
)


def pooled_model(model: str, device: str, rows: int, rank: int | None) -> PooledModel:
    """The model without end tokens and a pool of random experts, decoding at most `rows` completions at once.

    The experts move the `rank` largest singular values of each matrix; None: all.
    """
    lm = load_endless(model, device)
    svf = inject_svf(lm) if rank is None else inject_svf(lm, spectrum="top", rank=rank)
    return PooledModel(HFGenerator(lm, svf, batch_rows=rows), ExpertPool(random_experts(lm, svf, DOMAINS, SPREAD)))


def population(members: int) -> list[Mixture]:
    """Random mixtures, one mixing weight per expert."""
    weights = HIGHEST_WEIGHT * torch.rand(members, len(DOMAINS), generator=torch.Generator().manual_seed(1))
    return [Mixture.of(*row) for row in weights.tolist()]


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Raw timings of both systems, their ratio, and how many completions are equal (`check_completions`)."""
    model = pooled_model(args.model, args.device, args.population * len(QUESTIONS), args.rank)
    mixtures, examples = population(args.population), [Example(question) for question in QUESTIONS]
    sampling = Sampling(max_new_tokens=args.new_tokens)
    systems = {
        name: partial(complete, model, mixtures, examples, sampling)
        for name, complete in (("per_example", complete_per_example), ("merged", complete_merged))
    }
    equal = check_completions(systems["per_example"](), systems["merged"]())
    seconds = take_turns({name: timed(run, model.lm.device) for name, run in systems.items()}, args.repeats)
    return {
        "systems": [{"system": name, "seconds": values} for name, values in seconds.items()],
        "merged_to_per_example": ratio(seconds["merged"], seconds["per_example"]),
        "equal_completions": equal,
        "completions": len(mixtures) * len(examples),
    }


def check_completions(per_example: Sequence[Sequence[Completion]], merged: Sequence[Sequence[Completion]]) -> int:
    """How many completions are equal; raises RuntimeError where that is less than `EQUAL_SHARE` of them."""
    pairs = [pair for two in zip(per_example, merged, strict=True) for pair in zip(*two, strict=True)]
    equal = sum(one.token_ids == other.token_ids for one, other in pairs)
    if equal < EQUAL_SHARE * len(pairs):
        raise RuntimeError(
            f"Only {equal} of {len(pairs)} completions with per-example scales equal those of merged weights "
            f"(expected: {EQUAL_SHARE:.0%}), so the times cannot be compared."
        )
    return equal


def main(argv: Sequence[str]) -> None:
    """Measure, print the table, and write it with all raw timings where `--output` says."""
    made = parser(__doc__)
    made.add_argument("--model", choices=("smollm2", "tiny"), default="smollm2")
    made.add_argument("--rank", type=count, help="singular values of each matrix that the experts move; default: all")
    made.add_argument("--population", type=count, default=16, help="mixtures")
    made.add_argument("--new-tokens", type=count, default=16, help="tokens of each completion")
    made.add_argument("--repeats", type=count, default=5, help="rounds after the warm-up round")
    made.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    args = made.parse_args(argv)
    found = compare(args)
    rows = [{"system": row["system"], "seconds [min, max]": spread(row["seconds"])} for row in found["systems"]]
    equal = f"{found['equal_completions']} of {found['completions']} completions equal"
    last = f"merged / per_example {found['merged_to_per_example']:.2f}; {equal}"
    finish(args, f"{table(rows)}\n{last}", found, args.device)


if __name__ == "__main__":
    main(sys.argv[1:])
