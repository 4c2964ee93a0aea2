"""What a study's runs, tables and figures ask of one another; a mistake is one sentence that names the key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grace.config import Study
from grace.exhibits import AT_ONCE, Figure, Table
from grace.merging import merged_study
from grace.section import UserError, hint

if TYPE_CHECKING:
    from grace.runs import Runs

RULES = (
    "source", "pairs", "split", "triples", "lengths", "tasks", "backbone", "rationales", "train", "evaluate", "general",
    "latency", "cases", "tables", "report",
)  # fmt: skip
TARGETS = (*RULES, "all", "audit", "claims", "download", "encoder", "evaluations", "figures", "paper_items", "plan")


def check_methods(runs: Runs, name: str, at: Study) -> None:
    """What a run's method asks of its sections together. Raises: UserError."""
    entry = runs.study.runs[name]
    if entry.method == "encoder" and at.encoder is None:
        raise UserError(
            f"config: runs.{name}.method: 'encoder' is the study's encoder, and it has none; name one of "
            "available_encoders in encoder, or leave the run out."
        )
    if entry.method != "encoder" and (wrong := at.pooling.misses(entry.rationales)):
        raise UserError(f"config: runs.{name}: {wrong}.")
    if entry.method == "adapter+grace" and at.grace.lora is None:
        raise UserError(
            f"config: runs.{name}.settings.grace.lora: the generator of adapter+grace is an adapter beside the one "
            "that embeds; give its rank, alpha, dropout and targets."
        )


def check_exhibits(runs: Runs) -> None:
    """That tables, figures, times and cases name runs and ablations that there are. Raises: UserError."""
    both: dict[str, Table | Figure] = {f"tables.{name}": entry for name, entry in runs.study.tables.items()}
    both |= {f"figures.{name}": entry for name, entry in runs.study.figures.items()}
    for where, exhibit in both.items():
        if twice := [name for name in runs.study.tables if where == f"figures.{name}"]:
            raise UserError(f"config: {where}: a table has this name too; rename {twice[0]!r}.")
        known = set(merged_study(runs._config, runs.name).get("ablations", {}))
        for name in exhibit.ablations:
            if name not in known:
                raise UserError(f"config: {where}.ablations: unknown ablation {name!r}{hint(name, known)}.")
        for key, run in (*(("rows", run) for run in exhibit.rows), *_compared(exhibit)):
            if run not in runs.known_runs | set(runs.study.runs) and not _dropped(runs, run):
                raise UserError(f"config: {where}.{key}: unknown run {run!r}{hint(run, runs.study.runs)}.")
            if exhibit.kind in ("general", "scatter", *AT_ONCE):
                _check_writes(runs, f"{where}.{key}", run)
        if (name := where.split(".", 1)[1]) in TARGETS:
            raise UserError(f"config: {where}: a rule is called {name!r}; choose another name.")
    cases = runs.study.cases
    for key, run in (
        ("latency.run", runs.study.latency.run),
        ("cases.progress", cases.progress),
        *(("cases.also", run) for run in cases.also),
    ):
        if run not in runs.known_runs:
            raise UserError(f"config: {key}: unknown run {run!r}{hint(run, runs.known_runs)}.")
        _check_writes(runs, key, run)


def _check_writes(runs: Runs, where: str, run: str) -> None:
    if run in runs.study.runs and runs.study.runs[run].method == "encoder":
        raise UserError(f"config: {where}: run {run!r} is an encoder-only model, which writes nothing; leave it out.")


def _dropped(runs: Runs, run: str) -> bool:
    """Whether a point's run may be missing because its run, or its ablation, is dropped or narrowed."""
    return run.split(".")[0] in runs.known_runs


def _compared(exhibit: Table | Figure) -> list[tuple[str, str]]:
    """(key, run) of the runs that a table of effects names."""
    effects = exhibit.effects if isinstance(exhibit, Table) else []
    return [
        (f"effects.{n}.{key}", run)
        for n, one in enumerate(effects)
        for key, run in (("run", one.run), ("other", one.other))
    ]
