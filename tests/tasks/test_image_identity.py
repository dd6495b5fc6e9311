"""Images: which are equal, when they are decoded, and that they can be sent to another process."""

import pickle
from pathlib import Path

import datasets
import numpy as np
import pytest

from t2.tasks.images import FileImage, RowImage, ZipImage
from t2.types import PixelImage
from tests.tasks.image_cases import COLOR, GRAY, encoded, every_way, pixels, row


@pytest.mark.parametrize(
    "make",
    [
        lambda n: FileImage(Path(f"{n}.png")), lambda n: ZipImage(Path("all.zip"), f"{n}.png"),
        lambda n: ZipImage(Path(f"{n}.zip"), "one.png"), lambda n: PixelImage.of(np.full((2, 2), n, np.uint8)),
        lambda n: PixelImage.of(np.zeros((4, n), np.uint8)[:, : 4 // n].repeat(n, axis=0).reshape(4 // n, -1)),
        lambda n: RowImage([], n, source="toy"), lambda n: RowImage([], 0, "toy", f"image{n}"),
        lambda n: RowImage([], 0, source=f"split {n}"),
    ],
)  # fmt: skip
def test_references_make_images_equal_or_not(make):
    assert make(1) == make(1)
    assert hash(make(1)) == hash(make(1))
    assert make(1) != make(2)
    assert len({make(1), make(2), make(1)}) == 2


def test_what_makes_two_images_equal():
    assert PixelImage.of(GRAY) != PixelImage.of(GRAY.reshape(8, 6))
    assert FileImage(Path("nowhere.png")) != ZipImage(Path("nowhere.zip"), "one.png")
    one, other = row("a.png"), row("b.png")  # the rows do not matter
    assert one == other
    assert "png" not in repr(one)


def test_nothing_is_touched_before_it_is_loaded():
    class Untouchable(list):
        def __getitem__(self, index):
            raise AssertionError("read too early")

    image = RowImage(Untouchable(), 3, source="toy")
    assert image == RowImage([], 3, source="toy")
    assert hash(image)
    with pytest.raises(AssertionError, match="too early"):
        image.load()


def test_one_row_is_decoded_when_its_image_is_loaded(monkeypatch):
    content, decoded = encoded(), []
    rows = datasets.Dataset.from_list(
        [{"image": {"bytes": content, "path": None}} for _ in range(4)],
        features=datasets.Features(image=datasets.Image()),
    )
    whole = datasets.Image.decode_example
    monkeypatch.setattr(datasets.Image, "decode_example", lambda *a, **more: decoded.append(1) or whole(*a, **more))
    images = [RowImage(rows, index, "toy") for index in range(4)]
    assert not decoded
    images[2].load()
    assert len(decoded) == 1


def test_images_can_be_sent_to_another_process(tmp_path):
    for image in every_way(tmp_path, encoded()).values():
        assert np.array_equal(pixels(pickle.loads(pickle.dumps(image))), COLOR)
