"""Runs code that a model wrote, inside bubblewrap and nowhere else.

A sample sees a read-only /usr and Python, its own processes, no network, no home, no environment of ours, and one
small writable folder in memory. Processes, memory, time, files and output are limited. `Sandbox()` tries all this out
before it runs anything, and refuses a machine on which it does not hold.

What it cannot do: the tests of a sample run in the sample's own interpreter, so one that sets out to fake its verdict
can. It is then counted as passed; it still cannot leave.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import logging
import os
import platform
import select
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import NamedTuple

from grace.config.section import UserError

log = logging.getLogger(__name__)

INSTEAD = "or take 'humaneval' out of general.tasks"
START = 60.0  # seconds that a sandbox may take to come up: a busy machine is not the sample's fault
HOST_USERS = itertools.cycle(range(1_900_000_000, 1_900_100_000))  # numbers that no account has
ENVIRONMENT = {  # all that a sample sees of an environment
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "PATH": "/usr/bin:/bin",
    "OMP_NUM_THREADS": "1",  # a thread counts as a process
    "OPENBLAS_NUM_THREADS": "1",
}


class Limits(NamedTuple):
    """What one sample may use."""

    seconds: int = 10  # of wall time; one more of CPU time per process
    memory: int = 1 << 29  # bytes of address space, per process
    processes: int = 8  # processes and threads together
    disk: int = 1 << 25  # bytes in its folder, and in one file
    output: int = 1 << 16  # bytes that can reach us


class Verdict(NamedTuple):
    """`reason` is "passed", or why not: an exception's name, "timeout", "output", "ended without a verdict"."""

    passed: bool
    reason: str


# The first program inside. It gives up what is left of its rights, silences the sample and reports on a pipe. The
# token tells its report from anything that the sample may have written.
_RUNNER = """
import json, os, resource, sys
limits, token, user = json.loads(sys.argv[1])
program = json.loads(sys.stdin.buffer.read())
report, null = os.dup(1), os.open("/dev/null", os.O_RDWR)
for number in (0, 1, 2):
    os.dup2(null, number)
if user:
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
for name, value in limits.items():
    resource.setrlimit(getattr(resource, name), (value, value))
os.write(report, f"{token} started\\n".encode())
try:
    exec(compile(program, "sample", "exec"), {"__name__": "sample"})
    said = "passed"
except BaseException as error:
    said = type(error).__name__[:60]
os.write(report, f"{token} {said}\\n".encode())
os._exit(0)
"""

# Run once as a sample would be: it passes only where everything that it tries is refused.
_PROBE = """
import ctypes, os, socket, time
def refused(action, *arguments):
    try:
        action(*arguments)
    except OSError:
        return
    raise AssertionError(action)
assert [name for _, name in socket.if_nameindex()] == ["lo"], "network"
for path in ("/escaped", "/usr/escaped", "/dev/escaped", __import__("sys").prefix + "/escaped"):
    refused(open, path, "w")
for path in ("/etc/shadow", "/etc/passwd", "/sys", "/var", "/boot"):
    refused(os.stat, path)
assert set(os.environ) <= {*ENVIRONMENT, "PWD", "LC_CTYPE"}, "environment"
assert all(int(name) < 10 for name in os.listdir("/proc") if name.isdigit()), "processes"
assert "NoNewPrivs:\\t1" in open("/proc/self/status").read() and os.getuid() != 0, "rights"
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(0x10000000) == -1 and libc.shmget(0, 4096, 0o1600) == -1, "system calls"
try:
    for _ in range(100):
        if os.fork() == 0:
            time.sleep(60)
except OSError:
    pass
else:
    raise AssertionError("processes are not limited")
"""


