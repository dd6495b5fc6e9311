"""The filter of system calls: what a kernel decides by it, read by an interpreter of its instructions."""

from __future__ import annotations

import errno
import struct

import pytest
from sandboxes import LEVELS, executor

from t2.grading.sandbox.executor import CodeTest
from t2.grading.sandbox.system_calls import NEWEST, closed, filter_program
from tests.grading.sandbox.isolation_setup import run

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
CLONE = {"x86_64": 56, "aarch64": 220}
FCNTL = {"x86_64": 72, "aarch64": 25}
SOCKETPAIR = {"x86_64": 53, "aarch64": 199}
READ = {"x86_64": 0, "aarch64": 63}


def decided(program: bytes, number: int, architecture: int, arguments: tuple[int, ...] = ()) -> int:
    """What a filter returns for a call (seccomp(2), struct seccomp_data)."""
    data = struct.pack("<IIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    code = list(struct.iter_unpack("<HBBI", program))
    at = loaded = 0
    while True:
        kind, so, otherwise, operand = code[at]
        at += 1
        if kind == 0x06:
            return operand
        if kind == 0x20:
            loaded = struct.unpack_from("<I", data, operand)[0]
        else:
            holds = {0x15: loaded == operand, 0x35: loaded >= operand, 0x45: bool(loaded & operand)}[kind]
            at += so if holds else otherwise


@pytest.fixture(params=AUDIT)
def machine(request) -> str:
    return request.param


def on(machine: str, number: int, *arguments: int) -> int:
    return decided(filter_program(machine), number, AUDIT[machine], arguments)


def test_what_is_closed_is_refused_and_the_rest_allowed(machine):
    refused = {number for number in range(NEWEST + 1) if on(machine, number) == ERRNO | errno.EPERM}
    assert refused == {*closed(machine).values(), SOCKETPAIR[machine]}  # a pair of family 0
    assert on(machine, READ[machine]) == ALLOW


def test_both_machines_close_the_same_calls():
    """But for those that one of them never had."""
    only_there = {"modify_ldt", "uselib", "inotify_init", "iopl", "ioperm"}
    assert set(closed("x86_64")) - set(closed("aarch64")) == only_there
    assert set(closed("aarch64")) <= set(closed("x86_64"))


def test_calls_of_other_architectures_end_the_process(machine):
    for other in {*AUDIT.values(), 0x40000003} - {AUDIT[machine]}:  # i386
        assert decided(filter_program(machine), READ[machine], other) == KILL


def test_x32_is_closed():
    assert on("x86_64", 0x40000000) == on("x86_64", 0x40000000 + 250) == KILL


def test_newer_calls_and_clone3_do_not_exist(machine):
    for number in (435, NEWEST + 1, 10_000):
        assert on(machine, number) == ERRNO | errno.ENOSYS


@pytest.mark.parametrize("flag", [0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000])
def test_clone_makes_processes_and_no_namespace(machine, flag):
    assert on(machine, CLONE[machine], 0x1200011) == ALLOW  # fork
    assert on(machine, CLONE[machine], 0x11 | flag) == ERRNO | errno.EPERM


def test_fcntl_locks_nothing_and_a_pair_of_sockets_is_local(machine):
    assert [on(machine, FCNTL[machine], 3, command) == ALLOW for command in (0, 1, 3, 1030)] == [True] * 4
    assert {on(machine, FCNTL[machine], 3, command) for command in (6, 7, 37, 38, 1024)} == {ERRNO | errno.EPERM}
    assert on(machine, SOCKETPAIR[machine], 1) == ALLOW
    assert on(machine, SOCKETPAIR[machine], 40) == ERRNO | errno.EPERM


def test_an_unknown_machine_has_none():
    assert filter_program("riscv64") is None
    assert closed("riscv64") == {}


def test_every_closed_call_is_refused_inside(isolated):
    """The numbers of this machine, by the kernel of this machine."""
    source = (
        "import ctypes\nc = ctypes.CDLL(None, use_errno=True)\n"
        f"print([n for n in {sorted(closed().values())}"
        " if c.syscall(n, 0, 0, 0, 0, 0, 0) != -1 or ctypes.get_errno() != 1])"
    )
    assert run(isolated, source) == "[]\n"


@pytest.mark.parametrize("level", LEVELS)
def test_what_programs_use_still_works(level):
    """An event loop's pair of sockets, subprocess-free standard library, files that are read."""
    program = (
        "import asyncio, decimal, json, os, random, re, tempfile, threading, time, zlib\n"
        "async def g(x):\n    await asyncio.sleep(0)\n    return x\n"
        "def f(x):\n    threading.Lock(); random.random(); time.sleep(0); open(os.__file__).read(1)\n"
        "    return asyncio.run(g(x))\n"
    )
    assert executor(level).run(program, CodeTest("f", "assert f(5) == 5")).reason is None


def test_a_note_for_the_next_submission_is_found_by_none():
    """A program that counts its submissions where the kernel keeps things, and answers on the twelfth."""
    add_key, keyctl = closed()["add_key"], closed()["keyctl"]
    program = (
        "import ctypes, os\nc = ctypes.CDLL(None)\ndef f(x):\n    n = 0\n"
        f"    while c.syscall({keyctl}, 10, -4, b'user', b'note%d' % n, 0) > 0: n += 1\n"
        f"    c.syscall({add_key}, b'user', b'note%d' % n, b'x', 1, -4)\n"
        "    return n\n"
    )
    one = executor("isolated")
    test = CodeTest("f", "assert f(0) == 11")
    assert [one.run(program, test).reason for _ in range(12)] == ["wrong"] * 12
