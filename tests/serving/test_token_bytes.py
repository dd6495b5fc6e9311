"""The bytes of tokens, joined, are those of the text, whatever the kind of vocabulary."""

from __future__ import annotations

from typing import ClassVar

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from t2.models.tiny import EOS, byte_tokenizer
from t2.serving.token_bytes import bytes_of_token

PIECES = {"<unk>": 0, "▁Hello": 1, "▁world": 2, "<0xC3>": 3, "<0xA9>": 4}


def of_words(decoder: decoders.Decoder | None) -> PreTrainedTokenizerBase:
    backend = Tokenizer(models.WordLevel(PIECES, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    if decoder is not None:
        backend.decoder = decoder
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def test_parts_of_a_character_are_its_bytes() -> None:
    tokenizer, text = byte_tokenizer(), "é€😀 a"
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    parts = [bytes_of_token(tokenizer, token) for token in tokens]
    assert len(parts) > len(text)
    assert b"".join(part for part in parts if part is not None) == text.encode()
    assert bytes_of_token(tokenizer, tokenizer.convert_tokens_to_ids(EOS)) == EOS.encode()


@pytest.mark.parametrize(
    "decoder",
    [
        decoders.Metaspace(),
        decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]),
    ],
)
def test_a_word_keeps_the_space_before_it(decoder: decoders.Decoder) -> None:
    parts = [bytes_of_token(of_words(decoder), token) for token in (1, 2, 3, 4)]
    assert parts == [b" Hello", b" world", b"\xc3", b"\xa9"]


def test_what_is_not_known_is_not_made_up() -> None:
    class Unknown:
        added_tokens_decoder: ClassVar[dict[int, str]] = {}

        def convert_ids_to_tokens(self, tokens: list[int]) -> list[str]:
            return ["?"] * len(tokens)

        def decode(self, tokens: list[int]) -> str:
            return "whole" if tokens == [1] else "\ufffd"

    assert bytes_of_token(Unknown(), 1) == b"whole"  # type: ignore[arg-type]
    assert bytes_of_token(Unknown(), 2) is None  # type: ignore[arg-type]
