"""The stand-in for pycosat: all solutions and no other, and the puzzles of reasoning-gym that need one."""

from __future__ import annotations

import importlib.util
import itertools

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

spec = importlib.util.spec_from_file_location("pycosat_stand_in", ROOT / "stand_ins" / "pycosat" / "pycosat.py")
pycosat = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pycosat)

literals = st.integers(-5, 5).filter(bool)


@given(clauses=st.lists(st.lists(literals, max_size=4), max_size=12))
def test_it_finds_all_solutions_and_no_other(clauses):
    variables = max((abs(literal) for clause in clauses for literal in clause), default=0)
    right = solutions(clauses, variables)
    found = [tuple(solution) for solution in pycosat.itersolve(clauses)]
    assert len(found) == len(set(found))
    assert set(found) == right
    assert (pycosat.solve(clauses) == "UNSAT") == (not right)


def solutions(clauses, variables) -> set[tuple[int, ...]]:
    """By trying everything."""
    every = itertools.product(*((number, -number) for number in range(1, variables + 1)))
    return {one for one in every if all(set(clause) & set(one) for clause in clauses)}


def test_zero_is_no_variable():
    with pytest.raises(ValueError, match="holds a 0"):
        pycosat.solve([[1, 0]])


def test_zebra_puzzles_are_those_of_the_real_one(monkeypatch):
    sat_utils = pytest.importorskip("reasoning_gym.logic.contrib.logic_puzzle.sat_utils")
    from reasoning_gym.factory import create_dataset

    monkeypatch.setattr(sat_utils, "pycosat", pycosat)
    answers = [puzzle["answer"] for puzzle in create_dataset("zebra_puzzles", size=5, seed=1)]
    assert answers == ["bob", "carol", "arnold", "carol", "carol"]  # with pycosat 0.6.6, built by a compiler
