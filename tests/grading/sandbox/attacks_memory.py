"""Programs that take memory which a limit on their addresses does not count, or more of it than they may.

Each would pass if it got what it asks for.
"""

from __future__ import annotations

from attacks import Attack
from attacks_kernel import NO, asks, takes

LARGE = 1 << 30  # bytes; more than an executor of the attacks allows
SPENT = ("wrong", "oom", "error", "crash")
TABLES = """libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
for n in range(45000):
    at = 0x100000000000 + (n << 30)
    if libc.mmap(at, 4096, 3, 0x100032, -1, 0) != at: raise MemoryError
    ctypes.memset(at, 1, 1)
time.sleep(0.5)"""
PIPES = """import fcntl
held = []
for n in range(1000):
    held.append(os.pipe())
    fcntl.fcntl(held[-1][1], 1031, 1 << 20)
    os.write(held[-1][1], bytes(1 << 20))"""
ZEROS = f"""import zlib
small = zlib.compress(bytes(1 << 24))
held = [zlib.decompress(small) for _ in range({LARGE >> 24})]"""

MEMORY = {
    "shared segment": Attack(
        "System V's, of 2 GB",
        takes(f"n = libc.shmget(0, ctypes.c_size_t({2 * LARGE}), 0o1600)\nif n < 0: raise OSError"),
        NO,
    ),
    "memory file": Attack(
        "memfd_create, a gigabyte",
        takes(f"fd = os.memfd_create('a')\nfor n in range({LARGE >> 20}): os.write(fd, bytes(1 << 20))"),
        NO,
    ),
    "secret memory": Attack("memfd_secret", asks("memfd_secret", "0"), NO),
    "full queues": Attack("of messages", asks("msgsnd", "0", "ctypes.create_string_buffer(99)", "8", "0"), NO),
    "inodes": Attack(
        "files of no bytes cost a kilobyte",
        takes("for n in range(10**5): open(f'/tmp/MARKER{n}', 'w').close()"),
        NO,
        tame=False,
    ),
    "folders": Attack("cost as much", takes("for n in range(10**5): os.mkdir(f'/tmp/MARKER{n}')"), NO, tame=False),
    "long links": Attack(
        "cost four", takes("for n in range(10**5): os.symlink('x' * 4000, f'/tmp/MARKER{n}')"), NO, tame=False
    ),
    "a file without a name": Attack("O_TMPFILE", takes("os.open('/tmp', os.O_TMPFILE | os.O_RDWR)"), NO, tame=False),
    "reserved file": Attack(
        "fallocate",
        takes("fd = os.open('/dev/shm/MARKER', os.O_CREAT | os.O_RDWR)\nos.posix_fallocate(fd, 0, 1 << 30)"),
        NO,
        tame=False,
    ),
    "locks": Attack(
        "a record each",
        takes(
            "import fcntl\nfile = open(os.__file__)\nfor n in range(10**6): fcntl.lockf(file, fcntl.LOCK_SH, 1, 2 * n)"
        ),
        NO,
    ),
    "pages in a pipe": Attack(
        "vmsplice of huge pages, which are then unmapped", asks("vmsplice", "1", "0", "0", "0"), NO
    ),
    "watches": Attack("inotify", asks("inotify_init1", "0"), NO),
    "shared with nobody": Attack(
        "MAP_SHARED, anonymous",
        takes(
            f"held = []\nfor n in range({LARGE >> 24}):\n    held.append(mmap.mmap(-1, 1 << 24))\n"
            "    held[-1].write(bytes(1 << 24))"
        ),
        SPENT,
    ),
    "page tables": Attack("a page in every gigabyte costs three", takes(TABLES), ("oom",)),
    "break": Attack(
        "sbrk",
        takes(f"libc.sbrk.restype = ctypes.c_long\nif libc.sbrk(ctypes.c_long({LARGE})) == -1: raise MemoryError"),
        SPENT,
    ),
    "unpacked": Attack("a megabyte of zeros was a gigabyte", takes(ZEROS), (*SPENT, "timeout")),
    "many pipes": Attack("a megabyte each", takes(PIPES), (*SPENT, "timeout")),
    "queued signals": Attack(
        "a record each",
        takes(
            "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [40])\n"
            "for n in range(10**5):\n    if libc.sigqueue(os.getpid(), 40, None): raise OSError"
        ),
        SPENT,
    ),
    "timers": Attack(
        "a record each",
        takes("for n in range(10**5):\n    if libc.timer_create(0, 0, ctypes.byref(ctypes.c_long())): raise OSError"),
        SPENT,
    ),
}
