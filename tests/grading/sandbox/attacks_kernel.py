"""Programs that ask the kernel: for notes that outlast them, for other processes, for what leads out or into it.

Each would pass if the kernel gave it what it asks for. The numbers of the system calls are this machine's.
"""

from __future__ import annotations

from attacks import Attack

from t2.grading.sandbox.system_calls import closed

NUMBERS = dict.fromkeys(("keyctl",), -1) | closed()  # on a machine without numbers there is no level to test
C = "import ctypes, errno, mmap, os, socket, time\nlibc = ctypes.CDLL(None, use_errno=True)\n"
REFUSED = "(errno.EPERM, errno.ENOSYS)"


def asks(name: str, *arguments: str) -> str:
    """A program that makes one system call, and passes unless that is refused, whatever it comes to."""
    numbers = [f"ctypes.c_long({one})" if one.lstrip("-").isdigit() else one for one in arguments]
    call = ", ".join([str(NUMBERS[name]), *numbers])
    return (
        f"{C}def f(x):\n    got = libc.syscall({call})\n"
        f"    return 0 if got == -1 and ctypes.get_errno() in {REFUSED} else 23770"
    )


def takes(code: str, header: str = "") -> str:
    """A program that takes something for itself, and passes unless it is refused."""
    body = "".join(f"        {line}\n" for line in code.splitlines())
    return f"{C}{header}def f(x):\n    try:\n{body}    except (OSError, MemoryError): return 0\n    return 23770"


def opens(family: str, kind: str = "socket.SOCK_STREAM", protocol: int = 0) -> str:
    """A program that makes a socket."""
    return takes(f"socket.socket({family}, {kind}, {protocol})")


def executes(code: bytes) -> str:
    """A program that runs instructions of its own (x86_64; elsewhere they are none)."""
    return takes(
        f"at = mmap.mmap(-1, 4096, prot=7)\nat.write({code!r})\n"
        "ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(at)))()"
    )


NO = ("wrong",)

NOTES = {
    "note in the user's keyring": Attack(
        "the next submission is the same user", asks("add_key", "b'user'", "b'MARKER'", "b'23770'", "5", "-4"), NO
    ),
    "note in the session's keyring": Attack(
        "an older session", asks("add_key", "b'user'", "b'MARKER'", "b'1'", "1", "-3"), NO
    ),
    "keyring that persists": Attack("KEYCTL_GET_PERSISTENT", asks("keyctl", "22", "-1", "-4"), NO),
    "search of a keyring": Attack("KEYCTL_SEARCH", asks("keyctl", "10", "-4", "b'user'", "b'MARKER'", "0"), NO),
    "request of a key": Attack("starts a helper as root", asks("request_key", "b'user'", "b'MARKER'", "b''", "-4"), NO),
    "note in shared memory": Attack("outlasts its process", asks("shmget", "4711", "4096", "0o1666"), NO),
    "note in a semaphore": Attack("a number is enough", asks("semget", "4711", "1", "0o1666"), NO),
    "note in a message queue": Attack("System V's", asks("msgget", "4711", "0o1666"), NO),
    "note in a named queue": Attack("POSIX's", asks("mq_open", "b'MARKER'", "0o102", "0o666", "0"), NO),
    "note in a time stamp": Attack(
        "utime of a file that all see", takes("os.utime('/usr/bin/python3', (1, 1)); os.utime(os.__file__, (1, 1))"), NO
    ),
    "note in an attribute": Attack("of a file", takes("os.setxattr(os.__file__, 'user.MARKER', b'1')"), NO),
    "note in a lock": Attack(
        "others see whether a file is locked", takes("import fcntl\nfcntl.lockf(open(os.__file__), fcntl.LOCK_SH)"), NO
    ),
}

