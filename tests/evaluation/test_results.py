"""results.json: what is written is valid JSON and read back as it was; damaged and foreign files are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from results_files import results_of

from t2.evaluation.results import PARTS, Confusion, Results, Score, Statistic, Support
from t2.run.results import peak_memory_bytes

FULL = results_of(
    split="test",
    task=["gcd", "sums"],
    data={"gcd": {"rows": 3}},
    reasons={"gcd": {"base": {"wrong": 2}}},
    by_group={"gcd": {"base": {"level": {"easy": Statistic(0.5, 0.1, 3)}}}},
    pass_at_k={"gcd": {"base": {"1": 0.5}}},
    mixing_weights={"gcd": {"prompt": {"math": 0.5}}},
    pass_seconds={"gcd": {"prompt": {"pass1": 1.0, "pass2": 2.0}}},
    confusion={"prompt": Confusion(("math", "other"), ((1, 2), (0, 0)))},
    support=Support(3, "train", 0.5),
)


@pytest.mark.parametrize("results", [results_of(), FULL, results_of(confusion={})])
def test_what_is_written_is_read_back(tmp_path: Path, results: Results) -> None:
    written = results.write(tmp_path)
    assert Results.read(tmp_path) == written
    assert written.versions.keys() >= {"python", "torch", "transformers", "t2"}
    assert written.peak_memory_bytes == pytest.approx(peak_memory_bytes(), rel=0.1)


def test_parts_that_were_not_measured_are_left_out_and_the_rest_is_null(tmp_path: Path) -> None:
    results_of(confusion={}).write(tmp_path)
    read = json.loads((tmp_path / "results.json").read_text())
    assert read.keys() & set(PARTS) == {"confusion"}
    assert (read["expert"], read["scores"]["gcd"]["expert"]["stderr"]) == (None, None)


def test_what_is_no_number_is_null(tmp_path: Path) -> None:
    nan, infinite = float("nan"), float("inf")
    results_of(scores={"gcd": {"base": Score(0.5, nan, 1, None)}}, data={"a": [infinite, 1.0]}).write(tmp_path)
    read = json.loads((tmp_path / "results.json").read_text())
    assert (read["scores"]["gcd"]["base"]["stderr"], read["data"]) == (None, {"a": [None, 1.0]})


def test_fields_of_a_later_version_are_passed_over(tmp_path: Path) -> None:
    written = results_of().write(tmp_path)
    path = tmp_path / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"added": {"later": 1}}))
    assert Results.read(tmp_path) == written


BAD_FILES = {
    "cut short": ('{"command": "tr', "is damaged: .* Run the script again"),
    "not an object": ("[1, 2]", "not a results file of this t2: the whole file"),
    "of another program": ('{"loss": 0.5}', "not a results file of this t2: command: Field required"),
    "of an older t2": ('{"weights": {}}', "its key 'weights' is called 'mixing_weights' now"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_damaged_and_foreign_files_are_named(tmp_path: Path, case: str) -> None:
    content, message = BAD_FILES[case]
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        Results.read(tmp_path)


def test_the_wrong_value_is_named(tmp_path: Path) -> None:
    results_of().write(tmp_path)
    path = tmp_path / "results.json"
    path.write_text(path.read_text().replace('"p_value": 0.00123', '"p_value": "small"'))
    with pytest.raises(ValueError, match=r"results.json .*: paired.gcd.expert.p_value: Input should be a valid number"):
        Results.read(tmp_path)


def test_a_folder_without_results_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"holds no results\.json; give folders that a script of t2 finished in"
    ):
        Results.read(tmp_path)
