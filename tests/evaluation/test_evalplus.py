"""The programs of an evaluation as EvalPlus reads them, and what is said where there are none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from graded_task import GradedLetters

from t2.evaluation.evalplus import main, read_solutions, write_solutions
from t2.evaluation.report import write_samples
from t2.evaluation.scoring import evaluate
from t2.types import Completion, Example, Sampling


def answer(name: str | None, extracted: str | None, *, system: str = "base", task: str = "humaneval") -> dict[str, Any]:
    return {"task": task, "system": system, "score": 0.0, "extracted": extracted} | ({"id": name} if name else {})


def run_folder(path: Path, lines: Sequence[dict[str, Any]]) -> Path:
    path.mkdir(parents=True)
    (path / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def exported(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    return capsys.readouterr().err


TWO = [answer("HumanEval/0", "def f(): ..."), answer("HumanEval/1", None)]


def test_a_file_per_task_and_system(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        *TWO,
        answer("HumanEval/0", "a = 1", system="expert:code"),
        answer("Mbpp/2", "b = 2", task="mbpp"),
    ]
    main([str(run_folder(tmp_path / "run", lines)), "--out", str(tmp_path / "out")])
    found = {path.name: exported(path) for path in (tmp_path / "out").iterdir()}
    assert found == {
        "humaneval_base.jsonl": [
            {"task_id": "HumanEval/0", "solution": "def f(): ..."},
            {"task_id": "HumanEval/1", "solution": ""},
        ],
        "humaneval_expert-code.jsonl": [{"task_id": "HumanEval/0", "solution": "a = 1"}],
        "mbpp_base.jsonl": [{"task_id": "Mbpp/2", "solution": "b = 2"}],
    }
    assert "humaneval_base.jsonl: 2 completions of 2 problems, 1 without a program" in capsys.readouterr().out


def test_samples_of_a_problem_are_a_line_each_in_their_order(tmp_path: Path) -> None:
    lines = [answer("HumanEval/0", f"x = {number}") | {"sample": number} for number in range(3)]
    (made,) = read_solutions(run_folder(tmp_path / "run", lines)).values()
    assert made == [{"task_id": "HumanEval/0", "solution": f"x = {number}"} for number in range(3)]


@pytest.mark.parametrize("program", ["print('ü')\n", "a\r\n\tb", "'\u2028'", "x = '\ud800'", "\x00"])
def test_programs_are_exported_as_they_are(program: str, tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", [answer("HumanEval/0", program)])
    (path,) = write_solutions(read_solutions(run), tmp_path / "out")
    assert exported(path) == [{"task_id": "HumanEval/0", "solution": program}]


def test_what_an_evaluation_writes_can_be_exported(tmp_path: Path) -> None:
    class Letters:
        def generate(self, examples: Sequence[Example], sampling: Sampling) -> list[list[Completion]]:
            return [[Completion((1,), (2,), (0.0,), text, "stop") for text in ("abc", "12")] for _ in examples]

    task = GradedLetters(name="humaneval", data_set="HumanEval")
    report = evaluate(Letters(), task, task.split("test")[:1], Sampling(samples=2, temperature=1.0), system="base")
    write_samples(tmp_path / "samples.jsonl", [report])
    assert read_solutions(tmp_path) == {
        ("humaneval", "base"): [
            {"task_id": "HumanEval/0", "solution": "abc"},
            {"task_id": "HumanEval/0", "solution": ""},
        ]
    }


def test_completions_of_other_tasks_are_left_out(tmp_path: Path) -> None:
    lines = [*TWO, answer("7", "7", task="gsm8k"), answer(None, "A", task="arc"), answer("HumanEval/x", "7", task="y")]
    assert list(read_solutions(run_folder(tmp_path / "run", lines))) == [("humaneval", "base")]


def test_a_file_that_is_there_stays_and_nothing_else_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_folder(tmp_path / "run", [answer("Mbpp/2", "b = 2", task="mbpp"), *TWO])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "humaneval_base.jsonl").write_text("judged\n")
    said = error_of(capsys, str(run), "--out", str(tmp_path / "out"))
    assert "humaneval_base.jsonl exists" in said
    assert "another folder" in said
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["humaneval_base.jsonl"]
    assert (tmp_path / "out" / "humaneval_base.jsonl").read_text() == "judged\n"


def test_two_systems_never_share_a_file(tmp_path: Path) -> None:
    lines = [answer("HumanEval/0", "a", system=system) for system in ("expert:a", "expert-a")]
    solutions = read_solutions(run_folder(tmp_path / "run", lines))
    with pytest.raises(ValueError, match=r"Two systems would be written to .*humaneval_expert-a"):
        write_solutions(solutions, tmp_path / "out")
    assert not (tmp_path / "out").exists()


BAD_RUNS: dict[str, tuple[Sequence[dict[str, Any]], Sequence[str]]] = {
    "no ids": (
        [answer(None, "7", task="gcd"), answer("12", "7", task="gsm8k")],
        [
            "no completions of the problems that EvalPlus",
            "gcd (no ids), gsm8k (ids such as '12')",
            "task=humaneval",
        ],
    ),
    "no programs": ([answer("HumanEval/0", None), answer("HumanEval/1", "")], ["none of the completions of humaneval"]),
    "a training run": ([{"step": 0, "prompt": "p", "answer": "a"}], ["a training run", "folder of an evaluation"]),
}


@pytest.mark.parametrize("case", BAD_RUNS)
def test_a_run_without_programs_is_refused(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines, expected = BAD_RUNS[case]
    said = error_of(capsys, str(run_folder(tmp_path / "run", lines)), "--out", str(tmp_path / "out"))
    for part in expected:
        assert part in " ".join(said.split())
    assert not (tmp_path / "out").exists()


def test_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = error_of(capsys, str(tmp_path / "nowhere"), "--out", str(tmp_path / "out"))
    assert "nowhere holds no samples.jsonl" in said
