"""Two processes that divide a step compute what one does, and end together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import rank_cases
import torch
from rank_cases import CASES, CLIPPED_STEP, STEPS

import t2.training.module
from t2.run.results import METRICS_FILE, SAMPLES_FILE
from t2.training.checkpoint_file import LAST_CHECKPOINT
from t2.training.ranks import Ranks

pytestmark = pytest.mark.processes

each_case = pytest.mark.parametrize("case", CASES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def two(folder: Path) -> list[dict[str, Any]]:
    """What each of two processes found."""
    return rank_cases.in_processes(folder, rank_cases.main)


@pytest.fixture(scope="module")
def one(folder: Path) -> dict[str, dict[str, Any]]:
    """What one process finds."""
    try:
        return {case: rank_cases.run(case, folder / case) for case in CASES}
    finally:
        t2.training.module.clipped_step = CLIPPED_STEP


@each_case
def test_two_processes_sample_the_tokens_of_one(case: str, one: Any, two: Any) -> None:
    """Else a rank would draw the random numbers of its part, not of the batch."""
    assert two[0][case]["tokens"] == two[1][case]["tokens"] == one[case]["tokens"]


@each_case
def test_gradients_and_z_are_those_of_one_process(case: str, one: Any, two: Any) -> None:
    """A rank that adds a mean instead of a sum, its own part alone, or advantages of its own part, differs."""
    updates = STEPS * CASES[case].get("objective", rank_cases.RLOO()).updates_per_rollout if case != "es" else STEPS
    assert len(one[case]["gradients"]) == updates
    for found in two:
        for update, (ours, whole) in enumerate(zip(found[case]["gradients"], one[case]["gradients"], strict=True)):
            assert [g is None for g in ours] == [g is None for g in whole]
            if whole[0] is not None:
                flat, expected = (torch.cat([g.flatten() for g in of]) for of in (ours, whole))
                allowed = 1e-5 if update else 1e-6  # later ones are taken at a z that rounding has moved
                assert float((flat - expected).norm() / expected.norm()) < allowed
        torch.testing.assert_close(found[case]["z"], one[case]["z"], rtol=0, atol=5e-6)  # AdamW enlarges rounding
    assert torch.equal(two[0][case]["z"], two[1][case]["z"])
    moved = bool((one[case]["z"] != 1).any())
    assert moved == (case != "no_signal")  # zeros would not be None above, nor would momentum leave z alone


@each_case
def test_metrics_and_validations_are_those_of_one_process(case: str, one: Any, two: Any) -> None:
    for found in two:
        assert found[case]["reports"] == one[case]["reports"]
        metrics, expected = dict(found[case]["metrics"]), dict(one[case]["metrics"])
        drifts = [
            some.pop("train/log_prob_drift", 0.0) for some in (metrics, expected)
        ]  # rounding, another one each time
        assert max(drifts) < 1e-4
        assert metrics == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_the_first_process_alone_writes(folder: Path, two: Any) -> None:
    names = {METRICS_FILE, SAMPLES_FILE, "expert.safetensors", str(LAST_CHECKPOINT)}
    assert all((folder / "rloo0" / name).is_file() for name in names)
    assert not [path for path in folder.glob("rloo1/**/*") if path.is_file()]


def test_one_process_goes_on_with_the_run_of_two(folder: Path, one: Any, two: Any) -> None:
    try:
        resumed = rank_cases.run("rloo", folder / "stopped0", ckpt=folder / "stopped0" / LAST_CHECKPOINT)
    finally:
        t2.training.module.clipped_step = CLIPPED_STEP
    assert not torch.equal(two[0]["stopped"]["z"], resumed["z"])
    torch.testing.assert_close(resumed["z"], one["rloo"]["z"], rtol=0, atol=5e-6)


def test_the_error_of_one_process_ends_both(two: Any) -> None:
    assert two[1]["broken"] == ["ValueError", "this grader is broken"]
    assert two[0]["broken"] == ["AnotherRankFailed", "Process 1 (of 0 to 1) failed: this grader is broken"]


def test_sigterm_ends_both_after_the_step(folder: Path, two: Any) -> None:
    """Lightning's handler would have the first process wait for the second, which waits for the first."""
    assert (folder / "ended0").read_text() == "SIGTERMException"
    assert (folder / "ended1").read_text() in ("SIGTERMException", "AnotherRankFailed")
    assert torch.load(folder / "terminated0" / LAST_CHECKPOINT, weights_only=True)["global_step"] == 2


@pytest.mark.parametrize(("count", "size"), [(7, 2), (8, 2), (2, 3), (0, 2), (10, 4)])
def test_parts_are_neighbours_of_nearly_one_size(count: int, size: int) -> None:
    parts = [list(Ranks(rank, size).part(count)) for rank in range(size)]
    assert [n for part in parts for n in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
