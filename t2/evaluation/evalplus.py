"""The programs of an evaluation in EvalPlus's format: python -m t2.evaluation.evalplus RUN --out FOLDER.

One file per code task and system (`humaneval_base.jsonl`), a line {"task_id", "solution"} per completion, for
`evalplus.evaluate --dataset humaneval --samples FILE` (read in evalplus 0.3.1, `data/utils.py`). A completion without a
program is exported as an empty one, because EvalPlus refuses a file that lacks a problem of its data set; so it also
does after `limit=` and with part of MBPP+. Completions of other tasks are left out: EvalPlus knows the problems
HumanEval/N and Mbpp/N. Nothing is run or judged here.

A file that exists is never written over: EvalPlus keeps its verdicts beside it and would show them again.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from t2.run.files import atomic_path, parse_json, read_lines
from t2.run.places import typed
from t2.run.results import SAMPLES_FILE

PROBLEM_ID = re.compile(r"(HumanEval|Mbpp)/\d+")

Solutions = dict[tuple[str, str], list[dict[str, str]]]  # (task, system) -> lines


def read_solutions(run: Path) -> Solutions:
    """The lines for EvalPlus by task and system, in the order of the run.

    Raises:
        FileNotFoundError: `run` is not the folder of a finished run.
        ValueError: it is no evaluation, has none of EvalPlus's problems, or no completion holds a program.
    """
    path = run / SAMPLES_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{run} holds no {SAMPLES_FILE}. Give the folder that evaluate.py printed.")
    solutions: Solutions = {}
    others: dict[str, str | None] = {}  # task -> an id
    for number, text in enumerate(read_lines(path, "Run evaluate.py again."), start=1):
        line = parse_json(text.encode(), f"{path}, line {number},", "Run evaluate.py again.")
        if "system" not in line:
            raise ValueError(f"{path} has the completions of a training run. Give the folder of an evaluation.")
        if PROBLEM_ID.fullmatch(str(line.get("id"))):
            lines = solutions.setdefault((line["task"], line["system"]), [])
            lines.append({"task_id": line["id"], "solution": line["extracted"] or ""})
        else:
            others.setdefault(line["task"], line.get("id"))
    if not solutions:
        there = ", ".join(f"{task} ({f'ids such as {one!r}' if one else 'no ids'})" for task, one in others.items())
        raise ValueError(
            f"{run} has no completions of the problems that EvalPlus knows, HumanEval/N and Mbpp/N. Its tasks: "
            f"{there}. Evaluate a code task, e.g. {typed('evaluate')} task=humaneval."
        )
    if not any(line["solution"] for lines in solutions.values() for line in lines):
        tasks = ", ".join(dict.fromkeys(task for task, _ in solutions))
        raise ValueError(f"{run}: none of the completions of {tasks} holds a program. Look into {path}.")
    return solutions


def write_solutions(solutions: Mapping[tuple[str, str], Sequence[Mapping[str, str]]], folder: Path) -> list[Path]:
    """Write a file per task and system into `folder`, all or none; returns their paths.

    Raises:
        FileExistsError: one of them is there already.
        ValueError: two would have one name.
    """
    names = [re.sub(r"[^\w.-]", "-", f"{task}_{system}") for task, system in solutions]
    paths = [folder / f"{name}.jsonl" for name in names]
    for number, path in enumerate(paths):
        if path in paths[:number]:
            raise ValueError(f"Two systems would be written to {path}. Evaluate one of them under another name.")
        if path.exists():
            raise FileExistsError(f"{path} exists, and EvalPlus may have judged it. Delete it or give another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    for path, lines in zip(paths, solutions.values(), strict=True):
        with atomic_path(path) as partial:
            partial.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return paths


def main(arguments: Sequence[str] | None = None) -> None:
    """Read a run, write the files, print what was written."""
    parser = argparse.ArgumentParser(
        prog="python -m t2.evaluation.evalplus", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("run", type=Path, help="a folder that evaluate.py finished in")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    options = parser.parse_args(arguments)
    try:
        solutions = read_solutions(options.run)
        paths = write_solutions(solutions, options.out)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    for path, lines in zip(paths, solutions.values(), strict=True):
        problems, empty = len({line["task_id"] for line in lines}), sum(not line["solution"] for line in lines)
        print(f"{path}: {len(lines)} completions of {problems} problems, {empty} without a program")


if __name__ == "__main__":
    main()
