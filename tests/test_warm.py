"""Jobs from one process: real processes, commands and sockets, with jobs of a few lines."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from grace import warm

JOB = """
import json, os, signal, sys, threading, time

def main():
    what = sys.argv[1]
    if what == "tell":
        import random
        told = {"arguments": sys.argv[2:], "parent": os.getppid(), "warm": "marked" in sys.modules, "dice": random.random()}
        if "numpy" in sys.modules:
            import threadpoolctl
            told["threads"] = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
        print(json.dumps(told | {"folder": os.getcwd(), "mine": os.environ.get("MINE"), "gpus": os.environ["CUDA_VISIBLE_DEVICES"]}))
        print("aside", file=sys.stderr)
    elif what == "end":
        import atexit, tempfile
        sys.kept = tempfile.TemporaryDirectory(dir=".", prefix="kept-")  # as long as the process
        atexit.register(lambda: print("at its end"))
        threading.Thread(target=lambda: (time.sleep(0.5), print("a thread's"))).start()
        print("its own")
    elif what == "exit":
        sys.exit(int(sys.argv[2]) if sys.argv[2].isdigit() else sys.argv[2])
    elif what == "raise":
        raise ValueError("broken")
    elif what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    else:
        if what == "ready":
            signal.signal(signal.SIGINT, lambda *_: sys.exit(7))
        print(os.getpid(), flush=True)
        time.sleep(60)

if __name__ == "__main__":
    main()
