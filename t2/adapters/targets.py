"""Finds the matrices of a model that an adapter wraps, by name set or pattern and by layer.

Targets are the Linear and Conv1D modules inside the decoder blocks, and the matrices of experts that one 3-D parameter
holds (`t2.adapters.fused_targets`); embeddings, the head, and the vision encoder and projector of a vision-language
model are never adapted, and routers only where they are named. The paper's experiments (arXiv 2501.06252, Table 4) use
`mlp`, q + v (its "attention") and both; `all` is every matrix of a block.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence, Sized
from typing import TypeGuard

from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from t2.adapters.fused_targets import FusedTarget, fused_parameters, fused_target
from t2.models.quantized_linear import AnyLinear, QuantizedLinear, refuse_quantized
from t2.models.routers import expert_counts, is_router
from t2.run.messages import did_you_mean

PLAIN = ("FalconLinear",)  # classes of Linears whose own forward is x Wᵀ + b
NAME_SETS = {
    "all": re.compile(r".*"),
    "mlp": re.compile(r"(^|.*[._])(mlp|feed_forward|ffn|moe|experts?)[._].*"),
    "attention": re.compile(r"(^|.*[._])(attn|attention)[._].*"),
}


def check_first(injected: Sized) -> None:
    """Raise ValueError where an adapter holds numbers of a model already; `injected` are those."""
    if len(injected):
        raise ValueError("This adapter is in a model already; make another one for another model.")


def find_targets(
    model: nn.Module, modules: str | Sequence[str], layers: Sequence[int] | float | None
) -> dict[str, nn.Linear | Conv1D]:
    """The dense modules among `find_matrices`, for adapters that take no 3-D parameters and no quantized matrices.

    Raises:
        ValueError: as `find_matrices`, or the model is quantized.
    """
    refuse_quantized(
        model,
        "this adapter needs dense weights. Use adapter=svf, adapter=svf_top16 or adapter=steering, which add to what "
        "the quantized model computes, or base_model.quantization=none.",
    )
    found = find_linears(model, modules, layers)
    return {name: module for name, module in found.items() if not isinstance(module, QuantizedLinear)}


def find_linears(
    model: nn.Module, modules: str | Sequence[str], layers: Sequence[int] | float | None
) -> dict[str, AnyLinear]:
    """The modules among `find_matrices`, for those who take no 3-D parameters; raises as it does."""
    return _find(model, modules, layers, fused=False)[0]


def find_matrices(
    model: nn.Module, modules: str | Sequence[str], layers: Sequence[int] | float | None
) -> tuple[dict[str, AnyLinear], dict[str, FusedTarget]]:
    """Find the chosen matrices of `model`: module name -> module, and parameter name -> parameter of experts, in order.

    A pattern is a name set (`all`, `mlp`, `attention`), the last part of a name (`q_proj`), or a regular expression
    that must match the name within its block completely (`mlp\\.(up|down)_proj`). Name sets leave routers out.

    Raises:
        ValueError: a pattern that matches nothing or is no regular expression, a layer out of range, a model that is
            adapted already, or a parameter whose orientation is unknown.
    """
    return _find(model, modules, layers, fused=True)


def _find(
    model: nn.Module, modules: str | Sequence[str], layers: Sequence[int] | float | None, *, fused: bool
) -> tuple[dict[str, AnyLinear], dict[str, FusedTarget]]:
    prefix, blocks = decoder_blocks(model)
    chosen = chosen_layers(len(blocks), layers)
    patterns = [modules] if isinstance(modules, str) else list(modules)
    if not patterns:
        raise ValueError("adapter.modules is an empty list; name at least one of all, mlp, attention or a module.")
    for name, module in blocks.named_modules():
        if name.endswith((".base", ".base_layer")) or type(module).__name__ == "SVFLinear":
            raise ValueError(f"The model has an adapter already (at {prefix}.{name}); load it afresh.")
    linears: dict[str, AnyLinear] = {}
    stacks: dict[str, tuple[nn.Module, str]] = {}
    for index in chosen:
        inside = blocks[index].named_modules()
        packed = tuple(f"{name}." for name, module in inside if isinstance(module, QuantizedLinear))
        for name, module in blocks[index].named_modules():
            if is_plain(module) and not name.startswith(packed):  # a library's Linear within ours is ours
                linears[f"{prefix}.{index}.{name}"] = module
        for name, module, leaf in fused_parameters(blocks[index]) if fused else ():
            stacks[f"{prefix}.{index}.{name}.{leaf}"] = (module, leaf)
    matched = _matched([*linears, *stacks], patterns, prefix, _routers(model, linears))
    config = getattr(model, "config", None)
    width = getattr(config.get_text_config() if config is not None else None, "hidden_size", None)
    return {name: module for name, module in linears.items() if name in matched}, {
        name: fused_target(name, *stack, width) for name, stack in stacks.items() if name in matched
    }


def is_plain(module: nn.Module) -> TypeGuard[AnyLinear]:
    """Whether a module is x Wᵀ + b; a Linear with a forward of its own (block-diagonal, say) multiplies otherwise."""
    if isinstance(module, QuantizedLinear):
        return True
    if not isinstance(module, nn.Linear | Conv1D):
        return False
    own = type(module).forward not in (nn.Linear.forward, Conv1D.forward)
    return not own or type(module).__name__ in PLAIN


def _routers(model: nn.Module, linears: dict[str, AnyLinear]) -> set[str]:
    """The names of those Linears that are routers."""
    counts = expert_counts(model)
    return {name for name, module in linears.items() if is_router(name, module, counts)}


def _matched(names: Sequence[str], patterns: Sequence[str], prefix: str, routers: set[str]) -> set[str]:
    """The names that a pattern matches; ValueError where one matches none."""
    matched: set[str] = set()
    for pattern in patterns:
        hits = {name for name in names if _matches(pattern, _within_block(name, prefix))}
        hits -= routers if pattern in NAME_SETS else set()
        if not hits:
            raise ValueError(_nothing_matched(pattern, sorted({_within_block(name, prefix) for name in names})))
        matched |= hits
    return matched


def decoder_blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Find the list of decoder blocks and its name: the longest outermost ModuleList of the language model.

    Raises:
        ValueError: the model has no list of blocks.
    """
    tower = language_tower(model)
    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and name.startswith(f"{tower}." if tower else "")
    ]
    outer = [(name, module) for name, module in lists if not any(name.startswith(f"{other}.") for other, _ in lists)]
    if not outer:
        raise ValueError(f"{type(model).__name__} has no list of decoder blocks (an nn.ModuleList) to adapt.")
    return max(outer, key=lambda pair: len(pair[1]))


