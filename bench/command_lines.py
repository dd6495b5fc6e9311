"""How command lines of the four scripts end: a table of them (command_lines.txt), each run on the tiny model.

    python bench/command_lines.py [--only WORD] [--jobs 1] [--timeout-s 120]

Each line runs in a process of its own, forked from one that has imported the scripts, so that it has its own logging,
folders and random state, and is ended after `timeout-s`. Reported are the lines that do not end as the table says:

    traceback    an error that was shown as one
    hang         it ran into the time limit
    accepted     it should be refused, and the exit code is 0
    refused      it should work, and does not
    vague        refused by a message that names neither a key nor a value of the line

Not run here: the configuration alone, which tests/bench/test_command_lines.py checks in seconds.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import itertools
import multiprocessing
import os
import re
import runpy
import shlex
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from measure import parser

from t2.experts.expert import Expert

ROOT = Path(__file__).resolve().parents[1]
TABLE = Path(__file__).with_suffix(".txt")
SAFE = ("adapter.cache=false", "+adapter.progress=false")
POOL = ("+experts._target_=t2.experts.pool.ExpertPool.load", "+experts.experts=$POOL")
COMMON = {
    "train": ("experiment=smoke", "steps=1", "logger=csv", "callbacks.validation.limit=2", "hydra.run.dir=$NEW"),
    "evaluate": ("base_model=tiny", "limit=1", "hydra.run.dir=$NEW"),
    "adapt": ("base_model=tiny", "sampling.max_new_tokens=3", "expert=$RUN", "prompt=hi", "hydra.run.dir=$NEW"),
    "export": ("base_model=tiny", "expert=$RUN", "out=$NEW/out", "hydra.run.dir=$NEW"),
}
OWN_MODEL = re.compile(r"^~?(base_model|experiment)$|^(base_model|experiment)=")


class Line(NamedTuple):
    """A command line: how it should end, the script, its own arguments, and whether COMMON is added."""

    kind: str
    script: str
    own: tuple[str, ...]
    bare: bool

    def arguments(self) -> list[str]:
        """All arguments, with $RUN, $POOL and $NEW still in them."""
        if self.bare:
            return list(self.own)
        own = [part for one in self.own for part in (POOL if one == "experts=pool" else (one,))]
        taken = {one.partition("=")[0] for one in own}
        common = [one for one in COMMON[self.script] if one.partition("=")[0] not in taken]
        if any(OWN_MODEL.match(one) for one in self.own):
            common = [one for one in common if not one.startswith("experiment=") or "base_model" not in str(self.own)]
        flags = [one for one in own if one.startswith("-")]  # Hydra's come before or after all overrides
        return [*flags, *common, *(one for one in own if one not in flags)]

    def text(self) -> str:
        """The line as one would type it, without what is added."""
        return f"{self.script}.py {shlex.join(self.own)}"


class Ending(NamedTuple):
    """How a line ended: None for a correct end, else one of the module's words; and what it printed."""

    fault: str | None
    output: str


def read_table(path: Path = TABLE) -> list[Line]:
    """Every line of the table, with its alternatives written out."""
    lines = []
    for text in path.read_text().splitlines():
        if not text or text.startswith("#"):
            continue
        kind, script, *rest = text.split(" ", 2)
        for variant in expand(rest[0] if rest else ""):
            lines.append(Line(kind, script.rstrip("!"), tuple(shlex.split(variant)), script.endswith("!")))
    return lines


def expand(text: str) -> Iterator[str]:
    """`a=<1|2>` -> `a=1`, `a=2`; every combination of several."""
    parts = re.split(r"<([^<>]*)>", text)
    choices = [part.split("|") if index % 2 else [part] for index, part in enumerate(parts)]
    for chosen in itertools.product(*choices):
        yield "".join(chosen)


def filled(arguments: Sequence[str], folder: Path, fixed: dict[str, str]) -> list[str]:
    """The arguments with the folders that they name put in."""
    names = {**fixed, "$NEW": str(folder / "run"), "$AGAIN": str(folder / "again")}
    if any("$AGAIN" in one for one in arguments):
        shutil.copytree(fixed["$RUN"], folder / "again")
    for name, value in names.items():
        arguments = [one.replace(name, value) for one in arguments]
    return list(arguments)


