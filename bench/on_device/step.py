"""One training step of a shape and type: seconds by phase, tokens/s, MFU, peak memory by part; sharing."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any

import torch
from cost_model import shape as shape_of
from measure import peak_memory

from on_device.build import Bench, clock, inject, random_llama
from on_device.learner import Learner
from t2.costs.gpus import GPU
from t2.costs.placement import seconds
from t2.costs.step import Work, flops, memory
from t2.training.rollout import Rollout

NUMBER_BYTES = {torch.float32: 4, torch.bfloat16: 2, torch.float16: 2}


def step(bench: Bench, shape: str, dtype: torch.dtype, gpu: GPU) -> dict[str, list[dict[str, Any]]]:
    """Tables `seconds` and `memory` of a step, measured and predicted."""
    size = NUMBER_BYTES[dtype]
    work = Work(number_bytes=size, merged_bytes=size)
    if bench.small:
        work = replace(work, prompts=2, samples=2, prompt_tokens=40, new_tokens=4)
    name = f"{shape} {str(dtype).removeprefix('torch.')}"
    allocated = {"weights": 0, "factors": 0}
    before = _held(bench)
    lm = random_llama(shape, dtype, bench.device)
    allocated["weights"] = _held(bench) - before
    svf = inject(lm, random_factors=True)
    allocated["factors"] = _held(bench) - before - allocated["weights"]
    learner = Learner(lm, svf, work)
    learner.step(0)  # kernels are chosen, and memory is reserved
    found = _phases(bench, learner)
    measured = found["seconds"]
    expected, operations = seconds(shape_of(shape), work, gpu), flops(shape_of(shape), work)
    peak = gpu.half_flops if work.number_bytes == 2 else gpu.fp32_flops
    step_seconds = sum(measured[phase] for phase in ("rollout", "score", "update"))
    spent = [
        {"step": name} | measured | {"tokens/s": work.rows * work.new_tokens / step_seconds}
        | {"update MFU %": 100 * operations["update"] / measured["update"] / peak}
        | {"predicted rollout": expected["merge"] + expected["prefill"] + expected["decode"]}
        | {"predicted update": expected["update"]}
    ]  # fmt: skip
    parts = {part: count / 1e9 for part, count in memory(shape_of(shape), work).items()}
    taken = {part: count / 1e9 for part, count in (allocated | found["peaks"]).items()}
    held = parts["weights"] + parts["factors"]
    foreseen = {
        "weights": parts["weights"], "factors": parts["factors"],
        "rollout peak": held + parts["merged"] + parts["cache"],
        "update peak": held + parts["activations"] + parts["logits"],
    }  # fmt: skip
    held_gb = [{"GB": f"{name}, measured"} | taken, {"GB": f"{name}, predicted"} | foreseen]
    del lm, svf, learner
    _free(bench)
    return {"seconds": spent, "memory": held_gb}


def _phases(bench: Bench, learner: Learner) -> dict[str, dict[str, float]]:
    """Seconds of the phases of one step, and bytes at the peak of rollout and update."""
    device = bench.device
    kept: dict[str, Any] = {}

    def merge() -> None:
        with learner.svf.merged():
            pass

    def rollout() -> None:
        kept["completions"] = learner.rollout(1)

    def score() -> None:
        kept["rollout"] = learner.score(kept["completions"])

    spent = {"merge": clock(merge, device)}
    spent["rollout"] = clock(rollout, device)
    spent["score"] = clock(score, device)
    done: Rollout = kept["rollout"]
    spent["update"] = clock(lambda: learner.update(done), device)
    spent["update, not shared"] = clock(lambda: learner.update(done, shared=False), device)
    peaks = {
        "rollout peak": peak_memory(rollout, device)["peak_bytes"],
        "update peak": peak_memory(lambda: learner.update(done), device)["peak_bytes"],
    }
    return {"seconds": spent, "peaks": {part: float(count) for part, count in peaks.items()}}


def _held(bench: Bench) -> int:
    """Bytes of tensors on a GPU; 0 on a CPU, where the process's memory says nothing of them."""
    gc.collect()
    return torch.cuda.memory_allocated(bench.device) if bench.device.type == "cuda" else 0


def _free(bench: Bench) -> None:
    gc.collect()
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()
