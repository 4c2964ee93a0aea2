"""GPU time, tokens and memory of a study's trainings, by method."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from grace.config import Backbone, Study
from grace.report.planning import costs
from grace.report.planning.costs import Work
from grace.report.planning.reading import Reading
from grace.runs import contrastive
from grace.settings import Contrastive, Grace, Offline

TOKEN_BYTES = 4  # of a token id in the store
PLAIN_SHARE = 0.3  # of plain text in the second stage of a backbone (grace/training/backbone.py)
STORED = {"float32": 4, "float16": 2}


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


class Trainings(Reading):
    """Estimates of a study's trainings. Args: as of `Reading`."""

    def training(self, backbone: str, run: str) -> Training:
        at, method = self.sections[run], self.study.runs[run].method
        if method == "grace":
            return self._grace(backbone, run, at)
        if method == "adapter+grace":
            return self._rounds(backbone, run, at)
        if method == "best-of":
            return self._best_of(backbone, run, at)
        return self._contrastive(backbone, run, at, contrastive(at, method))

    def backbone(self, name: str) -> Work:
        """A backbone of the workflow's own: three passes over plain text, then over prompts and plain text."""
        b, prompt = self.spec.backbones[name], self.study.prompt.max_prompt_tokens
        stages = ((b.pretrain_steps, b.block, b.block), (b.instruct_steps, prompt, self.h.rationale_tokens))
        rows = [(steps * b.batch_size, length, scored) for steps, length, scored in stages]
        rows.append((round(PLAIN_SHARE * b.instruct_steps * b.batch_size), b.block, b.block))
        flops = sum(costs.forward_flops(b, count, length, count * scored) for count, length, scored in rows)
        return Work(3 * costs.compute_seconds(self.h, flops), sum(count * length for count, length, _ in rows))

    def settings(self, run: str) -> tuple[Grace | Contrastive | Offline, ...]:
        """The sections of a trained run's method."""
        at, method = self.sections[run], self.study.runs[run].method
        if method == "best-of":
            return (at.offline,)
        learnt = () if method == "grace" else (contrastive(at, method),)
        return (*learnt, at.grace) if "grace" in method else learnt

    def reached(self, job: Training) -> list[int]:
        """The kept checkpoints that a training is long enough for."""
        return [step for step in self.kept_steps(job.run) if step <= job.updates]

    def _grace(self, name: str, run: str, at: Study) -> Training:
        b, h, g, data = self.spec.backbones[name], self.h, at.grace, str(self.study.runs[run].data)
        known, limit = self.texts(self.source(data)), at.generation.max_new_tokens
        query, passage = (self.prompt(n, at.prompt) for n in (known.query, known.passage))
        others = [query, *[passage] * self.negatives()] if data == "supervised" else [passage]
        others += [passage] * (g.estimator == "remax")  # its greedy rollout
        rollouts, anchors, written = g.instances * g.rollouts, g.instances * len(others), self.rationale(limit)
        anchor = sum(others) / len(others)
        vllm, longest = g.engine == "vllm", at.prompt.max_prompt_tokens + limit
        memory = g.vllm_tensor_parallel * g.vllm_memory * h.memory_gb * 1e9
        shared = g.processes // g.vllm_tensor_parallel if vllm else g.processes  # engines side by side
        kinds = ((rollouts, passage), (anchors, anchor))
        each, mean = (rollouts + anchors) / shared, (rollouts * passage + anchors * anchor) / (rollouts + anchors)
        together = costs.slots(b, h, memory, mean + written) if vllm else at.generation.batch_size
        steps = self._steps(each, limit, together)
        parts = {
            "prefill": sum(costs.compute_seconds(h, costs.forward_flops(b, n, prompt, n)) for n, prompt in kinds),
            "decode": shared * costs.decode_seconds(b, h, mean, written, each, steps),
            "step overhead": g.processes * costs.overhead_seconds(h, vllm, steps),  # all GPUs of an engine wait
        }
        policy = costs.forward_flops(b, rollouts, passage + written, rollouts * written)
        if vllm:  # the transformers engine pools while it writes
            pooled = sum(costs.forward_flops(b, n, prompt + written) for n, prompt in kinds)
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
        columns = self._columns(run, at, data)
        rationale = self.rationale(at.evaluation.max_new_tokens) if c.loss != "direct" else 0
        cached = c.mini_batch_size < c.batch_size // c.processes
        passes = (2 if c.lora else 3) + cached  # the gradient cache adds a forward pass
        flops = sum(costs.forward_flops(b, c.batch_size, length + rationale) for length in columns)
        parts = {"forward and backward": passes * costs.compute_seconds(h, flops)}
        if c.fence:
            parts["fence"] = self._fence(b, at, c)
        updates = c.max_steps or math.floor(math.floor(self.rows(data) / c.batch_size) * c.epochs)
        together = min(c.mini_batch_size, c.batch_size // c.processes)
        together *= 1 if cached else len(columns)  # without the cache all columns' values wait for the loss
        longest = at.prompt.max_prompt_tokens + (at.evaluation.max_new_tokens if rationale else 0)
        memory = self._memory(b, c, costs.activation_bytes(b, together * longest, False))
        if c.fence and not c.lora:  # the frozen copy that the KL is taken to
            memory["state"] += costs.WEIGHT * costs.parameters(b)
        texts = c.batch_size * len(columns)
        work = Work(sum(parts.values()), c.batch_size * sum(columns)) * updates
        return Training(name, run, c.processes, updates, updates, texts, parts, work, memory, True)

    def _columns(self, run: str, at: Study, data: str) -> list[float]:
        """Tokens of the prompt of each text of a training row."""
        known, chat = self.texts(self.source(data)), at.evaluation.direct_prompt == "chat"
        chat |= self.study.runs[run].method in ("adapter", "kl_fence", "adapter+grace")
        query, passage = (self.prompt(n, at.prompt, chat) for n in (known.query, known.passage))
        pairs = self.study.runs[run].method != "simcse"
        return [query, *[passage] * (1 + self.negatives())] if pairs else [passage] * 2

    def _fence(self, b: Backbone, at: Study, c: Contrastive) -> float:
        """Seconds of the KL of an update: the model and the frozen backbone over some rows of each kind."""
        assert c.fence is not None
        rows, seconds = c.fence.rows * c.processes, 0.0
        passage = self.prompt(self.texts(self.source("supervised")).passage, at.prompt)
        plain = self.texts(self.source("supervised")).passage / self.h.characters_per_token
        rationale = self.rationale(at.evaluation.max_new_tokens)
        for weight, length, scored in (
            (c.fence.rationale, passage + rationale, rationale),
            (c.fence.text, plain, plain),
        ):
            if weight:
                flops = costs.forward_flops(b, rows, length, rows * scored)
                seconds += ((2 if c.lora else 3) + 1) * costs.compute_seconds(self.h, flops)
        return seconds

    def _rounds(self, name: str, run: str, at: Study) -> Training:
        """adapter+grace: a round is the adapter's steps on rationales that the generator writes, and GRACE's steps."""
        r = at.rounds
        learnt = at.model_copy(update={"adapter": at.adapter.model_copy(update={"max_steps": r.adapter_steps})})
        policy = at.model_copy(update={"grace": at.grace.model_copy(update={"max_steps": r.policy_steps})})
        two = self._grace(name, run, policy)
        if not r.adapter_steps:
            updates = two.updates * r.rounds
            return replace(two, repeats=two.repeats * r.rounds, updates=updates, work=two.work * r.rounds)
        one, said = self._contrastive(name, run, learnt, learnt.adapter), Work()
        if at.adapter.rationales:
            count = at.adapter.batch_size * r.adapter_steps
            own = at.evaluation.model_copy(update={"engine": at.grace.engine})
            columns = self._columns(run, at, str(self.study.runs[run].data))
            said = self._encode(self.spec.backbones[name], own, [(count, length) for length in columns], True)
        parts = {"writing for the adapter": said.seconds} if said.seconds else {}
        parts |= {f"adapter: {part}": seconds * one.repeats for part, seconds in one.parts.items()}
        parts |= {f"policy: {part}": seconds * two.repeats for part, seconds in two.parts.items()}
        memory = {key: max(one.memory[key], two.memory[key]) for key in two.memory}
        rank = costs.adapter_parameters(self.spec.backbones[name], at.adapter.lora) if at.adapter.lora else 0
        memory["state"] = two.memory["state"] + costs.STATE * rank  # both adapters on one backbone
        updates = r.rounds * (r.adapter_steps + r.policy_steps)
        return Training(
            name, run, one.gpus, r.rounds, updates, one.texts * one.repeats + two.texts * two.repeats, parts,
            (one.work + two.work + said) * r.rounds, memory, two.room,
        )  # fmt: skip

    def _best_of(self, name: str, run: str, at: Study) -> Training:
        """best-of: in a round the model writes groups and their anchors, then learns from one of each, or two."""
        b, o, data = self.spec.backbones[name], at.offline, str(self.study.runs[run].data)
        known, limit = self.texts(self.source(data)), at.generation.max_new_tokens
        query, passage = (self.prompt(n, at.prompt) for n in (known.query, known.passage))
        pairs, negatives = data == "supervised", self.negatives() if data == "supervised" else 0
        rows = min(o.rows or self.rows(data), self.rows(data)) // at.grace.instances * at.grace.instances
        near = query if pairs else passage
        sides = [(passage, near), (near, passage)] if o.credit == "all" else [(passage, near)]
        own = at.evaluation.model_copy(
            update={"engine": "transformers", "max_new_tokens": limit, "batch_size": at.generation.batch_size}
        )
        columns = [(rows * n, length) for text, other in sides
                   for n, length in ((o.rollouts, text), (1, other), (negatives, passage))]  # fmt: skip
        said, written = self._encode(b, own, columns, True), self.rationale(limit)
        dpo = o.objective == "dpo"
        taught = rows * (2 if dpo else 1)
        flops = sum(costs.forward_flops(b, taught, text + written, taught * written) for text, _ in sides)
        passes = (2 if o.lora else 3) + o.gradient_checkpointing + dpo  # the reference reads both too
        parts = {"writing": said.seconds, "update": o.epochs * passes * costs.compute_seconds(self.h, flops)}
        longest = at.prompt.max_prompt_tokens + limit
        together = o.rows_per_forward * (2 if dpo else 1)
        activations = costs.activation_bytes(b, together * longest, o.gradient_checkpointing)
        memory = self._memory(b, o, activations, costs.cache_bytes(b) * at.generation.batch_size * longest)
        memory["state"] += costs.SAVED * costs.parameters(b) if dpo else 0
        updates = o.rounds * math.ceil(o.epochs * math.ceil(rows * len(sides) / o.batch_size))
        work = Work(sum(parts.values()), said.read, said.written) * o.rounds
        texts = sum(count for count, _ in columns)
        return Training(name, run, o.processes, o.rounds, updates, texts, parts, work, memory, True)

    def learning(self, backbone: str, data: str) -> Work:
        """The backbone writes rationales about the rows that trainings learn from, once for all of them."""
        rows = min(self.rationale_rows(data) or self.rows(data), self.rows(data))
        columns = [(rows, length) for length in self._columns(self._reader(data), self.study, data)]
        return self._encode(self.spec.backbones[backbone], self.study.evaluation, columns, True)

    def _reader(self, data: str) -> str:
        """A run that learns from rationales about this kind of data."""
        return next(run for run, at in self.study.runs.items() if at.data == data and self.reads(run))

    def learnt_bytes(self, backbone: str, data: str) -> float:
        """Of these rationales in the store, with the embedding that comes with each."""
        at, rows = self.study.evaluation, min(self.rationale_rows(data) or self.rows(data), self.rows(data))
        each = self.spec.backbones[backbone].width * STORED[at.store] + TOKEN_BYTES * self.rationale(at.max_new_tokens)
        return rows * len(self._columns(self._reader(data), self.study, data)) * each

    def saved(self, backbone: str, run: str) -> float:
        """Bytes of a model's folder: its weights, or its adapters alone."""
        b, method = self.spec.backbones[backbone], self.study.runs[run].method
        if method not in ("adapter", "adapter+grace"):
            return costs.SAVED * costs.parameters(b)
        return costs.SAVED * sum(costs.adapter_parameters(b, at.lora) for at in self.settings(run) if at.lora)

    @staticmethod
    def _memory(
        b: Backbone,
        at: Grace | Contrastive | Offline,
        activations: float,
        writing: float | None = None,
        vllm: float = 0.0,
    ) -> dict[str, float]:
        """Bytes of a training GPU. `writing`: of the cache while rationales are written, None where none are.

        A sharded model is gathered whole to write and pool rationales; an unsharded one in bfloat16 keeps a copy of
        its float32 weights for the arithmetic.
        """
        shards = at.processes if at.sharding == "fsdp" else 1
        copy = costs.WEIGHT * costs.parameters(b) if shards > 1 or at.precision == "bf16" else 0
        peaks = [activations + (copy if shards == 1 else 0)] + ([] if writing is None else [writing + copy])
        return {"state": costs.state_bytes(b, at.lora, shards), "working": max(peaks), "vLLM": vllm}
