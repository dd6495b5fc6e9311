"""Seconds and memory of one policy-gradient step: SVF against LoRA, the authors' way, and the floor under all of them.

    python bench/step.py [--model smollm2|tiny|llama-1b|llava|tiny-llava] [--rows 8] [--samples 1] [--output FILE.json]

    floor_forward   the forward alone, without gradients
    floor           forward, and backward through frozen weights to the input embeddings: no adapter can be cheaper
    svf             t2's SVF on all linears of the decoder blocks, factored, a row per completion as all others
    svf_shared      the same as t2 trains it: the completions of one prompt share it (`--samples` of them)
    lora_all        PEFT's LoRA, r = 16, on the same linears
    lora_qv         PEFT's LoRA, r = 16, on q_proj and v_proj
    authors         W' = U diag(s z) Vh composed with autograd; dL/dW' of the forward with dense W' is chained to dz
                    (`utils.py` of SakanaAI/self-adaptive-llms composes twice per step; here once, its cheapest form)

All of them compute -sum(advantage * log p) of the same completion tokens with the same code, in one process, taking
turns. Each has its own copy of the model (float32: about 5 GB in all for smollm2, 40 GB for llama-1b). Ratios are
medians over rounds of the ratio within a round. Memory is measured with one process per system, after a warm-up step.
Not measured: sampling, the optimizer (a few million numbers at most), and learning.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from record import arguments, count, origin, write
from step_systems import MODELS, SYSTEMS, Work, build
from tqdm import tqdm
from transformers.utils.logging import disable_progress_bar

from t2.models.loading import DTYPES


def measure_seconds(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Every system's raw timings, round by round, after a warm-up round that compares their losses.

    Raises:
        RuntimeError: the systems do not compute the same loss.
    """
    systems = [build(name, args.model, args.dtype, args.device) for name in SYSTEMS]
    work = Work.random(systems[0].lm, args.rows, args.prompt, args.completion, args.samples)
    losses = {system.name: system.step(work) for system in systems}
    check_losses(losses, args.rows * args.completion, 1e-3 if args.dtype == "float32" else 5e-2)
    seconds: dict[str, list[float]] = {name: [] for name in SYSTEMS}
    for _ in tqdm(range(args.repeats), desc="rounds", leave=False):
        for system in systems:
            start = _now(system.lm.device)
            system.step(work)
            seconds[system.name].append(_now(system.lm.device) - start)
    return [
        {
            "system": system.name,
            "trainable_parameters": sum(p.numel() for p in system.trainable),
            "loss": losses[system.name],
            "seconds": seconds[system.name],
            "ratio_to_floor": _ratio(seconds[system.name], seconds["floor"]),
            "ratio_to_lora_all": _ratio(seconds[system.name], seconds["lora_all"]),
        }
        for system in systems
    ]


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


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _ratio(seconds: list[float], reference: list[float]) -> float:
    return median(a / b for a, b in zip(seconds, reference, strict=True))


def measure_memory(name: str, args: argparse.Namespace) -> dict[str, int]:
    """Bytes held between two steps and at the peak of a step, of this process (CPU) or of its tensors (CUDA).

    The kernel's VmHWM is read, not ru_maxrss: it can be set back after loading, and is not inherited by a child.

    Raises:
        OSError: the CPU's memory is asked for where there is no /proc.
    """
    system = build(name, args.model, args.dtype, args.device)
    work = Work.random(system.lm, args.rows, args.prompt, args.completion, args.samples)
    system.step(work)
    for parameter in system.trainable:
        parameter.grad = None
    if system.lm.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        system.step(work)
        return {"held_bytes": held, "peak_bytes": torch.cuda.max_memory_allocated()}
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM := VmRSS, see proc(5)
    held = _resident("VmRSS")
    system.step(work)
    return {"held_bytes": held, "peak_bytes": _resident("VmHWM")}


def _resident(key: str) -> int:
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


def memory_of_child(name: str, argv: list[str]) -> dict[str, int]:
    """`measure_memory` in a process of its own, in which freed tensors go back to the system at once."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}  # glibc, mallopt(3); not set for the timings
    command = [sys.executable, __file__, *argv, "--one", name]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(systems: Sequence[Mapping[str, Any]]) -> str:
    """The measurements as text, one line per system."""
    head = f"{'system':<14}{'parameters':>11}{'seconds [min, max]':>26}{'/ floor':>9}{'/ lora_all':>12}"
    lines = [head + f"{'peak MB':>10}{'of it step':>12}"]
    for row in systems:
        seconds = row["seconds"]
        spread = f"{median(seconds):.4f} [{min(seconds):.4f}, {max(seconds):.4f}]"
        line = f"{row['system']:<14}{row['trainable_parameters']:>11,}{spread:>26}"
        line += f"{row['ratio_to_floor']:>9.3f}{row['ratio_to_lora_all']:>12.3f}"
        if (memory := row["memory"]) is None:
            lines.append(f"{line}{'-':>10}{'-':>12}")
        else:
            peak, step = memory["peak_bytes"], memory["peak_bytes"] - memory["held_bytes"]
            lines.append(f"{line}{peak / 1e6:>10,.0f}{step / 1e6:>12,.0f}")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Measure, print the table, and write it with all raw timings where `--output` says."""
    args = _parser().parse_args(argv)
    disable_progress_bar()
    if args.one is not None:
        print(json.dumps(measure_memory(args.one, args)))
        return
    memory: dict[str, dict[str, int] | None] = dict.fromkeys(SYSTEMS)
    if args.memory:
        memory |= {name: memory_of_child(name, argv) for name in tqdm(SYSTEMS, desc="memory", leave=False)}
    systems = [row | {"memory": memory[row["system"]]} for row in measure_seconds(args)]
    print(table(systems))
    about = origin(args.device)
    about["versions"] |= {"peft": version("peft")}
    write(about | {"arguments": arguments(args), "systems": systems}, args.output)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="smollm2")
    parser.add_argument("--rows", type=count, default=8, help="completions, N")
    parser.add_argument("--samples", type=count, default=1, help="completions of one prompt, G")
    parser.add_argument("--prompt", type=count, default=64, help="prompt tokens")
    parser.add_argument("--completion", type=count, default=20, help="completion tokens")
    parser.add_argument("--repeats", type=count, default=7, help="rounds after the warm-up round")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--output", type=Path, help="a JSON file to write")
    parser.add_argument("--one", choices=SYSTEMS, help="only measure this system's memory, and print it as JSON")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
