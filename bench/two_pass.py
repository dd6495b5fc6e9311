"""Seconds and memory of two-pass inference: merged against per example, and the first pass against the second.

    python bench/two_pass.py [--model smollm2|tiny] [--batches 8,32,128] [--distinct 1,4,32] [--output FILE.json]
    python bench/two_pass.py --pass1     seconds of choosing by prompt (strategy `prompt`, mode score) and of answering
    python bench/two_pass.py --memory    peak memory of 100 and of 1,000 examples, in a process each

The pool holds three random experts, z = 1 + 0.01 N(0, 1), and mixtures are random: what is measured does not depend on
what experts know. All answers have the same length, as end tokens are switched off. Both ways take turns in one
process; `auto / better` is the median over rounds of the seconds of the way that `auto` takes over those of the faster
way.

Memory is the kernel's VmHWM, set back after loading. The 1,000 examples are the 100 repeated, so that prompts are no
longer; both ways are measured each by itself, since merged weights are held by one of them alone.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from record import arguments, count, counts, origin, write
from rl_work import resident
from tqdm import tqdm
from transformers.utils.logging import disable_progress_bar
from two_pass_systems import DOMAINS, Given, build, prompts

from t2.adaptation.dispatch import PromptDispatch
from t2.adaptation.two_pass import Pass2, TwoPass
from t2.adapters.svf import SVF
from t2.experts.mixture import Mixture
from t2.types import Sampling

WAYS: tuple[Pass2, ...] = ("merged", "per_example")
MEMORY_EXAMPLES = (100, 1000)


def measure_ways(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of the second pass by batch, distinct mixtures and way, round by round after a warm-up."""
    generator, pool = build(args.model, args.batch_rows)
    assert isinstance(generator.adapter, SVF), "built with one"
    examples, sampling = prompts(args.task, max(args.batches)), Sampling(max_new_tokens=args.new_tokens)
    weights = random.Random(0)
    cells: list[dict[str, Any]] = []
    for batch, distinct in tqdm([(b, d) for b in args.batches for d in args.distinct], desc="cells", leave=False):
        mixtures = [Mixture.of(*(weights.uniform(0.1, 1.5) for _ in DOMAINS)) for _ in range(distinct)]
        strategy = Given([mixtures[place % distinct] for place in range(batch)])
        systems = {way: TwoPass(generator, pool, strategy, pass2=way) for way in WAYS}
        if not cells:
            for system in systems.values():
                system.generate(examples[:batch], Sampling(max_new_tokens=2))
        for _ in range(args.repeats):
            for system in systems.values():
                system.generate(examples[:batch], sampling)
        seconds = {
            way: [r.seconds["pass2"] for r in system.records[-args.repeats :]] for way, system in systems.items()
        }
        mixtures_used = systems["merged"].records[-1].mixtures
        cells.append(
            {"batch": batch, "distinct": mixtures_used, "seconds": seconds}
            | {"auto_to_better": auto_to_better(seconds, mixtures_used)}
        )
    return {"cells": cells}


def spent(system: TwoPass, part: str, rounds: int) -> list[float]:
    """A pass's seconds in the latest rounds."""
    return [record.seconds[part] for record in system.records[-rounds:]]


def auto_to_better(seconds: Mapping[Pass2, Sequence[float]], distinct: int) -> float:
    """The median over rounds of the seconds of what `auto` would do over those of the faster way."""
    rounds = zip(seconds["merged"], seconds["per_example"], strict=True)
    return median((merged if distinct == 1 else each) / min(merged, each) for merged, each in rounds)


