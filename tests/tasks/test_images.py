"""Images by reference: what loads, what is refused and how, what counts as equal, and that nothing is read early."""

import io
import struct
import zlib
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from t2.tasks.images import FileImage, RowImage, ZipImage
from t2.types import LazyImage, PixelImage
from tests.tasks.image_cases import COLOR, GRAY, at, encoded, every_way, pixels, row, zipped

BIG = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)


def turned(form="PNG"):
    """COLOR as a camera held sideways stores it: to be turned by 90 degrees when shown."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(form=form, exif=exif)


def with_long_text():
    """An image whose comment unpacks to more than Pillow allows."""
    body = b"zTXtnote\0\0" + zlib.compress(b"a" * (2 << 20))
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    png = encoded()
    return png[:33] + chunk + png[33:]


def too_large():
    """The header of an image of 65,500 x 65,500 pixels."""
    return b"P4\n65500 65500\n" + b"\0" * 16


@pytest.mark.parametrize("content", [encoded(), encoded(form="BMP"), encoded(form="WEBP", lossless=True)])
def test_every_source_gives_the_same_rgb_image(tmp_path, content):
    for way, image in every_way(tmp_path, content).items():
        assert image.load().mode == "RGB", way
        assert np.array_equal(pixels(image), COLOR), way
        assert isinstance(image, LazyImage), way


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(GRAY),
        Image.fromarray(GRAY).convert("P"),
        Image.fromarray(GRAY).convert("1"),
        Image.merge("RGBA", [Image.fromarray(GRAY)] * 4),
        Image.fromarray(GRAY).convert("CMYK"),
    ],
)
def test_every_mode_becomes_rgb(tmp_path, image):
    buffer = io.BytesIO()
    image.save(buffer, "TIFF")
    for one in (row(image), FileImage(at(tmp_path, buffer.getvalue())), row(buffer.getvalue())):
        assert (one.load().mode, one.load().size) == ("RGB", (8, 6))


def test_an_image_of_a_camera_held_sideways_stands_upright_wherever_it_is(tmp_path):
    for way, image in every_way(tmp_path, turned()).items():
        assert np.array_equal(pixels(image), np.rot90(COLOR, -1)), way


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no image",
        encoded(BIG)[:-400],
        encoded().replace(b"IDAT", b"IDXX"),
        encoded(form="JPEG")[:100],
        with_long_text(),
        too_large(),
    ],
    ids=["empty", "text", "cut off", "no data", "cut JPEG", "long comment", "too large"],
)
def test_what_cannot_be_decoded_is_refused_by_name(tmp_path, content):
    for way, image in every_way(tmp_path, content).items():
        if content == b"" and way == "dict of bytes":
            continue  # the same as no bytes at all
        with pytest.raises(ValueError, match=r"image in .*(one\.png|column 'image' of row 0).* cannot be decoded"):
            image.load()


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, for what it can read around
def test_damaged_camera_data_is_a_value_error():
    content = bytearray(turned("JPEG"))
    start = content.index(b"Exif")
    rng = np.random.default_rng(0)
    refused = []
    for _ in range(300):
        broken = bytearray(content)
        for index in rng.integers(start, start + 60, 4):
            broken[index] = rng.integers(256)
        try:
            row(bytes(broken)).load()
        except ValueError as error:
            refused.append(str(error))
    assert refused
    assert all("cannot be decoded" in message for message in refused)


def test_a_missing_file_or_member_is_named(tmp_path):
    path = str(tmp_path / "gone.png")
    feature = datasets.Features(image=datasets.Image())
    rows = datasets.Dataset.from_list([{"image": {"bytes": None, "path": path}}], features=feature)
    for image in (FileImage(Path(path)), row(path), row({"path": path}), RowImage(rows, 0, "toy")):
        with pytest.raises(FileNotFoundError, match=r"gone\.png"):
            image.load()
    with pytest.raises(FileNotFoundError, match="Correct the path"):
        FileImage(tmp_path).load()  # a folder
    with pytest.raises(FileNotFoundError, match=r"all\.zip does not exist"):
        ZipImage(tmp_path / "all.zip", "one.png").load()
    with pytest.raises(FileNotFoundError, match=r"holds no image images/two\.png"):
        ZipImage(zipped(tmp_path, encoded()).path, "images/two.png").load()


def test_a_broken_zip_file_is_named(tmp_path):
    image = zipped(tmp_path, encoded())
    content = bytearray(image.path.read_bytes())
    content[60:80] = bytes(20)
    at(tmp_path, content, "damaged.zip")
    at(tmp_path, b"no zip", "text.zip")
    for name in ("damaged.zip", "text.zip"):
        with pytest.raises(ValueError, match=rf"one\.png of .*{name} cannot be decoded"):
            ZipImage(tmp_path / name, image.member).load()


@pytest.mark.parametrize("value", [None, 3, [1, 2], {}, {"bytes": None, "path": None}])
def test_a_value_that_is_no_image_is_refused(value):
    with pytest.raises(ValueError, match=r"row 0 of toy is a (NoneType|int|list); an image, its bytes or path"):
        row(value).load()


def test_an_image_that_breaks_only_when_its_data_is_read_is_refused():
    late = Image.open(io.BytesIO(encoded(BIG)[:-400]))
    with pytest.raises(ValueError, match="cannot be decoded"):
        row(late).load()


@pytest.mark.parametrize("values", [GRAY, COLOR, COLOR[:, ::-1], COLOR.transpose(1, 0, 2), COLOR[:1, :1]])
def test_pixels_come_back_as_they_went_in(values):
    given = values.copy()
    image = PixelImage.of(given)
    given[:] = 0  # the image holds a copy
    assert np.array_equal(pixels(image), values if values.ndim == 3 else np.stack([values] * 3, axis=2))


@pytest.mark.parametrize(
    "values",
    [
        GRAY.astype(np.float32), GRAY.astype(np.int64), GRAY[0], GRAY[:, :, None], np.zeros((2, 2, 4), np.uint8),
        np.zeros((0, 4), np.uint8), np.zeros((4, 0, 3), np.uint8),
    ],
)  # fmt: skip
def test_other_pixels_are_refused(values):
    with pytest.raises(ValueError, match=r"allowed: uint8 \(height, width\)"):
        PixelImage.of(values)


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP"])
def test_a_moving_image_is_refused(tmp_path: Path, form: str) -> None:
    frames = [Image.fromarray(BIG), Image.fromarray(255 - BIG)]
    buffer = io.BytesIO()
    frames[0].save(buffer, form, save_all=True, append_images=frames[1:])
    for image in every_way(tmp_path, buffer.getvalue()).values():
        with pytest.raises(ValueError, match=r"it moves \(2 frames\)\..* still image.*videos are not read"):
            image.load()
    pages = tmp_path / "pages.tiff"
    frames[0].save(pages, save_all=True, append_images=frames[1:])
    assert np.array_equal(np.asarray(FileImage(pages).load()), BIG)
