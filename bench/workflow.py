"""Where the wall time of a study's workflow goes: its jobs, and what the cores are idle or Snakemake has.

    python -m bench.workflow results/demo          a finished study: a table by rule
    python -m bench.workflow --run                 the demo from nothing, in a copy of the checkout, against its limit

Wall seconds, CPU seconds and largest memory of a job are those of Snakemake's benchmark file; wall seconds of the
workflow, cores and threads come from Snakemake's log.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from bench import common
from grace.config.section import UserError
from grace.jobs.stage import in_one_sentence

LIMIT = 480.0  # seconds of the demo on two cores
COLUMNS = ("rule", "jobs", "wall s", "CPU s", "largest memory MB")
TAIL = 30  # lines of a failed workflow that are shown


class Run(NamedTuple):
    """What Snakemake did, in one go or in several."""

    wall: float
    cores: int
    jobs: pd.DataFrame  # rule, threads, wall, cpu, memory; NaN where Snakemake measured nothing
    again: int  # jobs whose record a later one has replaced


def read(folder: Path) -> Run:
    """The jobs of a study's folder, such as results/demo, from the logs of Snakemake beside `results`.

    Raises:
        UserError: when there is no finished log with jobs of this study, or a benchmark file is missing.
    """
    top = folder.parent.parent
    found: dict[str, tuple[str, int]] = {}  # benchmark file -> rule, threads
    wall, cores, again = 0.0, 0, 0
    for path in sorted((top / ".snakemake/log").glob("*.snakemake.log")):
        text = path.read_text(encoding="utf-8", errors="replace")
        jobs = {key: job for key, job in _finished(text).items() if key.startswith(f"{folder.relative_to(top)}/")}
        elapsed = re.search(r"^Elapsed time: (?:\d+ days?, )?\d+:\d+:[\d.]+", text, re.M)
        if jobs and elapsed:
            wall += pd.Timedelta(elapsed[0].removeprefix("Elapsed time: ").replace(",", "")).total_seconds()
            cores = max(cores, *(int(number) for number in re.findall(r"^Provided cores: (\d+)", text, re.M)), 0)
            again += len(found.keys() & jobs.keys())
            found |= jobs
    if not found:
        raise UserError(f"{top}/.snakemake/log: no log of a finished run of Snakemake that made {folder}.")
    rows = []
    for benchmark, job in found.items():
        try:
            first = pd.read_csv(top / benchmark, sep="\t").iloc[0]
            used = [pd.to_numeric(first[name], errors="coerce") for name in ("cpu_time", "max_rss")]
            rows.append([*job, float(first["s"]), *used])
        except (OSError, ValueError, LookupError):
            raise UserError(
                f"{top / benchmark}: missing or no benchmark file of Snakemake; run the study again."
            ) from None
    return Run(wall, cores, pd.DataFrame(rows, columns=["rule", "threads", "wall", "cpu", "memory"]), again)


def _finished(text: str) -> dict[str, tuple[str, int]]:
    """Benchmark file -> (rule, threads) of the jobs that a log says are finished."""
    done = set(re.findall(r"^Finished jobid: (\d+)", text, re.M))
    found = {}
    for rule, body in re.findall(r"^(?:local)?(?:rule|checkpoint) (\w+):\n((?: {4}.*\n)+)", text, re.M):
        fields = dict(line.strip().split(": ", 1) for line in body.splitlines() if ": " in line)
        if fields.get("jobid") in done and "benchmark" in fields:
            found[fields["benchmark"]] = rule, int(fields.get("threads", 1))
    return found


def report(run: Run) -> str:
    """Markdown: a table by rule, and what of the cores' time is used."""
    jobs = run.jobs
    rules = sorted((jobs for _, jobs in jobs.groupby("rule")), key=lambda some: -some["wall"].sum())
    rows = [_row(some["rule"].iloc[0], some) for some in rules]
    available = run.cores * run.wall
    reserved, cpu = (jobs["threads"].clip(upper=run.cores) * jobs["wall"]).sum(), jobs["cpu"].sum(skipna=False)

    def share(seconds: float) -> str:
        return "-" if pd.isna(seconds) else f"{seconds:.1f} core-seconds ({100 * seconds / available:.0f} %)"

    lines = [
        f"wall time of the workflow: {run.wall:.1f} s on {run.cores} cores, {available:.1f} core-seconds",
        f"reserved by jobs (threads x wall): {share(reserved)}",
        f"CPU of jobs: {share(cpu)}",
        f"reserved and not computing: {share(reserved - cpu)}",
        f"not reserved (Snakemake, or no job could run): {share(available - reserved)}",
    ]
    if unknown := jobs["cpu"].isna().sum():
        lines.append(f"of {unknown} jobs Snakemake has no CPU time: they were too short")
    if run.again:
        lines.append(f"{run.again} jobs were run again later; their first run is not among the jobs")
    return "\n".join([common.table(COLUMNS, [*rows, _row("total", jobs)]), "", *(f"- {line}" for line in lines)])


def _row(name: str, jobs: pd.DataFrame) -> list[Any]:
    """A sum with a missing number is missing."""
    sums = [f"{cell:.1f}" if pd.notna(cell) else None for cell in jobs[["wall", "cpu"]].sum(skipna=False)]
    memory = jobs["memory"].max(skipna=False)
    return [name, len(jobs), *sums, f"{memory:.0f}" if pd.notna(memory) else None]


# ---- from nothing -------------------------------------------------------------------


def copy(source: Path, target: Path) -> None:
    """The files of a checkout as they are now, new ones among them, without what git ignores."""
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(words, cwd=source, capture_output=True)
    if listed.returncode:
        raise UserError(f"{source}: no git checkout, so it cannot be told which files are the project's.")
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (source / name).is_file():  # a listed file may be deleted, or the folder of another checkout
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, target / name)


def snakemake(study: str, cores: int) -> list[str]:
    return [sys.executable, "-m", "snakemake", "--cores", str(cores), "--config", f"study={study}"]


def timed(checkout: Path, study: str, cores: int) -> float:
    """Wall seconds of the workflow in `checkout`, with Snakemake's own start. Raises: UserError when it fails."""
    # `grace` is that of the copy, whatever is installed, and the jobs' `python` is this one.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(checkout)}
    output: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    begin = time.perf_counter()
    done = subprocess.run(snakemake(study, cores), cwd=checkout, env=environment, **output)
    seconds = time.perf_counter() - begin
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-TAIL:])
        raise UserError(f"{checkout}: the workflow failed; the end of what it said:\n{tail}")
    return seconds


def run(study: str, cores: int, repeats: int, keep: Path | None, path: Path | None) -> None:
    """Run the study from nothing `repeats` times, print what each took, and write the entry."""
    seconds, speeds = [], [common.gflops()]
    for number in range(1, repeats + 1):
        if keep and (keep / str(number)).exists():
            raise UserError(f"--keep: {keep / str(number)} exists; name a folder that can be made.")
        with (
            nullcontext(keep / str(number)) if keep else tempfile.TemporaryDirectory(prefix="grace-workflow-") as folder
        ):
            checkout = Path(folder).resolve()
            checkout.mkdir(parents=True, exist_ok=True)
            copy(common.ROOT, checkout)
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


@in_one_sentence()
def main(argv: list[str] | None = None) -> None:
    parser = common.parser(__doc__)
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
    if arguments.run:
        run(arguments.study, arguments.cores, arguments.repeats, arguments.keep, arguments.json)
    else:
        print(report(read(arguments.folder.resolve())))


if __name__ == "__main__":
    main()
