"""Every attack by name; what is measured with them is in test_attacks and in `bench/sandbox.py --attacks`."""

from __future__ import annotations

from attacks import ON_THE_VERDICT, Attack
from attacks_kernel import KERNEL
from attacks_memory import MEMORY
from attacks_runner import RUNNER
from attacks_values import LIES
from raids import ON_THE_MACHINE

PARTS = (ON_THE_VERDICT, ON_THE_MACHINE, LIES, RUNNER, KERNEL, MEMORY)
ATTACKS: dict[str, Attack] = {name: attack for part in PARTS for name, attack in part.items()}
