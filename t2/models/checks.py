"""Checks of a loaded model: that t2 computes the logits that the model computes itself, on text and on images.

The split forward of `LanguageModel` is compared with the model's own, so that an architecture that does something else
is refused when it is loaded and not found out in a result. Not done here: loading.
"""

from __future__ import annotations

import inspect

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from t2.models.image_inputs import NEVER
from t2.models.language_model import LanguageModel
from t2.types import Example, PixelImage


def check_model(language_model: LanguageModel) -> None:
    """Run the checks that apply to a model; ValueError where t2 does not compute what it does."""
    check_logits(language_model)
    if language_model.processor is not None:
        check_images(language_model)


@torch.no_grad()
def check_logits(language_model: LanguageModel) -> None:
    """Compare `logits(hidden_states(x))` with the model's own logits on 8 random tokens.

    Raises:
        ValueError: they differ: the architecture has operations after its head that t2 does not implement.
    """
    model, name = language_model.model, type(language_model.model).__name__
    taken = inspect.signature(language_model.decoder.forward).parameters
    if "position_ids" not in taken and not (
        language_model.is_recurrent and {"attention_mask", "cache_params"} <= {*taken}
    ):
        raise ValueError(f"{name} takes no position_ids, which padded prompts need. Choose another architecture.")
    vocabulary = model.get_input_embeddings().weight.shape[0]
    random = torch.Generator().manual_seed(0)
    input_ids = torch.randint(vocabulary, (1, 8), generator=random).to(language_model.device)  # (1, S)
    mask, positions = torch.ones_like(input_ids), torch.arange(8, device=input_ids.device)[None]
    input_ids[torch.isin(input_ids, torch.tensor(language_model.placeholder_ids, device=input_ids.device))] = 0
    placed = {} if language_model.is_recurrent else {"position_ids": positions}
    placed |= language_model.image_inputs((), input_ids, mask, mask.bool())
    expected = model(input_ids=input_ids, attention_mask=mask, **placed).logits.float()
    expected = language_model.without_placeholders(expected)
    got = language_model.logits(language_model.hidden_states(input_ids, mask, positions))
    # A softcap or scale in half precision rounds a few units in the last place away from ours in float32.
    tolerance = 8 * torch.finfo(language_model.dtype).eps if language_model.dtype != torch.float32 else 1e-4
    scale = float(expected.abs().max())
    difference = float((got - expected).abs().max()) if got.shape == expected.shape else float("inf")
    if not difference <= tolerance * scale:
        raise ValueError(
            f"The logits of {language_model.source} ({name}) differ by {difference:.3g} (largest "
            f"{scale:.3g}) from those of its hidden states and head: it has an operation after its head that t2 does "
            "not implement, or its weights hold NaN. Add it to LanguageModel.logits, or choose another model."
        )


@torch.no_grad()
def check_images(language_model: LanguageModel) -> None:
    """Compare t2's logits for a batch of questions about images with those of the model and its own processor.

    One question has an image, the next two of another size.

    Raises:
        ValueError: they differ: the architecture reads images in a way that t2 does not know.
    """
    lm, model = language_model, language_model.model
    examples = [Example("What is this?", images=(_picture(64, 64),))]
    examples.append(Example("And these two, which is wider?", images=(_picture(40, 96), _picture(96, 40))))
    rows = [torch.tensor(lm.encode(example)) for example in examples]
    lengths = torch.tensor([len(row) for row in rows], device=lm.device)
    ids = pad_sequence(rows, batch_first=True, padding_value=lm.pad_id).to(lm.device)  # (2, S)
    positions = torch.arange(ids.shape[1], device=lm.device).expand_as(ids)
    images = [example.images for example in examples]
    got = lm.logits(lm.hidden_states(ids, torch.ones_like(ids), positions, images, lengths))
    for row, example in enumerate(examples):
        expected = lm.without_placeholders(model(**own_inputs(lm, example)).logits.float())  # (1, S', V)
        length = expected.shape[1]
        difference = float((got[row, :length] - expected).abs().max()) if length == lengths[row] else float("inf")
        scale = float(expected[expected > NEVER / 2].abs().max())
        tolerance = 1e-4 if lm.dtype == torch.float32 else 64 * torch.finfo(lm.dtype).eps
        if not difference <= tolerance * scale:
            raise ValueError(
                f"The logits of {lm.source} ({type(model).__name__}) for an image differ by {difference:.3g} (largest "
                f"{scale:.3g}) from those that t2 computes: it reads images in a way that t2 does not know. "
                "docs/models.md lists vision-language models that it does; choose one of those."
            )


def _picture(height: int, width: int) -> PixelImage:
    values = torch.arange(height * width, dtype=torch.int64).remainder(251).to(torch.uint8).view(height, width)
    return PixelImage.of(values.numpy())


def own_inputs(lm: LanguageModel, example: Example) -> dict[str, Tensor]:
    """The arguments of the model's forward, or of its `generate`, for one example: all that its processor gives."""
    if not example.images:
        ids = torch.tensor([lm.encode(example)], device=lm.device)
        mask = torch.ones_like(ids)
        return {"input_ids": ids, "attention_mask": mask, **lm.image_inputs((), ids, mask, mask.bool())}
    assert lm.processor is not None, "encode refuses images where there is none"
    plain, text = lm.prompt_text(example)
    images = [[image.load() for image in example.images]]
    read = lm.processor(text=[text], images=images, add_special_tokens=plain, return_tensors="pt")
    taken = inspect.signature(lm.model.forward).parameters
    return {
        name: value.to(lm.device, lm.dtype if torch.is_floating_point(value) else None)
        for name, value in read.items()
        if name in taken and name != "labels"
    }
