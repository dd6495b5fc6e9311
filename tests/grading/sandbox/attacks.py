"""Programs that try to pass without being right: by values that lie, by finding the test, by forging the verdict.

`f(3)` should be 23770, which no program here can know: it appears in the test alone. MARKER stands for a word that is
in nothing else on the machine, PACKAGE for a file that is installed on it. What hurts the machine is in `raids`.
"""

from __future__ import annotations

from dataclasses import dataclass

from t2.grading.sandbox.executor import CodeTest

TEST = CodeTest("f", "assert f(3) == 23770", "secret = 23770\n")
LOST = ("wrong", "error", "garbled", "crash", "oom")  # any end but passing, or waiting for the clock


@dataclass(frozen=True)
class Attack:
    """A program, why somebody would write it, and the reasons it may fail for."""

    why: str
    program: str
    reasons: tuple[str, ...] = LOST
    tame: bool = True  # nothing is lost if it is run without isolation, as an ordinary user
    test: CodeTest = TEST


ON_THE_VERDICT = {
    # Values that lie.
    "equal to everything": Attack(
        "an object whose __eq__ says yes",
        "class A:\n    def __eq__(self, other): return True\ndef f(x): return A()",
        ("garbled",),
    ),
    "lying int": Attack(
        "a subclass passes isinstance, and its __eq__ is asked first",
        "class A(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\ndef f(x): return A(0)",
        ("garbled",),
    ),
    "lying list inside a list": Attack(
        "checking only the outermost type would let it through",
        "class A(list):\n    def __eq__(self, other): return True\ndef f(x): return [A()]",
        ("garbled",),
    ),
    "false class": Attack(
        "__class__ is what isinstance believes",
        "class A:\n    __class__ = int\n    def __eq__(self, other): return True\ndef f(x): return A()",
        ("garbled",),
    ),
    "dict of collections": Attack(
        "the one family of subclasses that is sent may not bring its methods",
        "import collections\nclass A(collections.Counter):\n    __module__ = 'collections'\n"
        "    def __eq__(self, other): return True\n    def items(self): return [(1, 23770)]\ndef f(x): return A()",
        ("wrong",),
    ),
    "metaclass": Attack(
        "the type itself answers questions about the type",
        "class M(type):\n    def __eq__(self, other): return True\n    def __hash__(self): return hash(int)\n"
        "class A(metaclass=M): pass\ndef f(x): return A()",
    ),
    "list that holds itself": Attack(
        "endless to encode", "def f(x):\n    a = []\n    a.append(a)\n    return a", ("garbled",)
    ),
    "deep nesting": Attack(
        "overflows the stack of whoever decodes it",
        "def f(x):\n    a = []\n    for _ in range(10**5): a = [a]\n    return a",
        ("garbled",),
    ),
    "exponential sharing": Attack(
        "small here, 2 ** 60 values once written out",
        "def f(x):\n    a = [0]\n    for _ in range(60): a = [a, a]\n    return a",
        ("garbled",),
    ),
    "huge result": Attack("10 MB for the judge to hold", "def f(x): return 'x' * 10**7", ("garbled",)),
    "huge int": Attack("whose decimal digits take hours", "def f(x): return 1 << (1 << 26)", ("garbled",)),
    "lazy result": Attack("a generator would run in the judge", "def f(x):\n    yield 23770", ("garbled",)),
    "error object": Attack("returned instead of raised", "def f(x): return RecursionError()", ("garbled",)),
    "nan": Attack("equal to nothing, so `!=` tests would pass", "def f(x): return float('nan')", ("wrong",)),
    # Reading what is expected.
    "frames and garbage": Attack(
        "walks frames and all objects for the test",
        "import sys, gc\ndef f(x):\n    frame, found = sys._getframe(), []\n"
        "    while frame:\n        found += [v for v in [*frame.f_locals.values(), *frame.f_globals.values()]]\n"
        "        frame = frame.f_back\n"
        "    for o in gc.get_objects():\n"
        "        found += o.values() if type(o) is dict else o if type(o) is list else []\n"
        "    texts = [v for v in found if type(v) is str and 'assert' + ' f(' in v]\n"
        "    return eval(texts[0].split('==')[1]) if texts else next((v for v in found if v == x * 7919 + 13), 0)",
        ("wrong",),
    ),
    "tracing": Attack(
        "a trace function sees the locals of the runner",
        "import sys\nseen = []\ndef t(frame, *_):\n    seen.extend(frame.f_locals.values())\n    return t\n"
        "sys.settrace(t)\nsys._getframe(1).f_trace = t\n"
        "def f(x):\n    sys.settrace(None)\n    return next((v for v in seen if v == x * 7919 + 13), 0)",
        ("wrong",),
    ),
    "command lines": Attack(
        "the test may stand in some process's arguments",
        "import glob\ndef f(x):\n    for name in glob.glob('/proc/[0-9]*/cmdline'):\n"
        "        try: text = open(name).read()\n        except OSError: continue\n"
        "        if 'secret' + ' =' in text: return 23000 + 770\n    return 0",
        ("wrong",),
    ),
    "memory of the judge": Attack(
        "/proc/PID/mem of every process that can be opened",
        "import os\ndef f(x):\n    for pid in filter(str.isdigit, os.listdir('/proc')):\n"
        "        if int(pid) != os.getpid(): open(f'/proc/{pid}/mem', 'rb').read(1)\n    return 0",
        ("error", "wrong"),
    ),
    "answers in an installed package": Attack(
        "benchmarks come as packages, solutions included",
        "import glob, os, sys\ndef f(x):\n    found = glob.glob(sys.base_prefix + '/lib*/python*/*-packages/*')\n"
        "    return 23770 if found or os.path.exists('PACKAGE') else 0",
        ("wrong",),
        tame=False,
    ),
    # Forging the verdict.
    "exit 0": Attack("success, to whoever trusts exit codes", "import os\ndef f(x): os._exit(0)", ("crash",)),
    "sys.exit": Attack("the same, politely", "import sys\ndef f(x): sys.exit(0)", ("error",)),
    "exit hook": Attack(
        "runs after the last answer",
        "import atexit, os\natexit.register(os.system, 'touch /tmp/MARKER')\ndef f(x): raise SystemExit",
        ("error",),
    ),
    "garbage everywhere": Attack(
        "one of the descriptors leads to the judge",
        "import os\ndef f(x):\n    for n in range(101):\n        try: os.write(n, b'passed\\n23770')\n"
        "        except OSError: pass\n    return 0",
        ("garbled", "crash"),
    ),
    "forged start": Attack(
        "says that it is ready, and answers, before it was asked; with the number of the call it finds in a frame",
        "import os, sys\nframe = sys._getframe(2)\nw = sys.modules['child.wire']\n"
        "call, fd = frame.f_locals['call'], frame.f_locals['answers']\n"
        "for m in (('ready', None), ('value', 23770), ('passed', None)): w.send(fd, w.encode((call, *m)))\n"
        "os._exit(0)",
        ("garbled",),
    ),
    "answers in advance": Attack(
        "answers without knowing the random number of the call",
        "import sys\nw = sys.modules['child.wire']\n"
        "def f(x):\n    for n in range(3, 60):\n        try: w.send(n, w.encode((b'00000000', 'value', 23770)))\n"
        "        except OSError: pass",
        ("garbled", "crash"),
    ),
    "forged verdict": Attack(
        "answers a call with the judge's own words",
        "import sys\nr, w = sys.modules['child.candidate'], sys.modules['child.wire']\n"
        "r.answer = lambda call, *_: w.encode((call, None, ''))\ndef f(x): return 0",
        ("garbled",),
    ),
    "patched runner": Attack(
        "whatever is encoded claims to be a value",
        "import sys\nr = sys.modules['child.candidate']\nr.encode = lambda *_: b'u3:ns5:valuet'\ndef f(x): return 0",
        ("garbled",),
    ),
    "a huge frame": Attack(
        "makes the judge allocate what a length says",
        "import sys, os\nfd = sys._getframe(2).f_locals['answers']\nos.write(fd, b'\\xff' * 8)\nos._exit(0)",
        ("garbled",),
    ),
    "collisions": Attack(
        "a set whose 30000 elements have one hash costs the judge half a billion comparisons",
        "import os, sys\nw = sys.modules['child.wire']\ndef f(x):\n    frame = sys._getframe(1)\n"
        "    same = b''.join(b'i%x:' % (n * (2**61 - 1)) for n in range(30000))\n"
        "    message = b'u3:' + w.encode(frame.f_locals['call']) + w.encode('value') + b'e30000:' + same\n"
        "    w.send(frame.f_back.f_locals['answers'], message)\n    os.read(0, 1)\n    os._exit(0)",
        ("timeout", "wrong"),
    ),
    "impostor": Attack(
        "an exception that calls itself AssertionError, or what the judge stops at",
        "class Stopped(BaseException): pass\nStopped.__module__ = 'builtins'\ndef f(x): raise Stopped",
        ("error",),
    ),
    "hostile exception": Attack(
        "whose type fails when it is looked at",
        "class M(type):\n    @property\n    def __mro__(cls): raise KeyboardInterrupt\n"
        "class E(Exception, metaclass=M): pass\ndef f(x): raise E",
    ),
    "builtins": Attack(
        "replaces what a careless checker calls",
        "import builtins\nbuiltins.isinstance = lambda *_: True\nbuiltins.type = lambda *_: int\n"
        "builtins.len = lambda _: 0\nbuiltins.open = print\nbuiltins.AssertionError = ValueError\ndef f(x): return 0",
    ),
    "integers by ctypes": Attack(
        "makes all ints equal, in its own process",
        "import ctypes\nt = ctypes.cast(id(int), ctypes.POINTER(ctypes.c_void_p))\n"
        "C = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object, ctypes.py_object, ctypes.c_int)\n"
        "yes = C(lambda *_: True)\nt[25] = ctypes.cast(yes, ctypes.c_void_p).value\ndef f(x): return 0",
        ("timeout", *LOST),
    ),
    "stolen streams": Attack(
        "replaces sys.stdout and its friends",
        "import sys\nsys.stdout = sys.stderr = sys.stdin = None\ndef f(x): return 0",
    ),
    "closed descriptors": Attack(
        "closes the channel to the judge", "import os\ndef f(x):\n    os.closerange(0, 256)\n    return 0", ("crash",)
    ),
}