def measure_pass1(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of both passes by batch, with the experts that the prompts ask for."""
    generator, pool = build(args.model, args.batch_rows)
    system = TwoPass(generator, pool, PromptDispatch(mode="score"), pass2=args.pass2)
    sampling, cells = Sampling(max_new_tokens=args.new_tokens), []
    system.generate(prompts(args.task, 2), Sampling(max_new_tokens=2))
    for batch in tqdm(args.batches, desc="batches", leave=False):
        examples = prompts(args.task, batch)
        for _ in range(args.repeats):
            system.generate(examples, sampling)
        seconds = {part: spent(system, part, args.repeats) for part in ("pass1", "pass2")}
        share = median(first / second for first, second in zip(*seconds.values(), strict=True))
        cells.append({"batch": batch, "seconds": seconds, "pass1_to_pass2": share})
    return {"pass1": cells}


def measure_memory(args: argparse.Namespace, number: int) -> dict[str, int]:
    """Bytes held before, and at the peak of, so many examples in this process.

    Raises:
        OSError: there is no /proc.
    """
    generator, pool = build(args.model, args.batch_rows)
    system = TwoPass(generator, pool, PromptDispatch(mode="score"), pass2=args.pass2)
    examples = prompts(args.task, min(MEMORY_EXAMPLES)) * (number // min(MEMORY_EXAMPLES))
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM := VmRSS, see proc(5)
    held = resident("VmRSS")
    answers = system.generate(examples, Sampling(max_new_tokens=args.new_tokens))
    assert len(answers) == number, f"got {len(answers)}"
    return {"held_bytes": held, "peak_bytes": resident("VmHWM")}


def compare_memory(argv: list[str]) -> dict[str, Any]:
    """`measure_memory` in a process for every way and number of examples."""
    found = []
    for way in WAYS:
        row: dict[str, Any] = {"pass2": way}
        for number in MEMORY_EXAMPLES:
            command = [sys.executable, __file__, *argv, "--pass2", way, "--one", str(number)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            row[str(number)] = json.loads(done.stdout.splitlines()[-1])
        few, many = (row[str(number)]["peak_bytes"] for number in MEMORY_EXAMPLES)
        found.append(row | {"peak_ratio": many / few})
    return {"memory": found}


def table(result: Mapping[str, Any]) -> str:
    """The measurements as text, one line per cell."""
    lines = []
    if "cells" in result:
        head = f"{'batch':>6}{'distinct':>10}" + "".join(f"{f'{way} s':>15}" for way in WAYS)
        lines.append(head + f"{'auto / better':>15}")
    for row in result.get("cells", ()):
        line = f"{row['batch']:>6}{row['distinct']:>10}"
        line += "".join(f"{median(row['seconds'][way]):>15.3f}" for way in WAYS)
        lines.append(f"{line}{row['auto_to_better']:>15.3f}")
    for row in result.get("pass1", ()):
        first, second = (median(row["seconds"][part]) for part in ("pass1", "pass2"))
        share = row["pass1_to_pass2"]
        lines.append(f"batch {row['batch']}: pass 1 {first:.3f} s, pass 2 {second:.3f} s, pass 1 / pass 2 {share:.3f}")
    for row in result.get("memory", ()):
        peaks = ", ".join(
            f"{number} examples {row[str(number)]['peak_bytes'] / 1e6:,.0f} MB" for number in MEMORY_EXAMPLES
        )
        lines.append(f"{row['pass2']}: peak of {peaks}, ratio {row['peak_ratio']:.3f}")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Measure, print the table, and write it with all raw timings where `--output` says."""
    args = _parser().parse_args(argv)
    disable_progress_bar()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    if args.one is not None:
        print(json.dumps(measure_memory(args, args.one)))
        return
    result = compare_memory(argv) if args.memory else measure_pass1(args) if args.pass1 else measure_ways(args)
    print(table(result))
    write(origin() | {"arguments": arguments(args)} | result, args.output)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=("smollm2", "tiny"), default="smollm2")
    parser.add_argument("--task", default="simple_equations", help="a file of conf/task")
    parser.add_argument("--batches", type=counts, default=[8, 32, 128], help="prompts, comma-separated")
    parser.add_argument("--distinct", type=counts, default=[1, 4, 32], help="mixtures, comma-separated")
    parser.add_argument("--new-tokens", type=count, default=24, help="tokens of every answer")
    parser.add_argument("--batch-rows", type=count, default=64, help="answers decoded at once")
    parser.add_argument("--repeats", type=count, default=3, help="rounds")
    parser.add_argument("--threads", type=count, help="torch's threads; its own choice if not given")
    parser.add_argument("--pass2", choices=WAYS, default="auto", help="with --pass1: how the second pass is done")
    parser.add_argument("--output", type=Path, help="a JSON file to write")
    parser.add_argument("--pass1", action="store_true", help="compare the first pass with the second")
    parser.add_argument("--memory", action="store_true", help="compare the memory of 100 and 1,000 examples")
    parser.add_argument("--one", type=count, help="measure the memory of so many examples, and print it as JSON")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
