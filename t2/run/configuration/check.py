"""Checks a composed configuration before anything is loaded: unknown and missing keys, types, ranges, numbers.

A part's arguments are checked against the annotations of what its `_target_` names, the ranges in them (`Annotated`)
included, so that a part of one's own is checked by its own constructor. What one argument alone does not show (two
that contradict each other, a file that is not there) is the constructors' to refuse.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from typing import Any, get_type_hints

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from t2.run.configuration.hints import fits, hints_of, is_part, words
from t2.run.configuration.settings import FILLED_IN, SCRIPTS
from t2.run.configuration.trainer import trainer_faults
from t2.run.messages import did_you_mean
from t2.run.renamed import renamed_target

RESERVED = ("_target_", "_partial_", "_recursive_", "_convert_", "_args_")  # Hydra's own keys of a part


def check_configuration(cfg: DictConfig, script: str) -> None:
    """Raise ValueError, with a line for each fault, unless all keys have the right types and values.

    `script` is one of `train`, `evaluate` and `adapt`; for another, only parts and numbers are checked.
    """
    plain: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    for part, keys in FILLED_IN.get(script, {}).items():
        if is_part(plain.get(part)):
            plain[part] = {key: value for key, value in plain[part].items() if key not in keys or value is not None}
    # In this order, since a fault of an early kind makes later ones that say nothing new.
    for faults in (_numbers("", plain), _script(plain, script), _parts("", plain), trainer_faults(plain)):
        found = list(dict.fromkeys(faults))
        if found:
            raise ValueError("\n".join(found))


def _numbers(where: str, node: Any) -> Iterator[str]:
    """Faults of numbers that are infinite or NaN."""
    if isinstance(node, float) and not math.isfinite(node):
        yield f"{where} is {node}; allowed: a finite number."
    for key, value in _items(node):
        yield from _numbers(_join(where, key), value)


def _script(plain: Mapping[str, Any], script: str) -> Iterator[str]:
    """Faults of the top-level keys."""
    settings = SCRIPTS.get(script)
    if settings is None:
        return
    hints = get_type_hints(settings, include_extras=True)
    for key in plain.keys() - hints.keys():
        yield f"{key} is no key of {script}.py.{did_you_mean(key, hints)} `python {script}.py --help` lists every key."
    for key, hint in hints.items():
        if key in plain:
            yield from _argument(key, plain[key], hint)
        elif not hasattr(settings, key):
            yield f"{key} is missing, and {script}.py needs it: {words(hint)}."


def _parts(where: str, node: Any) -> Iterator[str]:
    """Faults of every part, and of the parts in it."""
    if is_part(node):
        yield from _part(where, node)
    for key, value in _items(node):
        yield from _parts(_join(where, key), value)


def _part(where: str, node: Mapping[str, Any]) -> Iterator[str]:
    name = node["_target_"]
    if not isinstance(name, str) or not name:
        yield f"{where}._target_ is {name!r}; allowed: the dotted name of a class or function."
        return
    if (now := renamed_target(name)) is not None:
        yield f"The configuration names {name}, which is now {now}. Correct it."
        return
    try:
        target = get_object(name)
    except (ImportError, ValueError, AttributeError) as error:
        yield f"{where}._target_ is {name}, which cannot be loaded. Correct the name or install its package: {error}"
        return
    if not callable(target):
        yield f"{where}._target_ is {name}, which builds nothing; allowed: a class or a function."
        return
    yield from _arguments(where, node, name, target)


def _arguments(where: str, node: Mapping[str, Any], name: str, target: Any) -> Iterator[str]:
    parameters = inspect.signature(target).parameters
    named = {key: one for key, one in parameters.items() if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
    takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    given = {key: value for key, value in node.items() if key not in RESERVED}
    hints = hints_of(target)
    for key, value in given.items():
        if key in named:
            yield from _argument(_join(where, key), value, hints.get(key, Any))
        elif not takes_any:
            allowed = f" Its arguments: {', '.join(named)}." if named else " It takes none."
            yield f"{_join(where, key)} is no argument of {name}.{did_you_mean(key, named)}{allowed}"
    if not isinstance(node.get("_partial_", False), bool):
        yield f"{where}._partial_ is {node['_partial_']!r}; allowed: true or false."
    if node.get("_partial_") is True or "_args_" in node:
        return
    for key, one in named.items():
        if one.default is one.empty and key not in given:
            yield f"{_join(where, key)} is missing, and {name} needs it: {words(hints.get(key, Any))}."


def _argument(where: str, value: Any, hint: Any) -> Iterator[str]:
    """The fault of one value, if it has one."""
    if fits(value, hint):
        return
    quote = (
        f" To give text, quote it twice: '{where}=\"{value}\"'" if _is_number(value) and fits(str(value), hint) else ""
    )
    yield f"{where} is {value!r}; allowed: {words(hint)}.{quote}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


def _items(node: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(node, Mapping):
        yield from node.items()
    elif isinstance(node, list):
        yield from enumerate(node)


def _join(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)
