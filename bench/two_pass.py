"""Seconds and memory of two-pass inference: merged against per example, and the first pass against the second.

    python bench/two_pass.py [--model smollm2|tiny] [--batches 8,32,128] [--distinct 1,4,32] [--dtype bfloat16]
    python bench/two_pass.py --pass1 [prompt|centroid]     seconds of choosing by a strategy and of completing
    python bench/two_pass.py --memory    peak memory of 100 and of 1,000 examples, in a process each

The pool holds three random experts, z = 1 + 0.01 N(0, 1), mixtures are random, and so are centroids, at the layer that
those that ship have (11 of 30): seconds do not depend on what experts know. All completions have the same length, as
end tokens are switched off. Both ways take turns in one process; `auto / better` is the median over rounds of the
seconds of the way that `auto` takes over those of the faster way. For --memory the 1,000 examples are the 100 repeated,
so that prompts are no longer; both ways are measured each by itself, since one of them alone holds merged weights.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from statistics import median
from typing import Any

import torch
from measure import count, counts, finish, in_child, parser, peak_memory, ratio, table, take_turns, write
from models import inject_svf, load_endless, load_task, random_experts
from tqdm import tqdm

from t2.adaptation.centroid import Centroid
from t2.adaptation.centroid_fit import fingerprint
from t2.adaptation.dispatch import PromptDispatch
from t2.adaptation.strategy import Choice, PooledModel, Strategy, merging_pays
from t2.adaptation.two_pass import Pass2, TwoPass
from t2.adapters.targets import decoder_blocks
from t2.experts.centroids import Centroids, Prototype, Source
from t2.experts.mixture import Mixture
from t2.experts.pool import ExpertPool
from t2.policy.hf import HFGenerator
from t2.tasks.base import Task
from t2.types import Example, Sampling

DOMAINS = ("arithmetic", "sorting", "spelling")
WAYS: tuple[Pass2, ...] = ("merged", "per_example")
MEMORY_EXAMPLES = (100, 1000)


class Given:
    """A strategy with given choices."""

    name = "given"
    wants_support = False

    def __init__(self, mixtures: Sequence[Mixture]) -> None:
        """One mixture per example of every call."""
        self.mixtures = mixtures

    def fit(self, model: PooledModel, task: Task, support: Sequence[Example]) -> None:
        """Nothing to learn."""

    def choose(self, model: PooledModel, examples: Sequence[Example]) -> list[Choice]:
        """The mixtures."""
        return [Choice(mixture) for mixture in self.mixtures]


def random_centroids(bench: Bench) -> Centroid:
    """The strategy `centroid` with random vectors of the pool's domains, at the block after a third of them."""
    model, lm = PooledModel(bench.generator, bench.pool), bench.generator.lm
    label = Prototype(torch.randn(lm.model.config.hidden_size), torch.zeros(1))
    strategy = Centroid()
    strategy.centroids = Centroids(
        labels=dict.fromkeys(DOMAINS, label),
        tasks={domain: {"random": label} for domain in DOMAINS},
        sources=dict.fromkeys(DOMAINS, Source(1, "", 1, "")),
        layer=1 + len(decoder_blocks(lm.model)[1]) // 3,
        base_model=lm.source,
        fingerprint=fingerprint(model),
        task="random",
        accuracy={},
    )
    return strategy


class Bench:
    """The model without end tokens, a pool of random experts, and prompts of a procedural task."""

    def __init__(self, args: argparse.Namespace, prompts: int) -> None:
        """Load the model and so many prompts; raises ValueError if the task has fewer."""
        lm = load_endless(args.model)
        svf = inject_svf(lm)
        self.generator = HFGenerator(lm, svf, batch_rows=args.batch_rows, dtype=args.dtype)
        self.pool = ExpertPool(random_experts(lm, svf, DOMAINS, 0.01))
        self.prompts = list(load_task(args.task, train_size=prompts).split("train"))
        if len(self.prompts) != prompts:
            raise ValueError(f"{args.task} gave {len(self.prompts)} prompts, not {prompts}. Take another task.")
        self.sampling = Sampling(max_new_tokens=args.new_tokens)

    def system(self, pass2: Pass2, strategy: Strategy | None = None) -> TwoPass:
        """A two-pass system, which chooses by prompt unless there is a strategy."""
        return TwoPass(self.generator, self.pool, strategy or PromptDispatch(mode="score"), pass2=pass2)

    def seconds(self, system: TwoPass, part: str, batch: int) -> float:
        """Seconds of a pass with the first prompts."""
        system.generate(self.prompts[:batch], self.sampling)
        return system.records[-1].seconds[part]


