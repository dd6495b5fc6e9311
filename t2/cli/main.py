"""`t2 COMMAND [group=choice] [key=value] ...`: Hydra's commands, and `t2 list`, which shows what can be chosen.

Help and completion compose the configuration alone; torch and the libraries around it are imported by a command that
runs.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ParamSpec

import t2
from t2.run.distribution import stranger_beside
from t2.run.places import CONF

P = ParamSpec("P")
BODIES = {
    "train": "train",
    "evaluate": "evaluate_systems",
    "adapt": "adapt",
    "export": "export",
    "serve": "serve",
    "estimate": "show_estimate",
}
ANSWERS = ("estimate",)  # from the configuration alone: such a command writes nothing
ABOUT = {
    "train": "learn an expert of a task",
    "evaluate": "score the base, experts and strategies on the same questions",
    "adapt": "answer prompts, or find a mixture on a few solved examples",
    "export": "write what was learned for transformers, PEFT or llama.cpp",
    "serve": "answer requests over OpenAI's API, each with the experts that suit it",
    "estimate": "memory and seconds of a training run, before anything is downloaded",
    "lm_eval": "score it with lm-evaluation-harness: t2 lm_eval --model t2 --model_args ... --tasks ...",
    "list": "show what can be chosen: t2 list, t2 list task",
}
ASKING = ("--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc")


def quiet_at_a_closed_pipe(shown: Callable[P, None]) -> Callable[P, None]:
    """Make a function that shows text end without a traceback where its reader has closed the pipe, as `head` does.

    Not for one that computes: there a broken pipe may be another one.
    """

    @functools.wraps(shown)
    def quiet(*arguments: P.args, **named: P.kwargs) -> None:
        try:
            shown(*arguments, **named)
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more as it ends
            raise SystemExit(1) from None

    return quiet


def main() -> None:
    """Run the command that the command line names."""
    if (said := stranger_beside()) is not None:
        print(f"warning: {said}", file=sys.stderr)
    command, arguments = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("--help", [])
    if command in ("--help", "-h"):
        say(usage())
    elif command == "--version":
        say(t2.__version__)
    elif command == "list":
        say(listing(CONF, arguments))
    elif command == "lm_eval":
        importlib.import_module("t2.cli.lm_eval").main(arguments)
    elif command in BODIES:
        # A file that can be started: Lightning runs it, with the same words, for each further process.
        sys.argv = [str(Path(__file__).with_name(f"{command}.py")), *arguments]
        run(command)
    else:
        raise SystemExit(f"error: {command!r} is no command of t2.\n{usage()}")


def run(command: str) -> None:
    """Run a command with the rest of the command line, as `python COMMAND.py` does."""
    if {one.partition("=")[0] for one in sys.argv[1:]} & set(ASKING):
        explain(command)
        return
    from t2.run.ask import ask
    from t2.run.launch import launch

    start = ask if command in ANSWERS else launch
    start(getattr(importlib.import_module(f"t2.cli.{command}"), BODIES[command]), conf=CONF, name=command)


@quiet_at_a_closed_pipe
def explain(command: str) -> None:
    """Let Hydra show the help of a command, or its configuration."""
    import hydra
    from omegaconf import OmegaConf

    from t2.run.launch_flags import flags_first

    sys.argv[1:] = flags_first(sys.argv[1:])
    OmegaConf.register_new_resolver("unused_folder", str, replace=True)  # who only asks writes into none

    def nothing(_: object) -> None: ...

    nothing.__module__ = f"t2.cli.{command}"  # Hydra names the command by it
    hydra.main(version_base="1.3", config_path=str(CONF), config_name=command)(nothing)()


@quiet_at_a_closed_pipe
def say(text: str) -> None:
    """Print a text."""
    print(text)


def usage() -> str:
    """What `t2` says of itself."""
    width = max(map(len, ABOUT))
    lines = [f"  {name:<{width}}  {about}" for name, about in ABOUT.items()]
    return "\n".join(["Usage: t2 COMMAND [group=choice] [key=value] ...", *lines, "t2 COMMAND --help lists its keys."])


def listing(conf: Path, groups: Sequence[str]) -> str:
    """The choices of the groups of conf/, of all of them if none is named, each with the first line of its file.

    Raises:
        SystemExit: there is no such group.
    """
    known = {path.parent.relative_to(conf).as_posix() for path in conf.rglob("*.yaml")} - {"."}
    for group in groups:
        if group not in known:
            raise SystemExit(f"error: there is no group {group!r}; allowed: {', '.join(sorted(known))}.")
    blocks = []
    for group in groups or sorted(known):
        files = sorted((conf / group).glob("*.yaml"))
        width = max(len(path.stem) for path in files)
        lines = [f"  {path.stem:<{width}}  {first_line(path)}".rstrip() for path in files]
        blocks.append("\n".join([f"{group}=", *lines]))
    return "\n\n".join(blocks)


def first_line(path: Path) -> str:
    """The first line of the comment that begins a file, without its `#`; empty where it begins with no comment."""
    for line in path.read_text().splitlines():
        if line.startswith("# @package"):
            continue
        return line.removeprefix("#").strip() if line.startswith("#") else ""
    return ""
