"""Where the wall time of a study's workflow goes: jobs, their start-up, and what the cores are idle or Snakemake has.

    python -m bench.workflow results/demo          a finished study: a table by rule
    python -m bench.workflow --run                 the demo from nothing, in a copy of the checkout, against its limit

Wall seconds of a job are those of Snakemake's benchmark file, those of the workflow the elapsed time at the end of
Snakemake's log. CPU seconds are those that each stage says in the last line of its log (`grace.spent`), of its
own process and those that it waited for; start-up is what of them its process had used when its work began: the
interpreter and what is imported. What is imported later counts as work.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from grace import spent
from grace.section import UserError

ROOT = Path(__file__).parents[1]
LIMIT = 480.0  # seconds of the demo on two cores
COLUMNS = ("rule", "jobs", "wall s", "CPU s", "of it start-up")
TAIL = 30  # lines of a failed workflow that are shown


class Job(NamedTuple):
    rule: str
    threads: int
    wall: float
    cpu: float | None  # None where the log does not say
    start_up: float | None


class Run(NamedTuple):
    """What Snakemake did, in one go or in several."""

    wall: float
    cores: int
    jobs: list[Job]
    again: int  # jobs whose record a later one has replaced


def read(folder: Path) -> Run:
    """The jobs of a study's folder, such as results/demo, from the logs of Snakemake beside `results`.

    Raises:
        UserError: when there is no finished log with jobs of this study.
    """
    top = folder.parent.parent
    found: dict[str, tuple[str, int, str]] = {}
    wall, cores, again = 0.0, 0, 0
    for path in sorted((top / ".snakemake/log").glob("*.snakemake.log")):
        text = path.read_text(encoding="utf-8", errors="replace")
        jobs = {key: job for key, job in _finished(text) if key.startswith(f"{folder.relative_to(top)}/")}
        if jobs and (elapsed := _elapsed(text)) is not None:
            wall += elapsed
            cores = max(cores, int(match[1]) if (match := re.search(r"^Provided cores: (\d+)", text, re.M)) else 0)
            again += len(found.keys() & jobs.keys())
            found |= jobs
    if not found:
        raise UserError(f"{top}/.snakemake/log: no log of a finished run of Snakemake that made {folder}.")
    return Run(wall, cores, [_job(top, benchmark, *job) for benchmark, job in found.items()], again)


def _finished(text: str) -> Iterator[tuple[str, tuple[str, int, str]]]:
    """Benchmark file -> (rule, threads, log file) of the jobs that a log says are finished."""
    done = set(re.findall(r"^Finished jobid: (\d+)", text, re.M))
    for rule, body in re.findall(r"^(?:local)?(?:rule|checkpoint) (\w+):\n((?: {4}.*\n)+)", text, re.M):
        fields = dict(line.strip().split(": ", 1) for line in body.splitlines() if ": " in line)
        if fields.get("jobid") in done and "benchmark" in fields:
            yield fields["benchmark"], (rule, int(fields.get("threads", 1)), fields.get("log", ""))


def _elapsed(text: str) -> float | None:
    match = re.search(r"^Elapsed time: (?:(\d+) days?, )?(\d+):(\d+):([\d.]+)", text, re.M)
    if match is None:
        return None
    days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _job(top: Path, benchmark: str, rule: str, threads: int, log: str) -> Job:
    try:
        head, first, *_ = (top / benchmark).read_text(encoding="utf-8").splitlines()
        wall = float(dict(zip(head.split("\t"), first.split("\t"), strict=True))["s"])
    except (OSError, ValueError, KeyError):
        raise UserError(f"{top / benchmark}: missing or no benchmark file of Snakemake; run the study again.") from None
    used = spent.read(top / log)
    return Job(rule, threads, wall, used and used.cpu + used.others, used and used.start_up)


def report(run: Run) -> str:
    """Markdown: a table by rule, and what of the cores' time is used."""
    by_rule: dict[str, list[Job]] = {}
    for job in run.jobs:
        by_rule.setdefault(job.rule, []).append(job)
    rows = [
        _row(rule, jobs) for rule, jobs in sorted(by_rule.items(), key=lambda one: -sum(job.wall for job in one[1]))
    ]
    available, reserved = run.cores * run.wall, sum(min(job.threads, run.cores) * job.wall for job in run.jobs)
    cpu, start_up = _total(job.cpu for job in run.jobs), _total(job.start_up for job in run.jobs)
    lines = [
        f"wall time of the workflow: {run.wall:.1f} s on {run.cores} cores, {available:.1f} core-seconds",
        f"reserved by jobs (threads x wall): {_share(reserved, available)}",
        f"CPU of jobs: {_share(cpu, available)}; of it start-up: {_share(start_up, available)}",
        f"reserved and not computing: {_share(reserved - cpu if cpu is not None else None, available)}",
        f"not reserved (Snakemake, or no job could run): {_share(available - reserved, available)}",
    ]
    if silent := sum(job.cpu is None for job in run.jobs):
        lines.append(f"{silent} jobs do not say in their log what they used")
    if run.again:
        lines.append(f"{run.again} jobs were run again later; their first run is not among the jobs")
    return "\n".join([_table([COLUMNS, *rows, _row("total", run.jobs)]), "", *(f"- {line}" for line in lines)])


