"""Seconds and memory of one policy-gradient step: SVF against LoRA, the authors' way, and lower bounds.

    python bench/step.py [--model smollm2|tiny|llama-1b|llava|tiny-llava] [--rows 8] [--samples 1] [--output FILE.json]
        [--systems floor_forward,floor,svf,svf_top16,lora_all]

    floor_forward   the forward alone, without gradients
    floor           forward, and backward through frozen weights to the input embeddings: no adapter can be cheaper
    svf             t2's SVF on all linears of the decoder blocks, factored, one row per completion as all others
    svf_shared      the same as t2 trains it: the completions of one prompt share it (`--samples` of them)
    svf_top1, svf_top16, svf_share10    SVF on the largest 1, 16 or tenth of each matrix's singular values: a thin
                    correction beside W x
    lora_all, lora_r1    PEFT's LoRA, r = 16 and r = 1, on the same linears
    lora_qv         PEFT's LoRA, r = 16, on q_proj and v_proj
    ia3             PEFT's IA3 on the same linears
    vera            PEFT's VeRA, r = 256, on the same linears
    authors         W' = U diag(s z) Vh composed with autograd; dL/dW' of the forward with dense W' is chained to dz
                    (`utils.py` of SakanaAI/self-adaptive-llms composes twice per step; here once, its cheapest form)

All of them compute -sum(advantage * log p) of the same completion tokens with the same code, in one process, in turns.
Each has its own copy of the model (float32: about 10 GB in all for smollm2, 80 GB for llama-1b; `--systems` takes some
of them, floor, floor_forward and lora_all always). Memory is measured
with one process per system, after a warm-up step. Not measured: sampling, the optimizer, and learning.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from measure import (
    count,
    finish,
    in_child,
    megabytes,
    names_of,
    parser,
    peak_memory,
    ratio,
    spread,
    table,
    take_turns,
    timed,
    write,
)
from models import MODELS
from step_systems import REFERENCES, SYSTEMS, Work, build
from tqdm import tqdm

from t2.models.precision import DTYPES


def measure_seconds(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Every system's raw timings by round, after a warm-up round that compares their losses (`check_losses`)."""
    systems = [build(name, args.model, args.dtype, args.device) for name in chosen(args.systems)]
    work = Work.random(systems[0].lm, args.rows, args.prompt, args.completion, args.samples)
    losses = {system.name: system.step(work) for system in systems}
    check_losses(losses, args.rows * args.completion, 1e-3 if args.dtype == "float32" else 5e-2)
    steps = {system.name: timed(partial(system.step, work), system.lm.device) for system in systems}
    seconds = take_turns(steps, args.repeats)
    return [
        {
            "system": system.name,
            "trainable_parameters": sum(p.numel() for p in system.trainable),
            "loss": losses[system.name],
            "seconds": seconds[system.name],
            "ratio_to_floor": ratio(seconds[system.name], seconds["floor"]),
            "ratio_to_lora_all": ratio(seconds[system.name], seconds["lora_all"]),
        }
        for system in systems
    ]


def chosen(systems: Sequence[str]) -> list[str]:
    """The systems asked for and those that they are compared with."""
    return [name for name in SYSTEMS if name in systems or name in REFERENCES]


def check_losses(losses: Mapping[str, float], tokens: int, tolerance: float) -> None:
    """Print the losses per completion token, and raise RuntimeError where they differ by more than `tolerance`."""
    per_token = {name: loss / tokens for name, loss in losses.items()}
    print("loss per token before training:", ", ".join(f"{n} {value:.5f}" for n, value in per_token.items()))
    reference = per_token["floor_forward"]
    wrong = [name for name, value in per_token.items() if not abs(value - reference) <= tolerance]
    if wrong:
        raise RuntimeError(
            f"At the start all systems are the base model, but {', '.join(wrong)} differ from floor_forward's "
            f"loss per token {reference:.5f} by more than {tolerance:g}: their times cannot be compared."
        )


def measure_memory(name: str, args: argparse.Namespace) -> dict[str, int]:
    """Bytes held between two steps and at the peak of a step."""
    system = build(name, args.model, args.dtype, args.device)
    work = Work.random(system.lm, args.rows, args.prompt, args.completion, args.samples)
    system.step(work)
    system.drop_gradients()
    return peak_memory(partial(system.step, work), system.lm.device)


def step_table(systems: Sequence[Mapping[str, Any]]) -> str:
    """The measurements as text, one line per system."""
    return table(
        [
            {"system": row["system"], "parameters": row["trainable_parameters"]}
            | {"seconds [min, max]": spread(row["seconds"])}
            | {"/ floor": row["ratio_to_floor"], "/ lora_all": row["ratio_to_lora_all"]}
            | megabytes(row["memory"])
            for row in systems
        ]
    )


def main(argv: Sequence[str]) -> None:
    """Measure, print the table, and write it with all raw timings where `--output` says."""
    made = parser(__doc__)
    made.add_argument("--model", choices=MODELS, default="smollm2")
    made.add_argument("--rows", type=count, default=8, help="completions, N")
    made.add_argument("--samples", type=count, default=1, help="completions of one prompt, G")
    made.add_argument("--prompt", type=count, default=64, help="prompt tokens")
    made.add_argument("--completion", type=count, default=20, help="completion tokens")
    made.add_argument("--repeats", type=count, default=7, help="rounds after the warm-up round")
    made.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    made.add_argument("--dtype", choices=DTYPES, default="float32")
    made.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True)
    made.add_argument("--systems", type=names_of(SYSTEMS), default=list(SYSTEMS), help="comma-separated")
    made.add_argument("--one", choices=SYSTEMS, help="only measure this system's memory")
    args = made.parse_args(argv)
    if args.one is not None:
        write(measure_memory(args.one, args), args.output)
        return
    names = chosen(args.systems)
    memory: dict[str, dict[str, int] | None] = dict.fromkeys(names)
    if args.memory:  # in processes in which freed tensors go back to the system at once: glibc, mallopt(3)
        child = partial(in_child, __file__, argv, MALLOC_MMAP_THRESHOLD_="65536")
        memory |= {name: child(name) for name in tqdm(names, desc="memory", leave=False)}
    systems = [row | {"memory": memory[row["system"]]} for row in measure_seconds(args)]
    finish(args, step_table(systems), {"systems": systems}, args.device)


if __name__ == "__main__":
    main(sys.argv[1:])
