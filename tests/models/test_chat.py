"""Prompts in the chat templates of many models: response prefixes, thinking switched off, ends of turns.

The templates are those that the wheel of TRL has.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import trl
from tiny_models import tiny

from t2.models.chat import chat_text, check_arguments, end_of_turn_id
from t2.models.tiny import byte_tokenizer
from t2.types import Example

FOLDER = Path(trl.__file__).parent / "chat_templates"
TEMPLATES = sorted(path.stem for path in FOLDER.glob("*.jinja") if "training" not in path.stem)
# What their templates put after a response; the others' is tested as well, to be one of the template's own tokens.
ENDS = {
    "gemma": "<end_of_turn>", "gemma3": "<end_of_turn>", "llama3": "<|eot_id|>", "llama3_2": "<|eot_id|>",
    "phi3": "<|end|>", "qwen2_5": "<|im_end|>", "qwen3": "<|im_end|>", "gptoss": "<|return|>",
}  # fmt: skip
THINKING = [name for name in TEMPLATES if "enable_thinking" in (FOLDER / f"{name}.jinja").read_text()]
EXAMPLE = Example(prompt="What is 3 + 4?")


def tokenizer_of(name: str):
    tokenizer = byte_tokenizer()
    template = (FOLDER / f"{name}.jinja").read_text()
    tokenizer.chat_template = template
    tokenizer.add_special_tokens(
        {"additional_special_tokens": sorted(set(re.findall(r"<\|?[\w ▁｜]+\|?>", template)))},
    )
    return tokenizer


def test_there_are_templates() -> None:
    assert len(TEMPLATES) >= 20
    assert len(THINKING) >= 5


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_prompt_is_in_it_and_nothing_follows_the_turn_of_the_answer(name: str) -> None:
    tokenizer = tokenizer_of(name)
    # A processor has the template of a model that sees, and reads turns as lists of parts.
    processor = tokenizer if "image" in tokenizer.chat_template else None
    text = chat_text(processor, tokenizer, EXAMPLE, {})
    assert text.count(EXAMPLE.prompt) == 1
    shown = chat_text(processor, tokenizer, Example(prompt="6 * 7", shots=(("1 + 1", "two"),)), {})
    assert shown.index("1 + 1") < shown.index("two") < shown.index("6 * 7")


def test_a_template_that_would_drop_the_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match=r"drops the prompt 'What is 3 \+ 4\?'.* with its own processor"):
        chat_text(None, tokenizer_of("smolvlm"), EXAMPLE, {})


@pytest.mark.parametrize("name", THINKING)
def test_thinking_can_be_switched_off(name: str) -> None:
    tokenizer = tokenizer_of(name)
    check_arguments(name, None, tokenizer, {"enable_thinking": False})
    off = chat_text(None, tokenizer, EXAMPLE, {"enable_thinking": False})
    assert off != chat_text(None, tokenizer, EXAMPLE, {"enable_thinking": True})
    head, _, tail = off.rpartition("<think>")
    assert not head or "</think>" in tail  # thoughts that have begun have ended


@pytest.mark.parametrize("name", ENDS)
def test_a_turn_ends_with_the_templates_own_token(name: str) -> None:
    tokenizer = tokenizer_of(name)
    assert end_of_turn_id(tokenizer) == tokenizer.convert_tokens_to_ids(ENDS[name])


def test_a_response_prefix_follows_the_template_and_reaches_the_model() -> None:
    lm = tiny()
    lm.tokenizer.chat_template = (FOLDER / "qwen3.jinja").read_text()
    lm.chat_template_kwargs = {"enable_thinking": False}
    text = lm.tokenizer.decode(lm.encode(Example(prompt="3 + 4", response_prefix="The answer is")))
    assert text.endswith("</think>\n\nThe answer is")


@pytest.mark.parametrize(
    ("template", "message"),
    [("{{ messages }}", r"mention\. Leave it out"), (None, "mention; it has none")],
)
def test_a_variable_that_the_template_does_not_read_is_refused(template: str | None, message: str) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match=rf"sets 'enable_thinking', which the chat template of x does not {message}"):
        check_arguments("x", None, tokenizer, {"enable_thinking": False})
