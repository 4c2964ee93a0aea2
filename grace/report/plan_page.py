"""The plan of a study as Markdown that also reads well in a terminal."""

from __future__ import annotations

from collections.abc import Callable

from grace.report import costs
from grace.report.columns import count, days, grid, hours, size
from grace.report.costs import Work
from grace.report.estimates import Training
from grace.report.jobs import Plan

FORMULAS = """\
P: parameters; E: those of embeddings and head (tied); n: tokens; L: length; d: heads x head width; c: bytes of a
token's keys and values, 4 x layers x key-value heads x head width; compute = tflops x compute_share; bandwidth =
bandwidth_tb x decode_share. Seconds are of one GPU.

1. Parameters: from the backbone's shape; they equal those of the transformers model of the same shape (a test).
2. Forward pass: (2 (P - E) n + 2 d layers L n + 2 E x tokens whose next token is scored) / compute.
3. Decoding: max of (steps x 2 P bytes + tokens written x mean context x c) / bandwidth and of
   tokens written x (2 P + 4 d layers x mean context) / compute. vLLM: steps = tokens written / texts decoded
   together, at least one longest rationale; texts decoded together = what its memory holds, at most decode_batch. The
   transformers engine: batches x max_new_tokens.
4. GRACE, one generation: instances x (rollouts + 1 query + M negatives) rationales by 2 and 3; with vLLM a pooling
   pass (2) over all of them; with updates_per_generation over 1 a pass for the old log-probabilities; an update of 3
   passes over the rollouts (4 with gradient checkpointing, one less with LoRA, which computes no gradients of weights).
   Generations = rows / instances x epochs, or max_steps / updates_per_generation.
5. CL and SimCSE, one update: 3 passes over the batch's texts, 4 with the gradient cache (mini_batch_size below a
   process's share of the batch), one less with LoRA.
6. Evaluation: each distinct text once; with a rationale a prefill (2), decoding (3) and, with vLLM, a pooling pass (2);
   without, the prefill alone.
7. Memory of a training GPU. State: 16 bytes a parameter (weight, gradient and Adam's moments in float32) / processes
   under FSDP; with LoRA 4, and 16 an adapter's parameter. Working: the activations of rollouts_per_forward longest
   sequences or of a mini batch's longest texts (without the gradient cache of the process's whole batch), or while
   rationales are written the whole weights (2 bytes each) and the transformers engine's cache. vLLM: its share.
8. Disk: backbones 2 bytes a parameter, models 4, checkpoints 2 x 12; the store, per text and model, width x 2 or 4
   bytes and 4 a rationale's token, before compression; texts 1 byte a character."""


def line(plan: Plan) -> str:
    """One line of totals."""
    e = plan.estimates
    time = f"{hours(plan.gpu_hours)} GPU-hours ({days(plan.wall_hours)} on {e.h.gpus} x {e.h.gpu})"
    return (
        f"study {e.spec.name}: {sum(rule.jobs for rule in plan.rules)} jobs, {time if plan.gpu_hours else 'no GPU'}, "
        f"{count(plan.work.written)} tokens written, {size(sum(plan.disk.values()))} of disk; "
        "estimates, not measurements"
    )


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
    lines += ["## Disk", "", *_disk(plan), "", "## To watch", "", *(f"- {text}" for text in _watch(plan)), ""]
    lines += ["## How it is computed", "", FORMULAS, "", "## Assumptions", "", *_assumptions(plan), ""]
    if plan.gpu_hours:
        rows = [[name, hours(value), f"{value / plan.gpu_hours:.2f}"] for name, value in variations]
        lines += ["With one of them changed at a time:", "", *grid(["changed", "GPU-hours", "ratio"], rows), ""]
    lines += [
        "To change one for good, edit `hardware` in config.yaml; to try one:",
        "",
        f"    snakemake --cores 1 plan --config study={e.spec.name} 'defaults={{hardware: {{rationale_tokens: 800}}}}'",
    ]
    return "\n".join(lines) + "\n"


