"""The system calls that a sandboxed sample may not make, as a filter for the kernel.

Limits per process do not hold for memory that belongs to no process (shared segments, files in memory, file systems
mounted in a namespace of one's own), so the calls that make such memory are refused, and so are a few doors into the
kernel that no solution of a programming task needs.
"""

from __future__ import annotations

import platform
import struct
import sys

# <linux/audit.h> and <asm/unistd.h>: per machine its number, clone, and the calls refused.
_MACHINES = {
    "x86_64": (
        0xC000003E,
        56,
        {
            "unshare": 272, "setns": 308, "mount": 165, "shmget": 29, "memfd_create": 319, "memfd_secret": 447,
            "ptrace": 101, "add_key": 248, "request_key": 249, "keyctl": 250, "bpf": 321, "userfaultfd": 323,
            "perf_event_open": 298, "io_uring_setup": 425,
        },
    ),
    "aarch64": (
        0xC00000B7,
        220,
        {
            "unshare": 97, "setns": 268, "mount": 40, "shmget": 194, "memfd_create": 279, "memfd_secret": 447,
            "ptrace": 117, "add_key": 217, "request_key": 218, "keyctl": 219, "bpf": 280, "userfaultfd": 282,
            "perf_event_open": 241, "io_uring_setup": 425,
        },
    ),
}  # fmt: skip
_CLONE3 = 435  # its flags lie behind a pointer, which a filter cannot follow; libc falls back to clone
_NEW_USER = 0x10000000  # CLONE_NEWUSER
_X32 = 0x40000000  # x86-64's second numbering of the same calls

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERROR, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_EPERM, _ENOSYS = 1, 38


def supported() -> bool:
    return sys.platform == "linux" and platform.machine() in _MACHINES


def program() -> bytes:
    """The filter in the kernel's form: 8 bytes per instruction (code, jump if true, jump if false, value)."""
    audit, clone, refused = _MACHINES[platform.machine()]
    tests = [(_AT_LEAST, _X32, "refuse"), *((_EQUAL, number, "refuse") for number in refused.values())]
    tests += [(_EQUAL, _CLONE3, "unknown"), (_EQUAL, clone, "clone")]
    lines: list[tuple[int, int, str | None, str | None]] = [
        (_LOAD, 4, None, None),  # the machine
        (_EQUAL, audit, None, "kill"),
        (_LOAD, 0, None, None),  # the call's number
        *((code, value, target, None) for code, value, target in tests),
        (_RETURN, _ALLOW, None, None),
        (_LOAD, 16, None, None),  # clone's flags, the low half of its first argument
        (_ANY_BIT, _NEW_USER, "refuse", None),
        (_RETURN, _ALLOW, None, None),
        (_RETURN, _ERROR | _EPERM, None, None),
        (_RETURN, _ERROR | _ENOSYS, None, None),
        (_RETURN, _KILL, None, None),
    ]
    end = len(lines)
    places = {"clone": end - 6, "refuse": end - 3, "unknown": end - 2, "kill": end - 1}
    out = b""
    for at, (code, value, yes, no) in enumerate(lines):
        jumps = [places[name] - at - 1 if name else 0 for name in (yes, no)]
        out += struct.pack("=HBBI", code, *jumps, value)
    return out
