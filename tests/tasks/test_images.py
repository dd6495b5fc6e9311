"""Images by reference: what loads, what is refused and how, what counts as equal, and that nothing is read early."""

import io
import pickle
import struct
import zipfile
import zlib
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from t2.tasks.images import FileImage, RowImage, ZipImage
from t2.types import LazyImage, PixelImage

GRAY = np.arange(48, dtype=np.uint8).reshape(6, 8)  # 6 high, 8 wide
BIG = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
COLOR = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)


def encoded(values=COLOR, form="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, form, **options)
    return buffer.getvalue()


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


def row(value):
    return RowImage([{"image": value}], 0, "toy")


def pixels(image):
    return np.asarray(image.load())


def at(folder, content, name="one.png"):
    path = folder / name
    path.write_bytes(content)
    return path


def zipped(folder, content, name="one.png"):
    with zipfile.ZipFile(folder / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"images/{name}", content)
    return ZipImage(folder / "all.zip", f"images/{name}")


def every_way(folder, content):
    return {
        "file": FileImage(at(folder, content)),
        "zip": zipped(folder, content),
        "bytes": row(content),
        "dict of bytes": row({"bytes": content, "path": None}),
        "dict of a path": row({"bytes": None, "path": str(folder / "one.png")}),
        "path": row(str(folder / "one.png")),
        "data set": RowImage(
            datasets.Dataset.from_list(
                [{"image": {"bytes": content, "path": None}}], features=datasets.Features(image=datasets.Image())
            ),
            0,
            "toy",
        ),
    }


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
