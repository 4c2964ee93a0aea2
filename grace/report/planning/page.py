"""The plan of a study as Markdown that also reads well in a terminal."""

from __future__ import annotations

from collections.abc import Callable

from grace.report.columns import count, days, grid, hours, size
from grace.report.planning import costs, notes
from grace.report.planning.additions import ALL, Addition
from grace.report.planning.costs import Work
from grace.report.planning.estimates import Training
from grace.report.planning.jobs import Plan

UNKNOWN = "unknown"


def line(plan: Plan) -> str:
    """One line of totals."""
    e = plan.estimates
    time = f"{hours(plan.gpu_hours)} GPU-hours ({days(plan.wall_hours)} on {machine(plan)})"
    return _words(
        plan,
        f"study {e.spec.name}: {sum(rule.jobs for rule in plan.rules)} jobs, {time if plan.gpu_hours else 'no GPU'}, "
        f"{count(plan.work.written)} tokens written, {size(sum(plan.disk.values()))} of disk; "
        "estimates, not measurements",
    )


def machine(plan: Plan) -> str:
    h = plan.estimates.h
    return f"{h.gpus} x {h.gpu}" if h.gpus else h.gpu


def _words(plan: Plan, text: str) -> str:
    """What is said of GPUs, said of the processor in a study of one."""
    if not plan.estimates.processor:
        return text
    return text.replace("GPU-", "").replace("GPUs", "processors").replace("GPU", "processor")


def render(plan: Plan, variations: list[tuple[str, float]]) -> str:
    """The whole page. `variations`: GPU-hours with one assumption changed."""
    e = plan.estimates
    lines = [
        f"# Plan of the study `{e.spec.name}`",
        "",
        "Estimates from settings and shapes; nothing here was measured.",
    ]
    if not plan.gpu_hours:
        lines.append("The study uses no GPU: the seconds that its jobs take are in docs/measurements.md.")
    lines += ["", *_summary(plan), "", "## Jobs by rule", "", *_rules(plan), ""]
    if plan.trainings:
        lines += ["## Training, one seed", "", *_trainings(plan), ""]
    lines += ["## Evaluation, one model", "", *_evaluations(plan), ""]
    lines += ["## Memory of a GPU in training", "", *_memory(plan), ""] if plan.trainings and plan.gpu_hours else []
    lines += ["## Disk", "", *_disk(plan), ""]
    lines += ["## Ablations", "", *_ablations(plan), ""] if plan.additions else []
    lines += ["## To watch", "", *(f"- {text}" for text in notes.watch(plan)), ""]
    lines += ["## How it is computed", "", notes.FORMULAS, ""]
    lines += ["## Assumptions", "", *notes.assumptions(plan), ""]
    if plan.gpu_hours:
        rows = [[name, hours(value), f"{value / plan.gpu_hours:.2f}"] for name, value in variations]
        lines += ["With one of them changed at a time:", "", *grid(["changed", "GPU-hours", "ratio"], rows), ""]
    lines += [
        "To change one for good, edit `hardware` in config.yaml; to try one:",
        "",
        f"    snakemake --cores 1 plan --config study={e.spec.name} 'defaults={{hardware: {{rationale_tokens: 800}}}}'",
    ]
    return _words(plan, "\n".join(lines) + "\n")


def _summary(plan: Plan) -> list[str]:
    e = plan.estimates
    read, written = plan.work.read, plan.work.written
    facts = {
        "backbones": ", ".join(f"{name} ({count(costs.parameters(b))})" for name, b in e.spec.backbones.items()),
        "runs": notes.names(e, e.used),
        "seeds": ", ".join(map(str, e.study.seeds)),
        "jobs": f"{sum(rule.jobs for rule in plan.rules):,}",
        "GPU-hours": hours(plan.gpu_hours),
        "wall time": f"{days(plan.wall_hours)} on {machine(plan)}, all of it busy",
        "longest chain": f"{days(plan.chain / 3600)}: a training and the evaluations that wait for it",
        "tokens": f"{count(read)} of prompts, {count(written)} written",
        "disk": f"{size(sum(plan.disk.values()))}, and {size(plan.checkpoints)} while a training runs",
    }
    return [
        f"- {name}: {text}"
        for name, text in facts.items()
        if plan.gpu_hours or name not in ("GPU-hours", "wall time", "longest chain")
    ]