def chosen_layers(count: int, layers: Sequence[int] | float | None) -> list[int]:
    """Block indices: all, those listed (negative ones count from the end), or an evenly spaced fraction of `count`.

    The paper adapts "half of the layers" of its 70B and vision models without saying which half: `layers=0.5`.

    Raises:
        ValueError: an index that no block has, an empty list, or a fraction outside (0, 1].
    """
    if layers is None:
        return list(range(count))
    if isinstance(layers, int):
        raise ValueError(f"adapter.layers={layers}: write [{layers}] for that layer, or a fraction such as 0.5 or 1.0.")
    if isinstance(layers, float):
        if not 0.0 < layers <= 1.0:
            raise ValueError(f"adapter.layers={layers}: a single number is a fraction above 0 and at most 1.")
        kept = max(1, math.ceil(round(layers * count, 6)))  # 0.07 * 100 is 7.000000000000001
        return [(2 * index + 1) * count // (2 * kept) for index in range(kept)]
    wrong = [index for index in layers if not -count <= index < count]
    if wrong or not layers:
        raise ValueError(f"adapter.layers={list(layers)}: this model has layers 0 to {count - 1}.")
    return sorted({index % count for index in layers})


def _within_block(name: str, prefix: str) -> str:
    return name[len(prefix) + 1 :].partition(".")[2]


def _matches(pattern: str, name: str) -> bool:
    if pattern in NAME_SETS:
        return NAME_SETS[pattern].fullmatch(name) is not None
    if name.rpartition(".")[2] == pattern:
        return True
    try:
        return re.fullmatch(pattern, name) is not None
    except re.error as error:
        raise ValueError(
            f"adapter.modules={pattern!r} is no regular expression ({error}). For 'anything' write '.*', as in "
            "'.*_proj'."
        ) from error


def _nothing_matched(pattern: str, names: list[str]) -> str:
    words = [*NAME_SETS, *names, *{name.rpartition(".")[2] for name in names}]
    return (
        f"adapter.modules={pattern!r} matches no matrix. Allowed: {', '.join(NAME_SETS)}, or a name or regular "
        f"expression among {', '.join(names)}.{did_you_mean(pattern, words)}"
    )


def language_tower(model: nn.Module) -> str:
    """The module name of a vision-language model's language model; "" for a text-only model."""
    config = getattr(model, "config", None)
    if config is None or config.get_text_config() is config:
        return ""
    assert isinstance(model, PreTrainedModel), "only those have a config with a text config in it"
    decoder = model.get_decoder()
    names: dict[int, str] = {id(module): name for name, module in model.named_modules()}
    return names[id(decoder)]


def text_name(model: nn.Module, name: str) -> str:
    """Translate a module name of a vision-language model to its name in the text-only model.

    Experts use these names, so that a text-only model and a vision-language model built on it share experts.
    """
    tower = language_tower(model)
    if not tower or not name.startswith(f"{tower}."):
        return name
    assert isinstance(model, PreTrainedModel), "only those have a language tower"
    # The text model of some (Qwen2.5-VL) has a config of its own, and no class; its names are those of the others.
    text_class = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(model.config.get_text_config()), type(model))
    return f"{text_class.base_model_prefix}{name.removeprefix(tower)}"
