"""The bytes of a token, as OpenAI's `logprobs` have them: those of all tokens, joined, are the text of an answer.

Decoding a token alone loses them: a part of a character becomes U+FFFD, and a tokenizer of the kind of sentencepiece
drops the space before a word. The vocabulary has both, in the alphabet of the tokenizer's kind.
"""

from __future__ import annotations

import re

from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

_BYTE_OF = {letter: byte for byte, letter in bytes_to_unicode().items()}  # of GPT-2's byte-level vocabularies
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # sentencepiece's byte fallback


def bytes_of_token(tokenizer: PreTrainedTokenizerBase, token: int) -> bytes | None:
    """The bytes of a token; None where the tokenizer's kind is not known, and the token alone is no whole text."""
    decoder = _decoder(tokenizer)
    piece = tokenizer.convert_ids_to_tokens([token])[0]
    if token in tokenizer.added_tokens_decoder:
        return str(piece).encode()
    if "ByteLevel" in decoder and all(letter in _BYTE_OF for letter in piece):
        return bytes(_BYTE_OF[letter] for letter in piece)
    if "ByteFallback" in decoder or "Metaspace" in decoder:
        found = _BYTE.fullmatch(piece)
        return bytes([int(found[1], 16)]) if found else str(piece).replace("▁", " ").encode()
    text = str(tokenizer.decode([token]))
    return None if "\ufffd" in text else text.encode()


def _decoder(tokenizer: PreTrainedTokenizerBase) -> str:
    """How the tokenizer makes text of pieces, in words; empty for one in Python, which does not say."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return "" if backend is None or backend.decoder is None else str(backend.decoder)
