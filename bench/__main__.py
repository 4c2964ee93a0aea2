"""All benchmarks whose ratio to a peer or to a limit is followed, one after another: `python -m bench`.

Each runs in a process of its own and puts its entries into results/bench.json. The table at the end sets them beside
their aims. A missed aim is shown and is no error.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench import common
from grace.jobs.files import read_json

RESULTS = Path("results/bench.json")
SCRIPTS = ("encode", "step", "evaluate", "workflow --run")
COLUMNS = ("name", "ratio (lowest - highest)", "aim", "kept", "what it is")


AIMS: dict[str, tuple[str, float] | None] = {  # ">=" or "<=" a ratio
    "encode_vs_released": (">=", 2.0),
    "encode_vs_generation": ("<=", 1.05),
    "step_vs_limit": ("<=", 1.10),
    "warm_vs_cold": None,
    "store_overhead": ("<=", 0.03),
    "demo_seconds": ("<=", 1.0),
}


def summary(entries: list[dict[str, Any]]) -> str:
    """The table of all aims; an entry that is missing is shown as such."""
    found = {entry["name"]: entry for entry in entries}
    rows = []
    for name, aim in AIMS.items():
        words = kept = None
        ratio, meaning = "not measured", None
        if entry := found.get(name):
            ratio, meaning = "{ratio:.3f} ({low:.3f} - {high:.3f})".format(**entry), entry["meaning"]
        if aim:
            sign, bound = aim
            words = f"{sign} {bound:.2f}"
            if entry:
                kept = "yes" if (entry["ratio"] >= bound if sign == ">=" else entry["ratio"] <= bound) else "no"
        rows.append([name, ratio, words, kept, meaning])
    return common.table(COLUMNS, rows)


def main(argv: list[str] | None = None) -> int:
    """Run the benchmarks; returns 1 when one of them fails, else 0."""
    parser = common.parser(__doc__)
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
