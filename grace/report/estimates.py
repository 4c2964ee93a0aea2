"""GPU time, tokens, memory and disk of a study's jobs, from its settings and the shapes of its backbones."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from grace.config import Backbone, Study
from grace.report import costs
from grace.report.costs import Work
from grace.report.sizes import GENERAL, SOURCES, UNKNOWN, Field, Texts, task_sizes
from grace.section import build, merge
from grace.settings import Contrastive, Grace, Prompt
from grace.specs import PlanSpec

TEMPLATE_TOKENS = 15  # of a chat template around instruction and text
VLLM_MEMORY = 0.9  # share of a GPU that vLLM takes where it is alone: its default
ROW_BYTES = 80  # of a JSON line beside its texts


@dataclass(frozen=True)
class Training:
    """One training job. `parts`: GPU-seconds of a generation (GRACE) or of an update, by what is done."""

    backbone: str
    run: str
    gpus: int  # that the estimate divides the work among
    repeats: int  # generations or updates
    updates: int  # optimizer steps
    texts: int  # per repeat
    parts: dict[str, float]
    work: Work  # of the whole job
    memory: dict[str, float]  # bytes of a GPU
    room: bool  # whether vLLM's share holds the weights and one longest text

    @property
    def wall(self) -> float:
        return self.work.seconds / self.gpus


class Estimates:
    """Estimates for a study.

    Args:
        spec: the study.
        kept: rows of a source after `pairs`, where it has run.
    """

    def __init__(self, spec: PlanSpec, kept: dict[str, int] | None = None) -> None:
        self.spec, self.study, self.h = spec, spec.study, spec.study.hardware
        self.kept = kept or {}
        self.used = [run for run in spec.study.runs if run in {*spec.evaluated, *spec.general}]
        self.trained = [run for run in self.used if spec.study.runs[run].trained]
        self.kinds = [kind for kind in ("supervised", "unsupervised") if kind in self._data_of_runs()]
        groups = spec.study.evaluation.groups
        self.tasks = [name for names in groups.values() for name in names]
        sizes = task_sizes()
        self.sizes = {name: [f for f in sizes if f.task in names] for name, names in groups.items()}
        self.unsized = sorted({*self.tasks} - {f.task for f in sizes}) + sorted(
            {*spec.study.general.tasks} - {*GENERAL}
        )

    def _data_of_runs(self) -> set[str | None]:
        return {self.study.runs[run].data for run in self.trained}

    @cached_property
    def sections(self) -> dict[str, Study]:
        """The study as each run sees it."""
        whole = self.study.model_dump()
        changed = {run: entry.settings for run, entry in self.study.runs.items() if entry.settings}
        own = {run: build(Study, merge(whole, settings), "") for run, settings in changed.items()}
        return {run: own.get(run, self.study) for run in ("backbone", *self.study.runs)}

    # ---- texts --------------------------------------------------------------------------

    def source(self, data: str) -> str:
        return str(getattr(self.study.data, data))

    def texts(self, source: str) -> Texts:
        """What is known of a source: the rows that `pairs` kept, or else those that the paper names."""
        known = SOURCES.get(str(self.spec.sources[source].id), UNKNOWN)
        rows = self.kept.get(source, min(known.rows, self.study.data.max_rows or known.rows))
        return known._replace(rows=rows)

    def rows(self, data: str) -> int:
        """Training rows, after the split."""
        rows = self.texts(self.source(data)).rows
        held = (self.study.data.test, self.study.data.validation)
        return rows - sum(round(rows * share) if share < 1 else round(share) for share in held)

    def negatives(self) -> int:
        """M: of triples one, as in the paper's data; of pairs as many as are mined."""
        form = self.spec.sources[self.study.data.supervised].form
        return 1 if form == "triples" else self.study.data.mining.negatives

    def prefix(self, prompt: Prompt) -> float:
        return len(prompt.instruction) / self.h.characters_per_token + TEMPLATE_TOKENS

    def prompt(self, characters: float, prompt: Prompt, chat: bool = True) -> float:
        """Tokens of a prompt whose text has `characters`, cut at its limit."""
        whole = characters / self.h.characters_per_token + (self.prefix(prompt) if chat else 0)
        return min(max(whole, 1.0), prompt.max_prompt_tokens)

    def rationale(self, limit: int) -> int:
        return min(self.h.rationale_tokens, limit)

    # ---- training -----------------------------------------------------------------------

    def training(self, backbone: str, run: str) -> Training:
        at = self.sections[run]
        settings = self.settings(run)
        if isinstance(settings, Grace):
            return self._grace(backbone, run, at)
        return self._contrastive(backbone, run, at, settings)

    def settings(self, run: str) -> Grace | Contrastive:
        """The section of a trained run's method."""
        return getattr(self.sections[run], self.study.runs[run].method)

    def _grace(self, name: str, run: str, at: Study) -> Training:
        b, h, g, data = self.spec.backbones[name], self.h, at.grace, str(self.study.runs[run].data)
        known, limit = self.texts(self.source(data)), at.generation.max_new_tokens
        query, passage = (self.prompt(n, at.prompt) for n in (known.query, known.passage))
        others = [query, *[passage] * self.negatives()] if data == "supervised" else [passage]
        others += [passage] * (g.estimator == "remax")  # its greedy rollout
        rollouts, anchors, written = g.instances * g.rollouts, g.instances * len(others), self.rationale(limit)
        anchor = sum(others) / len(others)
        vllm, longest = g.engine == "vllm", at.prompt.max_prompt_tokens + limit
        parts = {"prefill": 0.0, "decode": 0.0}
        memory = g.vllm_tensor_parallel * g.vllm_memory * h.memory_gb * 1e9
        shared = g.processes // g.vllm_tensor_parallel if vllm else g.processes  # engines side by side
        for texts, prompt in ((rollouts, passage), (anchors, anchor)):
            each = texts / shared
            together = costs.slots(b, h, memory, prompt + written) if vllm else None
            steps = self._steps(each, limit, together, at.generation.batch_size)
            parts["prefill"] += costs.compute_seconds(h, costs.forward_flops(b, texts, prompt, texts))
            parts["decode"] += shared * costs.decode_seconds(b, h, prompt, written, each, steps)
        policy = costs.forward_flops(b, rollouts, passage + written, rollouts * written)
        if vllm:  # the transformers engine pools while it writes
            pooled = sum(costs.forward_flops(b, n, p + written) for n, p in ((rollouts, passage), (anchors, anchor)))
            parts["pooling"] = costs.compute_seconds(h, pooled)
        if g.updates_per_generation > 1:
            parts["old log-probabilities"] = costs.compute_seconds(h, policy)
        passes = (2 if g.lora else 3) + g.gradient_checkpointing
        parts["update"] = costs.compute_seconds(h, passes * policy)

        epochs = math.floor(self.rows(data) / g.instances) * g.epochs
        repeats = math.ceil(g.max_steps / g.updates_per_generation) if g.max_steps else math.floor(epochs)
        activations = costs.activation_bytes(b, g.rollouts_per_forward * longest, g.gradient_checkpointing)
        batch = 0 if vllm else min(at.generation.batch_size, (rollouts + anchors) // g.processes)
        writing = costs.cache_bytes(b) * batch * longest
        updates = g.max_steps or repeats * g.updates_per_generation
        return Training(
            name, run, g.processes, repeats, updates, rollouts + anchors, parts,
            Work(sum(parts.values()), rollouts * passage + anchors * anchor, (rollouts + anchors) * written) * repeats,
            self._memory(b, g, activations, writing, g.vllm_memory * h.memory_gb * 1e9 if vllm else 0.0),
            not vllm or memory > costs.WEIGHT * costs.parameters(b) + costs.cache_bytes(b) * longest,
        )  # fmt: skip

    def _contrastive(self, name: str, run: str, at: Study, c: Contrastive) -> Training:
        b, h, data = self.spec.backbones[name], self.h, str(self.study.runs[run].data)
        known, chat = self.texts(self.source(data)), at.evaluation.direct_prompt == "chat"
        query, passage = (self.prompt(n, at.prompt, chat) for n in (known.query, known.passage))
        cl = self.study.runs[run].method == "cl"
        columns = [query, *[passage] * (1 + self.negatives())] if cl else [passage] * 2
        cached = c.mini_batch_size < c.batch_size // c.processes
        passes = (2 if c.lora else 3) + cached  # the gradient cache adds a forward pass
        parts = {
            "forward and backward": passes
            * sum(costs.compute_seconds(h, costs.forward_flops(b, c.batch_size, length)) for length in columns)
        }
        updates = c.max_steps or math.floor(math.floor(self.rows(data) / c.batch_size) * c.epochs)
        together = min(c.mini_batch_size, c.batch_size // c.processes)
        together *= 1 if cached else len(columns)  # without the cache all columns' values wait for the loss
        memory = self._memory(b, c, costs.activation_bytes(b, together * at.prompt.max_prompt_tokens, False))
        work = Work(sum(parts.values()), c.batch_size * sum(columns)) * updates
        texts = c.batch_size * len(columns)
        return Training(name, run, c.processes, updates, updates, texts, parts, work, memory, True)

    def _steps(self, texts: float, limit: int, together: int | None, batch: int) -> float:
        """Decoding steps of an engine for `texts`: vLLM refills its places, the other waits for a batch's longest."""
        if together is None:
            return math.ceil(texts / batch) * limit
        return max(texts * self.rationale(limit) / together, limit)

    @staticmethod
    def _memory(
        b: Backbone, at: Grace | Contrastive, activations: float, writing: float | None = None, vllm: float = 0.0
    ) -> dict[str, float]:
        """Bytes of a training GPU. `writing`: of the cache while rationales are written, None where none are.

        A sharded model is gathered whole to write and pool rationales; an unsharded one in bfloat16 keeps a copy of
        its float32 weights for the arithmetic.
        """
        shards = at.processes if at.sharding == "fsdp" else 1
        copy = costs.WEIGHT * costs.parameters(b) if shards > 1 or at.precision == "bf16" else 0
        peaks = [activations + (copy if shards == 1 else 0)] + ([] if writing is None else [writing + copy])
        return {"state": costs.state_bytes(b, at.lora, shards), "working": max(peaks), "vLLM": vllm}

    # ---- evaluation ---------------------------------------------------------------------

    def encodings(self, run: str) -> int:
        """How often a run's texts are encoded over the seeds: once where neither model nor sampling has one."""
        entry, sampled = self.study.runs[run], self.sections[run].evaluation.sampling_temperature > 0
        return len(self.study.seeds) if entry.trained or (entry.rationales and sampled) else 1

    def fields(self, group: str) -> list[Field]:
        """What a group of tasks encodes, without texts that another task of the study has left in the store."""
        return [field for field in self.sizes[group] if field.same_as not in self.tasks]

    def evaluation(self, backbone: str, run: str, group: str) -> Work:
        """One model on one group of tasks."""
        at, reasons = self.sections[run], self.study.runs[run].rationales
        chat = reasons or at.evaluation.direct_prompt == "chat"
        texts = ((field.distinct, self.prompt(field.mean, at.prompt, chat)) for field in self.fields(group))
        return self._encode(self.spec.backbones[backbone], at, texts, reasons)

    def _encode(self, b: Backbone, at: Study, texts: Iterable[tuple[int, float]], reasons: bool) -> Work:
        h, limit, vllm = self.h, at.evaluation.max_new_tokens, at.evaluation.engine == "vllm"
        done, written = Work(), self.rationale(limit)
        for count, prompt in texts:
            flops, seconds = costs.forward_flops(b, count, prompt, count if reasons else 0), 0.0
            if reasons:
                together = costs.slots(b, h, VLLM_MEMORY * h.memory_gb * 1e9, prompt + written) if vllm else None
                steps = self._steps(count, limit, together, at.evaluation.batch_size)
                seconds = costs.decode_seconds(b, h, prompt, written, count, steps)
                flops += costs.forward_flops(b, count, prompt + written) if vllm else 0.0
            seconds += costs.compute_seconds(h, flops)
            done += Work(seconds, count * prompt, count * written if reasons else 0)
        return done

    def general(self, backbone: str, run: str) -> Work:
        """One model on the general tasks, and on the held-out texts whose rationales are judged."""
        b, h, at = self.spec.backbones[backbone], self.h, self.sections[run]
        general, done = at.general, Work()
        for name in general.tasks:
            if (size := GENERAL.get(name)) is None:
                continue
            count = min(size.items, general.limit * size.parts) if general.limit else size.items
            steps = math.ceil(count / general.batch_size) * size.written
            seconds = costs.compute_seconds(h, costs.forward_flops(b, count, size.prompt, count))
            if size.written:
                seconds += costs.decode_seconds(b, h, size.prompt, size.written, count, steps)
            done += Work(seconds, count * size.prompt, count * size.written)
        passage = self.prompt(self.texts(self.source("supervised")).passage, at.prompt)
        return done + self._encode(b, at, [(general.rationales, passage)], True)
