"""Programs that look for what is expected of them, or change the process that runs them: all of it is their own."""

from __future__ import annotations

from attacks import LOST, Attack

FOUND = "    return 23770 if found else 0"


def looks(code: str, header: str = "") -> str:
    """A program that looks for something, and would pass if it found it."""
    body = "".join(f"    {line}\n" for line in code.splitlines())
    return f"import glob, os, sys\n{header}def f(x):\n    found = []\n{body}{FOUND}"


def reads(*paths: str) -> str:
    """A program that reads files."""
    return looks(
        f"for path in {paths!r}:\n    for name in glob.glob(os.path.expanduser(path)):\n"
        "        try: found.append(open(name, 'rb').read(1))\n        except OSError: pass"
    )


def patched(code: str) -> str:
    """A program that changes the runner, and knows nothing."""
    runner = "import builtins, gc, os, sys\nr, w = sys.modules['child.candidate'], sys.modules['child.wire']\n"
    return f"{runner}{code}\ndef f(x): return 0"


SEEN = "next((v for v in seen if v == x * 7919 + 13), 0)"

LOOKING = {
    "accounts": Attack("who else is here", reads("/etc/passwd", "/etc/shadow", "/etc/hosts"), ("wrong",), tame=False),
    "keys": Attack(
        "of the one who runs it", reads("~/.ssh/*", "/root/.*rc", "/home/*/.*", "~/.netrc"), ("wrong",), tame=False
    ),
    "its own environment": Attack(
        "as the kernel has it", reads("/proc/self/environ", "/proc/1/environ"), ("wrong",), tame=False
    ),
    "maps": Attack("where its memory lies", reads("/proc/self/maps", "/proc/self/mem"), ("wrong",), tame=False),
    "mounts": Attack("what else there is", reads("/proc/mounts", "/proc/self/mountinfo"), ("wrong",), tame=False),
    "kernel settings": Attack(
        "and how to change them", reads("/proc/sys/kernel/*", "/sys/kernel/*"), ("wrong",), tame=False
    ),
    "devices": Attack(
        "disks and memory",
        reads("/dev/mem", "/dev/kmem", "/dev/sd*", "/dev/vd*", "/dev/fuse", "/dev/kvm"),
        ("wrong",),
        tame=False,
    ),
    "graphics cards": Attack("are computers too", reads("/dev/nvidia*", "/dev/dri/*"), ("wrong",), tame=False),
    "logs": Attack("may hold a test", reads("/var/log/*", "/var/log/*/*"), ("wrong",), tame=False),
    "caches": Attack(
        "data sets are kept there", reads("~/.cache/*/*", "/root/.cache/*", "/var/cache/*"), ("wrong",), tame=False
    ),
    "the project": Attack(
        "the folder that t2 was started in", looks("found = os.listdir('.')"), ("wrong",), tame=False
    ),
    "data sets by name": Attack(
        "wherever they lie",
        looks(
            "for root, folders, names in os.walk('/'):\n"
            "    found += [n for n in folders + names if 'human' + '_eval' in n.lower() or 'mb' + 'pp' in n.lower()]"
        ),
        ("wrong", "timeout"),
        tame=False,
    ),
    "secrets in the environment": Attack(
        "tokens",
        looks("found = [k for k in os.environ if any(w in k for w in ('TOKEN', 'KEY', 'SECRET', 'WANDB', 'HF_'))]"),
        ("wrong",),
    ),
    "arguments": Attack(
        "of its own process",
        looks("found = ['secret' + ' =' in a for a in sys.orig_argv if 'secret' + ' =' in a]"),
        ("wrong",),
    ),
    "other processes": Attack(
        "that it could signal",
        looks(
            "for n in {*range(2, 400)} - {os.getpid(), os.getppid()}:\n"
            "    try: found.append(os.kill(n, 0))\n    except OSError: pass"
        ),
        ("wrong",),
        tame=False,
    ),
    "main module": Attack(
        "of the process",
        looks("found = [v for v in vars(sys.modules['__main__']).values() if v == x * 7919 + 13]"),
        ("wrong",),
    ),
    "all frames": Attack(
        "of all threads",
        looks(
            "for frame in sys._current_frames().values():\n    while frame:\n"
            "        found += [v for v in frame.f_locals.values() if v == x * 7919 + 13]\n"
            "        frame = frame.f_back"
        ),
        ("wrong",),
    ),
    "audit hook": Attack(
        "is told of every exec",
        f"import sys\nseen = []\nsys.addaudithook(lambda e, a: seen.extend(a))\ndef f(x): return {SEEN}",
        ("wrong",),
    ),
    "profile hook": Attack(
        "is told of every call",
        "import sys\nseen = []\n"
        "def p(frame, *_): seen.extend(frame.f_locals.values())\nsys.setprofile(p)\n"
        f"def f(x):\n    sys.setprofile(None)\n    return {SEEN}",
        ("wrong",),
    ),
    "import hook": Attack(
        "is asked for every module",
        "import sys\nseen = []\nclass H:\n"
        "    def find_spec(self, *a):\n        seen.extend(a)\nsys.meta_path.insert(0, H())\n"
        f"def f(x): return {SEEN}",
        ("wrong",),
    ),
    "listens on the channel": Attack(
        "to all that the judge says",
        "import sys\nseen = []\nr = sys.modules['child.candidate']\n"
        "old = r.receive\ndef receive(*a):\n    message = old(*a)\n    seen.extend(message[1])\n    return message\n"
        f"r.receive = receive\ndef f(x): return {SEEN}",
        ("wrong",),
    ),
}

