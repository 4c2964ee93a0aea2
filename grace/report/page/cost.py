"""What a study took: time and memory by rule, each training, hardware, versions and commits.

Sources: Snakemake's benchmark files (of each job its last finished start) and the manifests.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from grace.report.page.folder import Folder, Record, number, part

MODELS = "models/*/*/seed*/manifest.json"
RESULTS = ("mteb/*/*/seed*/*.json", "general/*/*/seed*.json", "latency/*.json", "cases/*.json")
STAGES = {"mteb": "evaluate", "general": "general", "latency": "latency", "cases": "cases"}  # folder -> rule
UNKNOWN = "not recorded"
# Rules in the order of the work; others follow by name.
ORDER = (
    "source pairs split triples lengths tasks backbone download encoder train evaluate general latency cases tables "
    "figures audit claims report plan"
)


class Job(NamedTuple):
    """Seconds of wall and CPU time, and memory in MB; None: not known."""

    wall: float
    cpu: float | None
    memory: float | None


@dataclass
class Cost:
    """jobs: by rule; gpu: rule -> seconds; trainings: a row for each model; the others: what it was -> number of
    manifests that say so."""

    jobs: dict[str, list[Job]]
    gpu: dict[str, float] = field(default_factory=dict)
    trainings: list[Record] = field(default_factory=list)
    hardware: Counter[str] = field(default_factory=Counter)
    versions: dict[str, Counter[str]] = field(default_factory=dict)
    commits: Counter[str] = field(default_factory=Counter)

    @property
    def rules(self) -> list[Record]:
        """A row for each rule."""
        known = {name: place for place, name in enumerate(ORDER.split())}
        names = sorted(self.jobs, key=lambda name: (known.get(name, len(known)), name))
        return [_sum(name, self.jobs[name], self.gpu.get(name)) for name in names]

    @property
    def total(self) -> Record:
        every = [job for jobs in self.jobs.values() for job in jobs]
        return _sum("all", every, sum(self.gpu.values()) if self.gpu else None)


def _sum(name: str, jobs: list[Job], gpu: float | None) -> Record:
    cpu = [job.cpu for job in jobs if job.cpu is not None]
    memory = [job.memory for job in jobs if job.memory is not None]
    return {
        "name": name,
        "jobs": len(jobs),
        "wall": sum(job.wall for job in jobs),
        "cpu": sum(cpu) if cpu else None,
        "gpu": gpu,
        "memory": max(memory, default=None),
    }


def read(folder: Folder, records: Iterable[Record] = ()) -> Cost:
    """The cost of a study.

    Args:
        records: manifests that have been read already.
    """
    cost = Cost(_benchmarks(folder))
    for made in records:
        _count(cost, made)
    for path, made in folder.manifests(MODELS, *RESULTS):
        _count(cost, made)
        seconds, gpus = number(made.get("seconds")), len(_gpus(made))
        is_model = path.name == "manifest.json"
        rule = str(made.get("stage", "")) if is_model else STAGES[path.relative_to(folder.root).parts[0]]
        if is_model and rule == "train":
            backbone, run, seed = path.parts[-4:-1]
            about = {"backbone": backbone, "run": run, "seed": seed.removeprefix("seed"), "steps": made.get("steps")}
            memory, resumed = number(made.get("peak_memory_mb")), made.get("resumed_from") is not None
            cost.trainings.append({**about, "seconds": seconds, "gpus": gpus, "memory": memory, "resumed": resumed})
        if gpus and seconds is not None and rule in cost.jobs:
            cost.gpu[rule] = cost.gpu.get(rule, 0.0) + gpus * seconds
    return cost


def _benchmarks(folder: Folder) -> dict[str, list[Job]]:
    """By rule: the folder below `benchmarks`, or a file there."""
    jobs: dict[str, list[Job]] = {}
    base = folder.root / "benchmarks"
    for path in sorted(base.rglob("*.tsv")):
        text = folder.text(path)
        if text is None:
            continue
        rows = list(csv.DictReader(io.StringIO(text), delimiter="\t"))
        found = [
            Job(wall, number(row.get("cpu_time")), number(row.get("max_rss")))
            for row in rows
            if (wall := number(row.get("s"))) is not None
        ]
        if found:
            jobs.setdefault(path.relative_to(base).parts[0].removesuffix(".tsv"), []).extend(found)
        else:
            folder.problem(path, "holds no time")
    return jobs


def _count(cost: Cost, made: Record) -> None:
    if at := part(made, "hardware"):
        parts = [f"{count} x {name}" for name, count in Counter(_gpus(made)).items()]
        cost.hardware["; ".join([*parts, f"{at.get('cpus', '?')} x {at.get('cpu', 'CPU')}"])] += 1
    for name, version in part(made, "versions").items():
        cost.versions.setdefault(str(name), Counter())[str(version)] += 1
    cost.commits[str(made.get("commit") or UNKNOWN)] += 1


def _gpus(made: Record) -> list[str]:
    found = part(made, "hardware").get("gpus")
    return list(map(str, found)) if isinstance(found, list) else []


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
