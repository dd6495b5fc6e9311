"""Images of examples, which are decoded when they are loaded.

A data set of images does not fit in memory, so an example refers to its image by file and row. Two images are equal if
these references are. Resizing and normalization are left to the processor of the model.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

# Errors of Pillow for broken files: the last for implausible sizes, struct.error and TypeError for broken EXIF data.
_BROKEN = (OSError, SyntaxError, ValueError, TypeError, struct.error, Image.DecompressionBombError)
MOVING = ("GIF", "PNG", "WEBP")  # formats whose frames are moments; those of TIFF are pages, of a camera's MPO views


@dataclass(frozen=True)
class FileImage:
    """An image file."""

    path: Path

    def load(self) -> Image.Image:
        """Returns the image in RGB; raises what `LazyImage.load` does."""
        if not self.path.is_file():
            raise FileNotFoundError(f"The image {self.path} does not exist. Correct the path.")
        return _decode(self.path, str(self.path))


@dataclass(frozen=True)
class ZipImage:
    """An image in a zip file, such as a wheel, under the name `member`."""

    path: Path
    member: str

    def load(self) -> Image.Image:
        """Returns the image in RGB; raises what `LazyImage.load` does."""
        if not self.path.is_file():
            raise FileNotFoundError(f"The file {self.path} does not exist. Correct the path.")
        where = f"{self.member} of {self.path}"
        try:
            with zipfile.ZipFile(self.path) as archive:
                content = archive.read(self.member)
        except KeyError as error:
            raise FileNotFoundError(f"{self.path} holds no image {self.member}. Correct the path.") from error
        except (zipfile.BadZipFile, zlib.error) as error:
            raise _undecodable(where, error) from error
        return _decode(io.BytesIO(content), where)


@dataclass(frozen=True)
class RowImage:
    """An image in a row of a data set: an image, its bytes, a path, or {"bytes": ..., "path": ...}."""

    rows: Sequence[Mapping[str, Any]] = field(repr=False, hash=False, compare=False)
    index: int
    source: str  # data set and split: images with the same source, index and column are equal
    column: str = "image"

    def load(self) -> Image.Image:
        """Returns the image in RGB; raises what `LazyImage.load` does."""
        where = f"column {self.column!r} of row {self.index} of {self.source}"
        try:
            value = self.rows[self.index][self.column]  # a datasets.Image column is decoded here
            if isinstance(value, Image.Image):
                return _still(value).convert("RGB")
        except FileNotFoundError as error:
            raise FileNotFoundError(f"The image in {where} does not exist: {error}. Correct the path.") from error
        except _BROKEN as error:
            raise _undecodable(where, error) from error
        if isinstance(value, Mapping):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes):
            return _decode(io.BytesIO(value), where)
        if isinstance(value, str):
            return FileImage(Path(value)).load()
        raise ValueError(f"The image in {where} is a {type(value).__name__}; an image, its bytes or path is needed.")


def _decode(file: Path | io.BytesIO, where: str) -> Image.Image:
    try:
        with Image.open(file) as image:
            return ImageOps.exif_transpose(_still(image)).convert("RGB")  # as `datasets` does
    except _BROKEN as error:
        raise _undecodable(where, error) from error


def _still(image: Image.Image) -> Image.Image:
    """The image itself; ValueError for a moving one."""
    if image.format in MOVING and (frames := getattr(image, "n_frames", 1)) > 1:
        raise ValueError(f"it moves ({frames} frames)")
    return image


def _undecodable(where: str, error: Exception) -> ValueError:
    return ValueError(
        f"The image in {where} cannot be decoded: {error}. Replace it by a still image, or leave its row out; videos "
        "are not read."
    )
