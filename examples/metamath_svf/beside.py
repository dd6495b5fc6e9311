"""Results of this example and of PEFT as one table: python examples/metamath_svf/beside.py FILE.json [FILE.json ...].

Rows are sorted by test accuracy. A run whose training tokens are not those of the others has read other data. Not done
here: judging differences, which are those of one seed each; the standard error of an accuracy is given instead.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from t2.evaluation.table import Table
from t2.run.files import parse_json

TEST_QUESTIONS = 1319
HEAD = ["experiment", "numbers", "accuracy %", "± %", "forgetting", "GiB", "train s", "train tokens"]


def row_of(content: dict[str, Any]) -> list[str]:
    """A line of the table."""
    info, last = content["train_info"], content["train_info"]["metrics"][-1]
    right, forgetting, memory = last["test accuracy"], last.get("forgetting"), info["accelerator_memory_max"]
    return [
        content["run_info"]["experiment_name"],
        f"{info['num_trainable_params']:,}",
        f"{100 * right:.1f}",
        f"{100 * math.sqrt(right * (1 - right) / TEST_QUESTIONS):.1f}",
        "" if forgetting is None else f"{forgetting:.3f}",
        "" if memory is None else f"{memory / 2**30:.1f}",
        f"{info['train_time']:,.0f}",
        f"{last['train total tokens']:,}",
    ]


def beside(files: Sequence[Path], most_numbers: int | None = None) -> Table:
    """The runs that ended well and learned at most so many numbers, the best first."""
    found = [
        parse_json(path.read_bytes(), str(path), "Give result files of PEFT's runner or of run.py.") for path in files
    ]
    kept = [
        one
        for one in found
        if one["train_info"]["status"] == "success"
        and (most_numbers is None or one["train_info"]["num_trainable_params"] <= most_numbers)
    ]
    kept.sort(key=lambda one: one["train_info"]["metrics"][-1]["test accuracy"], reverse=True)
    return Table(HEAD, [row_of(one) for one in kept])


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    first = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python examples/metamath_svf/beside.py", description=first)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE.json")
    parser.add_argument("--most-numbers", type=int, help="leave out runs that learned more numbers")
    options = parser.parse_args(arguments)
    print(beside(options.files, options.most_numbers).text())


if __name__ == "__main__":
    main()
