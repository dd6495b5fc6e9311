"""The sizes of a model that its costs follow from, read off the model on torch's meta device, which holds no numbers.

Not done here: finding a configuration (`t2.costs.configurations`), bytes and operations (`t2.costs.step`). A mixture of
experts counts as if every expert computed every token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from accelerate import init_empty_weights  # type: ignore[import-untyped]
from torch import nn
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.pytorch_utils import Conv1D

from t2.adapters.svf_linear import matrix_shape
from t2.adapters.targets import decoder_blocks, find_targets
from t2.models.quantization import packable, table_sizes

Size = tuple[int, int]  # (n_out, n_in) of a matrix


@dataclass(frozen=True)
class ModelShape:
    """Counts of numbers, unless another unit is named.

    Attributes:
        hidden: of a token between blocks.
        attention: of a token's queries of all heads in a block.
        kv: of a token's keys in a block.
        intermediate: of a token inside the MLP of a block.
        blocks, heads, vocabulary: how many there are.
        head: the matrix that makes logits, tied or not.
        parameters: all of the model.
        outside: those that are in no decoder block: embeddings, norm, head, a vision encoder.
        dense: those in the matrices of all blocks.
        adapted: the adapted matrices of all blocks.
        packable, packable_tables: numbers and rows of what `base_model.quantization` packs, in the blocks, and of
            embeddings and head.
    """

    hidden: int
    attention: int
    kv: int
    intermediate: int
    blocks: int
    heads: int
    vocabulary: int
    head: int
    parameters: int
    outside: int
    dense: int
    adapted: tuple[Size, ...]
    packable: Size = (0, 0)
    packable_tables: Size = (0, 0)


def on_meta(config: PretrainedConfig) -> PreTrainedModel:
    """The model of a configuration without its numbers.

    Raises:
        ValueError: transformers has no language model for it.
    """
    has_vision = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    auto = AutoModelForImageTextToText if has_vision else AutoModelForCausalLM
    with init_empty_weights():
        model: PreTrainedModel = auto.from_config(config)
    model.tie_weights()  # the head and the embeddings, which were made apart
    return model


def shape_of(
    model: PreTrainedModel, modules: str | Sequence[str] = "all", layers: Sequence[int] | float | None = None
) -> ModelShape:
    """The sizes of a model whose matrices `modules` of the blocks `layers` are adapted, as `adapter` takes them.

    Raises:
        ValueError: no matrix is chosen, or the model has no decoder blocks or no head.
    """
    config = model.config.get_text_config()
    blocks = decoder_blocks(model)[1]
    head = model.get_output_embeddings()
    if head is None:
        raise ValueError(f"{type(model).__name__} has no head that makes logits; choose a causal language model.")
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    parameters = sum(weight.numel() for weight in model.parameters())
    packed = [matrix_shape(module) for _, module in packable(model)]
    tables = table_sizes(model)
    inside = [module for module in blocks.modules() if isinstance(module, nn.Linear | Conv1D)]
    return ModelShape(
        hidden=config.hidden_size,
        attention=heads * size,
        kv=(getattr(config, "num_key_value_heads", None) or heads) * size,
        intermediate=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        blocks=len(blocks),
        heads=heads,
        vocabulary=head.weight.shape[0],
        head=head.weight.numel(),
        parameters=parameters,
        outside=parameters - sum(weight.numel() for weight in blocks.parameters()),
        dense=sum(module.weight.numel() for module in inside),
        adapted=tuple(matrix_shape(module) for module in find_targets(model, modules, layers).values()),
        packable=(sum(rows * columns for rows, columns in packed), sum(rows for rows, _ in packed)),
        packable_tables=(sum(numbers for numbers, _ in tables), sum(rows for _, rows in tables)),
    )