def _rules(plan: Plan) -> list[str]:
    formula = {
        "backbone": "5",
        "rationales": "6",
        "train": "4, 5",
        "evaluate": "6",
        "general": "2, 3",
        "latency": "9",
        "cases": "9",
    }
    rows = [
        [
            rule.name, f"{rule.jobs:,}", str(rule.gpus), hours(rule.gpu_hours) if rule.gpus else "",
            hours(rule.longest / 3600) if rule.gpus else "", f"{rule.runtime / 60:.3g}",
            count(rule.work.read), count(rule.work.written), size(rule.disk), formula.get(rule.name, ""),
        ]
        for rule in plan.rules
    ]  # fmt: skip
    head = [
        "rule",
        "jobs",
        "GPUs a job, at most",
        "GPU-hours",
        "longest job, h",
        "allowed, h",
        "tokens read",
        "tokens written",
    ]
    return [
        *grid([*head, "disk", "formula"], rows),
        "",
        "Rules without a GPU are not timed. Tokens read are those of the prompts, each counted once a text.",
    ]


def _trainings(plan: Plan) -> list[str]:
    def row(job: Training) -> list[str]:
        written = job.work.written / job.repeats if job.repeats else 0
        time = [f"{sum(job.parts.values()):.1f}", hours(job.work.seconds / 3600), hours(job.wall / 3600)]
        return [f"{job.repeats:,}", f"{job.updates:,}", f"{job.texts:,}", count(written), *time * bool(plan.gpu_hours)]

    head = ["batches", "updates", "texts a batch", "tokens written a batch"]
    out = _runs(plan, [*head, *["GPU-seconds a batch", "GPU-hours", "hours"] * bool(plan.gpu_hours)], row)
    if plan.gpu_hours:
        names = list(dict.fromkeys(name for job in plan.trainings for name in job.parts))
        parts = _runs(plan, names, lambda job: [f"{job.parts[n]:.2f}" if n in job.parts else "" for n in names], True)
        out += ["", "GPU-seconds of a batch, by what is done, of the study's own runs:", "", *parts]
    return out


def _runs(plan: Plan, head: list[str], row: Callable[[Training], list[str]], own: bool = False) -> list[str]:
    """A table of the trainings, runs of a backbone with the same cells in one row. own: without the ablations'."""
    merged: dict[tuple[str, ...], list[str]] = {}
    for job in plan.trainings:
        if not (own and plan.estimates.study.runs[job.run].ablation):
            merged.setdefault((job.backbone, *row(job)), []).append(job.run)
    rows = [[backbone, notes.names(plan.estimates, runs), *cells] for (backbone, *cells), runs in merged.items()]
    return grid(["backbone", "runs", *head], rows)


