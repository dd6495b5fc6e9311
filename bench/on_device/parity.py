"""Whether the device computes what the CPU computes: every mode and type, decompositions, and a run that is resumed."""

from __future__ import annotations

import copy
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from cost_model import shape as shape_of
from torch import Tensor

from on_device.build import Bench, clock, inject, random_llama, random_state, synchronized
from on_device.learner import Learner
from t2.adapters.svd import decompose, reconstruction_error
from t2.adapters.svf import SVF
from t2.costs.step import Work
from t2.models.language_model import LanguageModel
from t2.models.loading import load_model
from t2.models.tiny import tiny_model
from t2.policy.hf import HFGenerator
from t2.types import Example, Sampling

ALLOWED = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 1e-2}  # of the largest logit
CPU = torch.device("cpu")


def parity(bench: Bench) -> list[dict[str, Any]]:
    """Largest difference of logits from those of the CPU, by type and mode, and whether greedy answers are the same."""
    rows = []
    for dtype, allowed in ALLOWED.items():
        lm = tiny_model(hidden_size=64, layers=2 if bench.small else 8, dtype=dtype)
        svf = inject(lm, random_factors=False)
        svf.load(random_state(svf, 0.05))
        there, svf_there = copy.deepcopy((lm, svf))
        there.model.to(bench.device)
        expected, got = _logits(lm, svf), _logits(there, svf_there)
        for mode, reference in expected.items():
            off = float((got[mode].cpu() - reference).abs().max() / reference.abs().max())
            row = {"type and mode": f"{dtype} {mode}", "difference": off, "allowed": allowed, "ok": off <= allowed}
            rows.append(row | {"kl": _kl(reference, got[mode].cpu())})
        rows[-1]["same answers"] = f"{_same_answers((lm, svf), (there, svf_there))} of 4"
    return [{**row, "same answers": row.get("same answers", "")} for row in rows]


def _logits(lm: LanguageModel, svf: SVF) -> dict[str, Tensor]:
    """fp32 logits (4, 32, V) of random ids by mode."""
    ids = torch.randint(256, (4, 32), generator=torch.Generator().manual_seed(1)).to(lm.device)
    states = [svf.state(), random_state(svf, 0.05, seed=1)]
    stacked = {name: torch.stack([state[name] for state in (*states, *states)]) for name in states[0]}
    modes: dict[str, Callable[[], AbstractContextManager[Any]]] = {
        "off": svf.disabled,
        "merged": svf.merged,
        "per example": lambda: svf.per_example(stacked),
    }
    found = {}
    with torch.no_grad():
        found["factored"] = lm.model(input_ids=ids).logits.float()
        for name, mode in modes.items():
            with mode():
                found[name] = lm.model(input_ids=ids).logits.float()
    return found


def _kl(reference: Tensor, other: Tensor) -> float:
    """Mean KL(reference || other) in nats a token."""
    p, q = reference.log_softmax(-1), other.log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


def _same_answers(one: tuple[LanguageModel, SVF], other: tuple[LanguageModel, SVF]) -> int:
    asked = [Example(f"What is {n} + 3?") for n in range(4)]
    answers = [HFGenerator(*both).generate(asked, Sampling(max_new_tokens=8)) for both in (one, other)]
    return sum(a[0].token_ids == b[0].token_ids for a, b in zip(*answers, strict=True))


def trained_model(bench: Bench, source: str) -> list[dict[str, Any]]:
    """Real weights, such as SmolLM2's: seconds of loading and decomposing on the device, and its logits by mode against
    those of the CPU in fp32."""
    there: list[LanguageModel] = []
    loading = clock(lambda: there.append(load_model(source, device=str(bench.device))), bench.device)
    adapters: list[SVF] = []
    decomposing = clock(lambda: adapters.append(inject(there[0], random_factors=False)), bench.device)
    state = random_state(adapters[0], 0.05)
    adapters[0].load(state)
    here, svf_here = copy.deepcopy((there[0], adapters[0]))
    here.model.to(CPU)
    expected, got = _logits(here, svf_here), _logits(there[0], adapters[0])
    rows = []
    for mode, reference in expected.items():
        off = float((got[mode].cpu() - reference).abs().max() / reference.abs().max())
        row = {"trained model": mode, "difference": off, "allowed": ALLOWED["float32"]}
        rows.append(row | {"ok": off <= ALLOWED["float32"], "load s": loading, "svd s": decomposing})
    return rows


def svd(bench: Bench, shapes: list[str]) -> list[dict[str, Any]]:
    """Seconds of each size of matrix of the shapes, its error, and of all matrices of each shape."""
    found: dict[tuple[int, int], tuple[float, float]] = {}
    rows = []
    for name in shapes:
        sizes, total = Counter(shape_of(name).adapted), 0.0
        for size, times in sizes.items():
            if size not in found:
                weight = torch.randn(size, device=bench.device) / size[1] ** 0.5
                start = synchronized(bench.device)
                parts = decompose(weight)
                found[size] = synchronized(bench.device) - start, reconstruction_error(parts, weight)
            total += found[size][0] * times
        largest = max(sizes, key=lambda one: one[0] * one[1])
        rows.append(
            {"shape": name, "largest": f"{largest[0]}x{largest[1]}", "its seconds": found[largest][0]}
            | {"its error": f"{found[largest][1]:.1g}", "all, seconds": total}
        )
    return rows


def resume(bench: Bench) -> list[dict[str, Any]]:
    """Whether a run that was saved and loaded ends with the same z, bit for bit, and so do two runs in a row."""
    work = Work(prompts=2, samples=3, prompt_tokens=40, new_tokens=8)
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        whole, again, first, second = (_learner(work, dtype, bench) for _ in range(4))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "state.pt"
            for step in range(4):
                whole.step(step)
                again.step(step)
                if step < 2:
                    first.step(step)
                if step == 1:
                    first.save(path)
                    second.load(path)
                if step >= 2:
                    second.step(step)
        states = [torch.cat(list(one.svf.state().values())) for one in (whole, again, second)]
        rows.append(
            {"type": str(dtype).removeprefix("torch."), "moved": float((states[0] - 1).abs().max())}
            | {"same when repeated": str(torch.equal(states[0], states[1]))}
            | {"same when resumed": str(torch.equal(states[0], states[2])), "ok": torch.equal(states[0], states[2])}
        )
    return rows


def _learner(work: Work, dtype: torch.dtype, bench: Bench) -> Learner:
    lm = random_llama("tiny", dtype, bench.device)
    with torch.no_grad():
        for parameter in lm.model.parameters():
            parameter.mul_(5.0)  # the usual initialization gives nearly uniform logits
    return Learner(lm, inject(lm, random_factors=False), replace(work))
