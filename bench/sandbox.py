"""Seconds to grade programs in each sandbox that this machine offers, and how many a second that is.

    python bench/sandbox.py [--samples 256] [--threads 2] [--levels bwrap unshare subprocess] [--output FILE.json]
    python bench/sandbox.py --attacks

Threads grade programs by one `CodeExecutor`, as `t2.evaluation.scoring` does; 256 is the rollout of a training step.
The programs have the shape of HumanEval's: a function with type hints, which imports typing, and ten asserts. One in
four is right, the others are wrong, raise, or do not compile, and each grade is compared with what was expected. A
warm-up of one sample per thread comes first. Not measured: programs that run for long, which cost what `timeout_s`
says.

`--attacks` instead runs every attack of tests/grading/sandbox at each level (without isolation only those that hurt no
machine), and says how many passed, and which.
"""

from __future__ import annotations

import importlib
import socket
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple, get_args

from measure import ROOT, count, finish, in_threads, parser, table

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
    except OSError as error:
        return {"level": level, "unavailable": str(error)}

    def grade(sample: Sample) -> bool:
        return executor.run(sample.program, sample.test).reason == sample.reason

    in_threads(grade, work[:threads], threads)
    seconds, graded = in_threads(grade, work, threads)
    return {
        "level": level,
        "seconds": seconds,
        "samples_per_second": len(work) / seconds,
        "slowest_s": max(one for _, one in graded),
        "as_expected": sum(right for right, _ in graded),
        "samples": len(work),
    }


def attacked(level: Level, python: str | None) -> dict[str, Any]:
    """How many attacks were run at one level and which of them passed, or why the level does not work here."""
    sys.path.insert(0, str(ROOT / "tests" / "grading" / "sandbox"))
    attacks: Any = importlib.import_module("all_attacks")
    unsafe = level == "subprocess"
    try:
        executor = CodeExecutor(level, unsafe, attacks.TIMEOUT_S, attacks.MEMORY_MB, python=python)
    except OSError as error:
        return {"level": level, "unavailable": str(error)}
    names, passed = attacks.allowed(isolated=not unsafe), []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        port = str(listener.getsockname()[1])

        def fails(name: str) -> bool:
            failed = bool(attacks.attack(executor, name, "t2attack", port).score == 0.0)
            passed.extend([] if failed else [name])
            return failed

        seconds, _ = in_threads(fails, names, 12)
        try:
            listener.accept()
            passed.append("a call from inside")
        except BlockingIOError:
            pass
    return {"level": level, "attacks": len(names), "passed": sorted(passed), "seconds": seconds}


def attack_table(levels: Sequence[dict[str, Any]]) -> str:
    """One line per level: how many attacks passed."""
    rows: list[dict[str, Any]] = []
    for one in levels:
        if "unavailable" in one:
            rows.append({"sandbox": one["level"], "": f"not available: {one['unavailable']}"})
            continue
        passed = f"{len(one['passed'])} of {one['attacks']}"
        rows.append(
            {
                "sandbox": one["level"],
                "attacks that passed": passed,
                "seconds": one["seconds"],
                "": ", ".join(one["passed"]),
            }
        )
    return table(rows)


def sandbox_table(levels: Sequence[dict[str, Any]]) -> str:
    """One line per level, or why it is not available."""
    names = {"seconds": "seconds", "samples_per_second": "samples/s", "slowest_s": "slowest [s]"}
    rows: list[dict[str, Any]] = []
    for one in levels:
        if "unavailable" in one:
            rows.append({"sandbox": one["level"], "": f"not available: {one['unavailable']}"})
            continue
        numbers = {name: one[key] for key, name in names.items()}
        grades = f"{one['as_expected']} of {one['samples']}"
        rows.append({"sandbox": one["level"], **numbers, "grades as expected": grades})
    return table(rows)


def main(argv: Sequence[str]) -> None:
    """Measure, print the table, and write it where `--output` says."""
    made = parser(__doc__)
    made.add_argument("--samples", type=count, default=256)
    made.add_argument("--threads", type=count, default=2, help="that grade at the same time")
    made.add_argument("--levels", nargs="+", choices=LEVELS, default=list(LEVELS), help="sandboxes to measure")
    made.add_argument("--python", help="the interpreter that runs the programs (default: this one)")
    made.add_argument("--attacks", action="store_true", help="run hostile programs instead, and count those that pass")
    args = made.parse_args(argv)
    if args.attacks:
        tried = [attacked(level, args.python) for level in args.levels]
        finish(args, attack_table(tried), {"levels": tried})
        return
    work = samples(args.samples)
    levels = [measure(level, work, args.threads, args.python) for level in args.levels]
    finish(args, sandbox_table(levels), {"levels": levels})


if __name__ == "__main__":
    main(sys.argv[1:])
