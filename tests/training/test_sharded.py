"""Processes that share a sharded model compute what one does with a whole one, hold a part of it, and end together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import rank_cases
import shard_cases
import torch
from cost_model import llama
from rank_cases import CLIPPED_STEP
from shard_cases import BLOCKS, CASES, OF_FOUR, OF_TWO
from tiny_models import tiny
from torch import nn
from training_run import fit, flat, make_module

import t2.training.module
from t2.costs.placement import frozen
from t2.costs.shapes import on_meta, shape_of
from t2.costs.step import Work
from t2.training.checkpoint_file import LAST_CHECKPOINT
from t2.training.sharded import check_adapter, check_shardable, frozen_bytes

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shards")


@pytest.fixture(scope="module")
def one(folder: Path) -> dict[str, dict[str, Any]]:
    """What one process finds, with the whole model."""
    shard_cases.save_model(folder)
    try:
        found = {
            case: rank_cases.run(case, folder / case, module=shard_cases.module_of(case, shards=False))
            for case in CASES
        }
        module = shard_cases.module_of("rloo", shards=False)
        found["alone"] = rank_cases.run("rloo", folder / "alone", module=module, steps=2)
        files = shard_cases.of_files(folder, shards=False)
        fit(files, folder / "files", steps=1, prompts=2, callbacks=[], logger=False)
        found["files"] = {"z": flat(files), "whole": frozen_bytes(files.lm.model)[1]}
        return found
    finally:
        t2.training.module.clipped_step = CLIPPED_STEP


@pytest.fixture(scope="module")
def two(folder: Path, one: Any) -> list[dict[str, Any]]:
    """What each of two processes found."""
    return rank_cases.in_processes(folder, shard_cases.main)


@pytest.fixture(scope="module")
def four(folder: Path) -> list[dict[str, Any]]:
    """What each of four processes found."""
    (folder / "four").mkdir()
    return rank_cases.in_processes(folder / "four", shard_cases.main, size=4)


def check_same(found: list[dict[str, Any]], whole: dict[str, Any]) -> None:
    """Compare what each process found with what one did."""
    for mine in found:
        assert mine["tokens"] == whole["tokens"]
        assert mine["reports"] == whole["reports"]
        assert len(mine["gradients"]) == len(whole["gradients"]) > 0
        for update, (ours, theirs) in enumerate(zip(mine["gradients"], whole["gradients"], strict=True)):
            assert [g is None for g in ours] == [g is None for g in theirs]
            if theirs[0] is not None:
                # Every vector, on every rank: a gradient that is lost in a sharded block would be 0 or None.
                assert all(bool(g.any()) for g in ours)
                flat, expected = (torch.cat([g.flatten() for g in of]) for of in (ours, theirs))
                assert float((flat - expected).norm() / expected.norm()) < (1e-5 if update else 1e-6)
        torch.testing.assert_close(mine["z"], whole["z"], rtol=0, atol=5e-6)
        assert torch.equal(mine["z"], found[0]["z"])
        assert mine["metrics"] == pytest.approx(whole["metrics"], rel=1e-4, abs=5e-6)


@pytest.mark.parametrize("case", OF_TWO)
def test_two_processes_learn_what_one_does(case: str, one: Any, two: Any) -> None:
    """A rank with more completions or micro-batches than the other would wait for ever, or add what is not its own."""
    check_same([found[case] for found in two], one[case])
    assert bool((one[case]["z"] != 1).any())


@pytest.mark.parametrize("case", OF_FOUR)
def test_four_processes_of_one_or_two_machines_learn_what_one_does(case: str, one: Any, four: Any) -> None:
    check_same([found[case] for found in four], one[case])


def test_the_numbers_are_those_of_processes_with_whole_models(two: Any) -> None:
    """Bit for bit, in half precision, where each forms the batches that it forms there."""
    for found in two:
        assert found["half"]["tokens"] == found["half whole"]["tokens"]
        assert torch.equal(found["half"]["z"], found["half whole"]["z"])
        assert bool((found["half"]["z"] != 1).any())


def test_a_process_holds_half_of_the_frozen_numbers(one: Any, two: Any) -> None:
    """Counted by storages: at rest, when the most is whole in training, and while blocks are read and decomposed."""
    for found in two:
        mine = found["files"]
        assert mine["whole"] == one["files"]["whole"]
        assert mine["here"] <= 0.53 * mine["whole"]
        assert mine["here"] < mine["peak"] <= 0.6 * mine["whole"]
        assert mine["loading"] <= 0.6 * mine["whole"]


def test_the_plan_counts_these_bytes(one: Any, two: Any) -> None:
    """The documentation's table of memory rests on it."""
    shape = shape_of(on_meta(llama(32, 48, BLOCKS, 4, 2, 261)), "mlp")
    outside, blocks = frozen(shape, Work(number_bytes=4))
    rotary = 2 * 4 * 4  # two buffers of 4 numbers in fp32
    assert two[0]["files"]["whole"] == outside + blocks + rotary
    assert two[0]["files"]["here"] == outside + blocks / 2 + rotary


