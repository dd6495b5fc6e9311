"""The entry point of a program, read out of its tests."""

import pytest

from t2.grading.sandbox.programs import (
    entry_point_of,
)


@pytest.mark.parametrize(
    ("test", "name"),
    [
        ("assert f(1) == 2", "f"),
        ("assert set(f((1, 2))) == set((1,))", "f"),
        ("assert math.isclose(f(1), g(2), rel_tol=0.1)", "f"),
        ("assert isclose(f(1), 2)", "f"),
        ("assert not f('a')", "f"),
        ("assert sorted(list(f(g(1)))) == h(2)", "f"),
        ("assert (f(1)) == True", "f"),
        ("assert f([g(1), g(2)], 4) == 3", "f"),
        ("assert sum(10, 15) == 6", "sum"),
        ("assert  f(1)\\\r\n == 2", "f"),
        ("assert len(tuple(abs(round(f(1))))) == 0", "f"),
    ],
)
def test_the_entry_point_is_the_first_call_that_is_no_wrapper(test, name):
    assert entry_point_of([test]) == name


def test_a_wrapper_in_one_test_is_not_taken_if_another_calls_a_function():
    assert entry_point_of(["assert len([1]) == 1", "assert f(1)"]) == "f"


@pytest.mark.parametrize("tests", [[], ["assert x.f(1)"], ["assert True"]])
def test_tests_that_call_nothing_are_refused(tests):
    with pytest.raises(ValueError, match="No function is called by name"):
        entry_point_of(tests)


@pytest.mark.parametrize("test", ["assert f(", "\x00"])
def test_tests_that_are_not_python_are_refused(test):
    with pytest.raises(ValueError, match="is not Python"):
        entry_point_of([test])
