"""Pictures that belong to a question, decoded when a model looks at them and not before.

A data set of images does not fit in memory, so an example holds where its picture is. Two of them are equal if they
name the same place. Nothing here resizes or normalizes: that is the processor's business.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image, UnidentifiedImageError


@runtime_checkable
class LazyImage(Protocol):
    """A picture by its place; hashable, so that prompts can be compared."""

    def load(self) -> Image.Image:
        """The picture in RGB.

        Raises:
            ValueError: it cannot be decoded; the message says which one.
            FileNotFoundError: it is in a file that is not there.
        """
        ...


@dataclass(frozen=True)
class FileImage:
    """A picture in a file."""

    path: Path

    def load(self) -> Image.Image:
        """The picture in RGB; raises as `LazyImage` says."""
        if not self.path.is_file():
            raise FileNotFoundError(f"The image {self.path} does not exist. Correct the path.")
        return _decode(self.path, str(self.path))


@dataclass(frozen=True)
class PixelImage:
    """A picture held in memory: `pixels` are the bytes of (height, width) gray values, or of (height, width, 3)."""

    pixels: bytes = field(repr=False)
    shape: tuple[int, ...]

    @classmethod
    def of(cls, values: np.ndarray[Any, np.dtype[np.uint8]]) -> PixelImage:
        """A picture of gray values (height, width) or RGB (height, width, 3) from 0 to 255."""
        if values.dtype != np.uint8 or not (values.ndim == 2 or (values.ndim == 3 and values.shape[2] == 3)):
            raise ValueError(
                f"Pixels are {values.dtype} of shape {values.shape}; allowed: uint8 (height, width) or (height, width, "
                "3)."
            )
        return cls(values.tobytes(), values.shape)

    def load(self) -> Image.Image:
        """The picture in RGB."""
        return Image.fromarray(np.frombuffer(self.pixels, np.uint8).reshape(self.shape)).convert("RGB")


@dataclass(frozen=True)
class RowImage:
    """A picture in a column of a data set's row: decoded already, encoded bytes, or {"bytes": ..., "path": ...}."""

    rows: Sequence[Mapping[str, Any]] = field(repr=False, hash=False, compare=False)
    index: int
    column: str = "image"
    source: str = ""  # names the data set and its split, and makes two pictures the same

    def load(self) -> Image.Image:
        """The picture in RGB; raises as `LazyImage` says."""
        where = f"column {self.column!r} of row {self.index} of {self.source or 'the data set'}"
        try:
            value = self.rows[self.index][self.column]  # a datasets.Image column is decoded here
        except (UnidentifiedImageError, OSError) as error:
            raise _undecodable(where, error) from error
        if isinstance(value, Mapping):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, Image.Image):
            return value.convert("RGB")
        if isinstance(value, bytes):
            return _decode(io.BytesIO(value), where)
        if isinstance(value, str):
            return FileImage(Path(value)).load()
        raise ValueError(f"The image in {where} is a {type(value).__name__}; an image, its bytes or path is needed.")


def _decode(file: Path | io.BytesIO, where: str) -> Image.Image:
    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:  # what Pillow raises at broken files
        raise _undecodable(where, error) from error


def _undecodable(where: str, error: Exception) -> ValueError:
    return ValueError(f"The image in {where} cannot be decoded: {error}. Replace it, or leave its row out.")
