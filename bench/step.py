"""Seconds and memory of one policy-gradient step: SVF against LoRA, the authors' way, and the floor under all of them.

    python bench/step.py [--model smollm2|tiny|llama-1b] [--rows 8] [--repeats 7] [--device cuda] [--output FILE.json]

    floor_forward   the forward alone, without gradients
    floor           forward, and backward through frozen weights to the input embeddings: no adapter can be cheaper
    svf             t2's SVF on all linears of the decoder blocks, factored
    lora_all        PEFT's LoRA, r = 16, on the same linears
    lora_qv         PEFT's LoRA, r = 16, on q_proj and v_proj
    authors         W' = U diag(s z) Vh composed with autograd; dL/dW' of the forward with dense W' is chained to dz
                    (`utils.py` of SakanaAI/self-adaptive-llms composes twice per step; here once, its cheapest form)

All of them compute -sum(advantage * log p) of the same completion tokens with the same code, in one process, taking
turns; each has its own copy of the model (float32: 5 GB in all for smollm2, 45 GB for llama-1b). Ratios are medians
over rounds of the ratio within a round. Memory is measured with one process per system, after a warm-up step.
Not measured: sampling, the optimizer (a few million numbers at most), and learning.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from omegaconf import OmegaConf
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from t2.adapters.svf import SVF, SVFLinear
from t2.adapters.targets import find_targets
from t2.files import atomic_path
from t2.logprobs import token_log_probs
from t2.models import LanguageModel, load_model, parse_device, parse_dtype
from t2.runtime import git_commit, versions
from t2.tiny import byte_tokenizer, tiny_model
from t2.types import Completion

ROOT = Path(__file__).resolve().parent.parent
SYSTEMS = ("floor_forward", "floor", "svf", "lora_all", "lora_qv", "authors")
RANK = 16


@dataclass(frozen=True)
class Work:
    """What every system computes the loss of: N random completions and an advantage for each."""

    completions: tuple[Completion, ...]
    advantages: Tensor  # (N,)

    @classmethod
    def random(cls, lm: LanguageModel, rows: int, prompt: int, completion: int) -> Work:
        """The same ids and advantages for every model with the same vocabulary."""
        if prompt + completion > lm.context_length:
            raise ValueError(
                f"{prompt} prompt and {completion} completion tokens exceed the context of {lm.source}, "
                f"{lm.context_length}. Lower --prompt or --completion."
            )
        generator = torch.Generator().manual_seed(0)
        vocabulary = lm.model.get_input_embeddings().weight.shape[0]
        ids = torch.randint(vocabulary, (rows, prompt + completion), generator=generator).tolist()
        answers = tuple(
            Completion(tuple(row[:prompt]), tuple(row[prompt:]), (0.0,) * completion, "", "length") for row in ids
        )
        return cls(answers, torch.randn(rows, generator=generator).to(lm.device))

    def loss(self, lm: LanguageModel) -> Tensor:
        """The policy-gradient loss -sum(advantage * log p) over all completion tokens, ()."""
        token = token_log_probs(lm, self.completions)
        assert bool(token.mask.all()), "all completions have the same length here"
        return -(self.advantages[:, None] * token.log_probs).sum()


class DenseSVF:
    """SVF as the authors train it: a model that holds dense W' with dense gradients, which are chained to z."""

    def __init__(self, model: nn.Module, svf: SVF):
        """Take the factors and vectors of an injected adapter, and put its Linears back in its place."""
        self.layers = list(svf.layers.values())
        self.composed: list[Tensor] = []
        for name, layer in svf.layers.items():
            assert isinstance(layer.base, nn.Linear), f"{name} is a {type(layer.base).__name__}"
            if layer.joint:  # its factor is a view into [W | U s], which nothing needs here
                layer.output_factor = layer.output_factor.clone()
                del layer.joint_weight
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, layer.base)
            layer.base.weight.requires_grad_(True)

    def compose(self) -> None:
        """Set every weight to U diag(s z) Vh, and keep the graph that leads from z to it."""
        for layer in self.layers:
            weight = self._dense(layer)
            layer.base.weight.data = weight.detach()
            self.composed.append(weight)

    def chain(self) -> None:
        """Carry the dense gradients on to z, and drop them."""
        gradients = [layer.base.weight.grad for layer in self.layers]
        torch.autograd.backward(self.composed, gradients)
        self.composed.clear()
        for layer in self.layers:
            layer.base.weight.grad = None

    @staticmethod
    def _dense(layer: SVFLinear) -> Tensor:
        scaled = layer.output_factor * layer.parametrization()  # (n_out, R), fp32 at least, as z is
        return scaled.to(layer.output_factor.dtype) @ layer.input_factor


