"""The two functions of pycosat, in Python: a stand-in for machines that have no C compiler to build it with.

reasoning-gym requires pycosat, of which there are no wheels, for its zebra puzzles alone, none of which t2 trains on.
Clauses are lists of whole numbers, 3 for "variable 3 is true" and -3 for "it is false". What it does not do: the other
options of pycosat's functions, or large problems in little time; solutions come in an order of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

__version__ = "0.6.6+t2"

Clauses = list[tuple[int, ...]]


def solve(clauses: Iterable[Iterable[int]]) -> list[int] | str:
    """One solution, with the sign of every variable from 1 on, or "UNSAT" where there is none."""
    return next(itersolve(clauses), "UNSAT")


def itersolve(clauses: Iterable[Iterable[int]]) -> Iterator[list[int]]:
    """All solutions, each once.

    Raises:
        ValueError: a clause holds a 0, which is no variable.
    """
    given = [tuple(dict.fromkeys(clause)) for clause in clauses]
    if any(0 in clause for clause in given):
        raise ValueError("A clause holds a 0; allowed: whole numbers that are positive or negative.")
    variables = max((abs(literal) for clause in given for literal in clause), default=0)
    branches: list[tuple[Clauses, frozenset[int]]] = [(given, frozenset())]
    while branches:
        left, true = branches.pop()
        implied = _implied(left, true)
        if implied is None:
            continue
        left, true = implied
        free = (abs(left[0][0]),) if left else (n for n in range(1, variables + 1) if not {n, -n} & true)
        variable = next(iter(free), None)
        if variable is None:
            yield sorted(true, key=abs)
        else:
            branches += [(left, true | {variable}), (left, true | {-variable})]


def _implied(clauses: Clauses, true: frozenset[int]) -> tuple[Clauses, frozenset[int]] | None:
    """The clauses that are open where these literals are true, and these with all that follow; None: they cannot be."""
    while True:
        left = []
        for clause in clauses:
            if true.isdisjoint(clause):
                open_ones = tuple(literal for literal in clause if -literal not in true)
                if not open_ones:
                    return None
                left.append(open_ones)
        single = frozenset(clause[0] for clause in left if len(clause) == 1)
        if any(-literal in single for literal in single):
            return None
        if not single:
            return left, true
        clauses, true = left, true | single
