"""The sandbox: its verdicts, what it refuses to run without, and HumanEval's own solutions in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from grace.config.section import UserError
from grace.evaluation import sandbox as module
from grace.evaluation.sandbox import Limits, Sandbox
from tests.evaluation.fakes import needs_bubblewrap

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"


@needs_bubblewrap
@pytest.mark.parametrize(
    ("program", "verdict"),
    [
        ("assert 1 + 1 == 2", (True, "passed")),
        ("assert 1 + 1 == 3", (False, "AssertionError")),
        ("import math\nprint('x')\nassert math.pi > 3", (True, "passed")),
        ("def f(:", (False, "SyntaxError")),
        ("import sys; sys.exit(0)", (False, "SystemExit")),  # leaving before the tests is no pass
        ("import os; os._exit(0)", (False, "ended without a verdict")),
        ("def f(n): return f(n + 1)\nf(0)", (False, "RecursionError")),
        ("import ctypes; ctypes.string_at(0)", (False, "ended without a verdict")),
        ("if __name__ == '__main__': raise SystemExit", (True, "passed")),
        ("raise ValueError('passed')", (False, "ValueError")),
        ("assert open('note', 'w').write('kept in memory') == 14", (True, "passed")),
        ("# \u2028 caf\u00e9\nassert '\u00e9' == chr(233)", (True, "passed")),
    ],
)
def test_verdicts(sandbox, program, verdict):
    assert sandbox.run(program) == verdict


@needs_bubblewrap
def test_programs_side_by_side_keep_their_order(sandbox):
    programs = [f"import time; time.sleep({0.2 if i % 3 == 0 else 0}); assert {i} % 2 == 0" for i in range(12)]
    assert [verdict.passed for verdict in sandbox.run_all(programs, 4)] == [i % 2 == 0 for i in range(12)]


@needs_bubblewrap
def test_python_in_the_folder_for_temporary_files():
    """A clone under /tmp has its environment there, where the sandbox has a folder of its own."""
    program = 'from grace.evaluation.sandbox import Sandbox; print(Sandbox().run(\'open("a", "w").write("b")\'))'
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        command = [f"{folder}/bin/python", "-c", program]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "passed=True" in done.stdout, done.stderr


@needs_bubblewrap
@pytest.mark.skipif(os.geteuid() != 0, reason="only root's processes escape the limit in a user namespace")
def test_a_sandbox_that_does_not_hold_is_refused(monkeypatch):
    """In a user namespace root's processes are not limited; the probe notices, so nothing runs there."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UserError, match=r"cannot build a sandbox that holds.*AssertionError.*take 'humaneval' out"):
        Sandbox()


def test_without_bubblewrap_nothing_runs(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(UserError, match=r"bubblewrap, which is not installed.*take 'humaneval' out of general.tasks"):
        Sandbox()


def test_a_bubblewrap_that_may_not_work_is_one_sentence(monkeypatch, tmp_path):
    """What bubblewrap says where user namespaces are forbidden."""
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(fake))
    with pytest.raises(UserError, match=r"No permissions to create new namespace.*allow user namespaces"):
        Sandbox()


@needs_bubblewrap
def test_an_old_bubblewrap_without_sizes_gives_no_folder_to_write_to(monkeypatch):
    box = Sandbox(Limits(seconds=2))
    box._sized = False
    assert box.run("assert True") == (True, "passed")
    assert box.run("open('/tmp/x', 'w')") == (False, "OSError")


@needs_bubblewrap
def test_a_sandbox_that_stops_working_is_no_failed_sample(sandbox, monkeypatch):
    monkeypatch.setattr(sandbox, "_mounts", ["--ro-bind", "/no/such/folder", "/usr"])
    with pytest.raises(UserError, match=r"the sandbox could not be started: .*no/such/folder"):
        sandbox.run("assert True")


@needs_bubblewrap
@pytest.mark.skipif(not DATA.exists(), reason="../shared/data is not here")
def test_every_canonical_solution_of_humaneval_passes_and_an_empty_one_fails():
    rows = [json.loads(line) for line in (DATA / "humaneval" / "test.jsonl").read_text().strip().split("\n")]

    def programs(solution) -> list[str]:
        return [f"{row['prompt']}{solution(row)}\n{row['test']}\ncheck({row['entry_point']})" for row in rows]

    box = Sandbox()
    right = box.run_all(programs(lambda row: row["canonical_solution"]), 2)
    assert len(right) == 164 and [verdict for verdict in right if not verdict.passed] == []
    wrong = box.run_all(programs(lambda row: "    return 'wrong'\n"), 2)
    assert [verdict for verdict in wrong if verdict.passed] == []


def test_limits_are_those_of_the_documentation():
    text = (ROOT / "docs" / "general.md").read_text()
    limits = module.Limits()
    for value in (limits.seconds, limits.memory >> 20, limits.processes, limits.disk >> 20):
        assert str(value) in text