@dataclass
class System:
    """A model as one system wears it."""

    name: str
    lm: LanguageModel
    trainable: list[nn.Parameter] = field(default_factory=list)
    dense: DenseSVF | None = None

    def step(self, work: Work) -> float:
        """One loss and, except for `floor_forward`, its gradients."""
        for parameter in self.trainable:
            parameter.grad = None
        learns = self.name != "floor_forward"
        if self.dense is not None:
            self.dense.compose()
        with torch.set_grad_enabled(learns):
            loss = work.loss(self.lm)
        if learns:
            loss.backward()  # type: ignore[no-untyped-call]
        if self.dense is not None:
            self.dense.chain()
        return loss.item()


def build(name: str, args: argparse.Namespace) -> System:
    """A fresh copy of the model with the named system in it."""
    lm = load(args.model, args.dtype, args.device)
    system = System(name, lm)
    if name == "floor":
        lm.model.enable_input_require_grads()
    if name in ("svf", "authors"):
        svf = SVF(modules="all", cache=args.model != "tiny", progress=False)
        svf.inject(lm.model, lm.source)
        svf.to(lm.device)
        system.trainable = svf.trainable()
        system.dense = DenseSVF(lm.model, svf) if name == "authors" else None
    if name in ("lora_all", "lora_qv"):
        targets = list(find_targets(lm.model, "all", None)) if name == "lora_all" else ["q_proj", "v_proj"]
        config = LoraConfig(r=RANK, lora_alpha=2 * RANK, lora_dropout=0.0, target_modules=targets)
        inject_adapter_in_model(config, lm.model)  # A and B get the model's dtype
        system.trainable = [p for p in lm.model.parameters() if p.requires_grad]
    return system


def load(model: str, dtype: str, device: str) -> LanguageModel:
    """The model of a `--model` choice, its weights in memory of their own."""
    if model == "tiny":
        return tiny_model(dtype=dtype, device=device)
    if model == "llama-1b":
        return _random_llama_1b(dtype, device)
    conf = OmegaConf.load(ROOT / "conf" / "base_model" / "smollm2_135m.yaml")
    lm = load_model(conf.source, dtype=dtype, device=device, sha256=conf.sha256)
    for parameter in lm.model.parameters():  # pages of a mapped file would blur the memory figures
        parameter.data = parameter.data.clone()
    return lm


def _random_llama_1b(dtype: str, device: str) -> LanguageModel:
    """Random weights in the shape of Llama-3.2-1B."""
    config = AutoConfig.for_model(
        "llama",
        vocab_size=128256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
    model = model.to(parse_device(device), parse_dtype(dtype))
    return LanguageModel(model, byte_tokenizer(), "random:llama-1b")


def measure_seconds(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Every system's raw timings, round by round, after a warm-up round that compares their losses.

    Raises:
        RuntimeError: the systems do not compute the same loss.
    """
    systems = [build(name, args) for name in SYSTEMS]
    work = Work.random(systems[0].lm, args.rows, args.prompt, args.completion)
    losses = {system.name: system.step(work) for system in systems}
    check_losses(losses, args.rows * args.completion, 1e-3 if args.dtype == "float32" else 5e-2)
    seconds: dict[str, list[float]] = {name: [] for name in SYSTEMS}
    for _ in range(args.repeats):
        for system in systems:
            seconds[system.name].append(_timed(system, work))
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


def _timed(system: System, work: Work) -> float:
    _synchronize(system)
    start = time.perf_counter()
    system.step(work)
    _synchronize(system)
    return time.perf_counter() - start


def _synchronize(system: System) -> None:
    if system.lm.device.type == "cuda":
        torch.cuda.synchronize(system.lm.device)


def _ratio(seconds: list[float], reference: list[float]) -> float:
    return median(a / b for a, b in zip(seconds, reference, strict=True))
