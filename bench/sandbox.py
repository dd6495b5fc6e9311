"""Seconds to grade programs in each sandbox that this machine offers, and how many a second that is.

    python bench/sandbox.py [--samples 256] [--threads 2] [--levels bwrap unshare subprocess] [--output FILE.json]

Threads grade programs by one `CodeExecutor`, as `t2.evaluation.scoring` does; 256 is the rollout of a training step.
The programs have the shape of HumanEval's: a function with type hints, which imports typing, and ten asserts. One in
four is right, the others are wrong, raise, or do not compile, and each grade is compared with what was expected. A
warm-up of one sample per thread comes first. Not measured: programs that run for long, which cost what `timeout_s`
says.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, get_args

from record import arguments, count, origin, write
from tqdm import tqdm

from t2.grading.sandbox.executor import CodeExecutor, CodeTest
from t2.grading.sandbox.isolation import Level

LEVELS: tuple[Level, ...] = get_args(Level)
PATIENCE_S = 60.0  # so that a busy machine is slow, not wrong
PROGRAM = (
    "from typing import List\n\n\ndef shifted(numbers: List[int], by: int = {n}) -> List[int]:\n    return {body}\n"
)
BODIES = (
    ("[number + by for number in numbers]", None),
    ("[number - by for number in numbers]", "wrong"),
    ("[number + by for number in values]", "error"),
    ("[number + by for number in numbers", "syntax"),
)


class Sample(NamedTuple):
    """A program, its test, and the reason it should be given (None: it passes)."""

    program: str
    test: CodeTest
    reason: str | None


def samples(count: int) -> list[Sample]:
    """Programs that are all different."""
    made = []
    for n in range(1, count + 1):
        body, reason = BODIES[n % len(BODIES)]
        asserts = "\n".join(f"    assert candidate([{k}, {k + 1}]) == [{k + n}, {k + n + 1}]" for k in range(10))
        test = CodeTest("shifted", f"def check(candidate):\n{asserts}\n\ncheck(shifted)", "from typing import List")
        made.append(Sample(PROGRAM.format(n=n, body=body), test, reason))
    return made


def measure(level: Level, work: Sequence[Sample], threads: int, python: str | None) -> dict[str, Any]:
    """Seconds for all samples at one level and for the slowest, or why the level does not work here."""
    unsafe = level == "subprocess"  # the programs are ours
    try:
        executor = CodeExecutor(level, allow_unsafe=unsafe, timeout_s=PATIENCE_S, python=python)
    except RuntimeError as error:
        return {"level": level, "unavailable": str(error)}

    def grade(sample: Sample) -> tuple[float, bool]:
        start = time.perf_counter()
        reason = executor.run(sample.program, sample.test).reason
        return time.perf_counter() - start, reason == sample.reason

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(grade, work[:threads]))
        start = time.perf_counter()
        graded = list(tqdm(pool.map(grade, work), total=len(work), desc=level, leave=False))
        seconds = time.perf_counter() - start
    return {
        "level": level,
        "seconds": seconds,
        "samples_per_second": len(work) / seconds,
        "slowest_s": max(one for one, _ in graded),
        "as_expected": sum(right for _, right in graded),
        "samples": len(work),
    }


def table(results: Sequence[dict[str, Any]]) -> str:
    """The measurements as text."""
    lines = [f"{'sandbox':<12}{'seconds':>9}{'samples/s':>11}{'slowest [s]':>13}  grades as expected"]
    for one in results:
        if "unavailable" in one:
            lines.append(f"{one['level']:<12}not available: {one['unavailable']}")
            continue
        numbers = f"{one['seconds']:>9.2f}{one['samples_per_second']:>11.1f}{one['slowest_s']:>13.3f}"
        lines.append(f"{one['level']:<12}{numbers}  {one['as_expected']} of {one['samples']}")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Measure, print the table, and write it where `--output` says."""
    args = _parser().parse_args(argv)
    work = samples(args.samples)
    results = [measure(level, work, args.threads, args.python) for level in args.levels]
    print(table(results))
    write(origin() | {"arguments": arguments(args), "levels": results}, args.output)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=count, default=256)
    parser.add_argument("--threads", type=count, default=2, help="that grade at the same time")
    parser.add_argument("--levels", nargs="+", choices=LEVELS, default=list(LEVELS), help="sandboxes to measure")
    parser.add_argument("--python", help="the interpreter that runs the programs (default: this one)")
    parser.add_argument("--output", type=Path, help="a JSON file to write")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
