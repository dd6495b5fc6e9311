"""Small images in every form that a data set has them."""

import io
import zipfile

import datasets
import numpy as np
from PIL import Image

from t2.tasks.images import FileImage, RowImage, ZipImage

GRAY = np.arange(48, dtype=np.uint8).reshape(6, 8)  # 6 high, 8 wide
COLOR = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)


def encoded(values=COLOR, form="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, form, **options)
    return buffer.getvalue()


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
