"""Which models a GPU holds while SVF is trained on them, by how their weights are kept: the table of docs/models.md.

    python bench/what_fits.py

Counted by `t2.costs`, nothing is loaded: the largest sixteen singular values of every matrix learn (`svf_top16`), a
step of 8 prompts of 100 tokens with 6 samples of 200, micro-batches of 1024 tokens, blocks computed again in the
backward pass, rollouts factored, 16 of them at once. One GPU needs the sum of the fullest phase and 10 % to spare.
"""

from __future__ import annotations

from collections.abc import Sequence

from t2.cli.estimate import TIGHT
from t2.costs.configurations import configuration
from t2.costs.estimate import Run, estimate
from t2.costs.gpus import gpus
from t2.costs.shapes import on_meta, shape_of
from t2.costs.step import Work
from t2.models.quantization import QUANTIZATIONS

MODELS = {
    "Llama-3.2-1B": "meta-llama/Llama-3.2-1B",
    "Qwen2.5-1.5B": "Qwen/Qwen2.5-1.5B",
    "Llama-3.2-3B": "meta-llama/Llama-3.2-3B",
    "Qwen3-4B": "Qwen/Qwen3-4B",
    "Mistral-7B": "mistralai/Mistral-7B-Instruct-v0.3",
    "Llama-3.1-8B": "meta-llama/Llama-3.1-8B",
    "Qwen3-14B": "Qwen/Qwen3-14B",
    "Qwen3-32B": "Qwen/Qwen3-32B",
    "Llama-3.3-70B": "meta-llama/Llama-3.3-70B-Instruct",
}
SIZES_GB = (12, 24, 48, 80)


def needed_gb(source: str, quantization: str) -> float:
    """GB of the fullest phase."""
    work = Work(rank=16, merged_bytes=None, recompute=True, batch_rows=16, quantization=quantization)
    shape = shape_of(on_meta(configuration(source)[0]))
    return estimate(shape, Run(work=work, top_alone=True), gpus()["h100"]).needed / 1e9


def smallest(gb: float) -> str:
    """The smallest GPU that holds so much, in GB."""
    return next((str(size) for size in SIZES_GB if gb <= TIGHT * size), "none")


def report(models: Sequence[str] = tuple(MODELS)) -> str:
    """The table, in Markdown."""
    columns = ["bf16" if name == "none" else name for name in QUANTIZATIONS]
    lines = [
        f"| model | {' | '.join(f'{name}: GB, GPU' for name in columns)} |",
        "|---|" + "---|" * len(columns),
    ]
    for model in models:
        found = [needed_gb(MODELS[model], name) for name in QUANTIZATIONS]
        lines.append(f"| {model} | {' | '.join(f'{gb:.1f}, {smallest(gb)}' for gb in found)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(report())