def measure_ways(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds of the second pass by batch, distinct mixtures and way, by round after a warm-up."""
    bench, weights = Bench(args, max(args.batches)), random.Random(0)
    cells: list[dict[str, Any]] = []
    for batch, distinct in tqdm(list(product(args.batches, args.distinct)), desc="cells", leave=False):
        mixtures = [Mixture.of(*(weights.uniform(0.1, 1.5) for _ in DOMAINS)) for _ in range(distinct)]
        strategy = Given([mixtures[index % distinct] for index in range(batch)])
        systems = {way: bench.system(way, strategy) for way in WAYS}
        if not cells:
            for system in systems.values():
                system.generate(bench.prompts[:batch], Sampling(max_new_tokens=2))
        runs: dict[str, Callable[[], float]] = {
            way: partial(bench.seconds, system, "pass2", batch) for way, system in systems.items()
        }
        seconds, used = take_turns(runs, args.repeats), systems["merged"].records[-1].mixtures
        cells.append({"batch": batch, "distinct": used, "seconds": seconds})
        pays = used == 1 or merging_pays(bench.generator, batch, used)
        auto: Pass2 = "merged" if pays else "per_example"
        cells[-1] |= {"auto": auto, "auto_to_better": auto_to_better(seconds, auto)}
    return cells


def auto_to_better(seconds: Mapping[str, Sequence[float]], auto: Pass2) -> float:
    """The median over rounds of the seconds of the way that `auto` takes over those of the faster way."""
    better = [min(pair) for pair in zip(seconds["merged"], seconds["per_example"], strict=True)]
    return ratio(seconds[auto], better)


def measure_pass1(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds of both passes by batch, with the experts that the strategy chooses."""
    bench = Bench(args, max(2, *args.batches))
    system, cells = bench.system(args.pass2, random_centroids(bench) if args.pass1 == "centroid" else None), []
    system.generate(bench.prompts[:2], Sampling(max_new_tokens=2))
    for batch in tqdm(args.batches, desc="batches", leave=False):
        for _ in range(args.repeats):
            system.generate(bench.prompts[:batch], bench.sampling)
        rounds = [record.seconds for record in system.records[-args.repeats :]]
        seconds = {part: [one[part] for one in rounds] for part in ("pass1", "pass2")}
        cells.append({"batch": batch, "seconds": seconds, "pass1_to_pass2": ratio(seconds["pass1"], seconds["pass2"])})
    return cells


def measure_memory(args: argparse.Namespace, number: int) -> dict[str, int]:
    """Bytes held before, and at the peak of, so many examples in this process; OSError where there is no /proc."""
    bench = Bench(args, min(MEMORY_EXAMPLES))
    examples = bench.prompts * (number // min(MEMORY_EXAMPLES))
    return peak_memory(partial(bench.system(args.pass2).generate, examples, bench.sampling))


def compare_memory(argv: Sequence[str]) -> list[dict[str, Any]]:
    """`measure_memory` in a process for every way and number of examples."""
    found = []
    for way in WAYS:
        peaks = {str(n): in_child(__file__, [*argv, "--pass2", way], str(n)) for n in MEMORY_EXAMPLES}
        few, many = (peaks[str(number)]["peak_bytes"] for number in MEMORY_EXAMPLES)
        found.append({"pass2": way, **peaks, "peak_ratio": many / few})
    return found


def time_table(cells: Sequence[Mapping[str, Any]]) -> str:
    """One line per cell: medians of its seconds, and its other numbers."""
    rows = []
    for cell in cells:
        medians = {f"{name} s": median(seconds) for name, seconds in cell["seconds"].items()}
        rows.append({key: value for key, value in cell.items() if key != "seconds"} | medians)
    return table(rows)


def memory_table(found: Sequence[Mapping[str, Any]]) -> str:
    """Peaks by way and number of examples, and their ratio."""
    rows = []
    for row in found:
        peaks = {f"peak MB of {number} examples": row[str(number)]["peak_bytes"] / 1e6 for number in MEMORY_EXAMPLES}
        rows.append({"pass2": row["pass2"], **peaks, "ratio": row["peak_ratio"]})
    return table(rows)


def main(argv: Sequence[str]) -> None:
    """Measure, print the table, and write it with all raw timings where `--output` says."""
    made = parser(__doc__)
    made.add_argument("--model", choices=("smollm2", "tiny"), default="smollm2")
    made.add_argument("--task", default="simple_equations", help="a file of conf/task")
    made.add_argument("--batches", type=counts, default=[8, 32, 128], help="prompts, comma-separated")
    made.add_argument("--distinct", type=counts, default=[1, 4, 32], help="mixtures, comma-separated")
    made.add_argument("--new-tokens", type=count, default=24, help="tokens of every completion")
    made.add_argument("--batch-rows", type=count, default=64, help="completions decoded at once")
    made.add_argument("--dtype", choices=("bfloat16",), help="to which merged weights are rounded")
    made.add_argument("--repeats", type=count, default=3, help="rounds")
    made.add_argument("--threads", type=count, help="torch's threads; its own choice if not given")
    made.add_argument("--pass2", choices=("auto", *WAYS), default="auto", help="with --pass1: how pass 2 is done")
    made.add_argument(
        "--pass1",
        nargs="?",
        const="prompt",
        choices=("prompt", "centroid"),
        help="compare the first pass with the second",
    )
    made.add_argument("--memory", action="store_true", help="compare the memory of 100 and 1,000 examples")
    made.add_argument("--one", type=count, help="only measure the memory of so many examples")
    args = made.parse_args(argv)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    if args.one is not None:
        write(measure_memory(args, args.one), args.output)
    elif args.memory:
        memory = compare_memory(argv)
        finish(args, memory_table(memory), {"memory": memory})
    else:
        cells = measure_pass1(args) if args.pass1 else measure_ways(args)
        finish(args, time_table(cells), {"pass1" if args.pass1 else "cells": cells})


if __name__ == "__main__":
    main(sys.argv[1:])
