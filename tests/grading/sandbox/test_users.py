"""Users for sandboxes: never root, never twice, never a judge's."""

from __future__ import annotations

import pytest

from t2.grading.sandbox.users import next_user, users_for

HIGH = 1_900_000_000
WHOLE = "         0          0 4294967295\n"
CONTAINER = "         0     100000      65536\n"


@pytest.mark.parametrize(("uid_map", "first"), [(WHOLE, HIGH), (CONTAINER, 61_184), (f"0 5 1\n{WHOLE}", HIGH)])
def test_the_numbers_are_those_that_exist_here(tmp_path, uid_map, first):
    path = tmp_path / "uid_map"
    path.write_text(uid_map)
    judges, candidates = users_for(True, path), users_for(False, path)
    assert judges.start == first
    assert judges.stop == candidates.start
    assert len(judges) > 200
    assert candidates.stop <= (65_534 if first < 65_534 else 2**31)


def test_a_namespace_of_one_user_says_that_there_is_none(tmp_path):
    path = tmp_path / "uid_map"
    path.write_text("0 1000 1\n")
    with pytest.raises(LookupError, match=r"no user to run programs as.*1900000000 to 1999999999 or 61184 to 65519"):
        users_for(False, path)


def test_none_is_given_out_twice_in_a_row():
    users = range(1000, 1100)
    assert len({next_user(users) for _ in range(100)}) == 100
