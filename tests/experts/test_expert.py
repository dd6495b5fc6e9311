"""Expert files: what is saved comes back, and whatever does not fit is refused with a message that helps."""

import errno
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save
from tiny_models import same_states

from t2.experts.expert import Expert
from t2.experts.fingerprint import fingerprint_of
from tests.experts.expert_cases import METADATA, make_expert


def write(path: Path, metadata: dict[str, str] | None, scales: dict[str, torch.Tensor] | None = None) -> Path:
    path.write_bytes(save({"m": torch.ones(2)} if scales is None else scales, metadata=metadata))
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "expert.safetensors"


@pytest.mark.parametrize(
    "changes", [{}, {"val_before": None, "val_after": None, "git_commit": None, "description": ""}]
)
@pytest.mark.parametrize("kind", [Path, str])
def test_scales_and_metadata_come_back_exactly_from_a_new_folder(tmp_path, changes, kind):
    expert = make_expert(**changes)
    loaded = Expert.load(kind(expert.save(tmp_path / "a" / "b" / "e.safetensors")))
    assert loaded.metadata == expert.metadata
    assert same_states(loaded.scales, expert.scales)


def test_any_safetensors_reader_finds_the_metadata(path):
    make_expert().save(path)
    with safe_open(path, framework="pt") as file:
        assert (file.metadata()["base_model"], file.metadata()["format_version"]) == ("org/small", "1")


def test_scales_with_gradients_and_shared_storage_can_be_saved(path):
    z = torch.ones(6, requires_grad=True)
    scales = {"a": z[::2], "b": z[1:4], "c": z}
    expert = Expert(scales, replace(METADATA, fingerprint=fingerprint_of(scales)))
    loaded = Expert.load(expert.save(path))
    assert torch.equal(loaded.scales["a"], torch.ones(3))
    assert not loaded.scales["b"].requires_grad


def test_loaded_scales_do_not_follow_the_file(path):
    loaded = Expert.load(make_expert().save(path))
    before = {module: scale.clone() for module, scale in loaded.scales.items()}
    with path.open("r+b") as file:
        file.seek(-20, 2)
        file.write(b"\0" * 20)
    assert same_states(loaded.scales, before)


@pytest.mark.parametrize("step", ["write_bytes", "chmod"])
def test_full_disk_keeps_the_previous_file_and_leaves_nothing_behind(path, monkeypatch, step):
    make_expert().save(path)
    before = path.read_bytes()
    write_bytes = Path.write_bytes

    def full(self, argument):
        if step == "write_bytes":
            write_bytes(self, argument[: len(argument) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, step, full)
    with pytest.raises(OSError, match=r"full.*expert\.safetensors") as caught:
        make_expert(step=50).save(path)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gms8k.safetensors", r"gms8k.*Did you mean 'gsm8k\.safetensors'"),
        ("nowhere/e.safetensors", "No expert file at"),
        ("", "No expert file at"),
    ],
    ids=["near miss", "folder missing", "a folder"],
)
def test_missing_file(tmp_path, name, message):
    make_expert().save(tmp_path / "gsm8k.safetensors")
    with pytest.raises(FileNotFoundError, match=message):
        Expert.load(tmp_path / name)


def test_not_safetensors_and_every_truncation(path):
    whole = make_expert().save(path).read_bytes()
    for content in (b"abc", b"not a tensor file at all" * 9, *(whole[:length] for length in range(0, len(whole), 7))):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"expert\.safetensors is truncated or no safetensors file"):
            Expert.load(path)


class Bomb:
    """A pickle that would fail the test when opened as one."""

    def __reduce__(self):
        return pytest.fail, ("unpickled",)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5, "torch zip", "torch legacy"])
def test_pickle_is_recognized_and_never_opened(path, protocol):
    if isinstance(protocol, int):
        path.write_bytes(pickle.dumps(Bomb(), protocol=protocol))
    else:
        torch.save({"m": torch.ones(2)}, path, _use_new_zipfile_serialization=protocol == "torch zip")
    with pytest.raises(ValueError, match="pickle"):
        Expert.load(path)


def test_a_file_that_starts_like_a_pickle_by_chance_is_read(path):
    for padding in range(2000):
        make_expert(description="x" * padding).save(path)
        if path.read_bytes()[:2] in (b"\x80\x03", b"\x80\x04", b"\x80\x05"):
            break
    assert path.read_bytes()[:2] in (b"\x80\x03", b"\x80\x04", b"\x80\x05")
    assert Expert.load(path).metadata.step == 25


STRINGS = METADATA.to_strings()


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        *[(metadata, r"expert\.safetensors.*no format_version") for metadata in (None, {}, {"format": "pt"})],
        *[
            (STRINGS | {"format_version": version}, r"format_version is .*this t2 reads 1")
            for version in ("2", "0", "", "1.0")
        ],
        *[
            ({name: text for name, text in STRINGS.items() if name != field}, field)
            for field in sorted(STRINGS.keys() - {"val_before", "val_after", "git_commit"})
        ],
        *[
            (STRINGS | {field: text}, f"{field} = '{text}'")
            for field in ("step", "val_before", "val_after")
            for text in ("many", "", "nan", "inf")
        ],
    ],
)
def test_damaged_metadata_is_named(path, metadata, message):
    with pytest.raises(ValueError, match=message):
        Expert.load(write(path, metadata))


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        *[
            ({"good": torch.ones(2), "bad": torch.tensor([1.0, value])}, "of bad has 1 of 2 values that are NaN or inf")
            for value in (float("nan"), float("inf"), -float("inf"))
        ],
        ({}, "empty"),
        *[
            ({"m": scale}, "one float32 vector")
            for scale in (
                torch.ones(0),
                torch.ones(2, 2),
                torch.tensor(1.0),
                torch.ones(2).bfloat16(),
                torch.ones(2).int(),
            )
        ],
    ],
)
def test_scales_that_are_no_finite_fp32_vectors_are_neither_read_nor_made(path, scales, message):
    with pytest.raises(ValueError, match=rf"expert\.safetensors.*{message}"):
        Expert.load(write(path, STRINGS, scales))
    with pytest.raises(ValueError, match=message):
        Expert(scales, METADATA)
