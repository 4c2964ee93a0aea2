"""Running a stage of grace.data as its rule does."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).parents[2]


def run(module, *arguments, limit=None):
    """Run a stage as its rule does; limit: largest file in bytes, which stands for a full disk."""
    before = None
    if limit is not None:

        def before():
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(
        [sys.executable, "-m", f"grace.data.{module}", "--threads", "1", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        preexec_fn=before,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )


def call(main, *arguments):
    """The same without a new process, whose imports cost seconds."""
    try:
        main([*map(str, arguments)])
    except SystemExit as stop:
        return SimpleNamespace(returncode=1, stderr=f"{stop.code}\n")
    return SimpleNamespace(returncode=0, stderr="")


def one_sentence(done, *parts):
    """Exit code 1, no traceback, and one sentence with these parts."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    message = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(message) == 1
    for part in parts:
        assert part in message[0], message[0]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


class Alive(dict):
    """A row that is counted as long as something holds it."""

    now = most = 0

    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        Alive.now += 1
        Alive.most = max(Alive.most, Alive.now)

    def __del__(self):
        Alive.now -= 1


def most_alive(stream, rows):
    """Largest number of rows held at a time while `stream(iterator of rows)` is read to its end."""
    Alive.now = Alive.most = 0
    for _ in stream(Alive(row) for row in rows):
        pass
    return Alive.most
