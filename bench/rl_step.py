"""Seconds and memory of a whole policy-gradient step (rollout, reward, update): t2's SVF against TRL's GRPO with LoRA.

    python bench/rl_step.py [--model smollm2|tiny] [--systems t2_hf,t2_vllm,trl_lora] [--output FILE.json]
    python bench/rl_step.py --merge A.json B.json [--output FILE.json]       join what two environments measured
    python bench/rl_step.py --grow [--figure FILE.png] [--output FILE.json]  t2's update by samples and prompt length
    python bench/rl_step.py --sizes [--output FILE.json]                     t2's update by model, and its memory

The systems and what is equal for them are described in rl/systems.py. Each runs in a process of its own, one after the
other: timings of a busy machine are not comparable. The first `--warmup` steps are not counted. A system whose package
is missing is listed as not installed; vLLM's CPU build wants an environment of its own, hence `--merge`.

With `--scores alternate` completions are graded, but learned from as if every second one were right: t2 skips
completions without an advantage and TRL does not, and with `--scores task` their number is random. On a CPU t2's
scripts set two things of their process (`t2.run.allocator`, `t2.run.grouped_attention`), which a user of TRL might:
`--settings each` leaves TRL without, `same` gives them to all, `none` to nobody. Not measured: learning.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measure import count, counts, finish, in_child, machine, names_of, package_versions, parser, write
from models import MODELS
from rl.job import SCORES, SETTINGS, SYSTEMS, Job
from rl.report import draw, layouts_table, memory_table, merge, report, systems_table
from rl.update import LAYOUTS, compare_layouts, measure_memory
from tqdm import tqdm


def measure_one(name: str, job: Job, size_prompt: int) -> dict[str, Any]:
    """In this process: a system's row with its machine and versions, or the memory of a layout's update."""
    if name in LAYOUTS:
        return measure_memory(job, name, size_prompt)
    from rl.systems import run_system  # not at the top: it would count in the memory of an update

    about = {"machine": machine(), "versions": package_versions()}  # before vLLM binds this process's threads
    return run_system(name, job) | about


def main(argv: Sequence[str]) -> None:
    """Measure or merge, print the table, and write the JSON where `--output` says."""
    args = _parser().parse_args(argv)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    job = Job(**{field.name: getattr(args, field.name) for field in fields(Job)})
    if args.one is not None:
        write(measure_one(args.one, job, args.size_prompt), args.output)
        return
    if args.grow:
        points = compare_layouts(job, [args.model], args.grow_lengths, args.grow_samples)
        if args.figure is not None:
            draw(points, args.figure)
        finish(args, layouts_table(points), {"grow": points})
        return
    if args.sizes:
        points = compare_layouts(job, args.size_models, [args.size_prompt], [job.samples])
        memory = {layout: in_child(__file__, argv, layout) for layout in LAYOUTS}
        finish(args, f"{layouts_table(points)}\n\n{memory_table(memory)}", {"models": points, "memory": memory})
        return
    if args.merge is not None:
        result = merge(args.merge)
    else:  # TRL reports each trainer that is made, unless telemetry is off
        child = partial(in_child, __file__, argv, HF_HUB_DISABLE_TELEMETRY="1")
        result = report(asdict(job), [child(name) for name in tqdm(args.systems, desc="systems", leave=False)])
    print(systems_table(result["systems"]))
    if args.output is not None:
        write(result, args.output)


def _parser() -> argparse.ArgumentParser:
    made, job = parser(__doc__), Job()
    made.add_argument("--systems", type=names_of(SYSTEMS), default=list(SYSTEMS), help="comma-separated")
    made.add_argument("--model", choices=("smollm2", "tiny"), default=job.model)
    made.add_argument("--task", default=job.task, help="a file of conf/task")
    made.add_argument("--prompts", type=count, default=job.prompts, help="prompts of a step")
    made.add_argument("--samples", type=partial(count, at_least=2), default=job.samples, help="completions per prompt")
    made.add_argument("--new-tokens", type=count, default=job.new_tokens, help="tokens of every completion")
    made.add_argument("--steps", type=count, default=job.steps, help="timed steps")
    made.add_argument("--warmup", type=count, default=job.warmup, help="steps before them")
    made.add_argument("--micro-batch-tokens", type=count, default=job.micro_batch_tokens)
    made.add_argument("--scores", choices=SCORES, default=job.scores)
    made.add_argument(
        "--settings", choices=SETTINGS, default=job.settings, help="of the process, as train.py makes them"
    )
    made.add_argument("--threads", type=count, help="torch's threads; its own choice if not given")
    made.add_argument("--merge", type=Path, nargs="+", help="JSON files to join")
    made.add_argument("--grow", action="store_true", help="measure how t2's update grows")
    made.add_argument("--grow-samples", type=counts, default=[1, 2, 4, 8, 16], help="comma-separated")
    made.add_argument("--grow-lengths", type=counts, default=[32, 128, 512], help="prompt tokens, comma-separated")
    made.add_argument("--figure", type=Path, help="with --grow: a figure to write")
    made.add_argument("--sizes", action="store_true", help="measure t2's update by model, and its memory")
    made.add_argument("--size-models", type=names_of(MODELS), default=["tiny", "smollm2", "llama-1b"])
    made.add_argument("--size-prompt", type=count, default=64, help="prompt tokens")
    made.add_argument("--one", choices=(*SYSTEMS, *LAYOUTS), help="only measure this system, or this layout's memory")
    return made


if __name__ == "__main__":
    main(sys.argv[1:])
