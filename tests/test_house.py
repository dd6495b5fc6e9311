"""Rules of the house that no linter checks: sizes of files and functions, docstrings, words."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

SCRIPTS = [ROOT / f"{name}.py" for name in ("train", "evaluate", "adapt", "export", "serve")]
CODE = [
    *SCRIPTS,
    *sorted(ROOT.glob("t2/**/*.py")),
    *sorted(ROOT.glob("hydra_plugins/*.py")),
    *sorted(ROOT.glob("bench/**/*.py")),
    *sorted(ROOT.glob("examples/**/*.py")),
]
TESTS = sorted(ROOT.glob("tests/**/*.py"))
LINES, FUNCTION_LINES = 250, 50
# What the glossary has other words for; `wearing` and the like are caught by their stem.
OLD_WORDS = re.compile(r"\b(wears?|worn|wearer|wearing|alphas|pictures?|lonely|standing_before)\b", re.IGNORECASE)


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("path", [*CODE, *TESTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_short_and_says_what_it_is(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) <= LINES
    assert ast.get_docstring(ast.parse(source)), "a module docstring comes first"
    for function in functions(path):
        length = (function.end_lineno or 0) - function.lineno + 1
        assert length <= FUNCTION_LINES, f"{function.name} has {length} lines"


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_words_are_those_of_the_glossary(path: Path) -> None:
    says_what_changed = {"renamed.py", "mixture_file.py"}  # and so has to name an old word
    found = [
        line for line in path.read_text().splitlines() if OLD_WORDS.search(line) and path.name not in says_what_changed
    ]
    assert not found, found[0]


def test_near_misses_have_one_home() -> None:
    home = ROOT / "t2/run/messages.py"
    found = [path for path in CODE if path != home and re.search(r"\bimport difflib|from difflib", path.read_text())]
    assert not found


def test_the_tree_is_the_packages_that_the_import_linter_orders() -> None:
    contract = (ROOT / "pyproject.toml").read_text().partition("layers = [")[2].partition("]")[0]
    layers = set(re.findall(r'"(\w+)"', contract))
    assert layers == {path.stem for path in (ROOT / "t2").iterdir() if not path.name.startswith("__")} - {"py"}
    assert len(layers) == 15
