"""The space that decompositions take is there before the first is computed, or a message says what to do."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path

import pytest
import torch
from tiny_models import tiny

from t2.adapters.svd_space import check_space, file_bytes
from t2.adapters.svf import SVF

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    monkeypatch.setenv("T2_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(0, 0, 1000))
    return monkeypatch


def test_nothing_is_computed_where_the_disk_is_too_small(free: pytest.MonkeyPatch, tmp_path: Path) -> None:
    free.setattr(torch.linalg, "svd", None)
    lm = tiny()
    with pytest.raises(
        OSError, match=r"they take 0\.\d GB in .*cache/svd/tiny-llama, and 0\.0 GB .* set T2_CACHE to a"
    ):
        SVF(progress=False).inject(lm.model, lm.source)
    assert not (tmp_path / "cache").exists()


def test_without_a_cache_no_space_is_needed(free: pytest.MonkeyPatch) -> None:
    lm = tiny()
    SVF(progress=False, cache=False).inject(lm.model, lm.source)


def test_what_is_there_takes_no_more_space(free: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lm, other = tiny(), tiny()
    free.undo()
    free.setenv("T2_CACHE", str(tmp_path / "cache"))
    SVF(progress=False).inject(lm.model, lm.source)
    free.setattr("shutil.disk_usage", lambda _: Usage(0, 0, 0))
    SVF(progress=False).inject(other.model, other.source)


def test_bytes_are_those_of_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T2_CACHE", str(tmp_path))
    lm = tiny()
    adapter = SVF(progress=False)
    adapter.inject(lm.model, lm.source)
    files = sorted(tmp_path.rglob("*.safetensors"))
    shapes = [tuple(layer.base.weight.shape) for layer in adapter.layers.values()]
    needed = sum(file_bytes(shape, None) for shape in shapes)
    assert 0 <= sum(file.stat().st_size for file in files) - needed < 1000 * len(files)  # the headers
    assert file_bytes((8, 300, 200), None) == 8 * file_bytes((300, 200), None)
    assert file_bytes((3000, 2000), 4) == 4 * 4 * 5001
    assert file_bytes((30, 20), 19) == 4 * 20 * 51  # all of them, which is cheaper
    check_space(None, {"a": (10**9, 10**9)}, {})
