"""Tokens per second of rollouts under adapted weights: transformers' own `generate`, t2's decode loop, vLLM.

    python bench/rollout.py [--model smollm2|tiny] [--systems generate,t2_hf,t2_hf_copied,t2_hf_bf16,t2_vllm,...]
    python bench/rollout.py --systems t2_hf_copied,t2_hf --prompts 1 --prompt-tokens 512 --new-tokens 64 --repeats 1

Every round moves z first, so that the weights are merged (and sent to vLLM) as in training; `sync` is that part, timed
by itself. All systems answer the same prompts with as many samples of exactly as many tokens, at temperature 1 (end
tokens are switched off). Each runs in a process of its own; vLLM's CPU build wants its own environment, in which the
others run as well. Drift is the largest and the mean difference of a log-prob at sampling to the one that training
computes (factored mode, the model's own type) for the same tokens. `t2_hf_copied` keeps a prompt's keys and values once
per sample, as `t2_hf` did before `t2.policy.prompt_cache`, and with `--samples 1` copies all of them at each step, as
before `t2.policy.growing_cache`. Memory is this process's peak in the first round, merging
included, since later ones find what the allocator has kept; vLLM's engine is another process.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from measure import (
    check_lengths,
    count,
    finish,
    in_child,
    machine,
    megabytes,
    names_of,
    parser,
    peak_memory,
    table,
    timed,
    write,
)
from models import endless_vllm, inject_svf, load_endless

from t2.adapters.svf import SVF
from t2.models.language_model import LanguageModel
from t2.policy import decode
from t2.policy.generator import Generator
from t2.policy.hf import HFGenerator
from t2.policy.log_probs import token_log_probs
from t2.policy.vllm_engine import EngineSettings, get_engine
from t2.types import Completion, Example, Sampling

SYSTEMS = ("generate", "t2_hf", "t2_hf_copied", "t2_hf_bf16", "t2_vllm", "t2_vllm_bf16")
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
        completions = [
            Completion(tuple(prompt), tuple(row[width:]), (0.0,) * sampling.max_new_tokens, "", "length")
            for prompt, row in zip(prompts, out.tolist(), strict=True)
        ]
        return [completions[start : start + sampling.samples] for start in range(0, len(completions), sampling.samples)]


class CopiedPrompts(HFGenerator):
    """t2's decode loop with a prompt's keys and values once for each sample, and all of them copied at each step."""

    def generate(self, examples: Sequence[Example], sampling: Sampling) -> list[list[Completion]]:
        """As in `t2.policy.generator`."""
        with (
            patch.object(decode, "share_prompts", lambda cache, new_tokens: None),
            patch.object(decode, "leave_room", lambda cache, new_tokens: None),
        ):
            return super().generate(examples, sampling)


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """One system's seconds in this process; RuntimeError if a completion is shorter than asked for."""
    if "vllm" in name and importlib.util.find_spec("vllm") is None:
        return {"system": name, "status": "not installed"}
    about = machine()  # before vLLM binds this process's threads
    lm = load_endless(args.model)
    adapter = inject_svf(lm)
    generator, sync = _build(name, lm, adapter)
    examples = [_example(lm, number, args.prompt_tokens) for number in range(args.prompts)]
    sampling = Sampling(max_new_tokens=args.new_tokens, temperature=1.0, samples=args.samples)
    completions: list[Completion] = []
    rollout = timed(lambda: completions.extend(chain(*generator.generate(examples, sampling))))
    _move(adapter, args.repeats)
    memory = peak_memory(rollout)  # of a first round, which is not timed
    whole, synced = [], []
    for number in range(args.repeats):
        _move(adapter, number)
        completions.clear()
        whole.append(rollout())
        check_lengths(name, [len(one.token_ids) for one in completions], args.new_tokens)
        _move(adapter, 1000 + number)
        synced.append(timed(sync)())
        _move(adapter, number)
    found = {"system": name, "status": "measured", "machine": about, "seconds": whole, "sync_seconds": synced}
    drift = None if name == "generate" else _drift(lm, completions[:16])
    return found | {"tokens": len(completions) * args.new_tokens, "drift": drift, "memory": memory}


