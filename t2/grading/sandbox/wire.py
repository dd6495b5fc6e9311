"""What the processes of the code sandbox share: how they talk, and the limits they put on themselves.

A message is a value of exact builtin types: None, bool, int, float, complex, str, bytes, list, tuple, set, frozenset,
dict. Whatever is decoded is of these types too, so no object with methods of its own can cross. A message is written
as an 8-byte length and a tag per value:

    n t f          None True False              s8:... b8:...      8 bytes of a str (UTF-8) or of bytes follow
    i-ff: d0.5:    int (hexadecimal), float     l2: u2: e2: z2:    list, tuple, set, frozenset: 2 values follow
    c1.0:-0.0:     complex                      m2:                dict: 2 pairs follow

JSON would need tags as well, and to import it takes as long again as to start Python, for every sample. Counter,
defaultdict and OrderedDict are sent as dict, to which Python holds them equal, and single numbers of numpy as builtins.

This file and its siblings `candidate` and `judge` are run from their source text, outside the package: they
import nothing but the standard library and each other. It decides nothing.
"""

from __future__ import annotations

import os
import resource

TYPE_CHECKING = False  # to import typing costs as much as JSON
if TYPE_CHECKING:
    from typing import Any

DEEPEST = 100  # containers within containers
LARGEST_ANSWER = 1 << 20  # bytes
OPEN_FILES = 64
QUEUED_SIGNALS = 64
_SINGLE = {b"n": None, b"t": True, b"f": False}
_SINGLE_TAGS = {value: tag for tag, value in _SINGLE.items()}
_SINGLE_TYPES = (bool, int, float, complex, str, bytes)
_CONTAINERS: dict[bytes, Any] = {b"l": list, b"u": tuple, b"e": set, b"z": frozenset}
_CONTAINER_TAGS = {kind: tag for tag, kind in _CONTAINERS.items()}


class Unencodable(ValueError):
    """A value of another type, too deep, or too large."""


class Garbled(ValueError):
    """Bytes that are no message."""


def encode(value: object, largest: int | None = None) -> bytes:
    """The bytes of a value.

    Raises:
        Unencodable: it holds anything but exact builtin types and numpy's numbers, is deeper than `DEEPEST`, or takes
            more bytes.
    """
    writer = _Writer(largest)
    writer.write(value, 0)
    return b"".join(writer.parts)


class _Writer:
    """Collects the bytes of values."""

    def __init__(self, largest: int | None) -> None:
        self.parts: list[bytes] = []
        self.room = largest

    def write(self, value: Any, depth: int) -> None:
        """Add a value and all that it holds."""
        kind = type(value)
        inside: Any = ()
        if value is None or kind is bool:
            part = _SINGLE_TAGS[value]
        elif kind is int:
            part = b"i%x:" % value
        elif kind is float:
            part = b"d%a:" % value
        elif kind is complex:
            part = b"c%a:%a:" % (value.real, value.imag)
        elif kind is str:
            text = value.encode("utf-8", "surrogatepass")
            part = b"s%d:%b" % (len(text), text)
        elif kind is bytes:
            part = b"b%d:%b" % (len(value), value)
        elif kind in _CONTAINER_TAGS:
            part, inside = b"%b%d:" % (_CONTAINER_TAGS[kind], len(value)), value
        elif kind is dict or (issubclass(kind, dict) and kind.__module__ == "collections"):
            part, inside = b"m%d:" % len(value), [each for pair in dict.items(value) for each in pair]
        elif _is_of_numpy(kind) and type(single := value.item()) in _SINGLE_TYPES:
            self.write(single, depth)
            return
        else:
            raise Unencodable(f"a value of type {kind.__name__}")
        if self.room is not None:
            self.room -= len(part)
            if self.room < 0:
                raise Unencodable("a value that is too large")
        if depth > DEEPEST:
            raise Unencodable(f"containers more than {DEEPEST} deep")
        self.parts.append(part)
        for each in inside:
            self.write(each, depth + 1)


def _is_of_numpy(kind: type) -> bool:
    """Whether a type is that of a single number or text of numpy, which cannot be imported here, and of no array."""
    return kind.__module__ == "numpy" and any(one.__name__ == "generic" for one in kind.__mro__)


def decode(data: bytes) -> Any:
    """The value that bytes stand for.

    Raises:
        Garbled: they stand for none.
    """
    reader = _Reader(data)
    try:
        value = reader.read(0)
    except (ValueError, TypeError, KeyError) as error:  # of int(), float(), str(), set(); an unknown tag
        raise Garbled(f"no message: {type(error).__name__}") from error
    if reader.offset != len(data):
        raise Garbled("bytes after the message")
    return value


class _Reader:
    """Reads values from bytes, one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data, self.offset = data, 0

    def read(self, depth: int) -> Any:
        """The value at this offset, and all that it holds."""
        if depth > DEEPEST:
            raise Garbled(f"containers more than {DEEPEST} deep")
        tag = self._take(1)
        if tag in _SINGLE:
            return _SINGLE[tag]
        number = self._number()
        if tag == b"i":
            return int(number, 16)
        if tag == b"d":
            return float(number)
        if tag == b"c":
            return complex(float(number), float(self._number()))
        if tag == b"s":
            return self._take(int(number)).decode("utf-8", "surrogatepass")
        if tag == b"b":
            return self._take(int(number))
        if tag == b"m":
            return {self.read(depth + 1): self.read(depth + 1) for _ in range(int(number))}
        return _CONTAINERS[tag](self.read(depth + 1) for _ in range(int(number)))

    def _number(self) -> bytes:
        start, self.offset = self.offset, self.data.index(b":", self.offset) + 1
        return self.data[start : self.offset - 1]

    def _take(self, count: int) -> bytes:
        start, self.offset = self.offset, self.offset + count
        if not 0 <= count <= len(self.data) - start:
            raise Garbled("the message ends too early")
        return self.data[start : self.offset]


def framed(data: bytes) -> bytes:
    """An encoded message as it is sent: its length first."""
    return len(data).to_bytes(8, "big") + data


def send(descriptor: int, data: bytes) -> None:
    """Write an encoded message to a file descriptor.

    Raises:
        OSError: nobody reads it anymore.
    """
    rest = memoryview(framed(data))
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def receive(descriptor: int, largest: int | None = None) -> Any:
    """Read a message from a file descriptor.

    Raises:
        EOFError: it was closed before the end of one.
        Garbled: what was written is none, or larger than allowed.
    """
    size = int.from_bytes(_exactly(descriptor, 8), "big")
    if largest is not None and size > largest:
        raise Garbled(f"a message of {size} bytes; allowed: {largest}")
    return decode(_exactly(descriptor, size))


def _exactly(descriptor: int, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = os.read(descriptor, min(size - len(data), 1 << 16))
        if not part:
            raise EOFError
        data += part
    return bytes(data)


def limit_resources(memory_bytes: int, cpu_s: int) -> None:
    """Take from this process what it does not need; a hard limit that is already lower stays.

    It can start no process or thread afterwards, and write no file.
    """
    wanted = {
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_CPU: cpu_s,
        resource.RLIMIT_FSIZE: 0,  # a file may lie in memory, which RLIMIT_AS does not count
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_SIGPENDING: QUEUED_SIGNALS,
    }
    for kind, want in wanted.items():
        hard = resource.getrlimit(kind)[1]
        allowed = want if hard == resource.RLIM_INFINITY else min(want, hard)
        resource.setrlimit(kind, (allowed, allowed))


def silence() -> None:
    """Point standard input, output and error at the null device, where floods of text cost nobody anything."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.close(null)
