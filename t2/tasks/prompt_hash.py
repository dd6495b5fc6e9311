"""Hashes of questions, by which an evaluation finds out that an expert, a dispatcher or a support has seen them.

A hash is of the question's text, case and white space aside, and of its images. Where a task says that the operands of
a question commute (`metadata["canonical"]`), "3 * 4" and "4 * 3" have the same one. Hashes tell which questions two
sets share, and not what they are.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from t2.tasks.splits import question_of, same_text
from t2.types import Example

HEX_DIGITS = 12  # 48 bits: 10,000 hashes share one with 10,000 others by chance in one of three million cases
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def prompt_hash(example: Example) -> str:
    """The first HEX_DIGITS hex digits of the SHA-256 of an example's question."""
    digest = hashlib.sha256(same_text(canonical_question(example)).encode())
    for image in example.images:
        digest.update(image.load().tobytes())
    return digest.hexdigest()[:HEX_DIGITS]


def canonical_question(example: Example) -> str:
    """`metadata["canonical"]` where a task sets it, else the question: the text that is hashed."""
    return str(example.metadata.get("canonical", question_of(example)))


def prompt_hashes(examples: Iterable[Example]) -> tuple[str, ...]:
    """The distinct hashes of examples, sorted."""
    return tuple(sorted({prompt_hash(example) for example in examples}))


def sorted_numbers(question: str) -> str:
    """The question with its numbers in ascending order, the same for all orders of operands that commute."""
    numbers = iter(sorted(_NUMBER.findall(question), key=lambda text: (float(text), text)))
    return _NUMBER.sub(lambda _: next(numbers), question)
