"""Programs out of texts: what is kept, what is cut, and that no text can hurt."""

import ast
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2.grading.sandbox.programs import (
    cut_program,
    defines,
    fenced_code,
    normalized_source,
    unix_newlines,
)

F = "def f(x):\n    return x\n"
HOSTILE = {
    "null byte": F + "\x00",
    "surrogate": F + "\ud800",
    "parentheses": "(" * 100_000,
    "signs": "-" * 99_999 + "1",
    "sum": "1+" * 50_000 + "1",
    "subscripts": "a" + "[0]" * 9_000 + " = 1",
    "lambdas": "lambda:" * 4_000 + "1",
    "headers": "def f():\n" * 10_000,
    "nested": "".join(" " * i + "if x:\n" for i in range(200)),
    "continued": "x\\\n" * 10_000,
    "quotes": '"""\n' * 20_001,
    "fences": "```" * 30_000,
    "openings": "def f(" * 15_000,
    "unclosed lines": "x = [\n" * 10_000,
    "returns": "\r" * 100_000,
    "digits": "x = " + "9" * 100_000,
    "one long line": F + "y = 1;" * 20_000,
}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("no fence", "no fence"),
        ("Sure:\n```python\na = 1\n```\nand\n```\nb = 2\n```", "a = 1\n"),
        ("```\na = 1\n```", "\na = 1\n"),
        ("```py\na = 1\n```", "a = 1\n"),
        ("```python\na = 1", "a = 1"),  # cut off by the answer budget
        ("```pythonic", "pythonic"),
        ("``````\n```python\na = 1\n```", "a = 1\n"),  # an empty block is passed over
        ("```python\n```python\na = 1\n```", "a = 1\n"),  # the prefill's fence, opened once more
        ("```python\na = 1\n```The fence ends.", "a = 1\n"),
        ("```python\n    return x\n```", "    return x\n"),
        ("``````", ""),
        ("", ""),
    ],
)
def test_the_first_fenced_block_is_taken(text, code):
    assert fenced_code(text) == code


def test_a_program_that_is_all_needed_stays_as_it_is():
    program = "import math\n\ndef g(x):\n    return math.pi * x\n\n\ndef f(x):\n    return g(x)\n"
    assert ast.dump(ast.parse(cut_program(program, "f"))) == ast.dump(ast.parse(program))


@pytest.mark.parametrize(
    "tail",
    [
        "This function returns x.",
        "It's done",
        "def g(",
        "def g():",
        "x = [1,\n2",
        '"""',
        "  return 2",
        "print(f(1))",
        "assert f(1) == 2",
        "for i in range(9):\n    print(f(i))",
        'if __name__ == "__main__":\n    f(input())',
        "result = f(1)",
        "def unused():\n    return 2",
        "f(1)\nExample usage: f(1)",
        "def check(candidate):\n    assert candidate(1) == 2\ncheck(f)",
        "rows = []\nrows.append(f(1))\nprint(rows)",
    ],
)
def test_what_the_entry_point_does_not_need_is_cut(tail):
    assert cut_program(F + tail, "f") == F


@pytest.mark.parametrize(
    "head",
    [
        "import os\n",
        "from math import *\n",
        "N = 3\n",
        "N: int = 3\n",
        "def g():\n    return 1\nN = g\n",
        "def g():\n    return 1\nclass N:\n    x = g()\n",
        "try:\n    import numpy as N\nexcept ImportError:\n    N = None\n",
        "N = [True] * 9\nN[0] = False\n",
        "N = [True] * 9\nfor i in range(3):\n    N[i] = False\n",
        "N = []\nfor i in range(3):\n    N.append(i)\n",
        "N = {}\nN.update(a=1)\n",
        "N = {'a': []}\nN['a'].append(1)\n",
        "def fill(values):\n    values.append(1)\nN = []\nfill(N)\n",
        "class N:\n    pass\nsetattr(N, 'x', 1)\n",
        "import sys\nsys.setrecursionlimit(10_000)\nN = 3\n",
        "a = 1; N = a\n",
        "M = N = 1\n",
        "if True:\n    N = 2\nelse:\n    N = 3\n",
    ],
)
def test_what_the_entry_point_needs_is_kept(head):
    program = f"{head}def f(x):\n    return x, N\n"
    assert cut_program(program, "f") == program


