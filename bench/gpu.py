"""Everything that a GPU can tell of t2, in one command: python bench/gpu.py, or make gpu.

    parity     logits of every mode (off, factored, merged, per example) and type against those of the CPU
    resume     a run that was saved and loaded ends with the same z, bit for bit
    svd        seconds of the decompositions of each shape
    step       rollout, scores and update of random Llamas: seconds, tokens/s, MFU, memory, beside the cost model's
    trainer    two steps of the Lightning module, resumed
    model      parity and SVD of real weights, where --model names some

No network and no weights are needed, and of packages torch, transformers and Lightning. After each part the table is
printed and the record written, so that a run that is cut off keeps what it has; a part that fails is recorded and ends
with exit status 1. Parts that would begin after --limit-s are left out. One GPU is measured, also where there are more.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from cost_model import SHAPES
from measure import count, names_of, origin, parser, table, write
from on_device.build import Bench, at_best
from on_device.parity import parity, resume, svd, trained_model
from on_device.step import step
from on_device.trainer import trainer

from t2.models.loading import parse_device
from t2.models.precision import DTYPES, parse_dtype

PARTS = ("parity", "resume", "trainer", "svd", "step")
Tables = dict[str, list[dict[str, Any]]]


def parts(args: argparse.Namespace) -> Iterator[tuple[str, Callable[[], Tables]]]:
    """The parts asked for, by name, cheap ones first."""
    bench = Bench(parse_device(args.device), args.shapes == ["tiny"])
    simple: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "parity": lambda: parity(bench),
        "resume": lambda: resume(bench),
        "trainer": lambda: trainer(bench),
    }
    for name in args.parts:
        if name in simple:
            yield name, partial(_named, name, simple[name])
    if args.model is not None:
        yield "model", lambda: {"model": trained_model(bench, args.model)}
    if "step" in args.parts:
        gpu = at_best(bench)
        yield "at best", lambda: {"at best": [asdict(gpu)]}
        for shape in args.shapes:
            for dtype in args.dtypes:
                yield f"step {shape} {dtype}", partial(step, bench, shape, parse_dtype(dtype), gpu)
    if "svd" in args.parts:
        for shape in args.shapes:
            yield f"svd {shape}", partial(_named, "svd", partial(svd, bench, [shape]))


def _named(name: str, run: Callable[[], list[dict[str, Any]]]) -> Tables:
    return {name: run()}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run the parts, printing and writing after each; `failed` and `left out` name parts."""
    start = time.perf_counter()
    record: dict[str, Any] = {**origin(args.device), "parts": {}, "seconds": {}, "failed": {}, "left_out": []}
    for name, run in parts(args):
        begun = time.perf_counter()
        if begun - start > args.limit_s:
            record["left_out"].append(name)
            print(f"{name}: left out, --limit-s {args.limit_s} have passed")
            continue
        try:
            record["parts"][name] = run()
        except Exception as error:  # recorded, printed, and the exit status: one part must not cost the others
            record["failed"][name] = traceback.format_exc()
            print(f"{name}: FAILED\n{error}\n")
        else:
            for rows in record["parts"][name].values():
                print(f"{table(rows)}\n")
        record["seconds"][name] = time.perf_counter() - begun
        write(record, args.output)
    wrong = [f"{name}: {row}" for name, tables in record["parts"].items() for rows in tables.values() for row in rows
             if row.get("ok") is False]  # fmt: skip
    record["wrong"] = wrong
    write(record, args.output)
    return record


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and exit with status 1 where a part failed or a number is wrong."""
    made = parser(__doc__)
    made.set_defaults(output=Path("outputs/gpu.json"))
    made.add_argument("--device", default="cuda", help="cpu, cuda or cuda:N")
    made.add_argument("--parts", type=names_of(PARTS), default=list(PARTS), help="comma-separated")
    made.add_argument("--shapes", type=names_of(SHAPES), default=["135m", "1b", "3b", "8b"], help="comma-separated")
    made.add_argument("--dtypes", type=names_of(DTYPES), default=["bfloat16"], help="of the steps, comma-separated")
    made.add_argument("--model", help="a folder or .gguf file of real weights, such as SmolLM2's, for parity in fp32")
    made.add_argument("--limit-s", type=count, default=420, help="seconds after which no part is begun")
    args = made.parse_args(argv)
    record = measure(args)
    print(f"{len(record['parts'])} parts in {sum(record['seconds'].values()):.0f} s: {args.output}")
    for fault in (*record["failed"], *record["wrong"]):
        print(f"wrong: {fault}")
    if record["failed"] or record["wrong"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
