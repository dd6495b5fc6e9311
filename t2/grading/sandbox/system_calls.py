"""The system calls that a program in the sandbox may not make: a seccomp filter, as the kernel reads it.

It closes what outlasts a sandbox or leaves it (kernel keyrings, message queues), what looks into other processes, every
kind of socket but the pair within a process, namespaces and mounts of its own, what has often been a way into the
kernel (bpf, io_uring, userfaultfd, perf), and all memory that RLIMIT_AS does not count: System V segments and queues,
memory files, pages held by a pipe, notification and lock records. With those closed, and no file that can be written,
RLIMIT_AS is the limit on memory; `memory` counts the page tables, which are left.

Calls newer than `NEWEST`, and on x86_64 those of other architectures and of x32, do not exist inside. A filter is
classic BPF, eight bytes an instruction (linux/filter.h); libseccomp, which writes such programs too, is a library of
the system that a machine may lack. What it does not do: limit processes (RLIMIT_NPROC does), or hide the kernel.
"""

from __future__ import annotations

import errno
import platform
import struct

NEWEST = 452  # fchmodat2; from 424 on numbers are those of every architecture
NAMESPACES = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
LOCKS = (6, 7, 37, 38, 1024, 1026)  # F_SETLK(W), F_OFD_SETLK(W), F_SETLEASE, F_NOTIFY: kernel memory without a limit
AF_UNIX = 1
_X32 = 0x40000000

# Name: the number on x86_64 and on aarch64, None where it does not exist.
_CLOSED: dict[str, tuple[int | None, int | None]] = {
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    # Other processes.
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    # The kernel's surface.
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_setup": (206, 0),
    "io_submit": (209, 2),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "bpf": (321, 280),
    "modify_ldt": (154, None),
    "personality": (135, 92),
    "syslog": (103, 116),
    "uselib": (134, None),
    "lookup_dcookie": (212, 18),
    "remap_file_pages": (216, 234),
    "mbind": (237, 235),
    # Memory that RLIMIT_AS does not count, and what other processes could find.
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "semget": (64, 190),
    "semop": (65, 193),
    "semctl": (66, 191),
    "semtimedop": (220, 192),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "vmsplice": (278, 75),
    "splice": (275, 76),
    "tee": (276, 77),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "fanotify_init": (300, 262),
    # Network, namespaces, mounts.
    "socket": (41, 198),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    # The machine's.
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "iopl": (172, None),
    "ioperm": (173, None),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
}
_CLONE, _FCNTL, _SOCKETPAIR, _CLONE3 = (56, 220), (72, 25), (53, 199), (435, 435)
_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # linux/audit.h
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, ..., BPF_RET
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCHITECTURE, _FIRST, _SECOND = 0, 4, 16, 24  # offsets in struct seccomp_data; both machines: low half first

# For levels whose maker takes no filter; prctl(PR_SET_NO_NEW_PRIVS), then prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER).
_CLOSE = """import ctypes, struct
rules = ctypes.create_string_buffer({rules!r}, {size})
program = ctypes.create_string_buffer(struct.pack("@HP", {size} // 8, ctypes.addressof(rules)))
prctl = ctypes.CDLL(None, use_errno=True).prctl
prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
if prctl(38, 1, 0, 0, 0) or prctl(22, 2, ctypes.addressof(program), 0, 0):
    raise OSError(ctypes.get_errno(), "the kernel takes no filter of system calls (seccomp)")
del rules, program, prctl, ctypes, struct
"""


def closed(machine: str | None = None) -> dict[str, int]:
    """The names and numbers of the calls that are closed whatever their arguments; none for an unknown machine."""
    place = tuple(_AUDIT).index(machine or platform.machine()) if (machine or platform.machine()) in _AUDIT else None
    if place is None:
        return {}
    return {name: number for name, pair in _CLOSED.items() if (number := pair[place]) is not None}


def filter_program(machine: str | None = None) -> bytes | None:
    """The filter for a machine (default: this one), None where its numbers are not known."""
    machine = machine or platform.machine()
    if machine not in _AUDIT:
        return None
    place = tuple(_AUDIT).index(machine)
    refuse = _statement(_RETURN, _ERRNO | errno.EPERM)
    missing = _statement(_RETURN, _ERRNO | errno.ENOSYS)
    allow = _statement(_RETURN, _ALLOW)
    parts = [
        _statement(_LOAD, _ARCHITECTURE),
        _jump(_EQUAL, _AUDIT[machine], 1, 0) + _statement(_RETURN, _KILL),
        _statement(_LOAD, _NUMBER),
    ]
    if machine == "x86_64":
        parts.append(_jump(_AT_LEAST, _X32, 0, 1) + _statement(_RETURN, _KILL))
    parts.append(_jump(_AT_LEAST, NEWEST + 1, 0, 1) + missing)
    parts.append(_jump(_EQUAL, _CLONE3[place], 0, 1) + missing)  # its flags lie in memory; libraries take clone then
    parts += [_jump(_EQUAL, number, 0, 1) + refuse for number in closed(machine).values()]
    locks = b"".join(_jump(_EQUAL, command, 0, 1) + refuse for command in LOCKS)
    parts.append(_where(_CLONE[place], _statement(_LOAD, _FIRST) + _jump(_ANY_BIT, NAMESPACES, 0, 1) + refuse + allow))
    parts.append(_where(_SOCKETPAIR[place], _statement(_LOAD, _FIRST) + _jump(_EQUAL, AF_UNIX, 1, 0) + refuse + allow))
    parts.append(_where(_FCNTL[place], _statement(_LOAD, _SECOND) + locks + allow))
    return b"".join([*parts, allow])


def closing_source(program: bytes) -> str:
    """Python source that puts a filter on the process that runs it, for good.

    What it raises there: OSError where the kernel has no seccomp.
    """
    return _CLOSE.format(rules=program, size=len(program))


def _statement(code: int, operand: int) -> bytes:
    return struct.pack("<HBBI", code, 0, 0, operand)


def _jump(code: int, operand: int, if_so: int, if_not: int) -> bytes:
    """A comparison of what was loaded, and how many instructions are passed over."""
    return struct.pack("<HBBI", code, if_so, if_not, operand)


def _where(number: int, body: bytes) -> bytes:
    """A body that is run for one system call only; it has to return."""
    return _jump(_EQUAL, number, 0, len(body) // 8) + body
