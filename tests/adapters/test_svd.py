"""Decompositions: right, kept once, resumed where they stopped, and never read half written."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from t2.adapters.svd import Decomposition, content_key, decompose, decompose_all

WEIGHTS = {f"layers.{i}.up_proj": torch.randn(6, 4 + i) for i in range(4)}


def run(folder: Path | None, weights: dict[str, torch.Tensor] = WEIGHTS) -> dict[str, Decomposition]:
    return dict(decompose_all(weights, folder=folder, progress=False))


def rebuilt(parts: Decomposition) -> torch.Tensor:
    return (parts.U * parts.s) @ parts.Vh


@pytest.fixture
def counted(monkeypatch) -> list[tuple[int, ...]]:
    """Shapes of the matrices that were really decomposed."""
    calls: list[tuple[int, ...]] = []
    svd: Callable = torch.linalg.svd

    def count(matrix, *args, **kwargs):
        calls.append(tuple(matrix.shape))
        return svd(matrix, *args, **kwargs)

    monkeypatch.setattr(torch.linalg, "svd", count)
    return calls


@pytest.mark.parametrize("shape", [(7, 3), (3, 7), (5, 5), (1, 4)])
def test_decomposition_is_thin_and_rebuilds_the_matrix(shape):
    weight = torch.randn(*shape, dtype=torch.float64)
    parts = decompose(weight)
    rank = min(shape)
    assert (parts.U.shape, parts.s.shape, parts.Vh.shape) == ((shape[0], rank), (rank,), (rank, shape[1]))
    torch.testing.assert_close(rebuilt(parts), weight, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(parts.U.T @ parts.U, torch.eye(rank).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("weight", [torch.randn(20, 10).bfloat16(), torch.diag(torch.tensor([2.0, 2.0, 0.0]))])
def test_half_precision_and_repeated_and_zero_singular_values_are_fine_in_fp32(weight):
    parts = decompose(weight)
    assert parts.s.dtype == torch.float32
    torch.testing.assert_close(rebuilt(parts), weight.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_are_refused(tmp_path, bad):
    weight = torch.ones(3, 3)
    weight[1, 2] = bad
    with pytest.raises(ValueError, match=r"\(3, 3\) holds NaN or infinity"):
        run(tmp_path, {"a": weight})
    assert os.listdir(tmp_path) == [".lock"]


def test_no_convergence_in_fp32_is_repeated_in_float64(monkeypatch, caplog):
    svd = torch.linalg.svd

    def stubborn(matrix, **kwargs):
        if matrix.dtype == torch.float32:
            raise torch.linalg.LinAlgError("did not converge")
        return svd(matrix, **kwargs)

    monkeypatch.setattr(torch.linalg, "svd", stubborn)
    weight = torch.randn(4, 3)
    parts = decompose(weight)
    assert parts.U.dtype == parts.s.dtype == parts.Vh.dtype == torch.float32
    torch.testing.assert_close(rebuilt(parts), weight)
    assert "repeated in float64" in caplog.text


def test_second_pass_reads_the_same_numbers_and_decomposes_nothing(tmp_path, monkeypatch):
    first = run(tmp_path)
    monkeypatch.setattr(torch.linalg, "svd", None)
    second = run(tmp_path)
    assert list(second) == list(WEIGHTS)
    for name, parts in first.items():
        assert all(torch.equal(getattr(parts, part), getattr(second[name], part)) for part in ("U", "s", "Vh"))


def test_a_changed_weight_is_decomposed_anew(tmp_path, counted):
    run(tmp_path)
    counted.clear()
    changed = WEIGHTS | {"layers.2.up_proj": WEIGHTS["layers.2.up_proj"] + 1e-3}
    parts = run(tmp_path, changed)["layers.2.up_proj"]
    assert counted == [(6, 6)]
    torch.testing.assert_close(rebuilt(parts), changed["layers.2.up_proj"])


def test_the_key_sees_shape_and_the_smallest_change_but_not_layout_or_dtype():
    weight = torch.randn(4, 6).bfloat16()
    other = weight.float()
    other[2, 2] = torch.nextafter(other[2, 2], torch.tensor(99.0))
    assert content_key(weight) == content_key(weight.float())
    assert content_key(weight) == content_key(weight.T.contiguous().T)
    assert content_key(weight) != content_key(weight.reshape(6, 4))
    assert content_key(weight) != content_key(other)


@pytest.mark.parametrize("fails", [False, True])
def test_an_interrupted_or_failed_pass_goes_on_where_it_stopped(tmp_path, counted, fails):
    if fails:
        with pytest.raises(ValueError, match="NaN"):
            run(tmp_path, WEIGHTS | {"layers.2.up_proj": torch.full((6, 6), float("nan"))})
    else:
        parts = decompose_all(WEIGHTS, folder=tmp_path, progress=False)
        next(parts), next(parts)
        parts.close()
    counted.clear()
    run(tmp_path)
    assert counted == [(6, 6), (6, 7)]


def altered(content: bytes, damage: str) -> bytes:
    if damage in ("truncated", "empty", "garbage", "zeroed tail"):
        zeroed = content[:-40] + bytes(40)
        return {"truncated": content[:-8], "empty": b"", "garbage": b"\xff" * 64, "zeroed tail": zeroed}[damage]
    parts = load(content)
    parts["s"] *= 2
    strings = {} if damage == "doubled s, no checksum" else {"sha256": "0" * 64}
    return save(parts if damage != "no s" else {name: parts[name] for name in ("U", "Vh")}, strings)


@pytest.mark.parametrize(
    "damage",
    ["truncated", "empty", "garbage", "zeroed tail", "doubled s, checksum kept", "doubled s, no checksum", "no s"],
)
def test_a_damaged_file_is_computed_again_with_a_warning(tmp_path, counted, caplog, damage):
    run(tmp_path)
    counted.clear()
    (victim,) = tmp_path.glob("layers.1.*")
    content = victim.read_bytes()
    victim.write_bytes(altered(content, damage))
    parts = run(tmp_path)["layers.1.up_proj"]
    assert counted == [(6, 5)]
    assert "damaged" in caplog.text
    assert victim.name in caplog.text
    torch.testing.assert_close(rebuilt(parts), WEIGHTS["layers.1.up_proj"])
    assert victim.read_bytes() == content


def test_a_file_of_an_older_t2_without_a_checksum_is_used(tmp_path, counted):
    run(tmp_path)
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(save(load(path.read_bytes())))
    counted.clear()
    run(tmp_path)
    assert counted == []


def test_a_full_disk_says_so_and_leaves_no_partial_file(tmp_path, monkeypatch):
    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"disk is full.*T2_CACHE") as caught:
        run(tmp_path)
    assert caught.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == [".lock"]


def test_a_reader_beside_a_writer_sees_whole_files_only(tmp_path, caplog):
    weights = {f"m{i}": torch.randn(64, 64) for i in range(20)}
    writer = threading.Thread(target=run, args=(tmp_path, weights))
    writer.start()
    found = [run(tmp_path, weights) for _ in range(5)]
    writer.join()
    assert "damaged" not in caplog.text
    for parts in found:
        for name, weight in weights.items():
            torch.testing.assert_close(rebuilt(parts[name]), weight, rtol=1e-4, atol=1e-4)


def test_no_name_ends_in_safetensors_before_it_is_complete(tmp_path, monkeypatch):
    write = Path.write_bytes
    seen = []

    def slowly(self: Path, content: bytes) -> int:
        write(self, content[:20])
        seen.extend(path.name for path in tmp_path.glob("*.safetensors"))
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", slowly)
    run(tmp_path, {"a": torch.randn(3, 3)})
    assert seen == []
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


def test_float64_is_never_cached_as_fp32_and_without_a_folder_nothing_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts = run(tmp_path, {"a": torch.randn(3, 3, dtype=torch.float64)})["a"]
    assert parts.s.dtype == torch.float64
    run(None)
    assert os.listdir(tmp_path) == []


def test_a_wrong_decomposition_is_noticed_and_made_again_in_float64(monkeypatch, caplog):
    exact, weight = torch.linalg.svd, torch.randn(6, 4)

    def wrong_in_fp32(matrix, full_matrices):
        U, s, Vh = exact(matrix, full_matrices=full_matrices)
        return U, s * (1.001 if matrix.dtype == torch.float32 else 1.0), Vh

    monkeypatch.setattr(torch.linalg, "svd", wrong_in_fp32)
    parts = decompose(weight)
    assert "off by 0.001" in caplog.text
    torch.testing.assert_close(rebuilt(parts), weight, rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(torch.linalg, "svd", lambda m, full_matrices: (2 * p for p in exact(m, full_matrices=False)))
    with pytest.raises(ArithmeticError, match="is off by 7 of its size"):
        decompose(weight)


def test_a_matrix_of_zeros_is_decomposed():
    assert decompose(torch.zeros(3, 2)).s.tolist() == [0.0, 0.0]