def _summary(plan: Plan) -> list[str]:
    e = plan.estimates
    read, written = plan.work.read, plan.work.written
    facts = {
        "backbones": ", ".join(f"{name} ({count(costs.parameters(b))})" for name, b in e.spec.backbones.items()),
        "runs": ", ".join(e.used),
        "seeds": ", ".join(map(str, e.study.seeds)),
        "jobs": f"{sum(rule.jobs for rule in plan.rules):,}",
        "GPU-hours": hours(plan.gpu_hours),
        "wall time": f"{days(plan.wall_hours)} on {e.h.gpus} x {e.h.gpu}, all of them busy",
        "longest chain": f"{days(plan.chain / 3600)}: a training and the longest evaluation after it",
        "tokens": f"{count(read)} of prompts, {count(written)} written",
        "disk": f"{size(sum(plan.disk.values()))}, and {size(plan.checkpoints)} while a training runs",
    }
    return [
        f"- {name}: {text}"
        for name, text in facts.items()
        if plan.gpu_hours or name not in ("GPU-hours", "wall time", "longest chain")
    ]


def _rules(plan: Plan) -> list[str]:
    formula = {"train": "4, 5", "evaluate": "6", "general": "2, 3", "download": "1"}
    rows = [
        [
            rule.name, f"{rule.jobs:,}", str(rule.gpus), hours(rule.gpu_hours) if rule.gpus else "",
            hours(rule.longest / 3600) if rule.gpus else "", f"{rule.runtime / 60:.3g}",
            count(rule.work.read), count(rule.work.written), size(rule.disk), formula.get(rule.name, ""),
        ]
        for rule in plan.rules
    ]  # fmt: skip
    head = ["rule", "jobs", "GPUs a job", "GPU-hours", "longest job, h", "allowed, h", "tokens read", "tokens written"]
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
        parts = _runs(plan, names, lambda job: [f"{job.parts[n]:.2f}" if n in job.parts else "" for n in names])
        out += ["", "GPU-seconds of a batch, by what is done:", "", *parts]
    return out


def _runs(plan: Plan, head: list[str], row: Callable[[Training], list[str]]) -> list[str]:
    """A table of the trainings, runs of a backbone with the same cells in one row."""
    merged: dict[tuple[str, ...], list[str]] = {}
    for job in plan.trainings:
        merged.setdefault((job.backbone, *row(job)), []).append(job.run)
    rows = [[backbone, ", ".join(runs), *cells] for (backbone, *cells), runs in merged.items()]
    return grid(["backbone", "runs", *head], rows)


def _evaluations(plan: Plan) -> list[str]:
    e, groups = plan.estimates, list(plan.estimates.sizes)
    runs = e.spec.evaluated
    example = {
        kind: next((run for run in runs if e.study.runs[run].rationales is kind), None) for kind in (True, False)
    }
    any_backbone = next(iter(e.spec.backbones))

    def work(names: list[str], backbone: str, run: str) -> Work:
        return sum((plan.evaluations[backbone, run, group] for group in names), Work())

    def sizes(label: str, names: list[str]) -> list[str]:
        asked, encoded = ([f for group in names for f in of(group)] for of in (e.sizes.__getitem__, e.fields))
        most = work(names, any_backbone, example[True] or runs[0])
        return [
            label, str(sum(len(e.study.evaluation.groups[group]) for group in names)),
            f"{sum(f.texts for f in asked):,}", count(sum(f.texts * f.mean for f in asked)),
            f"{sum(f.distinct for f in encoded):,}", count(most.read), count(most.written),
        ]  # fmt: skip

    def times(label: str, names: list[str]) -> list[str]:
        cells = [
            " / ".join(hours(work(names, backbone, run).seconds / 3600) for run in example.values() if run)
            for backbone in e.spec.backbones
        ]
        return [label, *cells]

    if not runs:
        return ["No table asks for MTEB."]
    every = [*((group, [group]) for group in groups), ("all", groups)]
    head = ["group", "tasks", "texts", "characters", "encoded", "tokens read", "tokens written"]
    out = grid(head, [sizes(*one) for one in every])
    out += [
        "",
        "Encoded: distinct texts, without those that another task has left in the store. Tokens: of a model with",
    ]
    out += ["rationales, where the study has one; a model without writes none."]
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


