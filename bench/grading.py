r"""Seconds to grade mathematical answers, some of them hostile, and the longest that a single one takes.

    python bench/grading.py [--answers 1000] [--hostile 10] [--workers 2] [--threads 8] [--output FILE.json]

Threads compare made-up answers with their references by one `MathGrader`, as `t2.evaluation.scoring` does. Four in five
are for math-verify to decide; the rest are cheap. Hostile ones (towers of powers, an enormous factorial, deep nesting)
stand at even distances. All are different, so that no verdict is remembered, and whether each is right is known from
how it was made. An answer's seconds include its wait for a worker. Not measured: extracting answers from completions.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from measure import count, finish, in_threads, parser, timed

from t2.grading.math.equality import MathGrader

HOSTILE = (
    r"{n}9^{{9^{{9^9}}}}",
    r"{n}2^{{10^{{10}}}}",
    r"99999{n}999!",
    r"\int {n}x^{{x^{{x^x}}}}",
    "(" * 200 + "{n}" + ")" * 200,
)


class Answer(NamedTuple):
    """An answer beside its reference, and whether it is right."""

    gold: str
    text: str
    right: bool
    hostile: bool = False


def answers(count: int, hostile: int) -> list[Answer]:
    """So many answers, no two alike, of which `hostile` would take for ever."""
    made = [_honest(n) for n in range(1, count - hostile + 1)]
    for i in range(hostile):
        text = HOSTILE[i % len(HOSTILE)].format(n=i + 1)
        made.insert(i * count // hostile, Answer("5", text, right=False, hostile=True))
    return made


def _honest(n: int) -> Answer:
    kinds = (
        Answer(rf"\frac{{{n}}}{{4}}", f"{n / 4}", right=True),
        Answer(rf"\sqrt{{{n}}} + x", rf"x + \sqrt{n if n < 10 else f'{{{n}}}'}", right=True),
        Answer(f"(x + {n})(x - {n})", f"x^2 - {n * n}", right=True),
        Answer(rf"\frac{{x}}{{{n}}}", f"x + {n}", right=False),
        Answer(f"({n}, {n + 1})", f"({n + 1}, {n})", right=False),
    )
    return kinds[n % len(kinds)]


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds to start and to grade, those of the slowest answers, and how many verdicts are as expected."""
    grader = MathGrader(workers=args.workers)
    start = timed(lambda: grader.equivalent("x + 1", "1 + x"))()  # returns when a worker has started
    made = answers(args.answers, args.hostile)
    grade, graded = in_threads(lambda one: grader.equivalent(one.gold, one.text) == one.right, made, args.threads)
    grader.close()
    slowest = {
        kind: max((s for (_, s), one in zip(graded, made, strict=True) if one.hostile == hostile), default=0.0)
        for kind, hostile in (("honest", False), ("hostile", True))
    }
    return {
        "seconds": {"start": start, "grade": grade, "total": start + grade},
        "slowest": slowest,
        "answers": len(made),
        "as_expected": sum(fine for fine, _ in graded),
    }


def main(argv: Sequence[str]) -> None:
    """Measure, print, and write the numbers where `--output` says."""
    made = parser(__doc__)
    made.add_argument("--answers", type=count, default=1000)
    made.add_argument("--hostile", type=partial(count, at_least=0), default=10, help="how many of them are hostile")
    made.add_argument("--workers", type=count, default=2, help="processes that compare expressions")
    made.add_argument("--threads", type=count, default=8, help="answers graded at the same time")
    args = made.parse_args(argv)
    if args.hostile > args.answers:
        raise SystemExit(f"--hostile is {args.hostile}; allowed: 0 to --answers ({args.answers}).")
    found = measure(args)
    seconds, slowest = found["seconds"], found["slowest"]
    text = (
        f"{found['answers']} answers in {seconds['total']:.1f} s, of which {seconds['start']:.1f} s to start\n"
        f"slowest answer: {slowest['honest']:.2f} s honest, {slowest['hostile']:.2f} s hostile\n"
        f"{found['as_expected']} of {found['answers']} verdicts as expected"
    )
    finish(args, text, found)


if __name__ == "__main__":
    main(sys.argv[1:])
