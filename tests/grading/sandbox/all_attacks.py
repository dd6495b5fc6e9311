"""Every attack by name, and how one is run; test_attacks looks at them, `bench/sandbox.py --attacks` counts them."""

from __future__ import annotations

import importlib.util

from attacks import ON_THE_VERDICT, Attack
from attacks_kernel import KERNEL
from attacks_memory import MEMORY
from attacks_runner import RUNNER
from attacks_values import LIES
from raids import ON_THE_MACHINE

from t2.grading.sandbox.executor import CodeExecutor
from t2.types import Grade

TIMEOUT_S = 5.0  # for a busy machine: an attack that should end by itself has to get that far
MEMORY_MB = 256
PACKAGE = next(iter(importlib.util.find_spec("torch").submodule_search_locations))  # as a benchmark might be
PARTS = (ON_THE_VERDICT, ON_THE_MACHINE, LIES, RUNNER, KERNEL, MEMORY)
ATTACKS: dict[str, Attack] = {name: attack for part in PARTS for name, attack in part.items()}


def allowed(isolated: bool) -> list[str]:
    """The attacks that may be run: without isolation, only the tame ones."""
    return [name for name, attack in ATTACKS.items() if attack.tame or isolated]


def attack(one: CodeExecutor, name: str, marker: str, port: str) -> Grade:
    """The grade of an attack whose traces have a marker, and that calls a port of this machine."""
    program = ATTACKS[name].program
    for word, meaning in {"MARKER": marker, "PORT": port, "PACKAGE": PACKAGE}.items():
        program = program.replace(word, meaning)
    return one.run(program, ATTACKS[name].test)
