"""The models, adapters, experts and tasks that benchmarks measure with. Nothing is timed here."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from measure import ROOT
from omegaconf import OmegaConf
from on_device.build import random_decompositions
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar

import t2
from t2.adapters.svf import SVF
from t2.experts.expert import Expert, ExpertMetadata
from t2.experts.fingerprint import fingerprint_of
from t2.models.language_model import LanguageModel
from t2.models.llava import VisionShape, build_llava
from t2.models.loading import load_model, parse_device
from t2.models.precision import parse_dtype
from t2.models.tiny import byte_tokenizer, tiny_llava, tiny_model
from t2.policy import vllm as t2_vllm
from t2.tasks.base import Task
from t2.types import Completion, Example, LazyImage, PixelImage

MODELS = ("smollm2", "tiny", "llama-1b", "llava", "tiny-llava")


def load(model: str, dtype: str = "float32", device: str = "cpu") -> LanguageModel:
    """The model of a `--model` choice, its weights in memory of their own."""
    disable_progress_bar()
    if model == "tiny":
        return tiny_model(dtype=dtype, device=device)
    if model == "tiny-llava":
        return tiny_llava(dtype=dtype)
    if model == "llama-1b":
        return _random_llama_1b(dtype, device)
    if model == "llava":  # the weights of its vision tower change no timing
        return build_llava(load("smollm2", dtype, device), VisionShape(), source="llava:smollm2")
    conf = OmegaConf.load(ROOT / "conf" / "base_model" / "smollm2_135m.yaml")
    lm = load_model(conf.source, dtype=dtype, device=device, sha256=conf.sha256)
    for parameter in lm.model.parameters():  # pages of a mapped file would blur the memory figures
        parameter.data = parameter.data.clone()
    return lm


def load_endless(model: str, device: str = "cpu") -> LanguageModel:
    """The model without end tokens, so that every completion has as many tokens as asked for."""
    lm = load(model, device=device)
    lm.end_ids = frozenset()
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


def inject_svf(lm: LanguageModel, *, random_factors: bool = False, **settings: Any) -> SVF:
    """SVF on all linears of the decoder blocks; decompositions are cached except of tiny models.

    `settings` are those of SVF, such as `spectrum` and `rank`.

    Args:
        random_factors: random numbers of the right shapes instead of an SVD, which costs the same per step.
    """
    svf = SVF(modules="all", cache=not (random_factors or lm.source.startswith("tiny:")), progress=False, **settings)
    with patch("t2.adapters.svf_injection.decompose_all", random_decompositions) if random_factors else nullcontext():
        svf.inject(lm.model, lm.source)
    return svf


def random_experts(lm: LanguageModel, svf: SVF, domains: Sequence[str], spread: float) -> dict[str, Expert]:
    """An expert per domain, z = 1 + spread N(0, 1) where the adapter has a number."""
    generator = torch.Generator().manual_seed(0)
    learnable = svf.learnable()
    experts = {}
    for domain in domains:
        scales = {
            name: 1 + spread * torch.randn(s.shape, generator=generator) * learnable[name]
            for name, s in svf.singular_values.items()
        }
        experts[domain] = Expert(scales, expert_metadata(lm, svf, domain))
    return experts


def expert_metadata(lm: LanguageModel, svf: SVF, domain: str) -> ExpertMetadata:
    """The metadata of an expert that was not trained."""
    return ExpertMetadata(
        base_model=lm.source,
        fingerprint=fingerprint_of(svf.singular_values, svf.frobenius_norms),
        parametrization=svf.parametrization,
        task=domain,
        domain=domain,
        description=f"questions of {domain}",
        objective="none",
        step=0,
        t2_version=t2.__version__,
    )


def load_task(name: str, **changes: Any) -> Task:
    """The task of conf/task with some keys changed; Hydra's MissingConfigException where there is none."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        task: Task = instantiate(compose("evaluate", overrides=[f"task={name}"]).task, **changes)
    return task


def random_completions(
    lm: LanguageModel, rows: int, prompt: int, completion: int, samples: int, generator: torch.Generator
) -> tuple[Completion, ...]:
    """N completions of random ids, the same for every model with the same vocabulary.

    `samples` neighbors have one prompt. For a model with a vision tower each prompt begins with an image of its own.

    Raises:
        ValueError: prompt and completion exceed the context, or the image fills the prompt.
    """
    if prompt + completion > lm.context_length:
        raise ValueError(
            f"{prompt} prompt and {completion} completion tokens exceed the context of {lm.source}, "
            f"{lm.context_length}. Lower --prompt or --completion."
        )
    vocabulary = lm.model.get_input_embeddings().weight.shape[0]
    ids = torch.randint(vocabulary, (rows, prompt + completion), generator=generator)  # (N, P + T)
    ids[torch.isin(ids, torch.tensor(lm.placeholder_ids))] = 0
    ids[:, :prompt] = ids[::samples, :prompt].repeat_interleave(samples, dim=0)[:rows]
    images: list[tuple[LazyImage, ...]] = [()] * rows
    if lm.processor is not None:
        pixels = torch.randint(256, (rows, 32, 32, 3), generator=generator).to(torch.uint8)
        images = [(PixelImage.of(pixels[row - row % samples].numpy()),) for row in range(rows)]
        placeholders = [token for token in lm.encode(Example("", images=images[0])) if token in lm.placeholder_ids]
        if len(placeholders) >= prompt:
            raise ValueError(f"An image takes {len(placeholders)} tokens, and the prompt has {prompt}. Raise --prompt.")
        ids[:, : len(placeholders)] = torch.tensor(placeholders)
    return tuple(
        Completion(tuple(row[:prompt]), tuple(row[prompt:]), (0.0,) * completion, "", "length", row_images)
        for row, row_images in zip(ids.tolist(), images, strict=True)
    )


def endless_vllm(lm: LanguageModel, svf: SVF) -> t2_vllm.VLLMGenerator:
    """t2's vLLM generator without the end tokens that vLLM itself knows of."""
    parameters = t2_vllm.request_parameters

    def endless(*arguments: Any, **named: Any) -> Any:
        return parameters(*arguments, **named) | {"ignore_eos": True}

    t2_vllm.request_parameters = endless
    return t2_vllm.VLLMGenerator(lm, svf)
