"""What the systems that are compared are called, and what a name says.

    base            the model with its adapter off; every other system is paired with it
    expert          one expert by itself, applied to the adapter
    start           what a training run began with, where that is not the base
    expert:DOMAIN   one expert of the pool, for all examples
    uniform         every expert with mixing weight 1/K
    all             every expert with mixing weight 1, and no first pass
    CONTROL:DOMAIN  one expert with its multipliers reversed, shuffled or random (paper, Table 5): where this does as
                    well, what was learned about single singular values does not matter. The last two are drawn
                    several times: random_1:DOMAIN, random_2:DOMAIN, ...
    NAME            a strategy, fitted to each task before it is scored
    NAME#1, NAME#2  the same, fitted to each of several sets of solved examples

Building them is done in `t2.evaluation.systems`. Nothing here imports a model's libraries: whoever reads finished runs
wants no more than this.
"""

from __future__ import annotations

import re

BASE, UNIFORM, ALL, EXPERT, START = "base", "uniform", "all", "expert", "start"  # names of systems
BEST_SINGLE, ORACLE, FORM = "best_single", "oracle", "form"  # see `t2.evaluation.selection`
RESERVED = (EXPERT, START, BEST_SINGLE, ORACLE, FORM)
DRAWN = ("shuffled", "random")  # controls that chance decides
CONTROLS = ("ordered", "shuffled", "reversed", "random")  # see `t2.experts.transfer`
FITTED = re.compile(rf"(?!{EXPERT}:)(?P<name>.+)#(?P<set>\d+)")  # a strategy and the number of its support set
CONTROLLED = re.compile(rf"(?P<control>{'|'.join(CONTROLS)})(_(?P<draw>\d+))?:(?P<domain>.+)")


def support_set(system: str) -> int:
    """The number of the support set that a system is fitted to, from 1."""
    fitted = FITTED.fullmatch(system)
    return int(fitted["set"]) if fitted else 1


def parse_control(system: str) -> tuple[str, int | None, str] | None:
    """Control, number of its draw (None: it has one) and domain of such a system; None for any other."""
    found = CONTROLLED.fullmatch(system)
    if found is None:
        return None
    return found["control"], int(found["draw"]) if found["draw"] else None, found["domain"]


def joined_name(system: str) -> str:
    """The name of a system, and of all draws of a control or all support sets together: that without the number."""
    control, fitted = parse_control(system), FITTED.fullmatch(system)
    if control is not None:
        return f"{control[0]}:{control[2]}"
    return fitted["name"] if fitted else system


def draw_of(system: str) -> int | None:
    """The number of a system's draw or support set; None where it has none."""
    control, fitted = parse_control(system), FITTED.fullmatch(system)
    if control is not None:
        return control[1]
    return int(fitted["set"]) if fitted else None


def is_scored(system: str, domain: str | None) -> bool:
    """Whether a system is scored on a task of this domain (None: the task has none).

    A control is scored on its own expert's domain alone, every other system on all.
    """
    control = parse_control(system)
    return domain is None or control is None or control[2] == domain


def parse_contrast(text: str) -> tuple[str, str]:
    """The two systems of `first - second`.

    Raises:
        ValueError: it is not two different names with ` - ` between them.
    """
    first, minus, second = (part.strip() for part in text.partition(" - "))
    if not (first and minus and second) or first == second:
        raise ValueError(f"The contrast {text!r} is not written as two different systems, such as 'classifier - form'.")
    return first, second


def is_form(system: str) -> bool:
    """Whether a system is the base or one of its form controls."""
    return system == BASE or system.startswith(f"{BASE}+")


def is_single(system: str) -> bool:
    """Whether a system is one expert of the pool by itself."""
    return system.startswith(f"{EXPERT}:")