def _evaluations(plan: Plan) -> list[str]:
    """Of the study's own runs; what the ablations' take is in their table."""
    e = plan.estimates
    read = {run: groups for runs in e.evaluated.values() for run, groups in runs.items()}
    runs = [run for run in e.used if run in read and not e.study.runs[run].ablation]
    if not runs:
        return ["No table asks for MTEB."]
    groups = [group for group in e.sizes if any(group in read[run] for run in runs)]
    example = {
        kind: next((run for run in runs if e.study.runs[run].rationales is kind), None) for kind in (True, False)
    }
    most = example[True] or runs[0]

    def work(names: list[str], backbone: str, run: str) -> Work:
        return sum((e.evaluation(backbone, run, group) for group in names), Work())

    def sizes(label: str, names: list[str]) -> list[str]:
        first = next(iter(e.spec.backbones))
        asked = [field for group in names for field in e.sizes[group]]
        encoded, done = sum(n for group in names for n, _ in e.encoded(first, most, group)), work(names, first, most)
        tasks = str(sum(len(e.study.evaluation.groups[group]) for group in names))
        if not asked:
            return [label, tasks, *[UNKNOWN] * 5]
        return [
            label, tasks, f"{sum(f.texts for f in asked):,}", count(sum(f.texts * f.mean for f in asked)),
            f"{encoded:,}", count(done.read), count(done.written),
        ]  # fmt: skip

    def times(label: str, names: list[str]) -> list[str]:
        cells = [
            " / ".join(hours(work(names, backbone, run).seconds / 3600) for run in example.values() if run)
            for backbone in e.spec.backbones
        ]
        return [label, *cells]

    every = [*((group, [group]) for group in groups), ("all", groups)]
    head = ["group", "tasks", "texts", "characters", "encoded", "tokens read", "tokens written"]
    out = grid(head, [sizes(*one) for one in every])
    out += [
        "",
        "Encoded: distinct texts, without those that another task has left in the store, and the geometry's pairs.",
        "Tokens: of a model with rationales, where the study has one; a model without writes none.",
    ]
    if plan.gpu_hours:
        kinds = " / ".join(
            name for name, run in zip(("with rationales", "without"), example.values(), strict=True) if run
        )
        out += ["", f"GPU-hours of a model {kinds}:", ""]
        out += grid(["group", *e.spec.backbones], [times(*one) for one in every])
    return out


def _memory(plan: Plan) -> list[str]:
    def row(job: Training) -> list[str]:
        parts = [job.memory[name] / 1e9 for name in ("state", "working", "vLLM")]
        fits = sum(parts) <= plan.estimates.h.memory_gb and job.room
        return [*(f"{part:.1f}" for part in (*parts, sum(parts))), "yes" if fits else "NO"]

    head = ["state, GB", "working, GB", "vLLM, GB", "sum, GB", f"fits {plan.estimates.h.memory_gb:g} GB"]
    return [*_runs(plan, head, row), "", "At the longest texts: prompts and rationales at their limits."]


def _disk(plan: Plan) -> list[str]:
    rows = [[name, size(value)] for name, value in plan.disk.items() if value]
    rows += [["all that stays", size(sum(plan.disk.values()))]]
    rows += [["checkpoints of one training, while it runs", size(plan.checkpoints)]] if plan.checkpoints else []
    return grid(["what", "size"], rows)


def _ablations(plan: Plan) -> list[str]:
    study, timed = plan.estimates.spec.name, bool(plan.gpu_hours)

    def row(one: Addition) -> list[str]:
        time = [hours(one.gpu_hours)] * timed
        return [
            one.ablation, ", ".join(one.shown_in), str(one.runs), f"{one.trainings:,}", f"{one.evaluations:,}",
            count(one.training.written), count(one.evaluation.written) if one.sized else UNKNOWN, *time,
            size(one.disk) or ("" if one.sized else UNKNOWN),
            "" if one.ablation == ALL else "yes" if one.counted else "no",
        ]  # fmt: skip

    head = ["ablation", "shown in", "runs", "trainings", "evaluations", "tokens written in training", "in evaluation"]
    head += [*["GPU-hours"] * timed, "disk", "in the totals"]
    each = [one for one in plan.additions if one.ablation != ALL and not one.at_once]
    most = max(each or plan.additions, key=lambda one: (one.gpu_hours, one.training.written))
    drop = f"'studies={{{study}: {{ablations: {{{most.ablation}: null}}}}}}'"
    counted = any(one.counted for one in each)
    return [
        *grid(head, [row(one) for one in plan.additions]),
        "",
        "What an ablation adds to the study's own runs, on its backbones and with every seed. A run of two ablations",
        "is in both rows. Kept checkpoints are on disk whether or not they are evaluated.",
        *(
            []
            if counted
            else ["`--config ablations=true` asks for all of them, a target as `figure3` for those that it shows."]
        ),
        *(
            f"`{one.ablation}` is apart: `tradeoff=true` asks for it, or the target `tradeoff`. Its row holds all that "
            "it adds, also the trainings of runs that are in no other table, their general results and its seeds."
            for one in plan.additions
            if one.at_once
        ),
        "",
        "Without one of them:",
        "",
        f"    snakemake --cores 1 plan --config study={study} ablations=true {drop}",
    ]
