"""bench/cem.py on the tiny model: both ways give the same answers, and answers that differ stop the measurement."""

from __future__ import annotations

import importlib
import json

import pytest

from t2.types import Completion

pytest.importorskip("peft")
cem = importlib.import_module("cem")


def test_rows_and_merging_are_timed_on_equal_answers(tmp_path, capsys):
    out = tmp_path / "cem.json"
    cem.main(["--model", "tiny", "--population", "4", "--new-tokens", "3", "--repeats", "1", "--output", str(out)])
    result = json.loads(out.read_text())
    assert [row["system"] for row in result["systems"]] == ["rows", "merging"]
    assert result["equal_answers"] == result["answers"] == 4 * len(cem.QUESTIONS)
    assert result["ratio"] > 0
    assert "rows are" in capsys.readouterr().out


def test_other_answers_are_refused():
    one, other = (Completion((1,), (token,), (0.0,), "", "stop") for token in (1, 2))
    with pytest.raises(RuntimeError, match="Only 0 of 2 answers"):
        cem.check_answers([[one, one]], [[other, other]])
