"""The systems that bench/step.py compares: what each puts into its copy of the model, and one step of it.

One code path computes the loss for all of them (`Work.loss`, through t2.policy.log_probs); they differ in what stands
in the model and in where the backward pass ends. Nothing is timed here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from omegaconf import OmegaConf
from peft import LoraConfig, inject_adapter_in_model
from record import ROOT
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from t2.adapters.svf import SVF
from t2.adapters.svf_linear import SVFLinear
from t2.adapters.targets import find_targets
from t2.models.language_model import LanguageModel
from t2.models.llava import VisionShape, build_llava
from t2.models.loading import load_model, parse_device, parse_dtype
from t2.models.tiny import byte_tokenizer, tiny_llava, tiny_model
from t2.policy.log_probs import token_log_probs
from t2.types import Completion, Example, LazyImage, PixelImage

MODELS = ("smollm2", "tiny", "llama-1b", "llava", "tiny-llava")
SYSTEMS = ("floor_forward", "floor", "svf", "svf_shared", "lora_all", "lora_qv", "authors")
RANK = 16


@dataclass(frozen=True)
class Work:
    """What every system computes the loss of: N random completions and an advantage for each."""

    completions: tuple[Completion, ...]
    advantages: Tensor  # (N,)

    @classmethod
    def random(cls, lm: LanguageModel, rows: int, prompt: int, completion: int, samples: int = 1) -> Work:
        """The same ids and advantages for every model with the same vocabulary.

        `samples` neighbors have one prompt. Before a model that sees, a prompt begins with an image of its own.
        """
        if prompt + completion > lm.context_length:
            raise ValueError(
                f"{prompt} prompt and {completion} completion tokens exceed the context of {lm.source}, "
                f"{lm.context_length}. Lower --prompt or --completion."
            )
        generator = torch.Generator().manual_seed(0)
        vocabulary = lm.model.get_input_embeddings().weight.shape[0]
        ids = torch.randint(vocabulary, (rows, prompt + completion), generator=generator)  # (N, P + T)
        ids[torch.isin(ids, torch.tensor(lm.placeholder_ids))] = 0
        ids[:, :prompt] = ids[::samples, :prompt].repeat_interleave(samples, dim=0)[:rows]
        images: list[tuple[LazyImage, ...]] = [()] * rows
        if lm.processor is not None:
            pixels = torch.randint(256, (rows, 32, 32, 3), generator=generator).to(torch.uint8)
            images = [(PixelImage.of(pixels[row - row % samples].numpy()),) for row in range(rows)]
            places = [token for token in lm.encode(Example("", images=images[0])) if token in lm.placeholder_ids]
            if len(places) >= prompt:
                raise ValueError(f"An image takes {len(places)} tokens, and the prompt has {prompt}. Raise --prompt.")
            ids[:, : len(places)] = torch.tensor(places)
        answers = tuple(
            Completion(tuple(row[:prompt]), tuple(row[prompt:]), (0.0,) * completion, "", "length", of_row)
            for row, of_row in zip(ids.tolist(), images, strict=True)
        )
        return cls(answers, torch.randn(rows, generator=generator).to(lm.device))

    def loss(self, lm: LanguageModel, shared: bool) -> Tensor:
        """The policy-gradient loss -sum(advantage * log p) over all completion tokens, ()."""
        token = token_log_probs(lm, self.completions, shared=shared)
        assert bool(token.mask.all()), "all completions have the same length here"
        return -(self.advantages[:, None] * token.log_probs).sum()


class DenseSVF:
    """SVF as the authors train it: a model that holds dense W' with dense gradients, which are chained to z."""

    def __init__(self, model: nn.Module, svf: SVF) -> None:
        """Take the factors and vectors of an injected adapter, and put its Linears back in its place."""
        self.layers = list(svf.layers.values())
        self.composed: list[Tensor] = []
        for name, layer in svf.layers.items():
            assert isinstance(layer.base, nn.Linear), f"{name} is a {type(layer.base).__name__}"
            place = svf.paths[name]
            if layer.joint:  # its factor is a view into [W | U s], which nothing needs here
                layer.output_factor = layer.output_factor.clone()
                del layer.joint_weight
            parent, _, child = place.rpartition(".")
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
        scaled: Tensor = layer.output_factor * layer.parametrization()  # (n_out, R), fp32 at least, as z is
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
            loss = work.loss(self.lm, shared=self.name == "svf_shared")
        if learns:
            loss.backward()  # type: ignore[no-untyped-call]
        if self.dense is not None:
            self.dense.chain()
        return loss.item()


def build(name: str, model: str, dtype: str, device: str) -> System:
    """A fresh copy of the model with the named system in it."""
    lm = load(model, dtype, device)
    system = System(name, lm)
    if name == "floor":
        lm.model.enable_input_require_grads()
    if name in ("svf", "svf_shared", "authors"):
        svf = SVF(modules="all", cache=not model.startswith("tiny"), progress=False)
        svf.inject(lm.model, lm.source)
        system.trainable = svf.trainable()
        system.dense = DenseSVF(lm.model, svf) if name == "authors" else None
    if name in ("lora_all", "lora_qv"):
        targets = list(find_targets(lm.model, "all" if name == "lora_all" else ["q_proj", "v_proj"], None))
        config = LoraConfig(r=RANK, lora_alpha=2 * RANK, lora_dropout=0.0, target_modules=targets)
        inject_adapter_in_model(config, lm.model)  # A and B get the model's dtype
        system.trainable = [p for p in lm.model.parameters() if p.requires_grad]
    return system


def load(model: str, dtype: str, device: str) -> LanguageModel:
    """The model of a `--model` choice, its weights in memory of their own."""
    if model == "tiny":
        return tiny_model(dtype=dtype, device=device)
    if model == "tiny-llava":
        return tiny_llava(dtype=dtype)
    if model == "llama-1b":
        return _random_llama_1b(dtype, device)
    if model == "llava":  # what its eyes have learned changes no timing
        return build_llava(load("smollm2", dtype, device), VisionShape(), source="llava:smollm2")
    conf = OmegaConf.load(ROOT / "conf" / "base_model" / "smollm2_135m.yaml")
    lm = load_model(conf.source, dtype=dtype, device=device, sha256=conf.sha256)
    for parameter in lm.model.parameters():  # pages of a mapped file would blur the memory figures
        parameter.data = parameter.data.clone()
    return lm


def _random_llama_1b(dtype: str, device: str) -> LanguageModel:
    """Random weights in the shape of Llama-3.2-1B."""
    config = LlamaConfig(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_key_value_heads=8, vocab_size=128256
    )
    config.tie_word_embeddings = True
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    return LanguageModel(model.to(parse_device(device), parse_dtype(dtype)), byte_tokenizer(), "random:llama-1b")
