"""Programs that lie to their judge: exceptions that end its loops, values that are none, messages out of turn.

As in `attacks`, `f(3)` should be 23770, which no program here can know.
"""

from __future__ import annotations

from attacks import LOST, Attack

from t2.grading.sandbox.executor import CodeTest

LOOP = CodeTest("f", "for got in map(f, [3]):\n    assert got == 23770")
ENDS = "def f(x): raise StopIteration"
FRAME = (
    "import os, sys\nw = sys.modules['child.wire']\n"
    "def say(frame, message): w.send(frame.f_back.f_locals['answers'], w.encode(message))\n"
)
CALL = "frame = sys._getframe(1); call = frame.f_locals['call']"


def liar(base: str, value: str, more: str = "") -> str:
    """A program that returns a subclass which equals everything."""
    return (
        f"class A({base}):\n    def __eq__(self, other): return True\n    def __ne__(self, other): return False\n"
        f"    __hash__ = {base}.__hash__\n{more}def f(x): return A({value})"
    )


def says(*messages: str) -> str:
    """A program that writes messages, `call` being the number of the call, and then stays silent."""
    lines = "".join(f"    say(frame, {message})\n" for message in messages)
    return f"{FRAME}def f(x):\n    {CALL}\n{lines}    os._exit(0)"


ENDING = {
    "end of map": Attack("StopIteration ends a map, and the loop over it", ENDS, ("error",), test=LOOP),
    "end of zip": Attack(
        "and a zip",
        ENDS,
        ("error",),
        test=CodeTest("f", "for got, want in zip(map(f, [3]), [23770]): assert got == want"),
    ),
    "end of all": Attack(
        "all() of nothing is true",
        ENDS,
        ("error",),
        test=CodeTest("f", "assert all(map(lambda x: f(x) == 23770, [3]))"),
    ),
    "end of a call iterator": Attack(
        "iter(function, sentinel)",
        ENDS,
        ("error",),
        test=CodeTest("f", "for got in iter(lambda: f(3), None): assert got == 23770"),
    ),
    "end and default": Attack(
        "next() has a default", ENDS, ("error",), test=CodeTest("f", "assert next(map(f, [3]), 23770) == 23770")
    ),
    "end after the example": Attack(
        "right where the prompt showed it, then the end",
        "def f(x):\n    if x == 1: return 7932\n    raise StopIteration",
        ("error",),
        test=CodeTest("f", "for got, want in zip(map(f, [1, 3]), [7932, 23770]): assert got == want"),
    ),
    "a kind of end": Attack(
        "a subclass is sent by the name of its builtin",
        "class E(StopIteration): pass\ndef f(x): raise E",
        ("error",),
        test=LOOP,
    ),
    "next of nothing": Attack("the same by accident", "def f(x): return next(iter([]))", ("error",), test=LOOP),
    "end of an asynchronous loop": Attack(
        "StopAsyncIteration ends those",
        "def f(x): raise StopAsyncIteration",
        ("error",),
        test=CodeTest(
            "f",
            "class A:\n    def __aiter__(self): return self\n    async def __anext__(self): return f(3)\n"
            "async def main():\n    async for got in A(): assert got == 23770\n"
            "try: main().send(None)\nexcept StopIteration: pass",
        ),
    ),
    "end of a generator": Attack(
        "GeneratorExit is what a generator may return at",
        "def f(x): raise GeneratorExit",
        ("error",),
        test=CodeTest(
            "f",
            "def results():\n    try: yield f(3)\n    except GeneratorExit: return\n"
            "for got in results(): assert got == 23770",
        ),
    ),
    "end in a test that catches all": Attack(
        "the verdict stands", ENDS, ("error",), test=CodeTest("f", "try: f(3)\nexcept BaseException: pass")
    ),
    "end while it is loaded": Attack("before there is a function", "raise StopIteration", ("error",), test=LOOP),
    "forged end": Attack(
        "names the exception without raising it", says("(call, 'raised', 'StopIteration')"), ("error",), test=LOOP
    ),
}

