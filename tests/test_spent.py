"""What a process says it used, against what it did."""

import subprocess
import sys

import pytest

from grace import spent

CODE = """
import subprocess, sys, time
from grace import spent
held = bytearray(300_000_000)
until = time.process_time() + 0.3
while time.process_time() < until: pass
subprocess.run([sys.executable, "-c", "sum(i * i for i in range(3_000_000))"])
print(spent.now(0.1))
"""


def test_of_a_process_that_did_something(tmp_path):
    (tmp_path / "log").write_text(subprocess.check_output([sys.executable, "-c", CODE], text=True))
    used = spent.read(tmp_path / "log")
    assert 0.3 <= used.cpu < 3 and used.start_up == 0.1 and 0.05 < used.others < 3
    assert 300 < used.memory < 400


def test_a_launcher_and_what_it_launched(tmp_path):
    lines = (
        "12:00:01 CPU 15.00 s, start-up 3.00 s, other processes 0.50 s, memory 700 MB",
        "half a line of progress 12:00:02 CPU 1.50 s, start-up 0.50 s, other processes 15.50 s, memory 90 MB",
    )
    (tmp_path / "log").write_text("\n".join(("started", *lines, "")))
    assert spent.read(tmp_path / "log") == (1.5, 3.5, 15.5, 700.0)


@pytest.mark.parametrize("text", ["", "nothing of it\n", None])
def test_a_log_that_does_not_say(tmp_path, text):
    if text is not None:
        (tmp_path / "log").write_text(text)
    assert spent.read(tmp_path / "log") is None


def test_a_log_from_before_memory_was_said(tmp_path):
    (tmp_path / "log").write_text("12:00:01 CPU 15.00 s, start-up 3.00 s, other processes 0.50 s\n")
    assert spent.read(tmp_path / "log") == (15.0, 3.0, 0.5, None)