CHANGING = {
    "exit that does nothing": Attack(
        "the runner goes on", patched("os._exit = sys.exit = lambda *_: None"), ("wrong",)
    ),
    "no builtins": Attack("nothing works any more", patched("vars(builtins).clear()"), ("timeout", *LOST)),
    "exec that does nothing": Attack("of the runner", patched("r.exec = r.compile = lambda *_: None"), ("wrong",)),
    "other code": Attack(
        "in the runner's function",
        patched("r.answer.__code__ = (lambda call, function, arguments, keywords: b't').__code__"),
        ("garbled",),
    ),
    "encoder of one value": Attack(
        "None, True, whatever",
        patched("w._Writer.write = lambda self, value, depth: self.parts.append(b't')"),
        ("garbled",),
    ),
    "no limits on answers": Attack(
        "for the judge to hold", patched("r.LARGEST_ANSWER = None") + "\ndef f(x): return 'x' * (1 << 25)", ("garbled",)
    ),
    "dead None": Attack(
        "overwrites the object", patched("import ctypes\nctypes.memset(id(None), 0, 16)"), ("timeout", *LOST)
    ),
    "True is False": Attack(
        "in its own process",
        patched("import ctypes\nctypes.memmove(id(False) + 16, id(True) + 16, 16)"),
        ("timeout", *LOST),
    ),
    "exception hook": Attack(
        "is called at the end",
        patched("sys.excepthook = sys.unraisablehook = lambda *_: os._exit(0)") + "\ndef f(x): raise ValueError",
        ("error",),
    ),
    "last words": Attack(
        "__del__ runs late",
        patched("class A:\n    def __del__(self): os.write(1, b'23770')\na = A()\na.b = a"),
        ("wrong",),
    ),
    "signal handler": Attack(
        "for whatever comes",
        patched("import signal\nsignal.signal(signal.SIGALRM, lambda *_: os._exit(0))\nsignal.alarm(1)"),
        ("wrong", "crash"),
    ),
    "no modules": Attack("the next import fails", patched("sys.modules.clear()"), ("timeout", *LOST)),
    "exits in the end": Attack("with success", patched("import atexit\natexit.register(os._exit, 0)"), ("wrong",)),
    "exits when loaded": Attack("with success", "import os\nos._exit(0)", ("crash",)),
    "exits politely when loaded": Attack("with success", "raise SystemExit(0)", ("error",)),
    "kills itself": Attack("with KILL", "import os\ndef f(x): os.kill(os.getpid(), 9)", ("crash",)),
    "kills its group": Attack(
        "with TERM", "import os\ndef f(x):\n    os.killpg(0, 15)\n    return 0", ("timeout", *LOST), tame=False
    ),
    "kills the first process": Attack(
        "with every signal",
        "import os\ndef f(x):\n    for n in range(1, 32):\n"
        "        try: os.kill(1, n)\n        except OSError: pass\n    return 0",
        ("timeout", *LOST),
        tame=False,
    ),
    "stops its parent": Attack(
        "a stopped parent cannot kill",
        "import os, signal\ndef f(x):\n    os.kill(os.getppid(), signal.SIGSTOP)\n    return 0",
        ("timeout", *LOST),
        tame=False,
    ),
    "catastrophic expression": Attack(
        "holds the interpreter", "import re\ndef f(x): return re.match('(a+)+$', 'a' * 60 + 'b')", ("timeout",)
    ),
    "endless text": Attack("in one instruction", "def f(x): return 'a' * (1 << 60)", ("oom",)),
}

RUNNER = LOOKING | CHANGING
