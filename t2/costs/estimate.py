"""What a training run needs: memory by part in each of its phases, seconds of each, and disk.

    load       the model and its decompositions, of which the largest is computed beside what is there
    rollout    completions are sampled, with merged weights or factored
    update     one micro-batch after another, forward and backward

Seconds of a GPU rest on shares of its peak that are assumed, and completions are as long as they may be, so they are an
order of magnitude; bytes are counted (`t2.costs.step`). Not done here: reading a configuration (`t2.cli.estimate`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from t2.adapters.truncated_svd import BLOCKS, EXTRA, by_krylov, is_cheaper
from t2.costs.gpus import GPU
from t2.costs.placement import ONE, Placement, always, held, seconds
from t2.costs.shapes import ModelShape, Size
from t2.costs.step import Work

PROGRAM_CPU = 0.85e9  # bytes of Python with torch, transformers, Lightning and Hydra
CPU_SURPLUS = 0.3  # of activations and logits, that a CPU's update takes beyond them: measured (docs/estimate.md)
PROGRAM_GPU = 0.6e9  # bytes of a CUDA context and of the workspaces of its libraries
PHASES = ("load", "rollout", "update")
IN_PHASE = {
    "load": ("decomposition",),
    "rollout": ("merged", "cache", "engine"),
    "update": ("activations", "logits", "surplus"),
}  # parts that are there beside those of every phase


@dataclass(frozen=True)
class Run:
    """A training run.

    Attributes:
        work: a step.
        placement: on how many GPUs.
        steps: of training.
        updates: of each rollout.
        members: adapters that a step scores: the population of evolution strategies, else 1.
        samples_rollouts: whether the model samples; false where it imitates answers.
        has_backward: whether an update is computed by gradients.
        has_reference: whether the base computes the tokens of an update, too.
        validations, validation_rows: how often, and completions of each.
        validation_tokens: of a completion of these; None: as many as of a rollout's.
        top_alone: whether the largest singular triplets are computed alone, where that is cheaper.
        engine_bytes: of an engine of its own that samples; `is_remote`: it is on other GPUs.
        file_bytes: of a number in the model's files; `converts`: they are converted to fp32 once, on disk.
        keeps_decompositions: on disk.
    """

    work: Work
    placement: Placement = ONE
    steps: int = 25
    updates: int = 1
    members: int = 1
    samples_rollouts: bool = True
    has_backward: bool = True
    has_reference: bool = False
    validations: int = 6
    validation_rows: int = 100
    validation_tokens: int | None = None
    top_alone: bool = False
    engine_bytes: float = 0.0
    is_remote: bool = False
    file_bytes: float = 2.0
    converts: bool = False
    keeps_decompositions: bool = True


@dataclass(frozen=True)
class Estimate:
    """Bytes by part, bytes by phase, seconds by phase (`run` is all of them) and bytes on disk."""

    parts: dict[str, float]
    phases: dict[str, float]
    seconds: dict[str, float]
    disk: dict[str, float]

    @property
    def needed(self) -> float:
        """Bytes of the fullest phase."""
        return max(self.phases.values())


def estimate(shape: ModelShape, run: Run, gpu: GPU) -> Estimate:
    """What a run of a model needs on a GPU."""
    parts = memory_parts(shape, run, gpu)
    stays = always(parts) + parts["program"]
    phases = {phase: stays + sum(parts[name] for name in IN_PHASE[phase]) for phase in PHASES}
    return Estimate(parts, phases, run_seconds(shape, run, gpu), disk_parts(shape, run))


def memory_parts(shape: ModelShape, run: Run, gpu: GPU) -> dict[str, float]:
    """Bytes of one GPU by part; those of a phase that the run does not have are 0."""
    parts = held(shape, run.work, run.placement)
    if run.members > 1:  # of each member a state, in fp32
        parts["z and AdamW"] += 4 * run.members * sum(map(run.work.learned, shape.adapted))
    if not run.has_backward:
        parts |= {"activations": 0.0, "logits": 0.0}
    parts["cache"] = max(held(shape, one, run.placement)["cache"] for one in _sampled(run)) if _sampled(run) else 0.0
    if not parts["cache"]:
        parts["merged"] = 0.0
    parts["surplus"] = CPU_SURPLUS * (parts["activations"] + parts["logits"]) if gpu.is_cpu else 0.0
    largest = max(shape.adapted, key=lambda size: size[0] * size[1])
    return {
        "program": PROGRAM_CPU if gpu.is_cpu else PROGRAM_GPU,
        **parts,
        "decomposition": 4 * _workspace(largest),
        "engine": run.engine_bytes,
    }


def _sampled(run: Run) -> list[Work]:
    """What the model samples: rollouts, and validations, of which no completions share a prompt."""
    if run.engine_bytes or run.is_remote:
        return []
    work = run.work
    rollouts = [replace(work, prompts=work.prompts * run.members)] if run.samples_rollouts else []
    return rollouts + ([_validated(run)] if run.validations else [])


def _validated(run: Run) -> Work:
    """The completions of one validation."""
    tokens = run.validation_tokens or run.work.new_tokens
    return replace(run.work, prompts=run.validation_rows, samples=1, new_tokens=tokens)


def run_seconds(shape: ModelShape, run: Run, gpu: GPU) -> dict[str, float]:
    """Seconds: of all decompositions, of the phases of a step, of a step, of all validations, and of the run."""
    work = run.work
    rate = gpu.fp32_flops * gpu.svd_share
    decomposing = sum(svd_flops(size, work, top_alone=run.top_alone) for size in shape.adapted) / rate
    spent = seconds(shape, replace(work, prompts=work.prompts * run.members), gpu, run.placement)
    if not run.samples_rollouts:
        spent |= {"merge": 0.0, "prefill": 0.0, "decode": 0.0}
    backward = run.updates * (1.5 if run.has_reference else 1.0) if run.has_backward else 0.0
    step = {
        "merge": spent["merge"],
        "rollout": spent["prefill"] + spent["decode"],
        "update": spent["update"] * backward,
    }
    answered = seconds(shape, _validated(run), gpu, run.placement)  # divided over the ranks
    validation = run.validations * (answered["merge"] + answered["prefill"] + answered["decode"])
    total = decomposing + run.steps * sum(step.values()) + validation
    return {
        "decomposition": decomposing, **step, "step": sum(step.values()), "validations": validation, "run": total,
    }  # fmt: skip


def disk_parts(shape: ModelShape, run: Run) -> dict[str, float]:
    """Bytes: the model's files, what they are converted to, decompositions, and what is learned with its optimizer."""
    columns = [(size, _columns(size, run.work, top_alone=run.top_alone)) for size in shape.adapted]
    kept = sum((sum(size) + 1) * k for size, k in columns) if run.keeps_decompositions else 0
    return {
        "model": run.file_bytes * shape.parameters,
        "converted": 4.0 * shape.parameters if run.converts else 0.0,
        "decompositions": 4.0 * kept,
        "checkpoints": 2 * 12.0 * sum(map(run.work.learned, shape.adapted)),  # the last two
    }