def in_child(script: str, arguments: Sequence[str], output: str) -> None:
    """Run a script as if it had been started, its output into a file; ends the process."""
    handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin, sys.stdout, sys.stderr = (open(number, mode) for number, mode in ((0, "r"), (1, "w"), (2, "w")))  # noqa: SIM115
    sys.argv = [str(ROOT / f"{script}.py"), *arguments]
    os.chdir(ROOT)
    code: object = 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        code = end.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException:  # what Python itself would show
        traceback.print_exc()
        code = 1
    with contextlib.suppress(ValueError, io.UnsupportedOperation):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def run(line: Line, fixed: dict[str, str], *, timeout_s: float) -> Ending:
    """Run a line in a forked process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        output = folder / "output.txt"
        child = multiprocessing.get_context("fork").Process(
            target=in_child, args=(line.script, filled(line.arguments(), folder, fixed), str(output))
        )
        child.start()
        child.join(timeout_s)
        hangs = child.is_alive()
        if hangs:
            child.kill()
            child.join()
        text = output.read_text(errors="replace") if output.exists() else ""
        return Ending(fault_of(line, text, code=child.exitcode, hangs=hangs), text)


def fault_of(line: Line, text: str, *, code: int | None, hangs: bool) -> str | None:
    """What is wrong with how a line ended; None if nothing is."""
    if hangs:
        return "hang"
    if "Traceback (most recent call last)" in text:
        return "traceback"
    if (code == 0) != (line.kind == "ok"):
        return "accepted" if code == 0 else "refused"
    return "vague" if line.kind == "refused" and not names_the_fault(line, text) else None


def names_the_fault(line: Line, text: str) -> bool:
    """Whether a message has a key, its last part, or a value of the line in it."""
    parts = [part for one in line.own for part in re.split(r"[=+~]", one) if len(part) > 1]
    parts += [piece for part in parts for piece in part.split(".") if len(piece) > 1]
    return any(part and part in text for part in parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the table; the exit code is 1 where a line has a fault."""
    options = parser(__doc__)
    options.add_argument("--only", default="", help="lines with this word")
    options.add_argument("--jobs", type=int, default=1)
    options.add_argument("--timeout-s", type=float, default=120.0)
    given = options.parse_args(arguments)
    sys.path.insert(0, str(ROOT))
    for script in COMMON:
        importlib.import_module(script)
    lines = [line for line in read_table() if given.only in line.text()]
    with tempfile.TemporaryDirectory() as name:
        fixed = make_fixed(Path(name), given.timeout_s)
        found: Counter[str | None] = Counter()
        with ThreadPoolExecutor(given.jobs) as threads:
            endings = threads.map(lambda line: run(line, fixed, timeout_s=given.timeout_s), lines)
            for line, ending in zip(lines, endings, strict=True):
                found[ending.fault] += 1
                if ending.fault is not None:
                    print(f"\n{ending.fault}: {line.kind} {line.text()}\n{ending.output[-1500:].strip()}", flush=True)
    wanted = Counter(line.kind for line in lines)
    print(f"\n{len(lines)} lines ({wanted['ok']} ok, {wanted['refused']} refused):", end=" ")
    print(", ".join(f"{found[fault]} {fault}" for fault in ("traceback", "hang", "accepted", "refused", "vague")))
    return int(any(fault is not None for fault in found))


def make_fixed(folder: Path, timeout_s: float) -> dict[str, str]:
    """A finished run, and a pool of it and another, in a folder."""
    pool = folder / "pool"
    pool.mkdir()
    for domain, seed in (("math", 0), ("letters", 1)):
        own = (f"domain={domain}", "logger=csv", f"hydra.run.dir={folder / domain}", "steps=2")
        ending = run(Line("ok", "train", ("experiment=smoke", *own), True), {}, timeout_s=timeout_s)
        assert ending.fault is None, ending.output
        expert = Expert.load(folder / domain / "expert.safetensors")
        for z in expert.scales.values():
            z += 0.1 * (
                seed + 1
            )  # two steps on a random model may have learned nothing, and the pool wants two experts
        expert.save(pool / f"{domain}.safetensors")
    return {"$RUN": str(folder / "math"), "$POOL": str(pool)}


if __name__ == "__main__":
    raise SystemExit(main())
