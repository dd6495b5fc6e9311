"""Digits: splits that are stratified and share no image, pixels as they are in the data, and what counts as right."""

import json
import sys
from collections import Counter
from importlib.util import find_spec

import numpy as np
import pytest
import sklearn.datasets

from t2.tasks import digits
from t2.tasks.base import SPLITS, DocumentedTask, GradingTask
from t2.tasks.digits import Digits, digit_splits, enlarged
from t2.types import Example, Grade

PROMPT = "Which digit is this?"


@pytest.fixture(scope="module")
def task():
    return Digits(PROMPT)


@pytest.fixture(scope="module")
def data():
    return sklearn.datasets.load_digits()


def test_every_image_of_the_data_is_in_one_split(task, data):
    assert [len(task.split(split)) for split in SPLITS] == [1200, 200, 397]
    seen = [one.images[0] for split in SPLITS for one in task.split(split)]
    assert len(set(seen)) == len(seen) == len(data.target)


def test_an_image_is_that_of_the_data_with_sixteen_as_white(task, data):
    for one in task.split("test")[:20]:
        index = int(one.metadata["id"])
        shown = np.asarray(one.images[0].load())
        assert shown.shape == (32, 32, 3)
        assert np.array_equal(shown[::4, ::4, 1], np.rint(data.images[index] * 255 / 16))
        assert np.array_equal(shown[3::4, 3::4, 2], shown[::4, ::4, 0])
        assert one.answer == str(data.target[index])


def test_splits_are_stratified(task):
    for split in SPLITS:
        counts = Counter(one.answer for one in task.split(split))
        share = [counts[str(digit)] / counts.total() for digit in range(10)]
        assert max(share) < 0.11
        assert min(share) > 0.09


def test_the_share_of_the_most_frequent_answer_is_as_the_conf_says(task):
    counts = Counter(one.answer for one in task.split("test"))
    assert round(counts.most_common(1)[0][1] / counts.total(), 3) == 0.101


def test_equal_images_are_kept_once(monkeypatch, data):
    twice = sklearn.utils.Bunch(
        images=np.concatenate([data.images, data.images[:50]]), target=np.concatenate([data.target, data.target[:50]])
    )
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda: twice)
    indices = [digit.index for part in digit_splits(0).values() for digit in part]
    assert sorted(indices) == list(range(len(data.target)))


def test_the_scale_is_the_size_of_a_pixel():
    image = enlarged(np.array([[0, 9]], np.uint8), 3)
    assert image.shape == (3, 6)
    assert np.asarray(image.load())[:, :, 0].tolist() == [[0, 0, 0, 9, 9, 9]] * 3
    assert Digits(PROMPT, scale=28).split("val")[0].images[0].load().size == (224, 224)


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("7", Grade(1.0, None, "7")), ("The digit is 7.", Grade(1.0, None, "7")), ("7.0", Grade(1.0, None, "7.0")),
        ("\\boxed{7} of 9", Grade(1.0, None, "7")), ("1 or 7", Grade(1.0, None, "7")),
        ("77", Grade(0.0, "wrong", "77")), ("-7", Grade(0.0, "wrong", "-7")), ("seven", Grade(0.0, "no answer")),
        ("", Grade(0.0, "no answer")),
    ],
)  # fmt: skip
def test_the_number_a_text_gives_counts(task, text, grade):
    assert task.grade(Example(PROMPT, "7"), text) == grade
    assert task.score(Example(PROMPT, "7"), text) == grade.score


def test_the_prompt_and_the_limit_are_those_given():
    limited = Digits("Read it.", limit=5)
    assert [len(limited.split(split)) for split in SPLITS] == [5, 5, 5]
    assert {one.prompt for one in limited.split("val")} == {"Read it."}


def test_a_scale_below_one_and_a_missing_package_are_refused_before_the_data_is_read(monkeypatch):
    monkeypatch.setattr(digits, "digit_splits", lambda seed: pytest.fail("read too early"))
    Digits(PROMPT)
    with pytest.raises(ValueError, match="scale of digits is 0; allowed: at least 1"):
        Digits(PROMPT, scale=0)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert find_spec("sklearn") is None
    with pytest.raises(ModuleNotFoundError, match=r'"transformer2\[vision\]"'):
        Digits(PROMPT)


def test_about_describes_what_was_read():
    task = Digits(PROMPT)
    assert task.about()["splits"] == {}
    task.split("val")
    about = json.loads(json.dumps(task.about()))
    assert {split: part["rows"] for split, part in about["splits"].items()} == {"val": 200, "test": 397}
    assert about["version"] == sklearn.__version__


def test_the_fingerprint_is_that_of_the_images_and_the_answers():
    def fingerprint(**changes):
        task = Digits(**{"prompt": PROMPT, **changes})
        task.split("test")
        return task.about()["splits"]["test"]["fingerprint"]

    assert fingerprint() == fingerprint()
    assert len({fingerprint(), fingerprint(seed=1), fingerprint(scale=1), fingerprint(prompt="?")}) == 4


def test_it_is_a_task_that_grades_and_says_what_it_is(task):
    assert isinstance(task, GradingTask)
    assert isinstance(task, DocumentedTask)