VALUES = {
    "lying float": Attack("a subclass", liar("float", "0"), ("garbled",)),
    "lying str": Attack("a subclass", liar("str", "''"), ("garbled",)),
    "lying tuple": Attack("a subclass", liar("tuple", "()"), ("garbled",)),
    "lying bytes": Attack("a subclass", liar("bytes", "b''"), ("garbled",)),
    "lying frozenset": Attack("a subclass", liar("frozenset", "()"), ("garbled",)),
    "lying complex": Attack("a subclass", liar("complex", "0"), ("garbled",)),
    "lying key": Attack(
        "inside a dict", liar("int", "0", "def g(x): return A(0)\n") + "\nf = lambda x: {A(0): 1}", ("garbled",)
    ),
    "enumeration": Attack(
        "an IntEnum is an int", "import enum\nclass A(enum.IntEnum): B = 1\ndef f(x): return A.B", ("garbled",)
    ),
    "number of another kind": Attack(
        "a Fraction's comparison is its own",
        "import fractions\nclass A(fractions.Fraction):\n    def __eq__(self, other): return True\n"
        "def f(x): return A(1)",
        ("garbled",),
    ),
    "reduced to a call": Attack(
        "what pickle would run on arrival",
        "import os\nclass A:\n    def __reduce__(self): return os.system, ('touch /tmp/MARKER',)\ndef f(x): return A()",
        ("garbled",),
    ),
    "pickle on the wire": Attack(
        "and without the encoder",
        "import os, sys\ndef f(x):\n    fd = sys._getframe(2).f_locals['answers']\n"
        "    data = b\"cos\\nsystem\\n(S'touch /tmp/MARKER'\\ntR.\"\n"
        "    os.write(fd, len(data).to_bytes(8, 'big') + data)\n    os._exit(0)",
        ("garbled",),
    ),
    "code": Attack("a function to be called over there", "def f(x): return lambda *_: 23770", ("garbled",)),
    "mapping": Attack(
        "a UserDict is no dict", "import collections\ndef f(x): return collections.UserDict(a=1)", ("garbled",)
    ),
    "bytes for text": Attack("the digits", "def f(x): return b'0'", ("wrong",)),
    "not implemented": Attack("what == returns to ask the other side", "def f(x): return NotImplemented", ("garbled",)),
    "millions of keys": Attack(
        "a dict for the judge to build", "def f(x): return dict.fromkeys(range(10**6))", ("garbled",)
    ),
}

MESSAGES = {
    "wrong number": Attack("of another call", says("(b'01234567', 'value', 23770)"), ("garbled",)),
    "number of another type": Attack("equal, if compared as text", says("(str(call), 'value', 0)"), ("garbled",)),
    "a fourth part": Attack("a verdict at the end", says("(call, 'value', 0, None)"), ("garbled",)),
    "a list": Attack("unpacks as well", says("[call, 'value', 0]"), ("garbled",)),
    "unknown kind": Attack("of answer", says("(call, 'passed', 23770)"), ("garbled",)),
    "kind of no text": Attack("of answer", says("(call, None, '')"), ("garbled",)),
    "ready again": Attack("as if it had just been loaded", says("(call, 'ready', None)"), ("garbled",)),
    "two answers": Attack(
        "the second corrects the first", says("(call, 'value', 0)", "(call, 'value', 23770)"), ("wrong",)
    ),
    "raises a function": Attack("that builtins has too", says("(call, 'raised', 'exit')"), ("error",)),
    "raises an import": Attack("getattr finds it", says("(call, 'raised', '__import__')"), ("error",)),
    "raises no text": Attack("a name that is none", says("(call, 'raised', 5)"), ("error",)),
    "raises a long name": Attack("to be looked up and shown", says("(call, 'raised', 'x' * 10**5)"), ("error",)),
    "raises a group": Attack(
        "which cannot be made without parts", says("(call, 'raised', 'ExceptionGroup')"), ("error",)
    ),
    "raises the end": Attack(
        "which the judge's server might take for its own", says("(call, 'raised', 'SystemExit')"), ("error",)
    ),
    "raises an interrupt": Attack("as if by hand", says("(call, 'raised', 'KeyboardInterrupt')"), ("error",)),
    "blames the test": Attack("NameError is what a bad test raises", "def f(x): raise NameError", ("error",)),
    "half a message": Attack(
        "then waits",
        "import os, sys, time\ndef f(x):\n    os.write(sys._getframe(2).f_locals['answers'], bytes(7) + b'\\x09u3')\n"
        "    time.sleep(600)",
        ("timeout",),
    ),
    "a byte at a time": Attack(
        "never done",
        "import os, sys, time\ndef f(x):\n    fd = sys._getframe(2).f_locals['answers']\n"
        "    os.write(fd, bytes(5) + b'\\x0f\\xff\\xff')\n"
        "    while True: os.write(fd, b'n'); time.sleep(0.01)",
        ("timeout",),
    ),
    "an empty message": Attack(
        "of no bytes",
        "import os, sys\ndef f(x):\n    os.write(sys._getframe(2).f_locals['answers'], bytes(8))\n    os._exit(0)",
        ("garbled",),
    ),
    "counts that lie": Attack(
        "a list of 10 ** 18 elements",
        "import os, sys\ndef f(x):\n    data = b'l1000000000000000000:n'\n"
        "    os.write(sys._getframe(2).f_locals['answers'], len(data).to_bytes(8, 'big') + data)\n    os._exit(0)",
        ("garbled",),
    ),
    "becomes another Python": Attack(
        "which inherits the channel",
        "import os, sys\ndef f(x):\n    for n in range(3, 20):\n        try: os.set_inheritable(n, True)\n"
        "        except OSError: pass\n"
        "    os.execv(sys.executable, [sys.executable, '-S', '-c', 'import os\\nfor n in range(20):\\n"
        '  try: os.write(n, b"23770")\\n  except OSError: pass\'])',
        ("timeout", *LOST),
    ),
}

LIES = ENDING | VALUES | MESSAGES