def test_files_are_read_by_block_and_decomposed_once(folder: Path, one: Any, two: Any) -> None:
    assert sum(found["files"]["computed"] for found in two) == 3 * BLOCKS
    torch.testing.assert_close(two[0]["files"]["z"], one["files"]["z"], rtol=0, atol=2e-5)
    assert bool((one["files"]["z"] != 1).any())


def test_checkpoints_hold_what_is_learned_and_any_number_of_processes_goes_on(folder: Path, one: Any, two: Any) -> None:
    saved = folder / "stopped0" / LAST_CHECKPOINT
    assert saved.stat().st_size < 40_000
    assert not [path for path in folder.glob("stopped1/**/*") if path.is_file()]
    try:
        module = shard_cases.module_of("rloo", shards=False)
        resumed = rank_cases.run("rloo", folder / "on_alone", module=module, ckpt=saved)
    finally:
        t2.training.module.clipped_step = CLIPPED_STEP
    for z in (resumed["z"], two[0]["resumed"]["z"], two[1]["resumed"]["z"]):
        torch.testing.assert_close(z, one["rloo"]["z"], rtol=0, atol=5e-6)
    assert not torch.equal(two[0]["stopped"]["z"], one["rloo"]["z"])


@pytest.mark.parametrize(
    ("name", "words"), [("broken", "this grader is broken"), ("broken_update", "this loss is broken")]
)
def test_the_error_of_one_process_ends_all(name: str, words: str, two: Any) -> None:
    assert two[1][name] == ["ValueError", words]
    assert two[0][name] == ["AnotherRankFailed", f"Process 1 (of 0 to 1) failed: {words}"]


def test_a_process_that_dies_ends_all(folder: Path, two: Any) -> None:
    name, words, *_ = (folder / "survived").read_text().splitlines()
    assert name == "AnotherRankFailed"
    assert words.startswith("Another process of this run has ended")


def test_what_cannot_be_sharded_is_refused() -> None:
    lm = tiny()
    check_shardable(lm.model)
    layers = lm.model.model.layers
    layers[1].mlp.up_proj.weight = layers[0].mlp.up_proj.weight
    with pytest.raises(
        ValueError, match=r"LlamaForCausalLM has a weight that several .* share, model\.layers\.1\.mlp\.up_proj"
    ):
        check_shardable(lm.model)
    with pytest.raises(ValueError, match=r"this adapter is a Linear\. Use trainer=ddp"):
        check_adapter(nn.Linear(1, 1))


def test_no_dense_weight_is_made_of_a_sharded_matrix() -> None:
    module = make_module()
    next(iter(module.adapter.layers.values())).is_sharded = True  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"nowhere whole.*generation\.mode=factored"), module.adapter.merged():
        pass
