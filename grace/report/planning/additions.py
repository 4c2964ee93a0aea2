"""What each ablation adds to a study, so that one can be dropped."""

from __future__ import annotations

from dataclasses import dataclass

from grace.exhibits import Figure, Table
from grace.report.planning.costs import Work
from grace.report.planning.estimates import Estimates
from grace.shown import REFERENCE

ALL = "all of them"


@dataclass(frozen=True)
class Addition:
    """The runs of an ablation that are not another run themselves, for all backbones and seeds."""

    ablation: str
    shown_in: list[str]  # tables and figures
    counted: bool  # whether the plan's totals hold it
    runs: int
    trainings: int
    evaluations: int
    training: Work
    evaluation: Work
    gpu_hours: float
    disk: float  # bytes
    sized: bool  # whether a task of its evaluations, if any, has a known size
    at_once: bool = False  # of embeddings and generation at once, which is asked for apart


def additions(e: Estimates) -> list[Addition]:
    """Each ablation alone, then all together that one asks for as ablations: a run of two counts once there. What
    embeddings and generation at once take, in the modes of each model, follows."""
    exhibits: dict[str, Table | Figure] = {**e.study.tables, **e.study.figures}
    shown = {name: [key for key, entry in exhibits.items() if name in entry.ablations] for name in e.points}
    modes = [name for name in e.points if e.study.ablations[name].modes]
    points = {name: runs for name, runs in e.points.items() if name not in modes}
    found = [_addition(e, name, shown[name], dict.fromkeys(runs)) for name, runs in points.items()]
    if len(found) > 1:
        found.append(_addition(e, ALL, [], dict.fromkeys(run for runs in points.values() for run in runs)))
    for name in modes:
        seeds = max([e.spec.exhibits.get(key, len(e.study.seeds)) for key in shown[name]], default=len(e.study.seeds))
        more: dict[str, int | None] = dict.fromkeys(e.points[name], seeds)
        rows = [run for key in shown[name] for run in exhibits[key].rows]
        own = [run for run in (*e.study.ablations[name].runs, *rows) if run in e.study.runs and run not in more]
        found.append(_addition(e, name, shown[name], {**more, **dict.fromkeys(own, seeds - len(e.study.seeds))}, True))
    return found


def _addition(
    e: Estimates, name: str, shown_in: list[str], runs: dict[str, int | None], at_once: bool = False
) -> Addition:
    """Args: runs: run -> seeds, None: the study's. at_once: with general results, and the rationales of trainings."""
    trainings, evaluations = 0, 0
    training, evaluation, other, disk, sized = Work(), Work(), Work(), 0.0, not runs
    wanted = {run: len(e.study.seeds) if seeds is None else seeds for run, seeds in runs.items()}
    for run, backbone, seeds in ((n, b, seeds) for n, seeds in wanted.items() if seeds > 0 for b in e.backbones_of(n)):
        entry = e.study.runs[run]
        groups = e.study.evaluation.subset if at_once else e.groups(backbone, run)
        evaluations += len(groups) * seeds
        sized |= any(e.sizes[group] for group in groups)
        encoded = seeds if entry.trained or e.sampled(run) else 0 if at_once else 1
        for group in groups:
            evaluation += e.evaluation(backbone, run, group) * encoded
        disk += e.stored(backbone, run, groups) * encoded
        if entry.trains:
            trainings += seeds
            job = e.training(backbone, run)
            training += job.work * seeds
            disk += e.saved(backbone, run) * seeds * (1 + len(e.reached(job)))
        elif entry.step and entry.step in e.reached(e.training(backbone, e.owner(run))):
            disk += e.saved(backbone, e.owner(run)) * seeds
        # Untrained runs share the reference's general result, unless they write in another way.
        if at_once and (entry.trains or run == REFERENCE or (entry.settings and not entry.trained)):
            other += e.general(backbone, run) * seeds
    readers = [run for run in wanted if at_once and e.reads(run)]
    for at in sorted({(b, str(e.study.runs[run].data)) for run in readers for b in e.backbones_of(run)}):
        other += e.learning(*at)
        disk += e.learnt_bytes(*at)
    gpu = {rule: e.processor or e.study.resources[rule].gpu > 0 for rule in ("train", "evaluate")}
    seconds = training.seconds * gpu["train"] + (evaluation.seconds + other.seconds) * gpu["evaluate"]
    return Addition(
        name, shown_in, all(run in e.used for run in runs), len(runs), trainings, evaluations, training, evaluation,
        seconds / 3600, disk, sized, at_once,
    )  # fmt: skip
