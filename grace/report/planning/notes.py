"""What the page of a plan says in words: how it is computed, on what assumptions, and what to watch."""

from __future__ import annotations

from grace.config import Backbone
from grace.report.columns import grid, hours
from grace.report.planning.estimates import Estimates
from grace.report.planning.jobs import STEPS, Plan

FORMULAS = """\
P: parameters; E: those of embeddings and head (tied); n: tokens; L: length; d: heads x head width; c: bytes of a
token's keys and values, 4 x layers x key-value heads x head width; compute = tflops x compute_share; bandwidth =
bandwidth_tb x decode_share. Seconds are of one GPU.

1. Parameters: from the backbone's shape; they equal those of the transformers model of the same shape (a test).
2. Forward pass: (2 (P - E) n + 2 d layers L n + 2 E x tokens whose next token is scored) / compute.
3. Decoding: max of (steps x 2 P bytes + tokens written x mean context x c) / bandwidth and of
   tokens written x (2 P + 4 d layers x mean context) / compute; and steps x step_overhead_ms, or vllm_step_overhead_ms,
   for each GPU. Steps = tokens written / texts decoded together, at least one longest rationale. Texts decoded
   together: batch_size of the transformers engine; of vLLM what its memory holds, at most decode_batch. lm-eval
   decodes in batches, each as long as its answers.
4. GRACE, one generation: instances x (rollouts + 1 query + M negatives) rationales by 2 and 3; with vLLM a pooling
   pass (2) over all of them; with updates_per_generation over 1 a pass for the old log-probabilities; an update of 3
   passes over the rollouts (4 with gradient checkpointing, one less with LoRA, which computes no gradients of weights).
   Generations = rows / instances x epochs, or max_steps / updates_per_generation. best-of, one round: rows x (rollouts
   + 1 + M) rationales of the transformers engine, twice as many with credit: all; then epochs x the passes of an update
   over one rationale of each group (sft), or over two, which the reference reads too (dpo).
5. CL and SimCSE, one update: 3 passes over the batch's texts, 4 with the gradient cache (mini_batch_size below a
   process's share of the batch), one less with LoRA. adapter and kl_fence likewise; a loss over rationales reads prompt
   and rationale. The fence adds, for fence.rows of a process with a rationale and as many of plain text, the same
   passes and one of the frozen backbone, next tokens scored. What an adapter adds to a forward pass is left out. The
   rationales that trainings learn from are written once (6); in adapter+grace the generator writes them anew in each
   round, whose steps are those of an adapter and those of 4. A backbone of the workflow's own: 3 passes over its rows.
6. Evaluation: each distinct text once; with a rationale a prefill (2), decoding (3) and, with vLLM, a pooling pass (2);
   without, the prefill alone. A run that differs in pooling or has a smaller budget writes nothing: one pass (2) over
   prompt and rationale. The geometry's held-out pairs come on top. Of a drawn part of a retrieval (evaluation.sample)
   11 documents a query, as if one were judged. General tasks: 2 and 3.
7. Memory of a training GPU. State: 16 bytes a parameter (weight, gradient and Adam's moments in float32) / processes
   under FSDP; with LoRA 4, and 16 an adapter's parameter. Working: the activations of rollouts_per_forward longest
   sequences or of a mini batch's longest texts (without the gradient cache of the process's whole batch), or while
   rationales are written the whole weights (2 bytes each) and the transformers engine's cache. vLLM: its share.
8. Disk: backbones 2 bytes a parameter, models (an adapter: its own parameters) and kept checkpoints 4, those of a
   running training 2 x 12; the store, per text and run, width x 2 or 4 bytes and 4 a rationale's token, before
   compression; texts 1 byte a character.
9. Latency, one text at a time: a prefill, and one with decoding (2, 3; steps = tokens written) for each budget by the
   backbone and by the run. An encoder-only model is left out, here and in 6 and 8. Cases: 6 with the transformers
   engine."""

NAMED = 2  # runs of an ablation
SHAPE = ("layers", "width")  # what no entry of another backbone leaves as it is
LOWER = {
    "grace": "lower grace.rollouts_per_forward or grace.vllm_memory, raise grace.processes, or set grace.lora",
    "best-of": "lower offline.rows_per_forward, raise offline.processes, or set offline.lora",
    "cl": "lower cl.mini_batch_size, raise cl.processes, or set cl.lora",
    "simcse": "lower simcse.mini_batch_size, raise simcse.processes, or set simcse.lora",
    "adapter": "lower adapter.mini_batch_size",
    "kl_fence": "lower kl_fence.mini_batch_size or kl_fence.fence.rows, or set kl_fence.lora",
    "adapter+grace": "lower grace.rollouts_per_forward, adapter.mini_batch_size or grace.vllm_memory",
}