def _row(name: str, jobs: list[Job]) -> tuple[str, ...]:
    cells = (_total(column) for column in zip(*(job[2:] for job in jobs), strict=True))
    return name, str(len(jobs)), *("-" if cell is None else f"{cell:.1f}" for cell in cells)


def _total(values: Iterable[float | None]) -> float | None:
    """None where one is missing: a sum of the others would look like less."""
    known = list(values)
    return None if any(value is None for value in known) else sum(value or 0.0 for value in known)


def _share(seconds: float | None, of: float) -> str:
    return "-" if seconds is None else f"{seconds:.1f} core-seconds ({100 * seconds / of:.0f} %)"


def _table(rows: list[tuple[str, ...]]) -> str:
    head, *rest = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([head, "| --- " + "| ---: " * (len(rows[0]) - 1) + "|", *rest])


# ---- from nothing -------------------------------------------------------------------


def copy(source: Path, target: Path) -> None:
    """The files of a checkout as they are now, new ones among them, without what git ignores."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=source, capture_output=True
    )
    if listed.returncode:
        raise UserError(f"{source}: no git checkout, so it cannot be told which files are the project's.")
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (source / name).is_file():  # a listed file may be deleted, or the folder of another checkout
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, target / name)


def snakemake(study: str, cores: int) -> list[str]:
    return [sys.executable, "-m", "snakemake", "--cores", str(cores), "--config", f"study={study}"]


def timed(checkout: Path, study: str, cores: int) -> float:
    """Wall seconds of the workflow in `checkout`, Snakemake's own start among them. Raises: UserError when it fails."""
    # `grace` is that of the copy, whatever is installed, and the jobs' `python` is this one.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    begin = time.perf_counter()
    done = subprocess.run(
        snakemake(study, cores),
        cwd=checkout,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(checkout)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    seconds = time.perf_counter() - begin
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-TAIL:])
        raise UserError(f"{checkout}: the workflow failed; the end of what it said:\n{tail}")
    return seconds


@contextmanager
def _folder(keep: Path | None, number: int) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="grace-workflow-") as temporary:
            yield Path(temporary)
        return
    folder = keep / str(number)
    if folder.exists():
        raise UserError(f"--keep: {folder} exists; name a folder that can be made.")
    folder.mkdir(parents=True)
    yield folder.resolve()


def run(study: str, cores: int, repeats: int, keep: Path | None, path: Path | None) -> None:
    """Run the study from nothing `repeats` times, print what each took, and write the entry."""
    from bench import common

    seconds, speeds = [], [common.gflops()]
    for number in range(1, repeats + 1):
        with _folder(keep, number) as checkout:
            copy(ROOT, checkout)
            seconds.append(timed(checkout, study, cores))
            speeds.append(common.gflops())
            speed = f"one core multiplied at {speeds[-2]:.0f} GFLOPS before it and {speeds[-1]:.0f} after it"
            table = report(read(checkout / "results" / study))
            print(f"run {number}: {seconds[-1]:.1f} s; {speed}\n\n{table}\n", flush=True)
    made = common.entry(
        f"{study}_seconds",
        [value / LIMIT for value in seconds],
        common.command(),
        f"wall seconds of the workflow, study {study}, on {cores} cores / the limit of {LIMIT:.0f}",
        seconds=[round(value, 1) for value in seconds],
        gflops=[round(value, 1) for value in speeds],  # before the first run and after each
        limit=LIMIT,
        cores=cores,
    )
    print(f"{made['name']}: {', '.join(f'{value:.1f}' for value in seconds)} s; ratio {made['ratio']:.3f}")
    common.write(path, [made])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, help="of a finished study, such as results/demo")
    parser.add_argument("--run", action="store_true", help="run a study from nothing instead")
    parser.add_argument("--study", default="demo")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1, help="of which the median is taken")
    parser.add_argument("--keep", type=Path, help="folder to run in that stays; else it is deleted")
    parser.add_argument("--json", type=Path, help="file of entries that the run's goes into")
    arguments = parser.parse_args(argv)
    if (arguments.folder is None) != arguments.run:
        parser.error("give a study's folder, or --run")
    try:
        if arguments.run:
            run(arguments.study, arguments.cores, arguments.repeats, arguments.keep, arguments.json)
        else:
            print(report(read(arguments.folder.resolve())))
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
