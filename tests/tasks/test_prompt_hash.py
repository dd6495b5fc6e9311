"""Which questions count as the same."""

from dataclasses import replace

import numpy as np

from t2.tasks.prompt_hash import prompt_hash, prompt_hashes, sorted_numbers
from t2.types import Example, PixelImage

ONE = Example("What is  3 * 4?")


def test_case_white_space_and_what_is_told_of_the_form_do_not_count():
    assert prompt_hash(ONE) == prompt_hash(Example("what is 3 * 4?", answer="12", response_prefix="3 * 4 ="))
    assert prompt_hash(ONE) != prompt_hash(Example("What is 3 * 5?"))
    told = Example("What is 3 * 4?\nReply with the number only.", metadata={"question": "What is 3 * 4?"})
    assert prompt_hash(told) == prompt_hash(ONE)


def test_operands_that_commute_give_one_hash():
    first, second = (Example(text, metadata={"canonical": sorted_numbers(text)}) for text in ("12 * 3 =", "3 * 12 ="))
    assert prompt_hash(first) == prompt_hash(second)
    assert sorted_numbers("10 and 9 and 2.5") == "2.5 and 9 and 10"  # by value, not by digits


def test_images_count():
    images = [PixelImage.of(np.full((8, 8), shade, np.uint8)) for shade in (0, 200)]
    assert len(prompt_hashes([replace(ONE, images=(image,)) for image in (*images, images[0])])) == 2
