"""Tokens per second of rollouts under adapted weights: transformers' own `generate`, t2's decode loop, vLLM.

    python bench/rollout.py [--model smollm2|tiny] [--systems generate,t2_hf,t2_hf_bf16,t2_vllm,t2_vllm_bf16]

Every round moves z first, so that the weights are merged (and sent to vLLM) as in training; `sync` is that part, timed
by itself. All systems answer the same prompts with as many samples of exactly as many tokens, at temperature 1 (end
tokens are switched off). Each runs in a process of its own; vLLM's CPU build wants its own environment, in which the
others run as well. Drift is the largest and the mean difference of a log-prob at sampling to the one that training
computes (factored mode, the model's own type) for the same tokens.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from record import arguments, count, machine, origin, write
from rl_systems import endless_vllm
from step_systems import load

from t2.adapters.svf import SVF
from t2.models.language_model import LanguageModel
from t2.policy import vllm as t2_vllm
from t2.policy.generator import Generator
from t2.policy.hf import HFGenerator
from t2.policy.log_probs import token_log_probs
from t2.policy.vllm_engine import EngineSettings, get_engine
from t2.types import Completion, Example, Sampling

SYSTEMS = ("generate", "t2_hf", "t2_hf_bf16", "t2_vllm", "t2_vllm_bf16")
QUESTION = "State the final answer to the following arithmetic problem: {} + {} ="


class TransformersGenerate:
    """What a trainer without a decode loop of its own does: `model.generate` on merged weights, prompts repeated."""

    def __init__(self, lm: LanguageModel, adapter: SVF) -> None:
        """Keep both."""
        self.lm, self.adapter = lm, adapter

    def generate(self, examples: Sequence[Example], sampling: Sampling) -> list[list[Completion]]:
        """As in `t2.policy.generator`, without log-probs."""
        prompts = [self.lm.encode(example) for example in examples for _ in range(sampling.samples)]
        width = max(map(len, prompts))
        ids = torch.tensor([[self.lm.pad_id] * (width - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        with torch.no_grad(), self.adapter.merged():
            out = self.lm.model.generate(
                ids, attention_mask=mask, do_sample=True, temperature=1.0, top_k=0, eos_token_id=None,
                max_new_tokens=sampling.max_new_tokens, pad_token_id=self.lm.pad_id,
            )  # fmt: skip
        answers = [
            Completion(tuple(prompt), tuple(row[width:]), (0.0,) * sampling.max_new_tokens, "", "length")
            for prompt, row in zip(prompts, out.tolist(), strict=True)
        ]
        return [answers[start : start + sampling.samples] for start in range(0, len(answers), sampling.samples)]


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """One system's seconds in this process."""
    if "vllm" in name and importlib.util.find_spec("vllm") is None:
        return {"system": name, "status": "not installed"}
    about = machine("cpu")  # before vLLM binds this process's threads
    lm = load(args.model, "float32", "cpu")
    lm.end_ids = frozenset()
    adapter = SVF(modules="all", cache=args.model != "tiny", progress=False)
    adapter.inject(lm.model, lm.source)
    generator, sync = _build(name, lm, adapter)
    examples = [Example(QUESTION.format(number, number + 1)) for number in range(args.prompts)]
    sampling = Sampling(max_new_tokens=args.new_tokens, temperature=1.0, samples=args.samples)
    whole, synced = [], []
    for number in range(args.repeats + 1):  # the first is not counted
        _move(adapter, number)
        start = time.perf_counter()
        groups = generator.generate(examples, sampling)
        whole.append(time.perf_counter() - start)
        assert all(len(one.token_ids) == args.new_tokens for group in groups for one in group), "all are as long"
        _move(adapter, 1000 + number)
        start = time.perf_counter()
        sync()
        synced.append(time.perf_counter() - start)
        _move(adapter, number)
    flat = [one for group in groups for one in group]
    found = {"system": name, "status": "measured", "machine": about, "seconds": whole[1:], "sync_seconds": synced[1:]}
    return found | {"tokens": len(flat) * args.new_tokens, "drift": _drift(lm, flat) if name != "generate" else None}