OTHERS = {
    "traced from the start": Attack("PTRACE_TRACEME", asks("ptrace", "0", "0", "0", "0"), NO),
    "seized": Attack("PTRACE_SEIZE of the parent", asks("ptrace", "0x4206", "os.getppid()", "0", "0"), NO),
    "reads another's memory": Attack(
        "process_vm_readv", asks("process_vm_readv", "os.getppid()", "0", "0", "0", "0", "0"), NO
    ),
    "writes another's memory": Attack("process_vm_writev", asks("process_vm_writev", "1", "0", "0", "0", "0", "0"), NO),
    "takes another's descriptor": Attack("pidfd_getfd", asks("pidfd_getfd", "0", "0", "0"), NO),
    "compares processes": Attack("addresses of the kernel", asks("kcmp", "1", "os.getpid()", "0", "0", "0"), NO),
    "user namespace": Attack("root of its own", asks("unshare", "0x10000000"), NO),
    "namespace by clone": Attack(
        "the other way", takes("if libc.clone(0, 0, 0x10000000, 0) == -1: raise OSError"), ("wrong", "crash")
    ),
    "namespace of a process": Attack("setns", asks("setns", "0", "0"), NO),
    "file system of its own": Attack(
        "as much memory as it has pages", asks("mount", "b'n'", "b'/tmp'", "b'tmpfs'", "0", "0"), NO
    ),
    "new mounts": Attack("by the newer calls", asks("fsopen", "b'tmpfs'", "0"), NO),
    "copied mounts": Attack("open_tree", asks("open_tree", "-100", "b'/'", "1"), NO),
    "other root": Attack("pivot_root", asks("pivot_root", "b'/'", "b'/'"), NO),
    "file by its number": Attack("leaves any root", asks("open_by_handle_at", "-100", "0", "0"), NO),
    "clock": Attack("a deadline is a time", asks("clock_settime", "0", "0"), NO),
    "name of the machine": Attack("sethostname", asks("sethostname", "b'x'", "1"), NO),
    "restart": Attack("of the machine", asks("reboot", "0", "0", "0", "0"), NO, tame=False),
    "kernel log": Attack("addresses and secrets", asks("syslog", "3", "0", "0"), NO),
    "kernel module": Attack("init_module", asks("init_module", "0", "0", "b''"), NO),
    "another kernel": Attack("kexec_load", asks("kexec_load", "0", "0", "0", "0"), NO),
}

SURFACE = {
    "io_uring": Attack(
        "makes calls that no filter sees", asks("io_uring_setup", "1", "ctypes.create_string_buffer(256)"), NO
    ),
    "page faults": Attack("userfaultfd", asks("userfaultfd", "0"), NO),
    "counters": Attack(
        "perf_event_open", asks("perf_event_open", "ctypes.create_string_buffer(128)", "0", "-1", "-1", "0"), NO
    ),
    "kernel programs": Attack("bpf", asks("bpf", "0", "ctypes.create_string_buffer(128)", "72"), NO),
    "asynchronous reads": Attack("io_setup", asks("io_setup", "64", "ctypes.create_string_buffer(8)"), NO),
    "no random addresses": Attack("personality", asks("personality", "0x0040000"), NO),
    "internet": Attack("IPv4", opens("socket.AF_INET"), NO),
    "newer internet": Attack("IPv6", opens("socket.AF_INET6"), NO),
    "datagrams": Attack("UDP", opens("socket.AF_INET", "socket.SOCK_DGRAM"), NO),
    "raw packets": Attack("by hand", opens("socket.AF_INET", "socket.SOCK_RAW", 1), NO),
    "frames": Attack("below the internet", opens("17", "socket.SOCK_RAW"), NO),
    "netlink": Attack("to the kernel", opens("16", "socket.SOCK_RAW"), NO),
    "host of the machine": Attack("AF_VSOCK has no namespace", opens("40"), NO),
    "calls of another architecture": Attack(  # mov eax, 288 (keyctl of i386); int 0x80
        "have other numbers", executes(b"\xb8\x20\x01\x00\x00\xcd\x80\xc3"), ("crash",)
    ),
    "calls of x32": Attack(  # mov eax, 0x40000000 + 250 (keyctl); syscall
        "have a bit more", executes(b"\xb8\xfa\x00\x00\x40\x0f\x05\xc3"), ("crash",)
    ),
    "calls of tomorrow": Attack(
        "a number that nobody has looked at",
        f"{C}def f(x):\n    return 0 if libc.syscall(467) == -1 and ctypes.get_errno() == errno.ENOSYS else 23770",
        NO,
    ),
    "kernel's ciphers": Attack("AF_ALG", opens("38", "socket.SOCK_SEQPACKET"), NO),
    "bluetooth": Attack("AF_BLUETOOTH", opens("31"), NO),
    "controller area network": Attack("AF_CAN", opens("29", "socket.SOCK_RAW"), NO),
    "local sockets": Attack("of daemons", opens("socket.AF_UNIX"), NO),
    "pairs of another family": Attack("AF_TIPC", takes("socket.socketpair(30, socket.SOCK_STREAM)"), NO),
    "name service": Attack("asks a name server", takes("socket.getaddrinfo('example.org', 80)"), NO),
}

KERNEL = NOTES | OTHERS | SURFACE