def watch(plan: Plan) -> list[str]:
    """What may go wrong, or is not known."""
    e, found = plan.estimates, []
    for rule in plan.rules:
        if rule.longest > rule.runtime * 60:
            found.append(
                f"{rule.name}: the longest job is estimated at {hours(rule.longest / 3600)} hours and is given "
                f"{rule.runtime / 60:.3g}; raise resources.{rule.name}.runtime, or start it again to go on."
            )
        if rule.gpus > e.h.gpus and not e.processor:
            found.append(f"{rule.name}: a job takes {rule.gpus} GPUs, hardware.gpus names {e.h.gpus}.")
    found += _memory(plan) if plan.gpu_hours else []
    found += _lengths(plan)
    unknown = [source for source in dict.fromkeys(map(e.source, e.kinds)) if source not in e.kept]
    if unknown:
        rows = ", ".join(f"{source} {e.texts(source).rows:,}" for source in unknown)
        found.append(f"The rows are the paper's, or assumed, until the rule `pairs` has counted them: {rows}.")
    found += [
        f"{name}: no shape is given, so times and memory are those of {b.layers} layers of width {b.width}; add "
        f"layers, width, heads, kv_heads, feed_forward and vocab_size to available_backbones.{name}."
        for name, b in e.spec.backbones.items()
        if b.kind != "trained" and all(getattr(b, key) == Backbone.model_fields[key].default for key in SHAPE)
    ]
    if e.unsized:
        found.append(f"Without known sizes, so in no number: {', '.join(e.unsized)}.")
    return found or ["Nothing."]


def names(e: Estimates, runs: list[str]) -> str:
    """Runs in a line; of many of one ablation the number."""
    left, found = dict.fromkeys(runs), [run for run in runs if not e.study.runs[run].ablation]
    for run in found:
        del left[run]
    for name, points in e.points.items():
        some = [run for run in left if run in points]
        found += some if len(some) <= NAMED else [f"{len(some)} of {name}"]
        for run in some:
            del left[run]
    return ", ".join(found)


def _memory(plan: Plan) -> list[str]:
    e = plan.estimates
    tight: dict[str, dict[str, float]] = {}
    room: dict[str, list[str]] = {}
    for job in plan.trainings:
        needed = sum(job.memory.values()) / 1e9
        if needed > e.h.memory_gb:
            tight.setdefault(job.run, {})[job.backbone] = needed
        if not job.room:
            room.setdefault(job.backbone, []).append(job.run)
    found = [
        f"{names(e, runs)} on {backbone}: vLLM's share does not hold the weights and one longest text; raise "
        "grace.vllm_memory or grace.vllm_tensor_parallel."
        for backbone, runs in room.items()
    ]
    same: dict[tuple[str, str], list[str]] = {}
    for run, backbones in tight.items():
        needs = ", ".join(f"{name} {needed:.0f} GB" for name, needed in backbones.items())
        same.setdefault((needs, LOWER[e.study.runs[run].method]), []).append(run)
    return found + [
        f"{names(e, runs)}: the longest texts do not fit the {e.h.memory_gb:g} GB of a GPU ({needs}); {lower}."
        for (needs, lower), runs in same.items()
    ]


def _lengths(plan: Plan) -> list[str]:
    """Trainings that are longer than the paper's figures, or shorter than what is wanted of them."""
    e, found = plan.estimates, []
    jobs = [job for job in plan.trainings if "decode" in job.parts]
    own = max((job.repeats for job in jobs if not e.study.runs[job.run].ablation), default=0)
    most = max(jobs, key=lambda job: job.repeats, default=None)
    if most and most.repeats > 2 * STEPS:
        other = f", {most.run} for {most.repeats:,}" if most.repeats > own else ""
        found.append(
            f"GRACE trains for {own:,} batches{other}, as its epochs say; the paper's figure 5 ends at step "
            f"{STEPS:,}. grace.max_steps shortens it."
        )
    short = {job.run: job.updates for job in jobs if e.reached(job) != e.kept_steps(job.run)}
    for run, updates in short.items():
        found.append(
            f"{run}: checkpoints are wanted at steps {', '.join(map(str, e.kept_steps(run)))}, but its training ends "
            f"after {updates:,}; change the steps of the ablation, or drop it."
        )
    return found


def assumptions(plan: Plan) -> list[str]:
    e, h = plan.estimates, plan.estimates.h
    enters = {
        "gpu": "a name", "gpus": "wall time", "memory_gb": "3, 7", "tflops": "2, 3; of the data sheet",
        "bandwidth_tb": "3; of the data sheet", "compute_share": "2, 3; assumed, not measured",
        "decode_share": "3; assumed, not measured", "decode_batch": "3; assumed, not measured",
        "step_overhead_ms": "3; assumed, not measured", "vllm_step_overhead_ms": "3; assumed, not measured",
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
        "Assumed without a key (grace/report/planning/sizes.py):",
        "",
        *(f"- {length}" for length in lengths),
        "- prompts and answers of the general tasks have the lengths of its table GENERAL",
        "- each text is as long as the mean of its task, so the cut at prompt.max_prompt_tokens is met too seldom",
        "- of every kind of run, distinct texts are encoded once; vLLM's prefix cache saves nothing",
        "- the launches of a prefill's or an update's kernels take no time of their own, those of decoding steps do",
        "- GPUs share work evenly; loading, start-up, scoring, communication and lost jobs take no time",
        "",
        "Texts of the MTEB tasks are counted from the statistics that mteb ships (grace/evaluation/task_sizes.py).",
    ]
