"""Atomic files: complete or not there at all, whatever goes wrong while writing."""

import errno
import os
import stat
from pathlib import Path

import pytest
from safetensors import SafetensorError

from t2.run.files import atomic_folder, atomic_path, parse_json, read_lines


def write(path: Path, text: str) -> None:
    with atomic_path(path) as partial:
        partial.write_text(text)


def test_content_and_folders_are_written(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    write(path, "content")
    assert path.read_text() == "content"


def test_nothing_but_the_file_remains(tmp_path):
    write(tmp_path / "a.txt", "content")
    assert os.listdir(tmp_path) == ["a.txt"]


def test_readers_see_the_old_file_until_the_block_ends(tmp_path):
    path = tmp_path / "a.txt"
    write(path, "old")
    with atomic_path(path) as partial:
        partial.write_text("new, half of i")
        assert path.read_text() == "old"
        assert partial.parent == path.parent  # a rename across file systems would not be atomic
    assert path.read_text() == "new, half of i"


@pytest.mark.parametrize("error", [RuntimeError("bug"), OSError(errno.EIO, "disk"), KeyboardInterrupt()])
def test_failure_keeps_the_old_file_and_leaves_no_partial_one(tmp_path, error):
    path = tmp_path / "a.txt"
    write(path, "old")

    def crash(partial: Path) -> None:
        partial.write_text("half")
        raise error

    with pytest.raises(type(error)), atomic_path(path) as partial:
        crash(partial)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_full_disk_says_what_to_do(tmp_path):
    path = tmp_path / "a.txt"
    with (
        pytest.raises(OSError, match=r"disk is full.*a\.txt.*T2_CACHE.*hydra\.run\.dir") as caught,
        atomic_path(path),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == []


def test_other_disk_errors_are_not_called_a_full_disk(tmp_path):
    with pytest.raises(PermissionError) as caught, atomic_path(tmp_path / "a.txt"):
        raise PermissionError(errno.EACCES, "no")
    assert "full" not in str(caught.value)


def test_others_may_read_the_file(tmp_path):
    before = os.umask(0o022)
    try:
        write(tmp_path / "a.txt", "shared")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o644


def test_umask_is_left_as_it_was(tmp_path):
    before = os.umask(0o027)
    try:
        write(tmp_path / "a.txt", "x")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


def test_content_is_on_the_disk_before_the_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    """Renaming what is not flushed can leave an empty file under the name after a power failure."""
    path, done = tmp_path / "a.txt", []
    replace, fsync = os.replace, os.fsync
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("rename"), replace(*paths)))
    monkeypatch.setattr(
        os,
        "fsync",
        lambda file: (done.append("folder" if os.path.isdir(f"/proc/self/fd/{file}") else "file"), fsync(file)),
    )
    write(path, "content")
    assert done == ["file", "rename", "folder"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"[" * 100_000, "nested too deeply"), (b'"\xff"', "utf-8"), (b"{", "Expecting"), (b"9" * 5000, "digits")],
)
def test_text_that_is_no_json_is_one_message(content, message):
    with pytest.raises(ValueError, match=rf"rows\.json is not JSON.*{message}.*Mend it"):
        parse_json(content, "rows.json", "Mend it.")


def test_lines_that_are_not_utf_8_are_a_message(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffé\nb".encode())
    assert read_lines(path, "") == ["é", "b"]
    path.write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"prompts\.txt is not UTF-8 text.*Save it"):
        read_lines(path, "Save it as UTF-8.")


def test_a_folder_has_its_name_when_all_of_it_is_there(tmp_path):
    (tmp_path / "new").mkdir()  # an empty one may be there
    before = os.umask(0o022)
    try:
        with atomic_folder(tmp_path / "new") as partial:
            (partial / "inside").mkdir()
            (partial / "inside" / "a.txt").write_text("content")
            (partial / "inside" / "a.txt").chmod(0o600)
            assert partial.parent == tmp_path
            assert os.listdir(tmp_path / "new") == []
    finally:
        os.umask(before)
    assert (tmp_path / "new" / "inside" / "a.txt").read_text() == "content"
    assert os.listdir(tmp_path) == ["new"]
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "new" / "inside" / "a.txt").stat().st_mode) == 0o644


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_leaves_nothing_of_a_folder(tmp_path, error):
    def fill(partial: Path) -> None:
        (partial / "a.txt").write_text("half")
        raise error

    with (
        pytest.raises(OSError, match=r"disk is full: .*new could not be written.*Free some space") as caught,
        atomic_folder(tmp_path / "new") as partial,
    ):
        fill(partial)
    assert caught.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_fit_is_not_begun(tmp_path):
    with (
        pytest.raises(OSError, match=r"It takes 1000000000\.00 GB, and .* GB are free"),
        atomic_folder(tmp_path / "new", needed_bytes=10**18),
    ):
        pytest.fail("begun")
    assert os.listdir(tmp_path) == []


def test_a_folder_takes_the_place_of_nothing(tmp_path):
    (tmp_path / "used").mkdir()
    write(tmp_path / "used" / "a.txt", "mine")
    for path, what in ((tmp_path / "used", "is not empty"), (tmp_path / "used" / "a.txt", "is a file")):
        with pytest.raises(FileExistsError, match=what), atomic_folder(path):
            pytest.fail("begun")
    assert os.listdir(tmp_path) == ["used"]