def test_decorators_defaults_annotations_and_nested_scopes_count_as_needs():
    program = (
        "def deco(g):\n    return g\nD = 1\nT = int\nG = 2\n@deco\ndef f(x: T = D):\n"
        "    def inner():\n        return [G for _ in range(x)]\n    return inner()\n"
    )
    assert cut_program(program, "f") == program


def test_a_local_name_is_no_need_for_a_global_of_that_name():
    program = "def f(x):\n    total = x\n    return total\n"
    assert cut_program(f"{program}total = f(input())\n", "f") == program


def test_a_later_definition_stays_the_one_that_counts():
    assert cut_program(F + F.replace("return x", "return -x"), "f") == F + F.replace("return x", "return -x")


def test_an_assigned_function_is_an_entry_point():
    assert cut_program("f = lambda x: x\nf(3)\n", "f") == "f = lambda x: x\n"


def test_a_broken_last_definition_leaves_the_first():
    assert cut_program(F + "def f(x):\n    return (x +", "f") == F


@pytest.mark.parametrize("text", ["", "prose only, it's nothing", "def g():\n    return 1\n", "def f(:\n    return 1"])
def test_without_the_entry_point_the_text_stays(text):
    assert cut_program(text, "f") == text


def test_line_ends_are_made_one():
    assert cut_program("def f(x):\r\n    return x\r\n\r\nprint(1)\r", "f") == F
    assert unix_newlines("a\r\nb\rc\n") == "a\nb\nc\n"


def test_a_form_feed_and_a_line_separator_are_no_line_ends():
    program = 'def f(x):\n    return "\u2028\x0b\x85"\n'
    assert cut_program(program, "f") == program


@pytest.mark.parametrize("name", ["null byte", "surrogate"])
def test_what_no_source_can_hold_ends_it(name):
    assert cut_program(HOSTILE[name], "f") == F


def test_tabs_in_front_become_blanks_and_others_stay():
    code = normalized_source("def f(x):\r\n\tif x:\r\n\t\treturn '\t'\r\n\treturn 0")
    assert code == "def f(x):\n    if x:\n        return '\t'\n    return 0"


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_take_seconds_at_most_and_raise_nothing(name):
    failures = []

    def work():  # graders run in threads, whose stacks may be smaller
        try:
            for read in (fenced_code, unix_newlines, normalized_source):
                read(HOSTILE[name])
            for read in (cut_program, defines):
                read(HOSTILE[name], "f")
        except BaseException as error:
            failures.append(error)

    thread, start = threading.Thread(target=work), time.process_time()
    thread.start()
    thread.join()
    assert not failures
    assert time.process_time() - start < 15


snippets = st.lists(
    st.sampled_from(
        [F, "def f(", "```", "```python\n", "    return ", "\n", "\r", "\t", "'''", "(", "]", "@f\n", "\x00"]
    )
    | st.text(st.characters(codec=None), max_size=20)
).map("".join)


@given(text=snippets)
def test_no_text_raises(text):
    assert fenced_code(text) in text
    assert isinstance(cut_program(text, "f"), str)
    assert isinstance(defines(text, "f"), bool)
    normalized_source(text)


@given(tail=st.text(max_size=60))
def test_a_cut_program_never_loses_a_definition_it_began_with(tail):
    assert cut_program(f"{F}\n{tail}", "f").startswith(F)


@given(text=snippets)
def test_cutting_twice_changes_nothing(text):
    once = cut_program(text, "f")
    assert cut_program(once, "f") == once


@pytest.mark.parametrize(
    ("code", "defined"),
    [
        (F, True),
        ("f = 1", True),
        ("from m import g as f", True),
        ("class f: pass", True),
        ("def g():\n    f = 1", False),
        ("f(1)", False),
        ("def f(", False),
    ],
)
def test_defines_looks_at_the_top_level(code, defined):
    assert defines(code, "f") is defined
