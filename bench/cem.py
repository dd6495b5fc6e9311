"""Seconds to try a population of mixtures on a few prompts: all in one batch of rows, against merging one by one.

    python bench/cem.py [--model smollm2|tiny] [--population 16] [--repeats 5] [--device cuda] [--output FILE.json]

    rows       one batch of population x prompts, every row under its own mixture, factored; nothing is merged
    merging    for each mixture: every matrix is merged with it, then the prompts are answered in one batch

Both give greedy answers of exactly `--new-tokens` tokens (no token ends one) by the code that the few-shot search runs,
in one process, taking turns, after a warm-up round in which their answers are compared. The ratio is the median over
rounds of merging's seconds by rows' within a round. The experts are random, as far from 1 as trained ones, on all
linears; mixing weights are uniform in [0, 1.5]. Not measured: scoring answers, and the optimizer that proposes
mixtures.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from record import arguments, count, origin, write
from step_systems import load
from tqdm import tqdm
from transformers.utils.logging import disable_progress_bar

from t2.adaptation.fitness import complete_merged, complete_per_example
from t2.adaptation.strategy import PooledModel
from t2.adapters.svf import SVF
from t2.experts.expert import Expert, ExpertMetadata
from t2.experts.fingerprint import fingerprint_of
from t2.experts.mixture import Mixture
from t2.experts.pool import ExpertPool
from t2.policy.hf import HFGenerator
from t2.types import Completion, Example, Sampling

DOMAINS = ("math", "code", "language")
SPREAD = 0.008  # standard deviation of a z trained for 25 steps
HIGHEST_ALPHA = 1.5
EQUAL_SHARE = 0.9  # of the answers at least: a near tie of two tokens may turn on the order of a sum
QUESTIONS = (
    "What is 17 + 25? Answer with a number.",
    "Is the word 'level' a palindrome?",
    "A train leaves at 9:40 and takes 95 minutes. When does it arrive?",
)


def pooled_model(model: str, device: str, rows: int) -> PooledModel:
    """The model with a pool of random experts, answering so many rows at once, and never ending an answer early."""
    lm = load(model, "float32", device)
    lm.end_ids = frozenset()
    svf = SVF(modules="all", cache=model != "tiny", progress=False)
    svf.inject(lm.model, lm.source)
    fingerprint, random = fingerprint_of(svf.singular_values), torch.Generator().manual_seed(0)
    experts = {}
    for domain in DOMAINS:
        scales = {
            name: 1.0 + SPREAD * torch.randn(s.shape, generator=random) for name, s in svf.singular_values.items()
        }
        metadata = ExpertMetadata(lm.source, fingerprint, "direct", domain, domain, "random", "none", 0, "bench")
        experts[domain] = Expert(scales, metadata)
    return PooledModel(HFGenerator(lm, svf, batch_rows=rows), ExpertPool(experts))


def population(members: int) -> list[Mixture]:
    """Random mixtures, one mixing weight per expert."""
    weights = HIGHEST_ALPHA * torch.rand(members, len(DOMAINS), generator=torch.Generator().manual_seed(1))
    return [Mixture.of(*row) for row in weights.tolist()]


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Raw timings of both systems, their ratio, and how many answers are equal.

    Raises:
        RuntimeError: the systems do not give the same answers.
    """
    model = pooled_model(args.model, args.device, args.population * len(QUESTIONS))
    mixtures, examples = population(args.population), [Example(question) for question in QUESTIONS]
    sampling = Sampling(max_new_tokens=args.new_tokens)
    systems = {"rows": complete_per_example, "merging": complete_merged}
    answers = {name: answer(model, mixtures, examples, sampling) for name, answer in systems.items()}
    equal = check_answers(answers["rows"], answers["merging"])
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    for _ in tqdm(range(args.repeats), desc="rounds", leave=False):
        for name, answer in systems.items():
            start = _now(model.lm.device)
            answer(model, mixtures, examples, sampling)
            seconds[name].append(_now(model.lm.device) - start)
    return {
        "systems": [{"system": name, "seconds": values} for name, values in seconds.items()],
        "ratio": median(b / a for a, b in zip(seconds["rows"], seconds["merging"], strict=True)),
        "equal_answers": equal,
        "answers": len(mixtures) * len(examples),
    }


def check_answers(rows: Sequence[Sequence[Completion]], merging: Sequence[Sequence[Completion]]) -> int:
    """How many answers are equal; raises RuntimeError where that is less than `EQUAL_SHARE` of them."""
    pairs = [pair for two in zip(rows, merging, strict=True) for pair in zip(*two, strict=True)]
    equal = sum(one.token_ids == other.token_ids for one, other in pairs)
    if equal < EQUAL_SHARE * len(pairs):
        raise RuntimeError(
            f"Only {equal} of {len(pairs)} answers by rows are those under merged weights (expected: "
            f"{EQUAL_SHARE:.0%}), so the times cannot be compared."
        )
    return equal


def table(result: dict[str, Any]) -> str:
    """The measurements as text."""
    lines = [f"{'system':<10}{'seconds [min, max]':>28}"]
    for row in result["systems"]:
        seconds = row["seconds"]
        spread = f"{median(seconds):.3f} [{min(seconds):.3f}, {max(seconds):.3f}]"
        lines.append(f"{row['system']:<10}{spread:>28}")
    lines.append(
        f"rows are {result['ratio']:.2f} x faster; {result['equal_answers']} of {result['answers']} answers equal"
    )
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Measure, print the table, and write it with all raw timings where `--output` says."""
    args = _parser().parse_args(argv)
    disable_progress_bar()
    measured = measure(args)
    print(table(measured))
    write(origin(args.device) | {"arguments": arguments(args)} | measured, args.output)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=("smollm2", "tiny"), default="smollm2")
    parser.add_argument("--population", type=count, default=16, help="mixtures")
    parser.add_argument("--new-tokens", type=count, default=16, help="tokens of each answer")
    parser.add_argument("--repeats", type=count, default=5, help="rounds after the warm-up round")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--output", type=Path, help="a JSON file to write")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
