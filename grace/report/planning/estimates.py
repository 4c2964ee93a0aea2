"""GPU time, tokens, memory and disk of a study's jobs, from its settings and the shapes of its backbones."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from grace.config import Backbone, Evaluation, Study
from grace.report.planning import costs
from grace.report.planning.costs import Work
from grace.report.planning.needs import Needs
from grace.report.planning.sizes import GENERAL, SOURCES, UNKNOWN, Texts
from grace.settings import Contrastive, Grace, Prompt
from grace.specs import PlanSpec

TEMPLATE_TOKENS = 15  # of a chat template around instruction and text
VLLM_MEMORY = 0.9  # share of a GPU that vLLM takes where it is alone: its default
ROW_BYTES = 80  # of a JSON line beside its texts
TOKEN_BYTES = 4  # of a token id in the store
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


class Estimates(Needs):
    """Estimates for a study.

    Args:
        spec: the study.
        kept: rows of a source after `pairs`, where it has run.
    """

    def __init__(self, spec: PlanSpec, kept: dict[str, int] | None = None) -> None:
        super().__init__(spec)
        self.h, self.kept = spec.study.hardware, kept or {}

    # ---- texts --------------------------------------------------------------------------

    def texts(self, source: str) -> Texts:
        """What is known of a source: the rows that `pairs` kept, or else those that the paper names."""
        known = SOURCES.get(str(self.spec.sources[source].id), UNKNOWN)
        rows = self.kept.get(source, min(known.rows, self.study.data.max_rows or known.rows))
        return known._replace(rows=rows)

    def rows(self, data: str) -> int:
        """Training rows, after the split."""
        return self.texts(self.source(data)).rows - sum(self.held_out(data))

    def held_out(self, data: str) -> tuple[int, int]:
        """Rows for testing and for validation."""
        rows, at = self.texts(self.source(data)).rows, self.study.data
        test, validation = (round(rows * share) if share < 1 else round(share) for share in (at.test, at.validation))
        return test, validation

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

    def _steps(self, texts: float, limit: int, together: int) -> float:
        """Decoding steps of an engine that writes `together` texts at a time: the next takes a finished one's slot."""
        return max(texts * self.rationale(limit) / together, limit if texts else 0)

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

    def encoded(self, backbone: str, run: str, group: str) -> list[tuple[int, float]]:
        """(number, mean characters) of the texts that a group of tasks encodes, held-out pairs among them."""
        known = self.texts(self.source("supervised"))
        pairs = min(self.pairs(run, group) or 0, self.held_out("supervised")[0])
        found = [(field.distinct, field.mean) for field in self.fields(group, self.groups(backbone, run))]
        return found + [(pairs, known.query), (pairs, known.passage)] * bool(pairs)

    def evaluation(self, backbone: str, run: str, group: str) -> Work:
        """One model on one group of tasks."""
        b, at, reasons = self.spec.backbones[backbone], self.sections[run], self.study.runs[run].rationales
        chat = reasons or at.evaluation.direct_prompt == "chat"
        texts = [(n, self.prompt(mean, at.prompt, chat)) for n, mean in self.encoded(backbone, run, group)]
        if self.rationales_of(run):
            written = self.rationale(at.evaluation.max_new_tokens)
            flops = sum(costs.forward_flops(b, n, prompt + written) for n, prompt in texts)
            return Work(costs.compute_seconds(self.h, flops), sum(n * prompt for n, prompt in texts))
        return self._encode(b, at.evaluation, texts, reasons)

    def _encode(self, b: Backbone, at: Evaluation, texts: Iterable[tuple[int, float]], reasons: bool) -> Work:
        h, limit, vllm = self.h, at.max_new_tokens, at.engine == "vllm"
        done, written = Work(), self.rationale(limit)
        for count, prompt in texts:
            flops, seconds = costs.forward_flops(b, count, prompt, count if reasons else 0), 0.0
            if reasons:
                memory = VLLM_MEMORY * h.memory_gb * 1e9
                together = costs.slots(b, h, memory, prompt + written) if vllm else at.batch_size
                steps = self._steps(count, limit, together)
                seconds = costs.decode_seconds(b, h, prompt, written, count, steps)
                seconds += costs.overhead_seconds(h, vllm, steps)
                flops += costs.forward_flops(b, count, prompt + written) if vllm else 0.0
            seconds += costs.compute_seconds(h, flops)
            done += Work(seconds, count * prompt, count * written if reasons else 0)
        return done

    def store(self, backbone: str, run: str) -> float:
        """Bytes of a run's embeddings and rationales, written or pooled anew, over the seeds."""
        at, reasons = self.sections[run].evaluation, self.study.runs[run].rationales
        each = self.spec.backbones[backbone].width * STORED[at.store]
        each += TOKEN_BYTES * self.rationale(at.max_new_tokens) if reasons else 0
        texts = sum(n for group in self.groups(backbone, run) for n, _ in self.encoded(backbone, run, group))
        return texts * each * self.encodings(run)

    # ---- what is measured beside MTEB ---------------------------------------------------

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
                seconds += costs.overhead_seconds(h, False, steps)
            done += Work(seconds, count * size.prompt, count * size.written)
        passage = self.prompt(self.texts(self.source("supervised")).passage, at.prompt)
        own = at.evaluation.model_copy(update={"engine": "transformers"})
        return done + self._encode(b, own, [(general.rationales, passage)], True)

    def latency(self, backbone: str) -> Work:
        """Held-out texts one by one: embedded directly, and with a rationale of each budget by backbone and run."""
        b, at, prompt = self.spec.backbones[backbone], self.study.latency, self.study.prompt
        passage = self.prompt(self.texts(self.source("supervised")).passage, prompt)
        texts = at.texts * at.repeats
        written = [self.rationale(budget) for budget in at.budgets] * (1 + (at.run in self.study.runs))
        flops = costs.forward_flops(b, texts * (1 + len(written)), passage)
        seconds = [costs.decode_seconds(b, self.h, passage, n, texts, texts * n) for n in written]
        seconds += [costs.overhead_seconds(self.h, False, texts * sum(written))]
        seconds += [costs.compute_seconds(self.h, flops)]
        return Work(sum(seconds), texts * passage * (1 + len(written)), texts * sum(written))

    def cases(self, backbone: str) -> Work:
        """A few held-out texts by the backbone, the kept checkpoints and the trained models."""
        b, at, prompt = self.spec.backbones[backbone], self.study.cases, self.study.prompt
        known = self.texts(self.source("supervised"))
        texts = [(at.documents, self.prompt(known.passage, prompt)), (at.queries, self.prompt(known.query, prompt))]
        checkpoints = self.kept_steps(at.progress) if at.progress in self.study.runs else []
        update = {"engine": "transformers", "max_new_tokens": at.max_new_tokens}
        models = 1 + len(checkpoints) + len(self.case_runs)
        return self._encode(b, self.study.evaluation.model_copy(update=update), texts, True) * models
