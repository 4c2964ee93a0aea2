"""A study's jobs, rule by rule: how many, how long, what they read, write and keep."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from grace.config import Hardware
from grace.report.planning import additions, costs
from grace.report.planning.additions import Addition
from grace.report.planning.costs import Work
from grace.report.planning.estimates import ROW_BYTES, Estimates, Training
from grace.specs import PlanSpec

# Rules that ask for the resources of another.
RESOURCES = {"download": "source", "encoder": "source", "figures": "tables", "audit": "report", "claims": "tables"}
STEPS = 1000  # where the paper's figure 5 ends


@dataclass(frozen=True)
class Rule:
    """All jobs of a rule. `longest`: wall seconds of its longest job; `runtime`: minutes that a job is given."""

    name: str
    jobs: int
    gpus: int  # of a job, at most
    gpu_hours: float
    longest: float
    runtime: int
    work: Work
    disk: float  # bytes that stay


@dataclass(frozen=True)
class Plan:
    """A study's estimates."""

    estimates: Estimates
    rules: list[Rule]
    trainings: list[Training]
    evaluations: dict[tuple[str, str, str], Work]  # of one seed, by backbone, run and group of tasks
    disk: dict[str, float]  # bytes by what they hold
    checkpoints: float  # bytes that a training needs while it runs

    @property
    def gpu_hours(self) -> float:
        return sum(rule.gpu_hours for rule in self.rules)

    @property
    def work(self) -> Work:
        return sum((rule.work for rule in self.rules), Work())

    @cached_property
    def additions(self) -> list[Addition]:
        """What each ablation takes, asked for or not."""
        return additions.additions(self.estimates)

    @property
    def chain(self) -> float:
        """Wall seconds of the longest training and what waits for it in turn: an evaluation, and one that pools its
        rationales anew. All else can run beside it."""
        gpus, e = {rule.name: rule.gpus for rule in self.rules}, self.estimates
        if not gpus.get("evaluate"):
            return 0.0
        trained = {(job.backbone, job.run): job.wall for job in self.trainings} if gpus.get("train") else {}

        def wall(backbone: str, run: str, group: str) -> float:
            work, before = self.evaluations.get((backbone, run, group), Work()), e.rationales_of(run)
            waited = wall(backbone, before, group) if before else trained.get((backbone, e.owner(run)), 0.0)
            return waited + work.seconds / gpus["evaluate"]

        return max((wall(*job) for job in self.evaluations), default=0.0)

    @property
    def wall_hours(self) -> float:
        """With every GPU busy, but no shorter than the longest chain of jobs; of a processor one job after another."""
        return max(self.gpu_hours / max(self.estimates.h.gpus, 1), self.chain / 3600)


def plan(spec: PlanSpec, kept: dict[str, int] | None = None) -> Plan:
    """Estimate a study.

    Args:
        kept: rows of a source after `pairs`, where it has run; otherwise the number that the paper names is taken.
    """
    e = Estimates(spec, kept)
    trainings = [e.training(*job) for job in e.trained]
    evaluations = {
        (backbone, run, group): e.evaluation(backbone, run, group)
        for backbone, runs in e.evaluated.items() for run, groups in runs.items() for group in groups
    }  # fmt: skip
    trained = [job.work for job in trainings for _ in range(e.trained[job.backbone, job.run])]
    encoded = [work for job, work in evaluations.items() for _ in range(e.encodings(*job))]
    general = [
        work
        for backbone, runs in spec.general.items()
        for run in runs
        for work in [e.general(backbone, run)] * e.seeds(backbone, "general", run)
    ]
    evaluated = sum(e.seeds(backbone, "mteb", run, group) for backbone, run, group in evaluations)
    disk = _disk(e, trainings)

    def rule(name: str, jobs: int, works: Iterable[Work] = (), gpus: int | None = None, *holds: str) -> Rule:
        at = spec.study.resources[RESOURCES.get(name, name)]
        works = list(works)
        gpus = int(bool(works)) if e.processor else at.gpu if gpus is None else gpus
        total = sum(works, Work())
        longest = max((work.seconds for work in works), default=0.0) / gpus if gpus else 0.0
        hours = total.seconds / 3600 if gpus else 0.0
        return Rule(name, jobs, gpus, hours, longest, at.runtime, total, sum(disk[name] for name in holds))

    own = [name for name, backbone in spec.backbones.items() if backbone.kind == "trained"]
    sources = len(e.sources)
    shared = max((job.gpus for job in trainings), default=0) if spec.study.resources["train"].gpu or e.processor else 0
    rules = [
        rule("source", sources, (), None, "raw text"),
        rule("pairs", sources, (), None, "pairs"),
        rule("split", sources, (), None, "splits"),
        rule("triples", int("supervised" in e.kinds), (), None, "triples"),
        rule("lengths", len(e.read), (), None, "rows"),
        rule("tasks", int(spec.own_tasks)),
        rule("backbone", len(own), map(e.backbone, own)),
        rule("download", len(spec.backbones) - len(own), (), 0, "backbones"),
        rule("encoder", int(bool(spec.study.encoder)), (), 0),
        rule("rationales", len(e.learnt_from), [e.learning(*job) for job in e.learnt_from], None, "rationales"),
        rule("train", len(trained), trained, shared, "models", "kept checkpoints"),
        rule("evaluate", evaluated, encoded, None, "store", "MTEB data sets"),
        rule("general", len(general), general),
        rule("latency", len(spec.timed), map(e.latency, spec.timed)),
        rule("cases", len(spec.shown), map(e.cases, spec.shown)),
        rule("tables", len(spec.tables)),
        rule("figures", len(spec.figures)),
        *map(rule, ("audit", "claims", "report"), (1, 1, 1)),
    ]
    # Trainings of different width: the longest job by the wall.
    walls = {"train": max((job.wall for job in trainings), default=0.0) if shared else 0.0}
    rules = [replace(r, longest=walls.get(r.name, r.longest)) for r in rules if r.jobs]
    checkpoints = [
        2 * max(costs.checkpoint_bytes(spec.backbones[job.backbone], at.lora) for at in e.settings(job.run))
        for job in trainings
    ]
    return Plan(e, rules, trainings, evaluations, disk, max(checkpoints, default=0.0))