LOWER = {
    "grace": "lower grace.rollouts_per_forward or grace.vllm_memory, raise grace.processes, or set grace.lora",
    "cl": "lower cl.mini_batch_size, raise cl.processes, or set cl.lora",
    "simcse": "lower simcse.mini_batch_size, raise simcse.processes, or set simcse.lora",
}


def _watch(plan: Plan) -> list[str]:
    """What may go wrong, or is not known."""
    e, found = plan.estimates, []
    for rule in plan.rules:
        if rule.longest > rule.runtime * 60:
            found.append(
                f"{rule.name}: the longest job is estimated at {hours(rule.longest / 3600)} hours and is given "
                f"{rule.runtime / 60:.3g}; raise resources.{rule.name}.runtime, or start it again to go on."
            )
        if rule.gpus > e.h.gpus:
            found.append(f"{rule.name}: a job takes {rule.gpus} GPUs, hardware.gpus names {e.h.gpus}.")
    tight: dict[str, dict[str, float]] = {}
    for job in plan.trainings if plan.gpu_hours else []:
        needed = sum(job.memory.values()) / 1e9
        if needed > e.h.memory_gb:
            tight.setdefault(job.run, {})[job.backbone] = needed
        if not job.room:
            found.append(
                f"{job.run} on {job.backbone}: vLLM's share does not hold the weights and one longest text; raise "
                "grace.vllm_memory or grace.vllm_tensor_parallel."
            )
    for run, backbones in tight.items():
        needs = ", ".join(f"{name} {needed:.0f} GB" for name, needed in backbones.items())
        found.append(
            f"{run}: with its longest texts does not fit the {e.h.memory_gb:g} GB of a GPU ({needs}); "
            f"{LOWER[e.study.runs[run].method]}."
        )
    longest = max((job.repeats for job in plan.trainings if "decode" in job.parts), default=0)
    if longest > 2000:
        found.append(
            f"GRACE trains for {longest:,} batches, as its epochs say; the paper's figure 5 ends at step 1,000. "
            "grace.max_steps shortens it."
        )
    unknown = [source for source in dict.fromkeys(map(e.source, e.kinds)) if source not in e.kept]
    if unknown:
        rows = ", ".join(f"{source} {e.texts(source).rows:,}" for source in unknown)
        found.append(f"The rows are the paper's, or assumed, until the rule `pairs` has counted them: {rows}.")
    if e.unsized:
        found.append(f"Without known sizes, so in no number: {', '.join(e.unsized)}.")
    return found or ["Nothing."]


def _assumptions(plan: Plan) -> list[str]:
    e, h = plan.estimates, plan.estimates.h
    enters = {
        "gpu": "a name", "gpus": "wall time", "memory_gb": "3, 7", "tflops": "2, 3; of the data sheet",
        "bandwidth_tb": "3; of the data sheet", "compute_share": "2, 3; assumed, not measured",
        "decode_share": "3; assumed, not measured", "decode_batch": "3; assumed, not measured",
        "rationale_tokens": "3, 4, 6, 8; assumed mean, not measured",
        "characters_per_token": "every prompt; assumed, not measured",
    }  # fmt: skip
    texts = [(source, e.texts(source)) for source in dict.fromkeys(map(e.source, e.kinds))]
    lengths = [
        f"a passage of {source} has {known.passage:g} characters"
        + (f", a query {known.query:g}" if known.query else "")
        for source, known in texts
    ]
    return [
        *grid(["key", "value", "enters"], [[f"hardware.{key}", str(value), enters[key]] for key, value in h]),
        "",
        "Assumed without a key (grace/report/sizes.py):",
        "",
        *(f"- {length}" for length in lengths),
        "- prompts and answers of the general tasks have the lengths of its table GENERAL",
        "- each text is as long as the mean of its task, so the cut at prompt.max_prompt_tokens is met too seldom",
        "- of every kind of run, distinct texts are encoded once; vLLM's prefix cache saves nothing",
        "- GPUs share work evenly; loading, start-up, scoring, communication and lost jobs take no time",
        "",
        "Texts of the MTEB tasks are counted from the statistics that mteb ships (grace/evaluation/task_sizes.py).",
    ]
