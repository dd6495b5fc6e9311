"""What may pass between the processes of a sample: plain data, unharmed, and nothing else."""

from __future__ import annotations

import collections
import contextlib
import enum
import math
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2.grading.sandbox.wire import DEEPEST, Garbled, Unencodable, decode, encode, framed, receive, send

hashable = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.complex_numbers() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4).map(tuple) | st.frozensets(inner, max_size=4),
    max_leaves=8,
)
plain = st.recursive(
    hashable,
    lambda inner: st.lists(inner, max_size=4) | st.sets(hashable, max_size=4) | st.dictionaries(hashable, inner),
    max_leaves=16,
)


def exact(value) -> str:
    """A value with the types of all its parts; a set's order is not part of it."""
    parts = ()
    if isinstance(value, dict):
        parts = tuple((exact(key), exact(one)) for key, one in value.items())
    elif isinstance(value, set | frozenset):
        parts = tuple(sorted(map(exact, value)))
    elif isinstance(value, list | tuple):
        parts = tuple(map(exact, value))
    text = hex(value) if isinstance(value, int) else ascii(value)  # an int may be too long for its decimal digits
    return f"{type(value).__name__}{parts or text}"


@given(plain)
def test_plain_values_come_back_as_they_went(value):
    assert exact(decode(encode(value))) == exact(value)


@pytest.mark.parametrize(
    "value",
    [-0.0, math.inf, 5e-324, 10**5000, -(1 << 70), "\ud800", "\0", "a:b", complex(0, -0.0)],
    ids=lambda value: type(value).__name__,
)
def test_values_on_the_edge_come_back(value):
    assert exact(decode(encode(value))) == exact(value)


@given(st.binary())
def test_any_bytes_are_a_plain_value_or_garbled(data):
    try:
        value = decode(data)
    except Garbled:
        return
    assert exact(decode(encode(value))) == exact(value)


@given(plain, st.data())
def test_a_message_with_one_byte_changed_or_missing_breaks_nothing(value, data):
    message = bytearray(encode(value))
    place = data.draw(st.integers(0, len(message) - 1))
    message[place : place + 1] = data.draw(st.binary(max_size=2))
    with contextlib.suppress(Garbled):
        decode(bytes(message))


class Liar(int):
    def __eq__(self, other):
        return True

    __hash__ = int.__hash__


class Shade(enum.IntEnum):
    GRAY = 1


POINT = collections.namedtuple("POINT", "x y")


@pytest.mark.parametrize(
    "value",
    [Liar(1), [Liar(1)], {Liar(1): 1}, Shade.GRAY, POINT(1, 2), object(), iter([]), range(3), int, bytearray(b"a")],
)
def test_other_types_are_refused(value):
    with pytest.raises(Unencodable):
        encode(value)


@pytest.mark.parametrize(
    "value",
    [collections.Counter("aab"), collections.OrderedDict(a=2, b=1), collections.defaultdict(int, a=2, b=1)],
    ids=lambda value: type(value).__name__,
)
def test_the_dicts_of_collections_are_sent_as_dict(value):
    assert exact(decode(encode(value))) == exact({"a": 2, "b": 1})


def test_single_values_of_numpy_are_sent_as_builtins_and_arrays_are_refused():
    value = [np.float64(0.1), {np.int64(3): np.float32(0.5)}, (np.bool_(True), np.complex128(1j), np.str_("a"))]
    assert exact(decode(encode(value))) == exact([0.1, {3: 0.5}, (True, 1j, "a")])
    for other in (np.array(3), np.zeros(2), np.longdouble(1), np.datetime64("2020-01-01")):
        with pytest.raises(Unencodable):
            encode(other)


def test_a_value_that_holds_itself_is_refused():
    value: list[object] = []
    value.append(value)
    with pytest.raises(Unencodable, match="deep"):
        encode(value)


def test_depth_is_limited_on_the_way_back_too():
    with pytest.raises(Garbled):
        decode(b"l1:" * (DEEPEST + 2) + b"n")


def test_a_value_is_measured_while_it_is_written():
    twice: list[object] = [0]
    for _ in range(90):
        twice = [twice, twice]  # 2 ** 90 zeros
    with pytest.raises(Unencodable, match="large"):
        encode(twice, largest=1000)


@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"i1", b"l2:n", b"nn", b"s5:abc", b"s-1:", b"s1:\xff", b"i:", b"iz:", b"e1:l0:", b"m1:l0:n", b"l9" * 9],
)
def test_bytes_that_are_no_message(data):
    with pytest.raises(Garbled):
        decode(data)


def test_messages_follow_each_other_through_a_pipe():
    ours, theirs = os.pipe()
    try:
        for value in ("one", [2]):
            send(theirs, encode(value))
        assert [receive(ours), receive(ours)] == ["one", [2]]
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize(("sent", "error"), [(framed(b"n" * 99), Garbled), (b"\0\0", EOFError), (b"", EOFError)])
def test_a_message_too_large_or_cut_off(sent, error):
    ours, theirs = os.pipe()
    os.write(theirs, sent)
    os.close(theirs)
    with pytest.raises(error):
        receive(ours, largest=50)
    os.close(ours)
