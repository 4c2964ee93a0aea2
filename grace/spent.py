"""What a job used: the last line of its log, and how it is read there.

Snakemake's benchmark files have the wall time, but CPU time and memory only of the processes that its command started,
which does not hold for a job that `grace.warm` started.
"""

from __future__ import annotations

import re
import resource
import time
from pathlib import Path
from typing import NamedTuple

LINE = re.compile(r"CPU ([\d.]+) s, start-up ([\d.]+) s, other processes ([\d.]+) s(?:, memory ([\d.]+) MB)?\s*$", re.M)


class Spent(NamedTuple):
    """CPU seconds of a process, of them those before its work began, those of the processes that it waited for; and the
    largest memory of one of them in MB, None where the log does not say."""

    cpu: float
    start_up: float
    others: float
    memory: float | None

    def __str__(self) -> str:
        return (
            f"CPU {self.cpu:.2f} s, start-up {self.start_up:.2f} s, other processes {self.others:.2f} s, "
            f"memory {self.memory or 0.0:.0f} MB"
        )


def now(start_up: float) -> Spent:
    """Of this process, whose work began after `start_up` seconds of CPU time."""
    others = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Spent(
        time.process_time(), start_up, others.ru_utime + others.ru_stime, max(_memory(), others.ru_maxrss / 1e3)
    )


def _memory() -> float:
    """Of this process, in MB. What getrusage says begins with the memory of the process that started it."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return float(status.read_text().split("VmHWM:")[1].split()[0]) * 1.024 / 1e3


def read(log: Path) -> Spent | None:
    """Of a job, from its log; None where that does not say.

    A process that has started another one of ours, as training's launcher does, has its seconds among its own.
    """
    said = LINE.findall(log.read_text(encoding="utf-8", errors="replace")) if log.is_file() else []
    if not said:
        return None
    parts = [[float(part) if part else None for part in line] for line in said]
    cpu, others = max(((line[0] or 0.0, line[2] or 0.0) for line in parts), key=sum)
    memory = [line[3] for line in parts if line[3] is not None]
    return Spent(cpu, sum(line[1] or 0.0 for line in parts), others, max(memory, default=None))
