"""All benchmarks whose ratio to a peer or to a limit is followed, one after another: `python -m bench`.

Each runs in a process of its own and puts its entries into results/bench.json. The table at the end sets them beside
the limits that they are meant to keep. A missed limit is shown and no error: this measures, it does not judge.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from bench import common
from grace.files import read_json

RESULTS = Path("results/bench.json")
SCRIPTS = ("encode", "step", "evaluate", "workflow --run")
COLUMNS = ("name", "ratio (lowest - highest)", "aim", "kept", "what it is")


class Aim(NamedTuple):
    name: str
    least: float | None = None
    most: float | None = None

    def words(self) -> str | None:
        if self.least is not None:
            return f">= {self.least:.2f}"
        return None if self.most is None else f"<= {self.most:.2f}"

    def kept(self, ratio: float) -> str | None:
        if self.words() is None:
            return None
        return "yes" if (self.least or 0.0) <= ratio <= (math.inf if self.most is None else self.most) else "no"


AIMS = (
    Aim("encode_vs_released", least=2.0),
    Aim("encode_vs_generation", most=1.05),
    Aim("step_vs_limit", most=1.10),
    Aim("warm_vs_cold"),
    Aim("store_overhead", most=0.03),
    Aim("demo_seconds", most=1.0),
)


def summary(entries: list[dict[str, Any]]) -> str:
    """The table of all aims; an entry that is missing is shown as such."""
    found = {entry["name"]: entry for entry in entries}
    rows: list[list[Any]] = []
    for aim in AIMS:
        if (entry := found.get(aim.name)) is None:
            rows.append([aim.name, "not measured", aim.words(), None, None])
            continue
        ratio = "{ratio:.3f} ({low:.3f} - {high:.3f})".format(**entry)
        rows.append([aim.name, ratio, aim.words(), aim.kept(entry["ratio"]), entry["meaning"]])
    return common.table(COLUMNS, rows)


def main(argv: list[str] | None = None) -> int:
    """Run the benchmarks; returns 1 when one of them fails, else 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="+", default=SCRIPTS, metavar="SCRIPT", help=f"some of {', '.join(SCRIPTS)}")
    parser.add_argument("--json", type=Path, default=RESULTS, help="file of all entries")
    arguments = parser.parse_args(argv)
    failed = []
    for script in arguments.only:
        print(f"== python -m bench.{script}", flush=True)
        started = time.perf_counter()
        words = script.split()
        command = [sys.executable, "-m", f"bench.{words[0]}", *words[1:], "--json", str(arguments.json)]
        if subprocess.run(command, check=False).returncode:
            failed.append(script)
        print(f"== {time.perf_counter() - started:.0f} s\n", flush=True)
    print(summary(read_json(arguments.json, list) if arguments.json.exists() else []))
    for script in failed:
        print(f"error: python -m bench.{script} failed.", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
