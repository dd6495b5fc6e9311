"""Outer structures: which brackets, which members, and whether their order counts."""

import pytest

from t2.grading.math.structure import structure, without_brackets


@pytest.mark.parametrize(
    ("text", "kind", "members"),
    [
        ("(1,2)", "()", ("1", "2")), ("[0, 1)", "[)", ("0", "1")), ("1, 2", "list", ("1", "2")),
        ("\\{1,2\\}", "list", ("1", "2")), ("\\{\\}", "list", ()), ("1 \\text{ or } 2", "list", ("1", "2")),
        ("a, b and c", "list", ("a", "b", "c")), ("\\pm 2", "list", ("+ 2", "- 2")),
        ("f(1,2), 3", "list", ("f(1,2)", "3")),
        ("1,000, 2", "list", ("1000", "2")), ("(1,200)", "()", ("1", "200")),
        ("(0,1) \\cup (2,3)", "union", ("(0,1)", "(2,3)")),
        ("\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}", "matrix 2 x 2", ("1", "2", "3", "4")),
        ("\\langle 1, 2 \\rangle", "()", ("1", "2")),
    ],
)  # fmt: skip
def test_structure(text, kind, members):
    found = structure(text)
    assert (found.kind, found.members) == (kind, members)
    assert found.has_order == (kind not in ("list", "union"))


@pytest.mark.parametrize(
    "text", ["5", "1,000", "(1+2)", "(1)(2)", "f(1,2)", "\\begin{vmatrix} 1 & 2 \\end{vmatrix}", "(", ")(", ""]
)
def test_a_single_expression_has_none(text):
    assert structure(text) is None


def test_brackets_around_the_whole_are_taken_off():
    assert without_brackets("( x )") == "x"
    assert without_brackets("(a)(b)") == "(a)(b)"