def _example(lm: LanguageModel, number: int, tokens: int) -> Example:
    """A question, asked again until its prompt has so many tokens."""
    question = asked = QUESTION.format(number, number + 1)
    while len(lm.encode(Example(asked))) < tokens:
        asked = f"{asked}\n{question}"
    return Example(asked)


def _build(name: str, lm: LanguageModel, adapter: SVF) -> tuple[Generator, Callable[[], None]]:
    """The generator, and the function that brings the weights of the present z to it."""
    half = name.endswith("bf16")

    def merge() -> None:
        with adapter.merged(dtype=torch.bfloat16 if half else None):
            pass

    if name == "generate":
        return TransformersGenerate(lm, adapter), merge
    if name == "t2_hf_copied":
        return CopiedPrompts(lm, adapter, batch_rows=64), merge
    if name.startswith("t2_hf"):
        return HFGenerator(lm, adapter, dtype="bfloat16" if half else None, batch_rows=64), merge
    generator = endless_vllm(lm, adapter)
    generator.settings = EngineSettings(dtype="bfloat16" if half else "auto")
    return generator, lambda: generator._follow(get_engine(lm, generator.settings))


def _move(adapter: SVF, seed: int) -> None:
    noise = torch.Generator().manual_seed(seed)
    scales = adapter.singular_values.items()
    adapter.load({name: 1 + 0.01 * torch.randn(s.shape, generator=noise) for name, s in scales})


@torch.no_grad()
def _drift(lm: LanguageModel, completions: Sequence[Completion]) -> dict[str, float]:
    sampled = torch.tensor([one.log_probs for one in completions])
    difference = (token_log_probs(lm, completions).log_probs - sampled).abs()
    return {"max": float(difference.max()), "mean": float(difference.mean())}


def rollout_table(systems: Sequence[dict[str, Any]]) -> str:
    """Seconds of a rollout and of the transfer of weights, tokens per second, ratios, and memory."""
    rate = {row["system"]: row["tokens"] / median(row["seconds"]) for row in systems if row["status"] == "measured"}
    rows: list[dict[str, Any]] = []
    for row in systems:
        if (name := row["system"]) not in rate:
            rows.append({"system": name, "status": row["status"]})
            continue
        seconds = {"seconds": median(row["seconds"]), "sync s": median(row["sync_seconds"]), "tokens/s": rate[name]}
        ratios = {f"/ {other}": rate[name] / rate[other] if other in rate else "" for other in ("generate", "t2_hf")}
        drift = f"{row['drift']['max']:.2g}" if row["drift"] else ""
        rows.append({"system": name, **seconds, **ratios, "drift max": drift, **megabytes(row["memory"])})
    return table(rows)


def main(argv: Sequence[str]) -> None:
    """Measure each system in a child, print the table, write the JSON."""
    made = parser(__doc__)
    made.add_argument("--model", choices=("smollm2", "tiny"), default="smollm2")
    made.add_argument("--systems", type=names_of(SYSTEMS), default=list(SYSTEMS), help="comma-separated")
    made.add_argument("--prompts", type=count, default=8)
    made.add_argument("--prompt-tokens", type=partial(count, at_least=0), default=0, help="of a prompt, at least")
    made.add_argument("--samples", type=count, default=8, help="completions per prompt")
    made.add_argument("--new-tokens", type=count, default=32, help="tokens of every completion")
    made.add_argument("--repeats", type=count, default=3, help="rounds after the warm-up round")
    made.add_argument("--one", choices=SYSTEMS, help="only measure this system, in this process")
    args = made.parse_args(argv)
    if args.one:
        write(measure(args.one, args), args.output)
        return
    systems = [in_child(__file__, argv, name) for name in args.systems]
    finish(args, rollout_table(systems), {"systems": systems})


if __name__ == "__main__":
    main(sys.argv[1:])
