"""Whether two runs of a study gave the same numbers: `python -m tests.workflow.golden BEFORE AFTER`.

BEFORE and AFTER are results folders, as results/smoke of two checkouts. All .json and .csv under tables, figures, mteb,
general and cases, the audit and the claims are compared value by value. How a result was made (its manifest, seconds,
the hash of a drawing) may differ. Prints each difference, and ends with 1 where there is one.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

PATTERNS = ("tables/*", "figures/*", "mteb/*/*/*/*", "general/*/*/*", "cases/*", "audit.json", "claims.json")
MADE = {"manifest", "provenance", "seconds", "svg"}


def values(path: Path) -> Any:
    """What a file says, without how it was made."""
    if path.suffix == ".csv":
        with open(path, newline="", encoding="utf-8") as handle:
            return [{key: cell for key, cell in row.items() if key not in MADE} for row in csv.DictReader(handle)]
    return json.loads(path.read_text(encoding="utf-8"))


def differences(before: Any, after: Any, where: str) -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [key for key in {**before, **after} if key not in MADE]
        gone = object()
        return [
            line for key in keys for line in differences(before.get(key, gone), after.get(key, gone), f"{where}.{key}")
        ]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [line for n, (one, other) in pairs for line in differences(one, other, f"{where}[{n}]")]
    return [] if before == after else [f"{where}: {str(before)[:80]} is now {str(after)[:80]}"]


def compare(before: Path, after: Path) -> list[str]:
    """One line for each difference, and for each file that only one of the folders has."""
    found = []
    for pattern in PATTERNS:
        names = {p.relative_to(root) for root in (before, after) for p in root.glob(pattern)}
        for name in sorted(name for name in names if name.suffix in (".json", ".csv")):
            if missing := [root for root in (before, after) if not (root / name).exists()]:
                found.append(f"{name}: only in {before if missing == [after] else after}")
            else:
                found += differences(values(before / name), values(after / name), str(name))
    return found


if __name__ == "__main__":
    lines = compare(Path(sys.argv[1]), Path(sys.argv[2]))
    print("\n".join(lines) or "no difference")
    sys.exit(bool(lines))
