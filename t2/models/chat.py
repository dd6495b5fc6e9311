"""The chat template of a model: a prompt as its text, the tokens that end a turn and fill rows, its variables.

Models that can think before they answer have a variable that switches it off (`enable_thinking` of Qwen3 and SmolLM3):
an answer of a few tokens would be cut off within the thoughts, and earn nothing. `base_model.chat_template_kwargs` sets
such variables. Not done here: tokenizing, images (`t2.models.image_inputs`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from t2.models.image_inputs import image_token
from t2.types import Example


def template_of(processor: Any, tokenizer: Any) -> str | None:
    """The chat template that prompts are written in: the processor's, else the tokenizer's."""
    own: str | None = getattr(processor, "chat_template", None)
    return own if own is not None else tokenizer.chat_template


def check_arguments(source: str, processor: Any, tokenizer: Any, arguments: Mapping[str, Any]) -> None:
    """Raise ValueError where a variable is none of the template's, which would pass over it in silence."""
    if not arguments:
        return
    template = template_of(processor, tokenizer)
    for name in arguments:
        if template is None or re.search(rf"\b{re.escape(name)}\b", template) is None:
            raise ValueError(
                f"base_model.chat_template_kwargs sets {name!r}, which the chat template of {source} does not mention"
                f"{'; it has none' if template is None else ''}. Leave it out, or see that template for its name."
            )


def chat_text(processor: Any, tokenizer: Any, example: Example, arguments: Mapping[str, Any]) -> str:
    """Format the example with the chat template, images first, up to the beginning of the response.

    A chat template of the processor that mentions images gets a turn as a list of parts; any other one, such as that
    of a text-only model that an encoder was added to, gets a string with placeholders. `arguments` are variables of
    the template.

    Raises:
        jinja2.TemplateError: the template refuses the example.
        ValueError: the template drops the prompt.
    """
    in_parts = _in_parts(processor)

    def turn(role: str, text: str, images: int = 0) -> dict[str, Any]:
        if in_parts:
            return {"role": role, "content": [*[{"type": "image"}] * images, *_parts(text)]}
        return {"role": role, "content": f"{image_token(processor)}\n" * images + text if images else text}

    messages = [] if example.system is None else [turn("system", example.system)]
    for question, answer in example.shots:
        messages += [turn("user", question), turn("assistant", answer)]
    messages.append(turn("user", example.prompt, len(example.images)))
    template = tokenizer if getattr(processor, "chat_template", None) is None else processor
    text: str = template.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **arguments)
    if example.prompt.strip() not in text:
        raise ValueError(
            f"The chat template drops the prompt {example.prompt[:60]!r}: it reads turns of another form than "
            f"{'parts' if in_parts else 'a string'}. Load the model with its own processor and template."
        )
    return text


def _in_parts(processor: Any) -> bool:
    """Whether turns are lists of parts: a chat template of the processor's own mentions images."""
    return "image" in (getattr(processor, "chat_template", None) or "")


def _parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def plain_text(processor: Any, example: Example) -> str:
    """The example without a chat template, images as placeholders after the shots."""
    head = f"{example.system}\n\n" if example.system is not None else ""
    shots = "".join(f"{question}\n{answer}\n\n" for question, answer in example.shots)
    images = f"{image_token(processor)}\n" * len(example.images) if example.images else ""
    return f"{head}{shots}{images}{example.prompt}\n{example.response_prefix}"


def end_ids(model: PreTrainedModel, *others: int | None) -> frozenset[int]:
    """The ids that end a response according to the generation config, and `others`."""
    named = model.generation_config.eos_token_id
    ids = set(named) if isinstance(named, list | tuple) else {named}
    return frozenset(int(i) for i in ids.union(others) if i is not None)


def padding_id(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ends: frozenset[int]) -> int:
    """The token that fills rows: the tokenizer's, or one of `ends` where that is what the embedding pads with.

    Its embedding can be zeros then, where the root in a norm has no gradient (Gemma 3n).
    """
    pad, zeros = tokenizer.pad_token_id, getattr(model.get_input_embeddings(), "padding_idx", None)
    return int(pad) if pad not in (None, zeros) else min(ends, default=0)


def end_of_turn_id(tokenizer: PreTrainedTokenizerBase, processor: Any = None) -> int | None:
    """The added token that the chat template puts after a response (<|im_end|>, <|eot_id|>, …), else EOS.

    Gemma-it and Phi-3 end a turn with another token than EOS, and an answer that is learned must end as theirs do.
    """
    eos: int | None = tokenizer.eos_token_id
    if template_of(processor, tokenizer) is None:
        return eos
    question, answer = "the question", "the answer"
    in_parts = _in_parts(processor)
    turns = [
        {"role": role, "content": _parts(text) if in_parts else text}
        for role, text in (("user", question), ("assistant", answer))
    ]
    template = tokenizer if getattr(processor, "chat_template", None) is None else processor
    try:
        text: str = template.apply_chat_template(turns, tokenize=False)
    except TemplateError:  # a template without assistant turns
        return eos
    if answer not in text:  # a template of parts, which no processor came with
        return eos
    tail = text.rpartition(answer)[2].lstrip()
    added = {str(token): int(i) for i, token in tokenizer.added_tokens_decoder.items()}
    ends = [token for token in added if tail.startswith(token)]
    return added[max(ends, key=len)] if ends else eos