"""  # noqa: E501
SERVER = "import sys, time, pathlib; from grace import warm; warm.idle_seconds = lambda: {}; warm.LIGHT = ({!r},); "
SERVER += "warm.main(warm.Server(pathlib.Path(sys.argv[1]), imports=('marked',), early=0.5))"


class Place:
    """A folder with a job in it, and a process that jobs start from."""

    def __init__(self, folder: Path, marked: str = "", idle: str = "0", light: str = "-") -> None:
        self.folder, self.socket = folder, folder / "at" / "jobs"
        self.socket.parent.mkdir()
        (folder / "job.py").write_text(JOB)
        (folder / "marked.py").write_text(marked)
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER.format(idle, light), self.socket],
            cwd=folder, env=os.environ | warm.ENVIRONMENT, stdin=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        wait(self.socket.exists)

    def start(self, *arguments: str, count: int = 0, module: str = "job", **more: str) -> subprocess.Popen:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # `python` is this one
        environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1", "GRACE_WARM": str(self.socket)} | more
        command = [sys.executable, "-m", "grace.gpus", str(count), "--", "python", "-m", module, *arguments]
        return subprocess.Popen(
            command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def tell(self, *arguments: str, **more: str) -> dict:
        said, aside = (job := self.start("tell", *arguments, **more)).communicate(timeout=60)
        assert (job.returncode, aside) == (0, "aside\n"), aside
        return json.loads(said)


def wait(until, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end
        time.sleep(0.02)


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter while it ends: opened, and gone when read
        return False


@pytest.fixture
def place(tmp_path):
    made = Place(tmp_path)
    yield made
    made.server.kill()
    made.server.wait()
    made.server.stderr.close()


def test_a_job_gets_what_its_command_was_given(place):
    told = place.tell("a b", "", "ü", MINE="own")
    assert told.pop("dice") != place.tell()["dice"]  # not the same dice for all
    del told["threads"]
    assert told == {
        "arguments": ["a b", "", "ü"], "parent": place.server.pid, "warm": True,
        "folder": str(place.folder), "mine": "own", "gpus": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    "arguments, code, said",
    [(("exit", "0"), 0, ""), (("exit", "3"), 3, ""), (("exit", "no"), 1, "no\n"), (("die",), -signal.SIGKILL, "")],
)
def test_the_command_ends_as_the_job_does(place, arguments, code, said):
    job = place.start(*arguments)
    assert job.communicate(timeout=60)[1] == said and job.returncode == code


def test_what_is_left_for_the_end_is_done(place):
    job = place.start("end")
    assert job.communicate(timeout=60)[0].split("\n") == ["its own", "a thread's", "at its end", ""]
    assert job.returncode == 0 and not list(place.folder.glob("kept-*"))


def test_an_exception_is_shown(place):
    job = place.start("raise")
    assert job.communicate(timeout=60)[1].endswith("ValueError: broken\n") and job.returncode == 1


@pytest.mark.parametrize("what", ["sleep", "ready"])
def test_a_job_is_killed_with_its_command(place, what):
    jobs = [place.start(what), place.start("sleep")]
    pids = [int(job.stdout.readline()) for job in jobs]
    jobs[0].kill()
    wait(lambda: not runs(pids[0]))
    assert runs(pids[1]) and place.tell()["warm"]  # nothing else is harmed
    jobs[1].kill()


@pytest.mark.parametrize("what, number, code", [
    ("sleep", signal.SIGINT, -signal.SIGINT), ("sleep", signal.SIGTERM, -signal.SIGTERM), ("ready", signal.SIGINT, 7),
])  # fmt: skip
def test_signals_reach_the_job(place, what, number, code):
    job = place.start(what)
    job.stdout.readline()
    job.send_signal(number)
    assert job.wait(timeout=20) == code


def test_it_ends_with_snakemake_but_after_the_last_job(place):
    job = place.start("sleep")
    pid = int(job.stdout.readline())
    place.server.stdin.close()
    time.sleep(0.3)
    assert place.server.poll() is None and runs(pid)
    job.kill()
    assert place.server.wait(timeout=20) == 0 and not place.socket.parent.exists() and not runs(pid)


def test_jobs_end_with_it(place):
    job = place.start("sleep")
    pid = int(job.stdout.readline())
    place.server.kill()
    assert "was killed" in job.communicate(timeout=20)[1] and job.returncode == 1
    wait(lambda: not runs(pid))
    assert not place.tell()["warm"]  # the next starts by itself


@pytest.mark.parametrize("more", [{"GRACE_WARM": "no"}, {"GRACE_WARM": "/nowhere"}, {"GRACE_WARM": ""}])
def test_jobs_that_start_by_themselves(place, more):
    assert not place.tell(**more)["warm"]


def test_more_than_one_thread_is_not_forked(tmp_path):
    place = Place(tmp_path, "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()")
    told = place.tell()
    place.server.kill()
    assert not told["warm"]


def test_another_folder_is_refused_before_anything_is_imported(tmp_path):
    place = Place(tmp_path, f"open({str(tmp_path / 'imported')!r}, 'w')")
    place.folder = tmp_path / "other"
    place.folder.mkdir()
    (place.folder / "job.py").write_text(JOB)
    told = place.tell()
    place.server.kill()
    assert not told["warm"] and not (tmp_path / "imported").exists()


def test_a_job_has_its_own_number_of_threads(tmp_path):
    place = Place(tmp_path, "import numpy")
    told = [place.tell(OMP_NUM_THREADS=threads)["threads"] for threads in ("2", "1")]
    place.server.kill()
    assert told[0] and told == [[2] * len(told[0]), [1] * len(told[0])]


def test_a_light_job_does_not_wait_for_imports(tmp_path):
    place = Place(tmp_path, light="jo")
    assert not place.tell()["warm"]
    place.server.kill()
    (tmp_path / "more").mkdir()
    place = Place(tmp_path / "more", idle="time.monotonic()", marked="open('imported', 'w')", light="jo")
    wait((tmp_path / "more" / "imported").exists)
    assert place.tell()["warm"]
    place.server.kill()


def test_a_light_job_does_not_wait_for_a_busy_process(place):
    place.server.send_signal(signal.SIGSTOP)
    job = place.start("--help", module="grace.report.audit")
    assert "--spec" in job.communicate(timeout=20)[0] and job.returncode == 0
    place.server.send_signal(signal.SIGCONT)
    assert place.tell()["warm"]


@pytest.mark.parametrize("idle", ["0", "time.monotonic()"])
def test_an_idle_core_imports_before_the_first_job(tmp_path, idle):
    place = Place(tmp_path, f"open({str(tmp_path / 'imported')!r}, 'w')", idle)
    if idle != "0":
        wait((tmp_path / "imported").exists)
    else:
        time.sleep(2.5)
        assert not (tmp_path / "imported").exists()
    assert place.tell()["warm"]
    place.server.kill()


def test_what_is_imported_starts_no_thread():
    """Of the packages as they are locked; with one, every job would start by itself and nobody would see why."""
    code = "import importlib, os; from grace import warm; [importlib.import_module(name) for name in warm.IMPORTS]; "
    code += "print(len(os.listdir('/proc/self/task')))"
    assert subprocess.check_output([sys.executable, "-c", code], env=os.environ | warm.ENVIRONMENT, text=True) == "1\n"
