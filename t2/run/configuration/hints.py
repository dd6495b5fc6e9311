"""From a type annotation to what a YAML value may be: a check by pydantic, and the words that a message uses.

A configuration holds null, booleans, numbers, text, lists, mappings, and parts: mappings with a `_target_`, which Hydra
builds. So wherever an annotation names a class, its value is a part; a path is text; a tuple is a list. Types are
strict (text is no boolean, a boolean no integer, text no list of text), and no number is infinite or NaN.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from functools import cache
from pathlib import Path
from types import GenericAlias, NoneType, SimpleNamespace, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from hydra.utils import get_object
from pydantic import AfterValidator, ConfigDict, Strict, TypeAdapter, ValidationError

SCALARS = {NoneType: "null", bool: "true or false", int: "an integer", float: "a number", str: "text"}
BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "min_length": "with a length of at least"}
_PATHS = (Path, os.PathLike)
_CONFIG = ConfigDict(strict=True, allow_inf_nan=False)


def is_part(value: Any) -> bool:
    """Whether a value of the configuration is a mapping that Hydra builds an object from."""
    return isinstance(value, Mapping) and "_target_" in value


def _check_part(value: dict[str, Any]) -> dict[str, Any]:
    if not is_part(value):
        raise ValueError("a mapping without _target_")
    return value


Part = Annotated[dict[str, Any], AfterValidator(_check_part)]


@dataclass(frozen=True)
class OneOf:
    """Metadata of text whose values are those of a `Literal` in a package that may not be imported where it stands.

    Attributes:
        literal: its dotted path.
    """

    literal: str


def hints_of(target: Any) -> dict[str, Any]:
    """The annotations of what a `_target_` is called with, by argument; Any where one cannot be resolved.

    That is so for names imported for type checkers alone, as some third parties do.
    """
    has_fields = is_dataclass(target) or (inspect.isclass(target) and target.__init__ is object.__init__)
    wanted = target if has_fields or not inspect.isclass(target) else target.__init__
    try:
        return get_type_hints(wanted, include_extras=True)
    except NameError:
        return {name: _hint_alone(name, hint, wanted) for name, hint in wanted.__annotations__.items()}


def _hint_alone(name: str, hint: Any, owner: Any) -> Any:
    namespace = getattr(owner, "__globals__", {})
    try:
        return get_type_hints(SimpleNamespace(__annotations__={name: hint}), namespace, include_extras=True)[name]
    except NameError:
        return Any


def in_yaml(hint: Any) -> Any:
    """The annotation of an argument as one of the value that a configuration holds for it."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any or hint in SCALARS or origin is Literal or hint is Part:
        return hint
    if hint in _PATHS or origin in _PATHS:
        return str
    if origin is Annotated:
        found = next((one for one in hint.__metadata__ if isinstance(one, OneOf)), None)
        return (
            get_object(found.literal) if found is not None else Annotated[(in_yaml(arguments[0]), *hint.__metadata__)]
        )
    if origin in (Union, UnionType):
        return Union[tuple(in_yaml(one) for one in arguments)]  # noqa: UP007
    kind = origin if inspect.isclass(origin) else hint
    if not inspect.isclass(kind):
        return Any  # a type variable and the like
    if issubclass(kind, tuple) and len(arguments) > 1 and arguments[1] is not Ellipsis:
        return Annotated[GenericAlias(tuple, tuple(in_yaml(one) for one in arguments)), Strict(False)]  # from a list
    if issubclass(kind, Mapping):
        return GenericAlias(dict, (str, in_yaml(arguments[1]) if len(arguments) == 2 else Any))
    if kind is Iterable or issubclass(kind, (Sequence, set, frozenset)):
        return GenericAlias(list, (in_yaml(arguments[0]) if arguments else Any,))
    return Part


class Allowed:
    """The values of the configuration that an annotation allows."""

    def __init__(self, hint: Any) -> None:
        """Make the check, which takes about a hundred times as long as checking a value."""
        self._hint = in_yaml(hint)
        self._adapter: TypeAdapter[Any] = TypeAdapter(self._hint, config=_CONFIG)

    def fits(self, value: Any) -> bool:
        """Whether a value is one of them."""
        try:
            self._adapter.validate_python(value)
        except ValidationError:
            return False
        return True

    def __str__(self) -> str:
        """Them in words."""
        return _words(self._hint)


@cache
def allowed_in(target: Any) -> Mapping[str, Allowed]:
    """What each argument of a target may be."""
    return {key: Allowed(hint) for key, hint in hints_of(target).items() if key != "return"}


def _words(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Part:
        return "a part (a mapping with _target_)"
    if hint in SCALARS:
        return SCALARS[hint]
    if origin is Literal:
        return ", ".join(sorted(map(str, arguments)))
    if origin is Annotated:
        bounds = " and ".join(_bounds(hint.__metadata__, whole=arguments[0] is int))
        return f"{bounds} ({_words(arguments[0])})" if bounds else _words(arguments[0])
    if origin is Union:
        return ", or ".join(_words(one) for one in sorted(arguments, key=lambda one: one is NoneType))
    if origin is tuple:
        return f"a list of {len(arguments)}, each {_words(arguments[0])}"
    if origin is list:
        return f"a list, each of it {_words(arguments[0])}" if arguments[0] is not Any else "a list"
    if origin is dict:
        return (
            f"a mapping of names, each to {_words(arguments[1])}" if arguments[1] is not Any else "a mapping of names"
        )
    return "any value"


def _bounds(metadata: Iterable[Any], *, whole: bool) -> list[str]:
    """`at least 0` and so on, of annotated-types and of pydantic's Field; an integer above 0 is at least 1."""
    found = []
    for one in metadata:
        for part in getattr(one, "metadata", [one]):
            given = {name: getattr(part, name) for name in BOUNDS if hasattr(part, name)}
            if whole and "gt" in given:
                given = {"ge": given["gt"] + 1}
            found += [f"{BOUNDS[name]} {bound}" for name, bound in given.items()]
    return found
