"""Latency results as they lie there: seconds per text of each system, and what is wrong with a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from grace.report.scoring import results
from grace.report.scoring.results import AGAIN, Problem

PARTS = ("encode", "generate", "match")
QUANTILES = ("p10", "p50", "p90")


class Quantiles(NamedTuple):
    """Seconds per text."""

    p10: float
    p50: float
    p90: float


@dataclass(frozen=True)
class System:
    """A timed system. budget: most tokens of its rationale, None without one; parts: of PARTS and `total`."""

    name: str
    budget: int | None
    parts: dict[str, Quantiles]


@dataclass
class Times:
    """backbone -> its systems, and the files: read, not there, or wrong."""

    systems: dict[str, list[System]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def load(files: dict[str, str]) -> Times:
    """Everything that the latency results of some backbones say."""
    found = Times()
    for backbone, path in files.items():
        try:
            result, problems = results.read(path)
        except FileNotFoundError:
            found.missing.append(path)
            continue
        found.problems += problems
        if result is None:
            continue
        try:
            found.systems[backbone] = [_system(entry) for entry in result["systems"]]
            found.files[backbone] = path
        except (KeyError, TypeError, ValueError) as error:
            text = f"{path} is no whole latency result (field {error}), so nothing of it is shown: {AGAIN}."
            found.problems.append(Problem(path, None, "broken", text))
    return found


def _system(entry: dict[str, Any]) -> System:
    parts = {part: Quantiles(*(float(entry[part][quantile]) for quantile in QUANTILES)) for part in (*PARTS, "total")}
    budget = entry["budget"]
    return System(str(entry["system"]), None if budget is None else int(budget), parts)
