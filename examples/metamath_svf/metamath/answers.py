"""Whether a completion's final answer is right, by the rules of PEFT's runner (`parse_answer` and `get_accuracy`).

The answer is what follows the last "The answer is: " (or the first other delimiter that occurs at all), up to the end
of its line, without " .!?$%" around it. Numbers and fractions are compared as floats, anything else as text: "1,080" is
text, so that it equals the reference "1,080" and not "1080". t2's own rule (`t2.grading.stated_number`) is more
generous, and scores of the two must not be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

DELIMITERS = (
    "The answer is: ",
    "The answer is ",
    "The final answer is: ",
    "The final answer is ",
    "#### ",  # GSM8K's references
)


def final_answer(text: str) -> str | None:
    """The answer that a text states; None where no delimiter occurs."""
    text = text.strip()
    delimiter = next((one for one in DELIMITERS if one in text), None)
    if delimiter is None:
        return None
    return text.rpartition(delimiter)[2].strip().split("\n", 1)[0].strip(" .!?$%")


def as_number(answer: str) -> float | None:
    """The value of "13", "65.33" or "20/14"; None for other texts and for a division by 0."""
    try:
        parts = [Decimal(part.strip()) for part in answer.split("/")]
        if len(parts) == 1:
            return float(parts[0])
        return float(parts[0] / parts[1]) if len(parts) == 2 and parts[1] else None
    except (InvalidOperation, ValueError, OverflowError):
        return None


def is_right(prediction: str, reference: str) -> bool:
    """Whether both texts state the same answer.

    Raises:
        ValueError: the reference states none.
    """
    expected, stated = final_answer(reference), final_answer(prediction)
    if expected is None:
        raise ValueError(f"The reference {reference[-60:]!r} states no answer; it must hold '#### ' before it.")
    if stated is None:
        return False
    return _comparable(stated) == _comparable(expected)


def _comparable(answer: str) -> float | str:
    number = as_number(answer)
    return answer if number is None else number


def accuracy(predictions: Sequence[str], references: Sequence[str]) -> float:
    """The share of predictions that are right."""
    right = [is_right(*pair) for pair in zip(predictions, references, strict=True)]
    return sum(right) / len(right)