def _disk(e: Estimates, trainings: list[Training]) -> dict[str, float]:
    """Bytes by what they hold, without what is removed again."""
    backbones = e.spec.backbones

    def text(source: str) -> float:
        known, form = e.texts(source), e.spec.sources[source].form
        passages = {"texts": 1, "pairs": 1, "triples": 1 + e.negatives()}[form]
        return known.rows * (known.query * (form != "texts") + known.passage * passages + ROW_BYTES)

    def trained_on(kind: str) -> float:
        known = e.texts(e.source(kind))
        supervised = known.query + known.passage * (1 + e.negatives())
        return e.rows(kind) * ((supervised if kind == "supervised" else known.passage) + ROW_BYTES)

    raw = sum(map(text, e.sources))
    parameters = {name: costs.parameters(backbone) for name, backbone in backbones.items()}
    tasks = {group for runs in e.evaluated.values() for groups in runs.values() for group in groups}
    texts = [field for group in e.sizes if group in tasks for field in e.fields(group, list(tasks), e.fetched)]
    return {
        "raw text": raw,
        "pairs": raw,
        "splits": raw,
        "triples": trained_on("supervised") if "supervised" in e.kinds else 0.0,
        "rows": sum(trained_on(kind) for _, kind in e.read),
        "backbones": sum(
            costs.WEIGHT * count for name, count in parameters.items() if backbones[name].kind != "trained"
        ),
        "models": sum(e.saved(backbone, run) * seeds for (backbone, run), seeds in e.trained.items()),
        "kept checkpoints": sum(
            costs.SAVED * parameters[job.backbone] * e.trained[job.backbone, job.run] * len(e.reached(job))
            for job in trainings
        ),
        "rationales": sum(e.learnt_bytes(*job) for job in e.learnt_from),
        "store": sum(e.store(backbone, run) for backbone, runs in e.evaluated.items() for run in runs),
        "MTEB data sets": 2 * sum(field.distinct * field.mean for field in texts),  # as fetched, and as read
    }


def variations(spec: PlanSpec, kept: dict[str, int]) -> list[tuple[str, float]]:
    """GPU-hours of the study with one assumption changed at a time."""
    h, g = spec.study.hardware, spec.study.grace

    def hours(change: Callable[[], dict[str, Any]]) -> float:
        return plan(spec.model_copy(update={"study": spec.study.model_copy(update=change())}), kept).gpu_hours

    def hardware(**values: Any) -> Callable[[], dict[str, Any]]:
        return lambda: {"hardware": Hardware(**{**h.model_dump(), **values})}

    found = [
        (f"hardware.{key}: {value:g}", hours(hardware(**{key: value})))
        for key, value in (
            ("rationale_tokens", h.rationale_tokens // 2 or 1),
            ("rationale_tokens", h.rationale_tokens * 2),
            ("compute_share", h.compute_share / 2),
            ("decode_share", h.decode_share / 2),
            ("decode_batch", h.decode_batch * 2),
            ("step_overhead_ms", h.step_overhead_ms * 2),
            ("vllm_step_overhead_ms", h.vllm_step_overhead_ms * 2),
            ("characters_per_token", h.characters_per_token - 1),
        )
        if value > 0
    ]
    if g.max_steps is None or g.max_steps > STEPS:
        short = spec.study.grace.model_copy(update={"max_steps": STEPS})
        found.append((f"grace.max_steps: {STEPS}", hours(lambda: {"grace": short})))
    return found
