"""The systems that bench/step.py compares: what each puts into its copy of the model, and one step of it.

One code path computes the loss for all of them (`Work.loss`, through t2.policy.log_probs); they differ in the modules
of the model and in where the backward pass ends. Nothing is timed here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from models import inject_svf, load, random_completions
from peft import IA3Config, LoraConfig, VeraConfig
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from torch import Tensor, nn

from t2.adapters.svf import SVF
from t2.adapters.svf_linear import SVFLinear
from t2.adapters.targets import find_targets
from t2.models.language_model import LanguageModel
from t2.policy.log_probs import token_log_probs
from t2.types import Completion

SPECTRA: dict[str, dict[str, Any]] = {
    "svf": {},
    "svf_shared": {},
    "authors": {},
    "svf_top1": {"spectrum": "top", "rank": 1},
    "svf_top16": {"spectrum": "top", "rank": 16},
    "svf_share10": {"spectrum": "top", "share": 0.1},
}
REFERENCES = ("floor_forward", "floor", "lora_all")  # what the others are compared with
PEFT = ("lora_all", "lora_r1", "lora_qv", "ia3", "vera")
SYSTEMS = ("floor_forward", "floor", *SPECTRA, *PEFT)
RANK, VERA_RANK = 16, 256  # that of VeRA is PEFT's own choice


@dataclass(frozen=True)
class Work:
    """What every system computes the loss of: N random completions and an advantage for each."""

    completions: tuple[Completion, ...]
    advantages: Tensor  # (N,)

    @classmethod
    def random(cls, lm: LanguageModel, rows: int, prompt: int, completion: int, samples: int = 1) -> Work:
        """The same ids and advantages for every model with the same vocabulary; `samples` neighbors have one prompt."""
        generator = torch.Generator().manual_seed(0)
        completions = random_completions(lm, rows, prompt, completion, samples, generator)
        return cls(completions, torch.randn(rows, generator=generator).to(lm.device))

    def loss(self, lm: LanguageModel, shared: bool) -> Tensor:
        """The policy-gradient loss -sum(advantage * log p) over all completion tokens, ()."""
        token = token_log_probs(lm, self.completions, shared=shared)
        assert bool(token.mask.all()), "all completions have the same length here"
        return -(self.advantages[:, None] * token.log_probs).sum()


class DenseSVF:
    """SVF as the authors train it: a model with dense W' and dense gradients, which are chained to z."""

    def __init__(self, model: nn.Module, svf: SVF) -> None:
        """Take the factors and vectors of an injected adapter, and put the model's own linears back."""
        self.layers = list(svf.layers.values())
        self.composed: list[Tensor] = []
        for name, layer in svf.layers.items():
            assert isinstance(layer.base, nn.Linear), f"{name} is a {type(layer.base).__name__}"
            if layer.joint_weight is not None:  # [W | U s], which nothing needs here
                layer.separate_factor, layer.joint_weight = layer.output_factor.clone(), None
            parent, _, child = svf.paths[name].rpartition(".")
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
        gradients = [layer.base.get_parameter("weight").grad for layer in self.layers]
        torch.autograd.backward(self.composed, gradients)
        self.composed.clear()
        for layer in self.layers:
            layer.base.weight.grad = None

    @staticmethod
    def _dense(layer: SVFLinear) -> Tensor:
        scaled: Tensor = layer.output_factor * layer.parametrization()  # (n_out, R), fp32 at least, as z is
        return scaled.to(layer.output_factor.dtype) @ layer.input_factor


@dataclass
class System:
    """A model with one system's adapter."""

    name: str
    lm: LanguageModel
    trainable: list[nn.Parameter] = field(default_factory=list)
    dense: DenseSVF | None = None

    def step(self, work: Work) -> float:
        """One loss and, except for `floor_forward`, its gradients."""
        self.drop_gradients()
        learns = self.name != "floor_forward"
        if self.dense is not None:
            self.dense.compose()
        with torch.set_grad_enabled(learns):
            loss = work.loss(self.lm, shared=self.name == "svf_shared")
        if learns:
            loss.backward()  # type: ignore[no-untyped-call]
        if self.dense is not None:
            self.dense.chain()
        return loss.item()

    def drop_gradients(self) -> None:
        """Free the gradients of the adapter."""
        for parameter in self.trainable:
            parameter.grad = None


def build(name: str, model: str, dtype: str, device: str) -> System:
    """A fresh copy of the model with the named system in it."""
    lm = load(model, dtype, device)
    system = System(name, lm)
    if name == "floor":
        lm.model.enable_input_require_grads()
    if name in SPECTRA:
        svf = inject_svf(lm, **SPECTRA[name])
        system.trainable = svf.trainable()
        system.dense = DenseSVF(lm.model, svf) if name == "authors" else None
    if name in PEFT:
        config = peft_config(name, lm)
        PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type](lm.model, config, "default")
        system.trainable = [p for p in lm.model.parameters() if p.requires_grad]  # A and B have the model's dtype
    return system


def peft_config(name: str, lm: LanguageModel) -> Any:
    """PEFT's configuration of a system."""
    if name.startswith("lora"):
        rank = {"r": 1, "lora_alpha": 2} if name == "lora_r1" else {}
        return lora_config(lm, ["q_proj", "v_proj"] if name == "lora_qv" else "all", **rank)
    targets = list(find_targets(lm.model, "all", None))
    if name == "vera":
        return VeraConfig(target_modules=targets, r=VERA_RANK)
    return IA3Config(target_modules=targets, feedforward_modules=[])


def lora_config(lm: LanguageModel, modules: str | list[str], **options: Any) -> Any:
    """PEFT's LoRA, r = 16, alpha 32, no dropout, on the named linears of the decoder blocks."""
    targets = list(find_targets(lm.model, modules, None))
    settings = {"r": RANK, "lora_alpha": 2 * RANK, "lora_dropout": 0.0, "target_modules": targets}
    return LoraConfig(**(settings | options))