def _build(name: str, lm: LanguageModel, adapter: SVF) -> tuple[Generator, Callable[[], None]]:
    """Who answers, and what brings the weights of the present z to it."""

    def merge(dtype: torch.dtype | None = None) -> None:
        with adapter.merged(dtype=dtype):
            pass

    if name == "generate":
        return TransformersGenerate(lm, adapter), merge
    if name.startswith("t2_hf"):
        dtype = "bfloat16" if name.endswith("bf16") else None
        torch_dtype = torch.bfloat16 if dtype else None
        return HFGenerator(lm, adapter, dtype=dtype, batch_rows=64), lambda: merge(torch_dtype)
    generator = endless_vllm(lm, adapter)
    assert isinstance(generator, t2_vllm.VLLMGenerator), "what it says"
    generator.settings = EngineSettings(dtype="bfloat16" if name.endswith("bf16") else "auto")
    return generator, lambda: generator._follow(get_engine(lm, generator.settings))


def _move(adapter: SVF, seed: int) -> None:
    noise = torch.Generator().manual_seed(seed)
    scales = adapter.singular_values.items()
    adapter.load({name: 1 + 0.01 * torch.randn(s.shape, generator=noise) for name, s in scales})


@torch.no_grad()
def _drift(lm: LanguageModel, flat: Sequence[Completion]) -> dict[str, float]:
    some = flat[:16]
    token = token_log_probs(lm, some)
    sampled = torch.tensor([one.log_probs for one in some])
    difference = (token.log_probs - sampled).abs()
    return {"max": float(difference.max()), "mean": float(difference.mean())}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Seconds, tokens per second with and without what brings the weights over, and ratios."""
    lines = [
        f"{'system':<14}{'seconds':>9}{'sync s':>8}{'tokens/s':>10}{'/ generate':>12}{'/ t2_hf':>9}{'drift max':>11}"
    ]
    rate = {row["system"]: row["tokens"] / median(row["seconds"]) for row in rows if row["status"] == "measured"}
    for row in rows:
        if row["status"] != "measured":
            lines.append(f"{row['system']:<14}{row['status']}")
            continue
        name = row["system"]
        line = f"{name:<14}{median(row['seconds']):>9.2f}{median(row['sync_seconds']):>8.2f}{rate[name]:>10,.0f}"
        for other, width in (("generate", 12), ("t2_hf", 9)):
            line += f"{rate[name] / rate[other]:>{width}.2f}" if other in rate else " " * width
        lines.append(line + (f"{row['drift']['max']:>11.2g}" if row["drift"] else ""))
    return "\n".join(lines)


def main(argv: Sequence[str]) -> None:
    """Measure each system in a child, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=("smollm2", "tiny"), default="smollm2")
    parser.add_argument("--systems", type=lambda text: text.split(","), default=list(SYSTEMS))
    parser.add_argument("--prompts", type=count, default=8)
    parser.add_argument("--samples", type=count, default=8)
    parser.add_argument("--new-tokens", type=count, default=32)
    parser.add_argument("--repeats", type=count, default=3)
    parser.add_argument("--output", type=Path, help="a JSON file to write")
    parser.add_argument("--one", choices=SYSTEMS, help="measure this system in this process, and write its row alone")
    args = parser.parse_args(argv)
    if args.one:
        write(measure(args.one, args), args.output)
        return
    rows = []
    for name in args.systems:
        with tempfile.TemporaryDirectory() as folder:
            out = str(Path(folder) / "row.json")
            command = [sys.executable, __file__, *argv, "--one", name, "--output", out]
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            rows.append(json.loads(Path(out).read_text()))
    print(table(rows))
    write(origin() | {"arguments": arguments(args), "systems": rows}, args.output)


if __name__ == "__main__":
    main(sys.argv[1:])
