"""What a study took: time and memory by rule, each training, hardware, versions and commits."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grace import spent
from grace.report.page.reading import Folder

MODELS = "models/*/*/seed*/manifest.json"
RESULTS = ("mteb/*/*/seed*/*.json", "general/*/*/seed*.json", "latency/*.json", "cases/*.json")
STAGES = {"mteb": "evaluate", "general": "general", "latency": "latency", "cases": "cases"}  # folder -> rule
UNKNOWN = "not recorded"
# Rules in the order of the work; others follow by name.
ORDER = (
    "source", "pairs", "split", "triples", "lengths", "tasks", "backbone", "download", "encoder", "train", "evaluate",
    "general", "latency", "cases", "tables", "figures", "audit", "claims", "report", "plan",
)  # fmt: skip


@dataclass
class Rule:
    """All jobs of a rule: seconds of wall time, CPU and GPU, and the largest memory of one in MB; None: not known."""

    name: str
    jobs: int = 0
    wall: float = 0.0
    cpu: float | None = None
    gpu: float | None = None
    memory: float | None = None

    def add(self, wall: float, cpu: float | None, memory: float | None) -> None:
        self.jobs, self.wall = self.jobs + 1, self.wall + wall
        self.cpu = self.cpu if cpu is None else (self.cpu or 0.0) + cpu
        self.memory = self.memory if memory is None else max(self.memory or 0.0, memory)


@dataclass
class Training:
    """One model's training; gpus: number of them; resumed: its time is that of the last start only."""

    backbone: str
    run: str
    seed: str
    steps: int | None
    seconds: float | None
    gpus: int
    memory: float | None
    resumed: bool


@dataclass
class Cost:
    """Everything. hardware, versions, commits: what it was -> number of manifests that say so."""

    rules: list[Rule] = field(default_factory=list)
    trainings: list[Training] = field(default_factory=list)
    hardware: Counter[str] = field(default_factory=Counter)
    versions: dict[str, Counter[str]] = field(default_factory=dict)
    commits: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> Rule:
        whole = Rule("all")
        for one in self.rules:
            whole.add(one.wall, one.cpu, one.memory)
            whole.gpu = whole.gpu if one.gpu is None else (whole.gpu or 0.0) + one.gpu
        whole.jobs = sum(one.jobs for one in self.rules)
        return whole


def read(folder: Folder, records: Iterable[dict[str, Any]] = ()) -> Cost:
    """The cost of a study, from its benchmarks and manifests.

    Args:
        folder: of the study.
        records: manifests that have been read already.
    """
    cost, rules = Cost(), _benchmarks(folder)
    for made in records:
        _count(cost, made)
    for path, made in folder.manifests(MODELS, *RESULTS):
        _count(cost, made)
        seconds, gpus = _number(made.get("seconds")), len(_gpus(made))
        name = str(made.get("stage", "")) if path.name == "manifest.json" else STAGES[_top(folder, path)]
        if path.name == "manifest.json" and name == "train":
            backbone, run, seed = path.parts[-4:-1]
            cost.trainings.append(
                Training(
                    backbone, run, seed.removeprefix("seed"), made.get("steps"), seconds, gpus,
                    _number(made.get("peak_memory_mb")), made.get("resumed_from") is not None,
                )
            )  # fmt: skip
        if gpus and seconds is not None and name in rules:
            rules[name].gpu = (rules[name].gpu or 0.0) + gpus * seconds
    known = {name: place for place, name in enumerate(ORDER)}
    cost.rules = sorted(rules.values(), key=lambda one: (known.get(one.name, len(known)), one.name))
    return cost


def _top(folder: Folder, path: Path) -> str:
    return path.relative_to(folder.root).parts[0]


def _benchmarks(folder: Folder) -> dict[str, Rule]:
    """Snakemake's benchmark files, by rule: the folder below `benchmarks`, or a file there; the logs say more of jobs
    whose processes Snakemake does not see."""
    rules: dict[str, Rule] = {}
    base = folder.root / "benchmarks"
    for path in sorted(base.rglob("*.tsv")):
        name = path.relative_to(base).parts[0].removesuffix(".tsv")
        text, log = folder.text(path), folder.root / "logs" / path.relative_to(base).with_suffix(".log")
        rows = list(csv.DictReader(io.StringIO(text or ""), delimiter="\t"))
        times = [wall for row in rows if (wall := _number(row.get("s"))) is not None]
        if text is not None and not times:
            folder.say(path, "holds no time")
        for row, wall in zip(rows, times, strict=False):
            entry = rules.setdefault(name, Rule(name))
            cpu, memory = _number(row.get("cpu_time")), _number(row.get("max_rss"))
            if used := spent.read(log):
                cpu, memory = max(cpu or 0.0, used.cpu + used.others), max(memory or 0.0, used.memory or 0.0)
            entry.add(wall, cpu, memory)
    return rules


def _count(cost: Cost, made: dict[str, Any]) -> None:
    at = _hardware(made)
    if at:
        gpus = Counter(_gpus(made))
        parts = [f"{count} x {name}" for name, count in gpus.items()]
        cost.hardware["; ".join([*parts, f"{at.get('cpus', '?')} x {at.get('cpu', 'CPU')}"])] += 1
    versions = made.get("versions")
    for name, version in (versions if isinstance(versions, dict) else {}).items():
        cost.versions.setdefault(str(name), Counter())[str(version)] += 1
    cost.commits[str(made.get("commit") or UNKNOWN)] += 1


def _hardware(made: dict[str, Any]) -> dict[str, Any]:
    at = made.get("hardware")
    return at if isinstance(at, dict) else {}


def _gpus(made: dict[str, Any]) -> list[str]:
    found = _hardware(made).get("gpus")
    return list(map(str, found)) if isinstance(found, list) else []


def _number(value: Any) -> float | None:
    """Snakemake writes `NA` or `-` for what it could not measure."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def duration(seconds: float | None) -> str:
    """`1 h 05 min`, `2 min 43 s`, `4.1 s`; `—` when unknown."""
    if seconds is None:
        return "—"
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def memory(megabytes: float | None) -> str:
    """`1.5 GB`, `820 MB`; `—` when unknown."""
    if megabytes is None:
        return "—"
    return f"{megabytes / 1000:.1f} GB" if megabytes >= 1000 else f"{megabytes:.0f} MB"
