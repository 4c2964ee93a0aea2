"""Jobs without a GPU start from one process, so that torch and transformers are imported once a workflow.

Start-up would be a fifth of the demo's computing (docs/measurements.md). The Snakefile starts this process, which
waits; the command `grace.gpus`, in which jobs begin, hands a job over, and this process forks. The job ends with that
command, the command with the job and its exit code. Only a process of one thread can be forked safely, so this one
imports nothing that starts another, and looks. Where it cannot serve (more threads, a GPU, another environment, as of
--use-conda, another node), jobs start by themselves. With GRACE_WARM=no all do.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

VARIABLE = "GRACE_WARM"  # the socket, or "no"
# mteb starts threads; of what it imports, the rest takes a second.
IMPORTS = (
    "grace.training.train",
    "peft",
    "sentence_transformers",
    "requests",
    "sklearn.cluster",
    "sklearn.linear_model",
)
# These need little of that: they take what is there, and do not wait for it.
LIGHT = ("grace.data.", "grace.evaluation.tasks", "grace.report.")
# No GPU is looked for, and no thread is started by linear algebra or by arrow's allocator.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
PATIENCE = 10.0  # seconds that a command has to say what it wants
READY = 0.3  # seconds in which the process takes up a light job, or is busy with its imports
EARLY = 10.0  # seconds after which an idle core is used to import before the first job asks
_held: list[subprocess.Popen[bytes]] = []


def start() -> None:
    """Start the process beside this one, with which it ends."""
    if os.environ.get(VARIABLE) or sys.platform != "linux":
        return
    path = Path(tempfile.mkdtemp(prefix="grace-")) / "jobs"  # in a folder of this user's alone
    command = [sys.executable, "-m", "grace.warm", str(path)]
    code = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]  # the project need not be installed
    environment = os.environ | ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(filter(None, code))}
    _held.append(subprocess.Popen(command, stdin=subprocess.PIPE, env=environment))
    os.environ[VARIABLE] = str(path)


def hand_over(command: list[str]) -> None:
    """Let the process run `command` and exit as it does; returns where the command is to run here."""
    path = os.environ.get(VARIABLE, "no")
    if path == "no" or command[:2] != ["python", "-m"]:
        return
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.connect(path)
            server.settimeout(READY if command[2].startswith(LIGHT) else None)
            server.recv(1)
            server.settimeout(None)
            text = json.dumps([sys.prefix, str(Path.cwd()), command[2:], dict(os.environ)]).encode()
            socket.send_fds(server, [struct.pack("!q", len(text))], [0, 1, 2])
            server.sendall(text)
            if server.recv(1) != b"y":
                return
        except OSError:
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: server.sendall(bytes([number])))
        answer = server.recv(4)
    if not answer:
        sys.exit("error: the process that the jobs start from (grace.warm) was killed; run snakemake again.")
    code = struct.unpack("!i", answer)[0]
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


class Server:
    """Waits for jobs at the socket `path`, until standard input ends and all of them have.

    Args:
        imports: modules, on the first job.
        early: seconds from which on they are imported without one, once a core is idle.
    """

    def __init__(self, path: Path, imports: tuple[str, ...] = IMPORTS, early: float = EARLY) -> None:
        self.path, self.imports, self.early = path, imports, time.monotonic() + early
        self.jobs: dict[int, socket.socket] = {}  # process -> its command
        self.gone: set[int] = set()  # those whose command has ended before them
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(64)
        self.woken, wake = socket.socketpair()
        for end in (self.woken, wake):
            end.setblocking(False)
        self.wake = wake

    def serve(self) -> list[str] | None:
        """Returns a job's module and arguments in the process that is to run it, None in this one at its end."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's goes to the commands too
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.wake.fileno())
        wanted = True
        idle = idle_seconds()
        while wanted or self.jobs:
            commands = {self.jobs[pid]: pid for pid in self.jobs.keys() - self.gone}
            open_ends: list[Any] = [self.woken, *commands, *([sys.stdin, self.listener] if wanted else [])]
            found = select.select(open_ends, [], [], 1.0 if self.imports and wanted else None)[0]
            before, idle = idle, idle_seconds()
            if not found and time.monotonic() > self.early and idle - before > 0.5:
                self._import()
            for ready in found:
                if ready is sys.stdin:  # it ends with Snakemake
                    self.listener.close()
                    wanted = False
                elif ready is self.listener and wanted:
                    if job := self._take(self.listener.accept()[0]):
                        return job
                elif ready is self.woken:
                    self.woken.recv(4096)
                elif pid := commands.get(ready):
                    self._signal(pid, ready)
            self._reap()
        shutil.rmtree(self.path.parent, ignore_errors=True)
        return None

    def _take(self, command: socket.socket) -> list[str] | None:
        try:
            command.settimeout(PATIENCE)
            command.sendall(b"r")  # before the command has said anything: one that has gone meanwhile asks for nothing
            head, files, _, _ = socket.recv_fds(command, 8, 3)
            text = b""
            while len(text) < struct.unpack("!q", head)[0]:
                if not (part := command.recv(1 << 20)):
                    raise OSError
                text += part
        except (OSError, struct.error):
            command.close()
            return None
        prefix, folder, job, environment = json.loads(text)
        mine = prefix == sys.prefix and folder == str(Path.cwd())
        mine = mine and not (self.imports and job[0].startswith(LIGHT))
        if mine:
            self._import()
        mine = mine and len(list(Path("/proc/self/task").iterdir())) == 1
        pid = os.fork() if mine else -1
        if pid == 0:
            command.close()
            self._become(files, environment)
            return job
        for file in files:
            os.close(file)
        if not mine:
            command.close()
            return None
        with suppress(OSError):  # whichever of the two is first
            os.setpgid(pid, pid)
        with suppress(OSError):  # it has gone, which `serve` sees
            command.sendall(b"y")
        self.jobs[pid] = command
        return None

    def _import(self) -> None:
        gc.disable()  # as in `stage.imports`
        for name in self.imports:
            importlib.import_module(name)
        gc.enable()
        gc.freeze()
        self.imports = ()

    def _become(self, files: list[int], environment: dict[str, str]) -> None:
        """Make a job's process of this one."""
        os.setpgid(0, 0)  # so that signals reach what it starts too
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG of linux/prctl.h
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for end in (self.listener, self.woken, self.wake, *self.jobs.values()):
            end.close()
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        os.environ.clear()
        os.environ.update(environment)
        for name in ("random", "numpy.random"):  # else every job would draw the same
            importlib.import_module(name).seed()
        threads = int(environment.get("OMP_NUM_THREADS", 1))
        if threads > 1:  # of what was imported with one
            importlib.import_module("threadpoolctl").threadpool_limits(threads)

    def _signal(self, pid: int, command: socket.socket) -> None:
        """Pass on the signals that a job's command has got, or that of which it was killed."""
        signals = b""
        with suppress(OSError):
            signals = command.recv(64)
        if not signals:
            self.gone.add(pid)
        for number in signals or [signal.SIGKILL]:
            with suppress(ProcessLookupError):
                os.killpg(pid, number)

    def _reap(self) -> None:
        for pid in list(self.jobs):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                self.gone.discard(pid)
                with self.jobs.pop(pid) as command, suppress(OSError):
                    command.sendall(struct.pack("!i", os.waitstatus_to_exitcode(status)))


def idle_seconds() -> float:
    """Of all cores together, since the machine started."""
    return int(Path("/proc/stat").read_text().split(maxsplit=5)[4]) / os.sysconf("SC_CLK_TCK")


def main(server: Server) -> None:
    if job := server.serve():
        sys.argv = job
        importlib.import_module(job[0]).main()
        # What Python does at its end, without freeing every object, which takes most of a second.
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


if __name__ == "__main__":
    main(Server(Path(sys.argv[1])))
