"""Checks a composed configuration before anything is loaded: unknown and missing keys, types, ranges, numbers.

A part's arguments are checked against the annotations of what its `_target_` names, the ranges in them (`Annotated`)
included, so that a part of one's own is checked by its own constructor. What one argument alone does not show (two
that contradict each other, a file that is not there) is the constructors' to refuse.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from t2.run.configuration.hints import Allowed, allowed_in, is_part
from t2.run.configuration.settings import FILLED_IN, SCRIPTS
from t2.run.configuration.trainer import trainer_faults
from t2.run.messages import did_you_mean
from t2.run.places import typed
from t2.run.renamed import renamed_target

RESERVED = ("_target_", "_partial_", "_recursive_", "_convert_", "_args_")  # Hydra's own keys of a part
ANYTHING = Allowed(Any)


def check_configuration(cfg: DictConfig, script: str) -> None:
    """Raise ValueError, with a line for each fault, unless all keys have the right types and values.

    `script` is one of SCRIPTS; for another, only parts and numbers are checked.
    """
    if isinstance(cfg.get("task"), DictConfig) and "name" not in cfg.task:  # which other keys refer to
        raise ValueError("task.name is missing: what results are filed under. Write `name: NAME` into the task's YAML.")
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        words = " ".join(f"{key}=VALUE" for key in missing)
        raise ValueError(f"What is chosen leaves open what only you can say. Add {words}; its YAML's header says more.")
    plain: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    for part, keys in FILLED_IN.get(script, {}).items():
        if is_part(plain.get(part)):
            plain[part] = {key: value for key, value in plain[part].items() if key not in keys or value is not None}
    # In this order, since a fault of an early kind makes later ones that say nothing new.
    for faults in (_numbers("", plain), chain(_script(plain, script), _parts("", plain)), trainer_faults(plain)):
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
    settings: Any = SCRIPTS.get(script)
    if settings is None:
        return
    allowed = allowed_in(settings)
    for key in plain.keys() - allowed.keys():
        near = did_you_mean(key, allowed)
        yield f"{key} is no key of {script}.py.{near} `{typed(script)} --help` lists every key."
    for key, values in allowed.items():
        if key in plain:
            yield from _argument(key, plain[key], values)
        elif not hasattr(settings, key):
            yield f"{key} is missing, and {script}.py needs it: {values}."
    layers = (plain.get("adapter") or {}).get("layers")
    if isinstance(layers, list) and (twice := [layer for layer in layers if layers.count(layer) > 1]):
        yield f"adapter.layers names {twice[0]} twice; allowed: each layer once."


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
    allowed = allowed_in(target)
    for key, value in given.items():
        if key in named:
            yield from _argument(_join(where, key), value, allowed.get(key, ANYTHING))
        elif not takes_any:
            others = f" Its arguments: {', '.join(named)}." if named else " It takes none."
            yield f"{_join(where, key)} is no argument of {name}.{did_you_mean(key, named)}{others}"
    if not isinstance(node.get("_partial_", False), bool):
        yield f"{where}._partial_ is {node['_partial_']!r}; allowed: true or false."
    if node.get("_partial_") is True or "_args_" in node:
        return
    for key, one in named.items():
        if one.default is one.empty and key not in given:
            yield f"{_join(where, key)} is missing, and {name} needs it: {allowed.get(key, ANYTHING)}."


def _argument(where: str, value: Any, allowed: Allowed) -> Iterator[str]:
    """The fault of one value, if it has one."""
    if allowed.fits(value):
        return
    is_text = isinstance(value, (int, float)) and allowed.fits(str(value))
    quote = f" To give text, quote it twice: '{where}=\"{value}\"'." if is_text else ""
    yield f"{where} is {value!r}; allowed: {allowed}.{quote}"


def _items(node: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(node, Mapping):
        yield from node.items()
    elif isinstance(node, list):
        yield from enumerate(node)


def _join(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)
