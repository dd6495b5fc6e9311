"""Files of tensors: bit for bit, whole or not at all, and none whose content is not what its checksum says."""

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from t2.run.tensor_files import read_tensors, save_tensors


def test_tensors_come_back_bit_for_bit(tmp_path):
    path = tmp_path / "a.safetensors"
    tensors = {
        "view": torch.randn(4, 3).T,  # not contiguous
        "half": torch.randn(5).bfloat16(),
        "parameter": torch.nn.Parameter(torch.randn(2)),
    }
    save_tensors(path, tensors, {"key": "value ²"})
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in load_file(path).items())
    with safe_open(path, framework="pt") as file:
        assert file.metadata().keys() == {"key", "sha256"}
    assert read_tensors(path)[1] == {"key": "value ²"}


def test_tensors_on_a_full_disk_keep_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"z": torch.ones(3)})

    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="disk is full"):
        save_tensors(path, {"z": torch.zeros(3)})
    assert os.listdir(tmp_path) == ["a.safetensors"]
    assert torch.equal(load_file(path)["z"], torch.ones(3))


def test_a_tensor_file_whose_content_differs_from_its_checksum_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"z": torch.ones(3)}, {"key": "value"})
    whole = path.read_bytes()
    for damaged in (whole[:-1] + b"\0", whole.replace(b"value", b"valve")):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.safetensors is damaged: .* checksum"):
            read_tensors(path)
