"""The page itself is checked on the smoke study (tests/workflow); here what happens when it cannot be made."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_failing_report_leaves_nothing(tmp_path):
    (tmp_path / "Snakefile").write_text("rule tables:\n    input: 'missing.csv'\n")
    spec = json.dumps({"config": {}})
    command = [sys.executable, "-m", "grace.report.report", "--spec", spec, "--snakefile", str(tmp_path / "Snakefile")]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "report.html")], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1 and "missing.csv" in done.stderr
    assert done.stderr.strip().split("\n")[-1].startswith("error: the report could not be made")
    assert not list(tmp_path.glob("*report.html*"))