def svd_flops(size: Size, work: Work, *, top_alone: bool) -> float:
    """Operations of a thin SVD, 6 m n² + 20 n³ (Golub and Van Loan, Matrix Computations, figure 8.6.1), m ≥ n.

    Of the k largest triplets alone (`t2.adapters.truncated_svd`) those of the first blocks of a Krylov basis, or of
    the product of the matrix with itself, 2 m n², its reduction to three diagonals, 4/3 n³, and its vectors, 2 n² k.
    """
    m, n = max(size), min(size)
    k = _columns(size, work, top_alone=top_alone)
    if k == n:
        return 6.0 * m * n**2 + 20.0 * n**3
    if by_krylov(torch.Size(size), k):
        return 4.0 * m * n * (k + EXTRA) * BLOCKS[0]
    return 2.0 * m * n**2 + 4.0 / 3.0 * n**3 + 2.0 * n**2 * k


def _columns(size: Size, work: Work, *, top_alone: bool) -> int:
    """How many singular triplets of a matrix are computed."""
    k = work.learned(size)
    return k if top_alone and is_cheaper(torch.Size(size), k) else min(size)


def _workspace(size: Size) -> int:
    """Numbers that decomposing a matrix holds: itself in fp32, U and Vh, and as much again inside the routine."""
    m, n = max(size), min(size)
    return m * n + 2 * (m + n) * n + n * n
