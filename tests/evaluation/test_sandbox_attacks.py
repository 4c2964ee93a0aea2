"""Programs that try to leave the sandbox: each must fail, leave nothing behind, and not disturb the next one."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from grace.evaluation.sandbox import Limits, Sandbox, Verdict
from tests.evaluation.fakes import needs_bubblewrap

ROOT = Path(__file__).parents[2]


def left_behind(mark: str) -> list[int]:
    """Processes of this machine whose command line holds `mark`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def holds(sandbox: Sandbox, program: str) -> Verdict:
    """The verdict on a program that must fail, after which the sandbox still works and nothing of it is left."""
    verdict = sandbox.run(program)
    assert not verdict.passed, verdict
    assert sandbox.run("assert sum(range(10)) == 45") == (True, "passed")
    deadline = time.monotonic() + 20  # the kernel ends a namespace's processes in its own time
    while left := left_behind("RLIMIT_NPROC"):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
    return verdict


@needs_bubblewrap
def test_a_secret_file_cannot_be_read(sandbox, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("the secret")
    secret.chmod(0o644)
    for path in (secret, "/etc/shadow", "/etc/passwd", Path.home() / ".bashrc", ROOT / "config.yaml"):
        holds(sandbox, f"open({str(path)!r}).read()")
    assert holds(sandbox, f"open({str(secret)!r})").reason == "FileNotFoundError"
    assert holds(sandbox, f"open('/proc/1/root' + {str(secret)!r})").reason in ("FileNotFoundError", "PermissionError")


@needs_bubblewrap
def test_our_environment_cannot_be_read(sandbox, monkeypatch):
    monkeypatch.setenv("A_TOKEN", "sesame")
    found = (
        "import os, glob\n"
        "text = str(dict(os.environ))\n"
        "for path in glob.glob('/proc/[0-9]*/environ') + glob.glob('/proc/[0-9]*/cmdline'):\n"
        "    try: text += open(path).read()\n"
        "    except OSError: pass\n"
        "assert 'sesame' in text"
    )
    holds(sandbox, found)
    holds(sandbox, f"import os; os.stat('/proc/{os.getpid()}/environ')")


@needs_bubblewrap
def test_no_socket_reaches_anything(sandbox, tmp_path):
    reached = []
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind(str(tmp_path / "socket"))
        local.listen()

        def wait(listening: socket.socket) -> None:
            with contextlib.suppress(OSError):
                reached.append(listening.accept())

        for listening in (server, local):
            listening.settimeout(4)
            threading.Thread(target=wait, args=(listening,), daemon=True).start()
        port = server.getsockname()[1]
        for program in (
            f"import socket; socket.create_connection(('127.0.0.1', {port}), 1)",
            "import socket; socket.create_connection(('192.0.2.1', 80), 1)",
            "import socket; socket.getaddrinfo('example.org', 80)",
            f"import socket; socket.socket(socket.AF_UNIX).connect({str(tmp_path / 'socket')!r})",
            "import socket; socket.socket(socket.AF_UNIX).connect('\\0' + 'any')",
        ):
            holds(sandbox, program)
        with socket.create_connection(("127.0.0.1", port)):  # the server does answer, from outside
            time.sleep(0.1)
    assert len(reached) == 1


@needs_bubblewrap
def test_forking_without_end(sandbox):
    before = time.monotonic()
    assert holds(sandbox, "import os\nwhile True: os.fork()").reason == "BlockingIOError"
    bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    assert holds(sandbox, bomb).reason == "timeout"
    assert time.monotonic() - before < 30
    many = "import threading, time\nfor _ in range(99): threading.Thread(target=time.sleep, args=(9,)).start()"
    assert holds(sandbox, many).reason == "RuntimeError"


@needs_bubblewrap
def test_how_many_processes_there_can_be(sandbox):
    count = (
        "import os, time\nmade = 0\n"
        "try:\n"
        "    while made < 99:\n"
        "        if os.fork() == 0: time.sleep(9)\n"
        "        made += 1\n"
        "except OSError: pass\n"
        f"assert 3 <= made < {sandbox.limits.processes}, made"
    )
    assert sandbox.run(count) == (True, "passed")


@needs_bubblewrap
def test_filling_memory():
    sandbox = Sandbox(Limits(seconds=9, memory=1 << 28))  # time enough to reach the limit on a busy machine
    assert holds(sandbox, "held = []\nwhile True: held.append(bytearray(1 << 24))").reason == "MemoryError"
    assert holds(sandbox, f"bytearray({sandbox.limits.memory})").reason == "MemoryError"
    # Memory that belongs to no process: a file in memory, a shared segment, a file system of one's own.
    assert holds(sandbox, "import os; os.memfd_create('x')").reason == "PermissionError"
    calls = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
    holds(sandbox, calls + "assert libc.shmget(0, 1 << 20, 0o1600) >= 0")
    holds(sandbox, calls + "assert libc.unshare(0x10000000 | 0x20000) == 0")
    holds(sandbox, calls + "assert libc.mount(b'x', b'/tmp', b'tmpfs', 0, None) == 0")
    # clone with a new user namespace, by the number of the call.
    number = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
    holds(sandbox, calls + f"assert libc.syscall({number}, 0x10000000 | 17, 0, 0, 0, 0) >= 0")


@needs_bubblewrap
def test_writing_outside(sandbox, tmp_path):
    target = tmp_path / "escaped"
    tmp_path.chmod(0o777)
    for path in (target, "/escaped", "/usr/escaped", "/dev/escaped", "/dev/shm/escaped", Path(sys.prefix) / "escaped"):
        holds(sandbox, f"open({str(path)!r}, 'w').write('x')")
        assert not Path(path).exists()
    holds(sandbox, "import os; os.mkdir('/folder')")
    holds(sandbox, "import os; os.remove('/usr/bin/env')")
    holds(sandbox, "open('/proc/sys/kernel/hostname', 'w').write('x')")
    holds(sandbox, "import os; os.fchmod(0, 0o777); open('/proc/self/fd/0', 'wb').write(b'x'); raise ValueError")


@needs_bubblewrap
def test_filling_the_disk(sandbox):
    assert holds(sandbox, "open('/tmp/big', 'wb').write(bytes(1 << 26))").reason == "OSError"
    many = "for i in range(9999): open(f'/tmp/{i}', 'wb').write(bytes(1 << 20))"
    assert holds(sandbox, many).reason == "OSError"


@needs_bubblewrap
def test_running_for_ever(sandbox):
    before = time.monotonic()
    assert holds(sandbox, "while True: pass").reason in ("timeout", "ended without a verdict")
    assert holds(sandbox, "import time; time.sleep(999)").reason == "timeout"
    ignoring = "import signal, time\nfor n in (2, 15, 24): signal.signal(n, signal.SIG_IGN)\nwhile True: time.sleep(1)"
    assert holds(sandbox, ignoring).reason == "timeout"
    assert time.monotonic() - before < 20


@needs_bubblewrap
def test_printing_without_end(sandbox):
    assert holds(sandbox, "while True: print('x' * 4096)").reason == "timeout"
    # To every descriptor that it finds, the one of the verdict among them.
    everywhere = (
        "import os\nwhile True:\n    for n in range(64):\n        try: os.write(n, b'x' * 4096)\n"
        "        except OSError: pass"
    )
    assert holds(sandbox, everywhere).reason == "output"


@needs_bubblewrap
def test_killing(sandbox):
    for program in (
        "import os; os.kill(os.getppid(), 9); raise ValueError",
        "import os; os.kill(1, 9); raise ValueError",
        f"import os; os.kill({os.getpid()}, 9)",
        "import os; os.kill(-1, 9); raise ValueError",
    ):
        holds(sandbox, program)
    # A child that outlives the sample.
    orphan = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(99)\nraise ValueError"
    assert holds(sandbox, orphan).reason == "ValueError"


def as_user(python: str, script: str, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run a script as user 65534, with this project and the packages of this Python."""
    site = [path for path in sys.path if path.endswith("site-packages")]
    environment = {"PATH": os.environ["PATH"], "HOME": "/nowhere", "PYTHONPATH": os.pathsep.join([str(ROOT), *site])}
    return subprocess.run(
        [python, "-B", "-c", script], input=text, text=True, capture_output=True, cwd="/", env=environment,
        user=65534, group=65534, extra_groups=[],
    )  # fmt: skip


def python_of_a_user() -> str | None:
    """A Python that a plain user can start, and that can import what the sandbox needs."""
    for python in (sys.executable, f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"):
        with contextlib.suppress(OSError):
            if as_user(python, "import grace.evaluation.sandbox").returncode == 0:
                return python
    return None


@needs_bubblewrap
@pytest.mark.skipif(os.geteuid() != 0, reason="the tests above are a plain user's already")
def test_it_holds_for_a_plain_user_too():
    python = python_of_a_user()
    if python is None:
        pytest.skip("no Python here that a plain user can start")
    script = (
        "import json, os\nfrom grace.evaluation.sandbox import Limits, Sandbox\nassert os.geteuid() == 65534\n"
        "box = Sandbox(Limits(seconds=2))\nprint(json.dumps([box.run(p) for p in json.loads(input())]))"
    )
    reasons = {
        "assert True": "passed",
        "import os\nwhile True: os.fork()": "BlockingIOError",
        "import socket; socket.create_connection(('192.0.2.1', 9), 1)": "OSError",
        "open('/etc/shadow')": "FileNotFoundError",
        f"open({str(ROOT / 'config.yaml')!r})": "FileNotFoundError",
        "open('/escaped', 'w')": "OSError",
        "import os; os.memfd_create('x')": "PermissionError",
        "bytearray(1 << 30)": "MemoryError",
        "open('/tmp/big', 'wb').write(bytes(1 << 26))": "OSError",
        "import time; time.sleep(99)": "timeout",
    }
    run = as_user(python, script, json.dumps(list(reasons)))
    if "allow user namespaces" in run.stderr:
        pytest.skip("this machine forbids user namespaces to plain users")
    assert run.returncode == 0, run.stderr
    assert dict(zip(reasons, (reason for _, reason in json.loads(run.stdout)), strict=True)) == reasons