class Sandbox:
    """Runs Python programs, each in a sandbox of its own.

    Raises:
        UserError: where there is no bubblewrap, or it cannot build a sandbox that holds here.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        found = shutil.which("bwrap")
        if found is None:
            raise UserError(
                "humaneval runs code that a model wrote, and only inside bubblewrap, which is not installed here; "
                f"install it (apt-get install bubblewrap, or conda-forge's bubblewrap), {INSTEAD}."
            )
        if sys.platform != "linux" or platform.machine() not in _MACHINES:
            raise UserError(
                "humaneval: the sandbox is written for Linux on x86-64 and 64-bit ARM; run it on such a machine, "
                f"{INSTEAD}."
            )
        self._bwrap = found
        options = subprocess.run([found, "--help"], capture_output=True, text=True, check=False)
        self._sized = "--size" in options.stdout + options.stderr  # since bubblewrap 0.7
        self._mounts = list(_mounts())
        reasons = []
        # To the kernel the root user stays root in a user namespace, and root's processes are not limited. So root
        # gives up its number itself, which needs no such namespace; where it may not, it may still be a container's.
        for self._drop in [True, False] if os.geteuid() == 0 else [False]:
            try:
                verdict = self.run(f"ENVIRONMENT = {list(ENVIRONMENT)}\n{_PROBE}")
            except UserError as error:
                reasons.append(str(error))
                continue
            if verdict.passed:
                return
            reasons.append(f"a probe ended with {verdict.reason}")
        raise UserError(
            f"humaneval: bubblewrap cannot build a sandbox that holds on this machine ({'; '.join(reasons)}); allow "
            f"user namespaces (kernel.unprivileged_userns_clone=1, or the container's settings), {INSTEAD}."
        )

    def run(self, program: str) -> Verdict:
        """Run one program to its end or its limit.

        Raises:
            UserError: when the sandbox itself could not be started; then nothing ran.
        """
        token = token_hex(16)
        limits = {
            "RLIMIT_CPU": self.limits.seconds + 1,  # starting up counts too; the wall clock decides
            "RLIMIT_AS": self.limits.memory,
            "RLIMIT_NPROC": self.limits.processes,
            "RLIMIT_FSIZE": self.limits.disk,
            "RLIMIT_NOFILE": 64,
            "RLIMIT_CORE": 0,
            "RLIMIT_MEMLOCK": 0,
            "RLIMIT_MSGQUEUE": 0,
        }
        user = next(HOST_USERS) if self._drop else None
        inside = [sys.executable, "-I", "-B", "-c", _RUNNER, json.dumps([limits, token, user])]
        with _sealed(json.dumps(program).encode()) as source, _sealed(_seccomp_filter()) as rules:
            command = [self._bwrap, *self._options(), "--seccomp", str(rules), "--", *inside]
            process = subprocess.Popen(
                command,
                stdin=source,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=ENVIRONMENT,
                cwd="/",
                pass_fds=[rules],
            )
        try:
            output, ended = self._listen(process, f"{token} started\n".encode())
        finally:
            process.kill()  # all of the sandbox dies with its first process, and that dies with this one
            process.wait()
            process.stdout.close()  # type: ignore[union-attr]  # it is a pipe
        reports = [line.partition(" ")[2] for line in output.decode("utf-8", "replace").split("\n") if token in line]
        if not reports:
            reason = output.decode("utf-8", "replace").strip().split("\n")[-1][:200] or ended
            raise UserError(f"the sandbox could not be started: {reason}")
        if len(reports) == 1:
            return Verdict(False, ended)
        return Verdict(reports[1] == "passed", reports[1])

    def run_all(self, programs: Iterable[str], workers: int) -> list[Verdict]:
        """Run programs, `workers` at a time; verdicts in their order. Raises: as `run`."""
        with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
            return list(pool.map(self.run, programs))

    def _listen(self, process: subprocess.Popen[bytes], started: bytes) -> tuple[bytes, str]:
        """What came out until the end or a limit, and which of them it was."""
        assert process.stdout is not None
        pipe, output, running = process.stdout.fileno(), b"", False
        poll = select.poll()
        poll.register(pipe, select.POLLIN | select.POLLHUP)
        deadline = time.monotonic() + START
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                return output, "timeout"
            block = os.read(pipe, 4096)
            if not block:
                return output, "ended without a verdict"
            output += block
            if len(output) > self.limits.output:
                return output, "output"
            if not running and started in output:
                running, deadline = True, time.monotonic() + self.limits.seconds

    def _options(self) -> list[str]:
        """Of bubblewrap."""
        options = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
        options += ["--die-with-parent", "--new-session", "--cap-drop", "ALL"]
        if self._drop:
            options += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        else:
            options += ["--unshare-user", "--uid", "65534", "--gid", "65534"]
        if self._sized:  # else there is no writable folder at all: a folder without a limit would be memory without
            options += ["--perms", "1777", "--size", str(self.limits.disk), "--tmpfs", "/tmp"]
        else:
            options += ["--dir", "/tmp"]
        # After /tmp, which may hold Python.
        options += [*self._mounts, "--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"]
        return [*options, "--remount-ro", "/", "--chdir", "/tmp"]


def _mounts() -> Iterator[str]:
    """Options that show /usr, the system's libraries and this Python, read-only.

    Raises:
        UserError: when Python is in a folder that holds the user's own files.
    """
    yield from ("--ro-bind", "/usr", "/usr")
    for path in (Path("/", name) for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32")):
        if path.is_symlink():
            yield from ("--symlink", str(path.readlink()), str(path))
        elif path.exists():
            yield from ("--ro-bind", str(path), str(path))
    yield from ("--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache")
    for prefix in {Path(sys.prefix), Path(sys.base_prefix)}:
        if prefix.is_relative_to("/usr"):
            continue
        if Path.home().is_relative_to(prefix) or Path.cwd().is_relative_to(prefix):
            raise UserError(
                f"humaneval: Python's folder {prefix} holds the home or working folder, so the sandbox would show "
                f"it; use a virtual environment in a folder of its own, {INSTEAD}."
            )
        for parent in reversed(prefix.parents[:-1]):  # bubblewrap makes parents that only root may enter
            yield from ("--dir", str(parent))
        yield from ("--ro-bind", str(prefix), str(prefix))


@contextmanager
def _sealed(content: bytes) -> Iterator[int]:
    """A descriptor of these bytes in memory that nobody can write to, whoever gets hold of it."""
    descriptor = os.memfd_create("sample", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
        seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        yield descriptor
    finally:
        os.close(descriptor)


# ---- system calls --------------------------------------------------------------------------

# Limits per process do not hold for memory that belongs to no process (shared segments, files in memory, file systems
# mounted in a namespace of one's own), so the calls that make such memory are refused, and so are a few ways into the
# kernel that no solution of a programming task needs.

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
_CLONE3 = 435  # its flags are behind a pointer, which a filter cannot follow; libc falls back to clone
_NEW_USER = 0x10000000  # CLONE_NEWUSER
_X32 = 0x40000000  # x86-64's second numbering of the same calls

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERROR, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_EPERM, _ENOSYS = 1, 38


def _seccomp_filter() -> bytes:
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
