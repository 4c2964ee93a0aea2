"""Rule `plan`: GPU-hours, tokens, disk and memory of a study before it is run, as Markdown and as JSON.

Nothing is measured. Every number follows from the settings, the shapes of the backbones and the assumptions of
`hardware` in the study. The page lists formulas and assumptions (plan.md.jinja); this file computes them in the same
order: shapes, texts, trainings, evaluations, jobs by rule, ablations. Only the number of rows of a source is read, once
the rule `pairs` has counted them.

Hours are of a GPU. With `hardware.gpus: 0` a processor does the jobs one after another, and the same numbers are its.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from grace.config.plan import REFERENCE
from grace.config.plan import Plan as Configured
from grace.config.runs import contrastive
from grace.config.schema import Backbone, Contrastive, Evaluation, Grace, Hardware, Lora, Offline, Prompt, Study
from grace.config.section import UserError
from grace.config.specs import PlanSpec
from grace.config.tasks import CATEGORY, OTHER_DOCUMENTS
from grace.jobs import manifest, stage
from grace.jobs.files import read_json, write_json, writing
from grace.report.markup import count, days, grid, hours, size, templates

# ---- shapes: parameters, operations, bytes ------------------------------------------------------------------------

WEIGHT = 2  # bytes of a parameter or of a hidden value in bfloat16
STATE = 16  # bytes of a trained parameter: weight, gradient and Adam's two moments in float32
SAVED = 4  # bytes of a parameter in the float32 model folder
STORED = {"float32": 4, "float16": 2}  # bytes of an embedding's number in the store
TOKEN, ROW = 4, 80  # bytes of a token id in the store, and of a JSON line beside its texts


@dataclass(frozen=True)
class Work:
    """Seconds of one GPU, tokens of the prompts, tokens written."""

    seconds: float = 0.0
    read: float = 0.0
    written: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.seconds + other.seconds, self.read + other.read, self.written + other.written)

    def __mul__(self, times: float) -> Work:
        return Work(self.seconds * times, self.read * times, self.written * times)


def head_width(b: Backbone) -> int:
    return b.head_width or b.width // b.heads


def matrices(b: Backbone) -> dict[str, tuple[int, int]]:
    """The weight matrices of a layer, (inputs, outputs), by their names in transformers."""
    attention, shared = b.heads * head_width(b), b.kv_heads * head_width(b)
    return {
        "q_proj": (b.width, attention),
        "k_proj": (b.width, shared),
        "v_proj": (b.width, shared),
        "o_proj": (attention, b.width),
        "gate_proj": (b.width, b.feed_forward),
        "up_proj": (b.width, b.feed_forward),
        "down_proj": (b.feed_forward, b.width),
    }


def head_parameters(b: Backbone) -> int:
    """Of the matrix that is both the token embeddings and the language-model head; it is taken as tied."""
    return b.vocab_size * b.width


@cache
def layer_parameters(b: Backbone) -> int:
    """Of all layers and norms: everything but the embeddings."""
    layer = sum(inputs * outputs for inputs, outputs in matrices(b).values()) + 2 * b.width
    if b.architecture == "qwen2":  # biases of q, k and v
        layer += (b.heads + 2 * b.kv_heads) * head_width(b)
    if b.architecture == "qwen3":  # norms of q and k
        layer += 2 * head_width(b)
    return b.layers * layer + b.width


def parameters(b: Backbone) -> int:
    return layer_parameters(b) + head_parameters(b)


def adapter_parameters(b: Backbone, lora: Lora) -> int:
    """Rank x (inputs + outputs) for each matrix that has an adapter, the token table among them."""
    chosen = [shape for name, shape in matrices(b).items() if lora.targets == "all-linear" or name in lora.targets]
    table = lora.rank * (b.vocab_size + b.width) if lora.embeddings else 0
    return b.layers * lora.rank * sum(inputs + outputs for inputs, outputs in chosen) + table


def cache_bytes(b: Backbone) -> int:
    """Of one token's keys and values in all layers."""
    return 2 * b.layers * b.kv_heads * head_width(b) * WEIGHT


def forward_flops(b: Backbone, texts: float, length: float, scored: float = 0.0) -> float:
    """Operations of a forward pass over `texts` sequences of `length` tokens. `scored`: tokens, over all texts, whose
    next-token logits are computed."""
    attention = 2 * b.layers * b.heads * head_width(b) * length**2  # causal: half of all pairs, twice two a pair
    return texts * (2 * layer_parameters(b) * length + attention) + 2 * head_parameters(b) * scored


def compute_seconds(h: Hardware, flops: float) -> float:
    return flops / (h.tflops * 1e12 * h.compute_share)


def slots(b: Backbone, h: Hardware, memory: float, length: float) -> int:
    """Texts of `length` tokens that vLLM decodes together in `memory` bytes beside the weights."""
    room = (memory - WEIGHT * parameters(b)) // (cache_bytes(b) * length)
    return max(1, min(h.decode_batch, int(room)))


def decode_seconds(b: Backbone, h: Hardware, prompt: float, written: float, texts: float, steps: float) -> float:
    """Seconds to write `written` tokens behind each of `texts` prompts in `steps` steps.

    A step reads all weights once and the cache of every text that it advances: half its rationale on average.
    """
    context = prompt + written / 2
    read = steps * WEIGHT * parameters(b) + texts * written * context * cache_bytes(b)
    flops = texts * written * (2 * parameters(b) + 4 * b.layers * b.heads * head_width(b) * context)
    return max(read / (h.bandwidth_tb * 1e12 * h.decode_share), compute_seconds(h, flops))


def overhead_seconds(h: Hardware, vllm: bool, steps: float) -> float:
    """Seconds in which a GPU waits for the host, which starts the kernels of each decoding step."""
    return steps * (h.vllm_step_overhead_ms if vllm else h.step_overhead_ms) / 1000


def state_bytes(b: Backbone, lora: Lora | None, shards: int) -> float:
    """Of weights, gradients and optimizer on one of `shards` GPUs that share them."""
    if lora is None:
        return STATE * parameters(b) / shards
    return (SAVED * parameters(b) + STATE * adapter_parameters(b, lora)) / shards


def activation_bytes(b: Backbone, tokens: float, checkpointing: bool) -> float:
    """Of a forward and backward pass over `tokens` tokens; logits are made in chunks and not counted."""
    layer = tokens * WEIGHT * (8 * b.width + 4 * b.feed_forward)
    if checkpointing:  # every layer's input, and one layer's values with their gradients
        return tokens * WEIGHT * b.layers * b.width + 2 * layer
    return b.layers * layer


def checkpoint_bytes(b: Backbone, lora: Lora | None) -> float:
    """Of one checkpoint: the trained weights and Adam's two moments, all in float32."""
    return 3 * SAVED * (parameters(b) if lora is None else adapter_parameters(b, lora))


# ---- how much text there is ---------------------------------------------------------------------------------------


class Texts(NamedTuple):
    """Rows of a source, and mean characters of a query and of a positive, a negative or a text."""

    rows: int
    query: float
    passage: float


# By id. Rows: paper 4.1, of AllNLI those of its card. Characters: of wiki1m the mean of its first 11,914 lines, of
# AllNLI that of 5,711 rows of its kind, of E5 assumed.
SOURCES = {
    "1YqgaJIzmBIH37XBxpRPCVzV_CLh6aOI4": Texts(1_500_000, 60, 500),
    "princeton-nlp/datasets-for-simcse": Texts(1_000_000, 0, 106),
    "sentence-transformers/all-nli": Texts(557_850, 74, 36),
}
UNKNOWN_SOURCE = Texts(100_000, 60, 500)


class Items(NamedTuple):
    """A general task: items, parts that `limit` applies to, and assumed tokens of a prompt and of an answer."""

    items: int
    parts: int
    prompt: int
    written: int


GENERAL = {
    "gsm8k": Items(1319, 1, 1000, 200),
    "mmlu": Items(14042, 57, 700, 8),
    "triviaqa": Items(17944, 1, 200, 16),
    "fever": Items(9999, 1, 300, 0),  # the claim with each of three labels
    "bbh": Items(6511, 27, 1100, 250),
    "humaneval": Items(164, 1, 200, 250),
}


class Field(NamedTuple):
    """Texts of one kind in an MTEB task: asked for, distinct, and mean characters."""

    task: str
    name: str
    texts: int
    distinct: int
    mean: float
    same_as: str  # the task that holds the same texts, or ""


TASK_SIZES = Path(__file__).with_name("task_sizes.csv")  # made by grace.evaluation.task_sizes


def task_sizes() -> list[Field]:
    with open(TASK_SIZES, encoding="utf-8", newline="") as handle:
        return [
            Field(
                r["task"], r["field"], n := int(r["texts"]), int(r["distinct"]), int(r["characters"]) / n, r["same_as"]
            )
            for r in csv.DictReader(handle)
        ]


FORUMS, SUMMEVAL = 12, 100  # members of CQADupstackRetrieval, documents of SummEval
TEMPLATE_TOKENS = 15  # of a chat template around instruction and text
VLLM_MEMORY = 0.9  # share of a GPU that vLLM takes where it is alone: its default
PLAIN_SHARE = 0.3  # of plain text in the second stage of a backbone (grace/training/backbone.py)
STEPS = 1000  # where the paper's figure 5 ends


# ---- what each job takes ------------------------------------------------------------------------------------------


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
    """Time, tokens, memory and disk of the jobs of a study, from its settings.

    Args:
        configured: the study.
        kept: rows of a source after `pairs`, where it has run; otherwise the number that the paper names is taken.
        hardware: None for the study's.
    """

    def __init__(
        self, configured: Configured, kept: dict[str, int] | None = None, hardware: Hardware | None = None
    ) -> None:
        self.plan, self.study, self.kept = configured, configured.study, kept or {}
        self.h, self.backbones = hardware or self.study.hardware, configured.runs.backbones
        self.processor = self.h.gpus == 0
        groups, sizes = self.study.evaluation.groups, task_sizes()
        counted = ("queries", "texts", "texts 1")
        self.items = {"SummEval": SUMMEVAL, **{f.task: f.texts for f in sizes if f.name in counted}}
        self.fetched = {name: [f for f in sizes if f.task in names] for name, names in groups.items()}
        self.sizes = {name: list(map(self._drawn, fields)) for name, fields in self.fetched.items()}
        known = {f.task for f in sizes}
        self.unsized = sorted({name for names in groups.values() for name in names} - known)
        self.unsized += sorted({*self.study.general.tasks} - {*GENERAL})
        self._find_results()

    def _drawn(self, field: Field) -> Field:
        """What a draw (`evaluation.sample`) leaves of a field, as if one document were judged for each query."""
        drawn = self.study.evaluation.sample.get(field.task)
        if drawn is None or field.name == "training texts":
            return field
        drawn *= FORUMS if field.task == "CQADupstackRetrieval" else 1
        if field.name == "documents" and CATEGORY[field.task] == "Retrieval":
            texts = drawn * (1 + OTHER_DOCUMENTS)
        else:
            texts = math.ceil(field.texts * drawn / self.items[field.task])
        texts = min(texts, field.texts)
        return field._replace(texts=texts, distinct=min(texts, field.distinct), same_as="")

    def _find_results(self) -> None:
        """The results that are asked for, with those whose rationales they pool: seeds of each, and of each training.

        mteb: (backbone, run, group) -> seeds. general: (backbone, run) -> seeds, the untrained runs together as run
        "backbone". timed, shown: backbones. trained: (backbone, run) -> seeds.
        """
        self.mteb: dict[tuple[str, str, str], set[int]] = {}
        self.general: dict[tuple[str, str], set[int]] = {}
        self.timed: list[str] = []
        self.shown: list[str] = []
        waiting = list(self.plan.results_wanted())
        for path in waiting:  # it grows
            if (found := self.plan.runs.result_of(path)) is None:
                continue
            if found.kind == "mteb":
                seeds = self.mteb.setdefault((found.backbone, found.run, found.group), set())
                if found.seed not in seeds:
                    seeds.add(found.seed)
                    waiting += self.plan.evaluated_before(found.backbone, [found.run], found.seed, found.group)
            elif found.kind == "general":
                self.general.setdefault((found.backbone, found.run), set()).add(found.seed)
            elif found.backbone not in (known := self.timed if found.kind == "latency" else self.shown):
                known.append(found.backbone)
        self.groups_of: dict[tuple[str, str], list[str]] = {}
        for backbone, run, group in self.mteb:
            self.groups_of.setdefault((backbone, run), []).append(group)
        first = {self.study.seeds[0]}
        wanted = [(backbone, run, seeds) for (backbone, run, _), seeds in self.mteb.items()]
        wanted += [(backbone, run, seeds) for (backbone, run), seeds in self.general.items()]
        wanted += [(backbone, run, first) for backbone in self.shown for run in self.case_runs]
        wanted += [(backbone, self.study.latency.run, first) for backbone in self.timed]
        self.trained: dict[tuple[str, str], set[int]] = {}
        seeds_of: dict[tuple[str, str], set[int]] = {}
        for backbone, run, seeds in wanted:
            seeds_of.setdefault((backbone, run), set()).update(seeds)
        for backbone in self.backbones:
            for name, entry in self.study.runs.items():
                seeds = seeds_of.get((backbone, name), set())
                if seeds and entry.trained and backbone in self.plan.runs.backbones_of_run(name):
                    self.trained.setdefault((backbone, self.owner(name)), set()).update(seeds)
        read = {one[1] for one in (*self.mteb, *self.general)}
        self.used = [run for run in self.study.runs if run in read]

    # ---- runs, rows, lengths ----------------------------------------------------------------

    @property
    def case_runs(self) -> list[str]:
        """Runs whose trained models show rationales."""
        return [run for run in (self.study.cases.progress, *self.study.cases.also) if run in self.study.runs]

    def owner(self, run: str) -> str:
        """The run whose training makes this one's model."""
        return self.study.runs[run].model or run

    def groups(self, backbone: str, run: str) -> list[str]:
        """Groups of tasks that a run is evaluated on, or would be."""
        at, wanted = self.study.evaluation, self.groups_of.get((backbone, run))
        return wanted or (at.subset if self.study.runs[run].ablation else list(at.groups))

    def encodings(self, backbone: str, run: str, group: str) -> int:
        """How often a run's texts are encoded over the seeds: once where neither model nor sampling has one."""
        differ = self.study.runs[run].trained or self.sampled(run)
        return len(self.mteb.get((backbone, run, group), self.study.seeds)) if differ else 1

    def sampled(self, run: str) -> bool:
        """Whether each seed writes rationales of its own."""
        return self.study.runs[run].rationales and self.plan.runs.sections(run).evaluation.sampling_temperature > 0

    def fields(self, group: str, groups: list[str], sizes: dict[str, list[Field]] | None = None) -> list[Field]:
        """What a group encodes, without texts that another task of `groups` leaves in the store."""
        tasks = {name for one in groups for name in self.study.evaluation.groups[one]}
        return [field for field in (sizes or self.sizes)[group] if field.same_as not in tasks]

    @cached_property
    def read(self) -> list[tuple[str, str]]:
        """(backbone, kind of data) of the rows that are read in training."""
        return list(dict.fromkeys((backbone, str(self.study.runs[run].data)) for backbone, run in self.trained))

    @cached_property
    def learnt_from(self) -> list[tuple[str, str]]:
        """(backbone, kind of data) of the rationales that the frozen backbone writes for trainings."""
        readers = [(backbone, run) for backbone, run in self.trained if self.plan.runs.rationales_read(run)]
        return list(dict.fromkeys((backbone, str(self.study.runs[run].data)) for backbone, run in readers))

    @cached_property
    def kinds(self) -> list[str]:
        found = {kind for _, kind in self.read}
        return [kind for kind in ("supervised", "unsupervised") if kind in found]

    @cached_property
    def sources(self) -> list[str]:
        """Sources that are read: of trainings, and of what is made from or looked at in held-out text."""
        held_out = [
            self.plan.runs.task_data(), self.shown, self.timed, self.general,
            any(backbone.kind == "trained" for backbone in self.backbones.values()),
            any(self.plan.pair_rows([run], group) for _, run, group in self.mteb),
        ]  # fmt: skip
        return sorted({self.source(kind) for kind in {*self.kinds, *(["supervised"] if any(held_out) else [])}})

    def source(self, kind: str) -> str:
        return str(getattr(self.study.data, kind))

    def texts(self, source: str) -> Texts:
        """What is known of a source: the rows that `pairs` kept, or else those that the paper names."""
        known = SOURCES.get(str(self.plan.runs.sources[source].id), UNKNOWN_SOURCE)
        return known._replace(rows=self.kept.get(source, min(known.rows, self.study.data.max_rows or known.rows)))

    def held_out(self, data: str) -> tuple[int, int]:
        """Rows for testing and for validation."""
        rows, at = self.texts(self.source(data)).rows, self.study.data
        test, validation = (round(rows * share) if share < 1 else round(share) for share in (at.test, at.validation))
        return test, validation

    def rows(self, data: str) -> int:
        """Training rows, after the split."""
        return self.texts(self.source(data)).rows - sum(self.held_out(data))

    def negatives(self) -> int:
        """M: of triples one, as in the paper's data; of pairs as many as are mined."""
        form = self.plan.runs.sources[self.study.data.supervised].form
        return 1 if form == "triples" else self.study.data.mining.negatives

    def prompt(self, characters: float, prompt: Prompt, chat: bool = True) -> float:
        """Tokens of a prompt whose text has `characters`, cut at its limit."""
        prefix = len(prompt.instruction) / self.h.characters_per_token + TEMPLATE_TOKENS
        return min(max(characters / self.h.characters_per_token + chat * prefix, 1.0), prompt.max_prompt_tokens)

    def passage(self, prompt: Prompt) -> float:
        """Tokens of the prompt of a supervised passage."""
        return self.prompt(self.texts(self.source("supervised")).passage, prompt)

    def rationale(self, limit: int) -> int:
        return min(self.h.rationale_tokens, limit)

    def _steps(self, texts: float, limit: int, together: int) -> float:
        """Decoding steps of an engine that writes `together` texts at a time: the next takes a finished one's slot."""
        return max(texts * self.rationale(limit) / together, limit if texts else 0)

    def _encode(self, b: Backbone, at: Evaluation, texts: Iterable[tuple[int, float]], reasons: bool) -> Work:
        """Of texts (how many, tokens of a prompt), with rationales or without."""
        h, limit, vllm = self.h, at.max_new_tokens, at.engine == "vllm"
        done, written = Work(), self.rationale(limit)
        for n, prompt in texts:
            flops, seconds = forward_flops(b, n, prompt, n if reasons else 0), 0.0
            if reasons:
                memory = VLLM_MEMORY * h.memory_gb * 1e9
                together = slots(b, h, memory, prompt + written) if vllm else at.batch_size
                steps = self._steps(n, limit, together)
                seconds = decode_seconds(b, h, prompt, written, n, steps) + overhead_seconds(h, vllm, steps)
                flops += forward_flops(b, n, prompt + written) if vllm else 0.0
            done += Work(seconds + compute_seconds(h, flops), n * prompt, n * written if reasons else 0)
        return done

    # ---- trainings --------------------------------------------------------------------------

    def training(self, backbone: str, run: str) -> Training:
        at, method = self.plan.runs.sections(run), self.study.runs[run].method
        made = {"grace": self._grace, "adapter+grace": self._rounds, "best-of": self._best_of}.get(method)
        return made(backbone, run, at) if made else self._contrastive(backbone, run, at, contrastive(at, method))

    def settings(self, run: str) -> tuple[Grace | Contrastive | Offline, ...]:
        """The sections of a trained run's method."""
        at, method = self.plan.runs.sections(run), self.study.runs[run].method
        if method == "best-of":
            return (at.offline,)
        learnt = () if method == "grace" else (contrastive(at, method),)
        return (*learnt, at.grace) if "grace" in method else learnt

    def reached(self, job: Training) -> list[int]:
        """The kept checkpoints that a training is long enough for."""
        return [step for step in self.plan.runs.keep_steps(job.run) if step <= job.updates]

    def backbone(self, name: str) -> Work:
        """A backbone of the workflow's own: three passes over plain text, then over prompts and plain text."""
        b, prompt = self.backbones[name], self.study.prompt.max_prompt_tokens
        stages = ((b.pretrain_steps, b.block, b.block), (b.instruct_steps, prompt, self.h.rationale_tokens))
        rows = [(steps * b.batch_size, length, scored) for steps, length, scored in stages]
        rows.append((round(PLAIN_SHARE * b.instruct_steps * b.batch_size), b.block, b.block))
        flops = sum(forward_flops(b, n, length, n * scored) for n, length, scored in rows)
        return Work(3 * compute_seconds(self.h, flops), sum(n * length for n, length, _ in rows))

    def _grace(self, name: str, run: str, at: Study) -> Training:
        b, h, g, data = self.backbones[name], self.h, at.grace, str(self.study.runs[run].data)
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
        together = slots(b, h, memory, mean + written) if vllm else at.generation.batch_size
        steps = self._steps(each, limit, together)
        parts = {
            "prefill": sum(compute_seconds(h, forward_flops(b, n, prompt, n)) for n, prompt in kinds),
            "decode": shared * decode_seconds(b, h, mean, written, each, steps),
            "step overhead": g.processes * overhead_seconds(h, vllm, steps),  # all GPUs of an engine wait
        }
        policy = forward_flops(b, rollouts, passage + written, rollouts * written)
        if vllm:  # the transformers engine pools while it writes
            pooled = sum(forward_flops(b, n, prompt + written) for n, prompt in kinds)
            parts["pooling"] = compute_seconds(h, pooled)
        if g.updates_per_generation > 1:
            parts["old log-probabilities"] = compute_seconds(h, policy)
        passes = (2 if g.lora else 3) + g.gradient_checkpointing
        parts["update"] = compute_seconds(h, passes * policy)

        epochs = math.floor(self.rows(data) / g.instances) * g.epochs
        repeats = math.ceil(g.max_steps / g.updates_per_generation) if g.max_steps else math.floor(epochs)
        activations = activation_bytes(b, g.rollouts_per_forward * longest, g.gradient_checkpointing)
        batch = 0 if vllm else min(at.generation.batch_size, (rollouts + anchors) // g.processes)
        writing = cache_bytes(b) * batch * longest
        updates = g.max_steps or repeats * g.updates_per_generation
        work = (
            Work(sum(parts.values()), rollouts * passage + anchors * anchor, (rollouts + anchors) * written) * repeats
        )
        held = self._memory(b, g, activations, writing, g.vllm_memory * h.memory_gb * 1e9 if vllm else 0.0)
        room = not vllm or memory > WEIGHT * parameters(b) + cache_bytes(b) * longest
        return Training(name, run, g.processes, repeats, updates, rollouts + anchors, parts, work, held, room)

    def _contrastive(self, name: str, run: str, at: Study, c: Contrastive) -> Training:
        b, h, data = self.backbones[name], self.h, str(self.study.runs[run].data)
        columns = self._columns(run, at, data)
        rationale = self.rationale(at.evaluation.max_new_tokens) if c.loss != "direct" else 0
        cached = c.mini_batch_size < c.batch_size // c.processes
        passes = (2 if c.lora else 3) + cached  # the gradient cache adds a forward pass
        flops = sum(forward_flops(b, c.batch_size, length + rationale) for length in columns)
        parts = {"forward and backward": passes * compute_seconds(h, flops)}
        if c.fence:
            parts["fence"] = self._fence(b, at, c)
        updates = c.max_steps or math.floor(math.floor(self.rows(data) / c.batch_size) * c.epochs)
        together = min(c.mini_batch_size, c.batch_size // c.processes)
        together *= 1 if cached else len(columns)  # without the cache all columns' values wait for the loss
        longest = at.prompt.max_prompt_tokens + (at.evaluation.max_new_tokens if rationale else 0)
        memory = self._memory(b, c, activation_bytes(b, together * longest, False))
        if c.fence and not c.lora:  # the frozen copy that the KL is taken to
            memory["state"] += WEIGHT * parameters(b)
        work = Work(sum(parts.values()), c.batch_size * sum(columns)) * updates
        return Training(
            name, run, c.processes, updates, updates, c.batch_size * len(columns), parts, work, memory, True
        )

    def _columns(self, run: str, at: Study, data: str) -> list[float]:
        """Tokens of the prompt of each text of a training row."""
        method, known = self.study.runs[run].method, self.texts(self.source(data))
        chat = at.evaluation.direct_prompt == "chat" or method in ("adapter", "kl_fence", "adapter+grace")
        query, passage = (self.prompt(n, at.prompt, chat) for n in (known.query, known.passage))
        return [passage] * 2 if method == "simcse" else [query, *[passage] * (1 + self.negatives())]

    def _fence(self, b: Backbone, at: Study, c: Contrastive) -> float:
        """Seconds of the KL of an update: the model and the frozen backbone over some rows of each kind."""
        assert c.fence is not None
        rows, seconds = c.fence.rows * c.processes, 0.0
        plain = self.texts(self.source("supervised")).passage / self.h.characters_per_token
        rationale = self.rationale(at.evaluation.max_new_tokens)
        kinds = ((c.fence.rationale, self.passage(at.prompt) + rationale, rationale), (c.fence.text, plain, plain))
        for weight, length, scored in kinds:
            if weight:
                flops = forward_flops(b, rows, length, rows * scored)
                seconds += ((2 if c.lora else 3) + 1) * compute_seconds(self.h, flops)
        return seconds

    def _rounds(self, name: str, run: str, at: Study) -> Training:
        """adapter+grace: a round is the adapter's steps on rationales that the generator writes, and GRACE's steps."""
        r, b = at.rounds, self.backbones[name]
        learnt = at.model_copy(update={"adapter": at.adapter.model_copy(update={"max_steps": r.adapter_steps})})
        policy = at.model_copy(update={"grace": at.grace.model_copy(update={"max_steps": r.policy_steps})})
        two = self._grace(name, run, policy)
        if not r.adapter_steps:
            updates = two.updates * r.rounds
            return replace(two, repeats=two.repeats * r.rounds, updates=updates, work=two.work * r.rounds)
        one, said = self._contrastive(name, run, learnt, learnt.adapter), Work()
        if at.adapter.rationales:
            n, own = (
                at.adapter.batch_size * r.adapter_steps,
                at.evaluation.model_copy(update={"engine": at.grace.engine}),
            )
            columns = self._columns(run, at, str(self.study.runs[run].data))
            said = self._encode(b, own, [(n, length) for length in columns], True)
        parts = {"writing for the adapter": said.seconds} if said.seconds else {}
        parts |= {f"adapter: {part}": seconds * one.repeats for part, seconds in one.parts.items()}
        parts |= {f"policy: {part}": seconds * two.repeats for part, seconds in two.parts.items()}
        memory = {key: max(one.memory[key], two.memory[key]) for key in two.memory}
        both = adapter_parameters(b, at.adapter.lora) if at.adapter.lora else 0
        memory["state"] = two.memory["state"] + STATE * both  # both adapters on one backbone
        updates, texts = (
            r.rounds * (r.adapter_steps + r.policy_steps),
            one.texts * one.repeats + two.texts * two.repeats,
        )
        work = (one.work + two.work + said) * r.rounds
        return Training(name, run, one.gpus, r.rounds, updates, texts, parts, work, memory, two.room)

    def _best_of(self, name: str, run: str, at: Study) -> Training:
        """best-of: in a round the model writes groups and their anchors, then learns from one of each, or two."""
        b, o, data = self.backbones[name], at.offline, str(self.study.runs[run].data)
        known, limit = self.texts(self.source(data)), at.generation.max_new_tokens
        query, passage = (self.prompt(n, at.prompt) for n in (known.query, known.passage))
        pairs, negatives = data == "supervised", self.negatives() if data == "supervised" else 0
        rows = min(o.rows or self.rows(data), self.rows(data)) // at.grace.instances * at.grace.instances
        near = query if pairs else passage
        sides = [(passage, near), (near, passage)] if o.credit == "all" else [(passage, near)]
        update = {"engine": "transformers", "max_new_tokens": limit, "batch_size": at.generation.batch_size}
        columns = [
            (rows * n, length)
            for text, other in sides
            for n, length in ((o.rollouts, text), (1, other), (negatives, passage))
        ]
        said, written = self._encode(b, at.evaluation.model_copy(update=update), columns, True), self.rationale(limit)
        dpo = o.objective == "dpo"
        taught = rows * (2 if dpo else 1)
        flops = sum(forward_flops(b, taught, text + written, taught * written) for text, _ in sides)
        passes = (2 if o.lora else 3) + o.gradient_checkpointing + dpo  # the reference reads both too
        parts = {"writing": said.seconds, "update": o.epochs * passes * compute_seconds(self.h, flops)}
        longest = at.prompt.max_prompt_tokens + limit
        activations = activation_bytes(b, o.rows_per_forward * (1 + dpo) * longest, o.gradient_checkpointing)
        memory = self._memory(b, o, activations, cache_bytes(b) * at.generation.batch_size * longest)
        memory["state"] += SAVED * parameters(b) if dpo else 0
        updates = o.rounds * math.ceil(o.epochs * math.ceil(rows * len(sides) / o.batch_size))
        work = Work(sum(parts.values()), said.read, said.written) * o.rounds
        return Training(
            name, run, o.processes, o.rounds, updates, sum(n for n, _ in columns), parts, work, memory, True
        )

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
        copy = WEIGHT * parameters(b) if shards > 1 or at.precision == "bf16" else 0
        peaks = [activations + (copy if shards == 1 else 0)] + ([] if writing is None else [writing + copy])
        return {"state": state_bytes(b, at.lora, shards), "working": max(peaks), "vLLM": vllm}

    def learning(self, backbone: str, data: str) -> Work:
        """The backbone writes rationales about the rows that trainings learn from, once for all of them."""
        rows, columns = self._learnt(data)
        return self._encode(self.backbones[backbone], self.study.evaluation, [(rows, one) for one in columns], True)

    def learnt_bytes(self, backbone: str, data: str) -> float:
        """Of these rationales in the store, with the embedding that comes with each."""
        at, (rows, columns) = self.study.evaluation, self._learnt(data)
        each = self.backbones[backbone].width * STORED[at.store] + TOKEN * self.rationale(at.max_new_tokens)
        return rows * len(columns) * each

    def _learnt(self, data: str) -> tuple[int, list[float]]:
        """Rows whose rationales trainings read, and the tokens of each text's prompt."""
        runs = [run for run, at in self.study.runs.items() if at.data == data and self.plan.runs.rationales_read(run)]
        wanted = [contrastive(self.plan.runs.sections(run), self.study.runs[run].method).rows for run in runs]
        most = None if None in wanted else max((rows for rows in wanted if rows), default=None)
        return min(most or self.rows(data), self.rows(data)), self._columns(runs[0], self.study, data)

    def saved(self, backbone: str, run: str) -> float:
        """Bytes of a model's folder: its weights, or its adapters alone."""
        b = self.backbones[backbone]
        if self.study.runs[run].method not in ("adapter", "adapter+grace"):
            return SAVED * parameters(b)
        return SAVED * sum(adapter_parameters(b, at.lora) for at in self.settings(run) if at.lora)

    # ---- evaluation and what is measured beside it ------------------------------------------

    def encoded(self, backbone: str, run: str, group: str) -> list[tuple[int, float]]:
        """(number, mean characters) of the texts that a group of tasks encodes, held-out pairs among them."""
        known, at = self.texts(self.source("supervised")), self.plan.runs.sections(run).evaluation
        pairs = min(at.pairs, self.held_out("supervised")[0]) if self.plan.pair_rows([run], group) else 0
        found = [(field.distinct, field.mean) for field in self.fields(group, self.groups(backbone, run))]
        return found + [(pairs, known.query), (pairs, known.passage)] * bool(pairs)

    def evaluation(self, backbone: str, run: str, group: str) -> Work:
        """One model on one group of tasks; an encoder-only one takes next to nothing."""
        if self.study.runs[run].method == "encoder":
            return Work()
        b, at, reasons = self.backbones[backbone], self.plan.runs.sections(run), self.study.runs[run].rationales
        chat = reasons or at.evaluation.direct_prompt == "chat"
        texts = [(n, self.prompt(mean, at.prompt, chat)) for n, mean in self.encoded(backbone, run, group)]
        if self.plan.rationales_of(run):
            written = self.rationale(at.evaluation.max_new_tokens)
            flops = sum(forward_flops(b, n, prompt + written) for n, prompt in texts)
            return Work(compute_seconds(self.h, flops), sum(n * prompt for n, prompt in texts))
        return self._encode(b, at.evaluation, texts, reasons)

    def stored(self, backbone: str, run: str, groups: list[str], *only: str) -> float:
        """Bytes of one seed's embeddings and rationales of these groups, or of some of them."""
        at, reasons = self.plan.runs.sections(run).evaluation, self.study.runs[run].rationales
        if self.study.runs[run].method == "encoder":
            return 0.0
        each = self.backbones[backbone].width * STORED[at.store]
        each += TOKEN * self.rationale(at.max_new_tokens) if reasons else 0
        return each * sum(n for group in only or groups for n, _ in self.encoded(backbone, run, group))

    def general_tasks(self, backbone: str, run: str) -> Work:
        """One model on the general tasks, and on the held-out texts whose rationales are judged."""
        b, h, at = self.backbones[backbone], self.h, self.plan.runs.sections(run)
        done = Work()
        for name in at.general.tasks:
            if (known := GENERAL.get(name)) is None:
                continue
            limit = at.general.limits.get(name, at.general.limit)
            n = min(known.items, limit * known.parts) if limit else known.items
            steps = math.ceil(n / at.general.batch_size) * known.written
            seconds = compute_seconds(h, forward_flops(b, n, known.prompt, n))
            if known.written:
                seconds += decode_seconds(b, h, known.prompt, known.written, n, steps) + overhead_seconds(
                    h, False, steps
                )
            done += Work(seconds, n * known.prompt, n * known.written)
        own = at.evaluation.model_copy(update={"engine": "transformers"})
        return done + self._encode(b, own, [(at.general.rationales, self.passage(at.prompt))], True)

    def latency(self, backbone: str) -> Work:
        """Held-out texts one by one: embedded directly, and with a rationale of each budget by backbone and run."""
        b, at, passage = self.backbones[backbone], self.study.latency, self.passage(self.study.prompt)
        texts = at.texts * at.repeats
        written = [self.rationale(budget) for budget in at.budgets] * (1 + (at.run in self.study.runs))
        flops = forward_flops(b, texts * (1 + len(written)), passage)
        seconds = [decode_seconds(b, self.h, passage, n, texts, texts * n) for n in written]
        seconds += [overhead_seconds(self.h, False, texts * sum(written))]
        seconds += [compute_seconds(self.h, flops)]
        return Work(sum(seconds), texts * passage * (1 + len(written)), texts * sum(written))

    def cases(self, backbone: str) -> Work:
        """A few held-out texts by the backbone, the kept checkpoints and the trained models."""
        at, prompt = self.study.cases, self.study.prompt
        query = self.prompt(self.texts(self.source("supervised")).query, prompt)
        texts = [(at.documents, self.passage(prompt)), (at.queries, query)]
        checkpoints = self.plan.runs.keep_steps(at.progress) if at.progress in self.study.runs else []
        update = {"engine": "transformers", "max_new_tokens": at.max_new_tokens}
        own, models = self.study.evaluation.model_copy(update=update), 1 + len(checkpoints) + len(self.case_runs)
        return self._encode(self.backbones[backbone], own, texts, True) * models


# ---- jobs by rule -------------------------------------------------------------------------------------------------

# Rules that ask for the resources of another.
RESOURCES = {"download": "source", "encoder": "source", "figures": "tables", "audit": "report", "claims": "tables"}


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

    @property
    def chain(self) -> float:
        """Wall seconds of the longest training and what waits for it in turn: an evaluation, and one that pools its
        rationales anew. All else can run beside it."""
        gpus, e = {rule.name: rule.gpus for rule in self.rules}, self.estimates
        if not gpus.get("evaluate"):
            return 0.0
        trained = {(job.backbone, job.run): job.wall for job in self.trainings} if gpus.get("train") else {}

        def wall(backbone: str, run: str, group: str) -> float:
            work, before = self.evaluations.get((backbone, run, group), Work()), e.plan.rationales_of(run)
            waited = wall(backbone, before, group) if before else trained.get((backbone, e.owner(run)), 0.0)
            return waited + work.seconds / gpus["evaluate"]

        return max((wall(*job) for job in self.evaluations), default=0.0)

    @property
    def wall_hours(self) -> float:
        """With every GPU busy, but no shorter than the longest chain of jobs; of a processor one job after another."""
        return max(self.gpu_hours / max(self.estimates.h.gpus, 1), self.chain / 3600)

    @cached_property
    def additions(self) -> list[Addition]:
        """What each ablation takes, asked for or not: so that one can be dropped. Then all together that one asks for
        as ablations, a run of two once; then what the modes of each model take, which are asked for apart."""
        e = self.estimates
        exhibits: dict[str, Any] = {**e.study.tables, **e.study.figures}
        found, together = [], dict[str, int]()
        usual = len(e.study.seeds)
        for name, entry in e.study.ablations.items():
            own = {at.run: usual for at in e.plan.runs.points[name] if e.study.runs[at.run].ablation}
            shown = [key for key, one in exhibits.items() if name in one.ablations]
            if not entry.modes:
                found.append(_addition(e, name, shown, own))
                together |= own
        if len(found) > 1:
            found.append(_addition(e, ALL, [], together))
        for name in [name for name, entry in e.study.ablations.items() if entry.modes]:
            shown = [key for key, one in exhibits.items() if name in one.ablations]
            seeds = max([len(e.plan.seeds(exhibits[key])) for key in shown], default=usual)
            rows = [*e.study.ablations[name].runs, *(run for key in shown for run in exhibits[key].rows)]
            rows = [run for run in rows if run in e.study.runs]
            wanted = {run: seeds for run in rows if e.study.runs[run].extra}
            wanted |= {at.run: seeds for at in e.plan.runs.points[name] if e.study.runs[at.run].ablation}
            wanted |= {run: seeds - usual for run in rows if run not in wanted}
            found.append(_addition(e, name, shown, wanted, True))
        return found


ALL = "all of them"


def _addition(e: Estimates, name: str, shown_in: list[str], runs: dict[str, int], at_once: bool = False) -> Addition:
    """Args: runs: run -> seeds. at_once: with general results, and the rationales of trainings."""
    trainings, evaluations = 0, 0
    training, evaluation, other, disk, sized = Work(), Work(), Work(), 0.0, not runs
    wanted = [(run, b, n) for run, n in runs.items() if n > 0 for b in e.plan.runs.backbones_of_run(run)]
    for run, backbone, seeds in wanted:
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
            other += e.general_tasks(backbone, run) * seeds
    readers = [run for run in runs if at_once and e.plan.runs.rationales_read(run)]
    for at in sorted({(b, str(e.study.runs[run].data)) for run in readers for b in e.plan.runs.backbones_of_run(run)}):
        other += e.learning(*at)
        disk += e.learnt_bytes(*at)
    gpu = {rule: e.processor or e.study.resources[rule].gpu > 0 for rule in ("train", "evaluate")}
    seconds = training.seconds * gpu["train"] + (evaluation.seconds + other.seconds) * gpu["evaluate"]
    return Addition(
        name, shown_in, all(run in e.used for run in runs), len(runs), trainings, evaluations, training, evaluation,
        seconds / 3600, disk, sized, at_once,
    )  # fmt: skip


def plan(configured: Configured, kept: dict[str, int] | None = None, hardware: Hardware | None = None) -> Plan:
    """Estimate a study. Args: as of `Estimates`."""
    e = Estimates(configured, kept, hardware)
    trainings = [e.training(*job) for job in e.trained]
    evaluations = {job: e.evaluation(*job) for job in e.mteb}
    trained = [job.work for job in trainings for _ in e.trained[job.backbone, job.run]]
    encoded = [work for job, work in evaluations.items() for _ in range(e.encodings(*job))]
    together = {run: name for name, runs in e.plan.evaluated_together.items() for run in runs}
    jobs = {(b, together.get(run, run), group, seed) for (b, run, group), seeds in e.mteb.items() for seed in seeds}
    general = [work for job, seeds in e.general.items() for work in [e.general_tasks(*job)] * len(seeds)]
    disk = _disk(e, trainings)

    def rule(name: str, jobs: int, works: Iterable[Work] = (), gpus: int | None = None, *holds: str) -> Rule:
        at = e.study.resources[RESOURCES.get(name, name)]
        works = list(works)
        gpus = int(bool(works)) if e.processor else at.gpu if gpus is None else gpus
        total = sum(works, Work())
        longest = max((work.seconds for work in works), default=0.0) / gpus if gpus else 0.0
        kept = sum(disk[name] for name in holds)
        return Rule(name, jobs, gpus, total.seconds / 3600 if gpus else 0.0, longest, at.runtime, total, kept)

    own = [name for name, backbone in e.backbones.items() if backbone.kind == "trained"]
    sources = len(e.sources)
    shared = max((job.gpus for job in trainings), default=0) if e.study.resources["train"].gpu or e.processor else 0
    rules = [
        rule("source", sources, (), None, "raw text"),
        rule("pairs", sources, (), None, "pairs"),
        rule("split", sources, (), None, "splits"),
        rule("triples", int("supervised" in e.kinds), (), None, "triples"),
        rule("lengths", len(e.read), (), None, "rows"),
        rule("tasks", len(e.plan.runs.task_data())),
        rule("backbone", len(own), map(e.backbone, own)),
        rule("download", len(e.backbones) - len(own), (), 0, "backbones"),
        rule("encoder", int(bool(e.study.encoder)), (), 0),
        rule("rationales", len(e.learnt_from), [e.learning(*job) for job in e.learnt_from], None, "rationales"),
        rule("train", len(trained), trained, shared, "models", "kept checkpoints"),
        rule("evaluate", len(jobs), encoded, None, "store", "MTEB data sets"),
        rule("general", len(general), general),
        rule("latency", len(e.timed), map(e.latency, e.timed)),
        rule("cases", len(e.shown), map(e.cases, e.shown)),
        rule("tables", len(e.plan.wanted("table"))),
        rule("figures", len(e.plan.wanted("figure"))),
        *map(rule, ("audit", "claims", "report"), (1, 1, 1)),
    ]
    # Trainings of different width: the longest job by the wall.
    walls = {"train": max((job.wall for job in trainings), default=0.0) if shared else 0.0}
    rules = [replace(r, longest=walls.get(r.name, r.longest)) for r in rules if r.jobs]
    checkpoints = [
        2 * max(checkpoint_bytes(e.backbones[job.backbone], at.lora) for at in e.settings(job.run)) for job in trainings
    ]
    return Plan(e, rules, trainings, evaluations, disk, max(checkpoints, default=0.0))


def _disk(e: Estimates, trainings: list[Training]) -> dict[str, float]:
    """Bytes by what they hold, without what is removed again."""

    def text(source: str) -> float:
        known, form = e.texts(source), e.plan.runs.sources[source].form
        passages = {"texts": 1, "pairs": 1, "triples": 1 + e.negatives()}[form]
        return known.rows * (known.query * (form != "texts") + known.passage * passages + ROW)

    def trained_on(kind: str) -> float:
        known = e.texts(e.source(kind))
        supervised = known.query + known.passage * (1 + e.negatives())
        return e.rows(kind) * ((supervised if kind == "supervised" else known.passage) + ROW)

    raw, weights = sum(map(text, e.sources)), {name: parameters(b) for name, b in e.backbones.items()}
    tasks = {group for _, _, group in e.mteb}
    texts = [field for group in e.sizes if group in tasks for field in e.fields(group, list(tasks), e.fetched)]
    kept = [(job, len(e.trained[job.backbone, job.run]) * len(e.reached(job))) for job in trainings]
    return {
        "raw text": raw,
        "pairs": raw,
        "splits": raw,
        "triples": trained_on("supervised") if "supervised" in e.kinds else 0.0,
        "rows": sum(trained_on(kind) for _, kind in e.read),
        "backbones": sum(WEIGHT * n for name, n in weights.items() if e.backbones[name].kind != "trained"),
        "models": sum(e.saved(*job) * len(seeds) for job, seeds in e.trained.items()),
        "kept checkpoints": sum(SAVED * weights[job.backbone] * n for job, n in kept),
        "rationales": sum(e.learnt_bytes(*job) for job in e.learnt_from),
        "store": sum(
            e.stored(b, run, e.groups(b, run), group) * e.encodings(b, run, group) for b, run, group in e.mteb
        ),
        "MTEB data sets": 2 * sum(field.distinct * field.mean for field in texts),  # as fetched, and as read
    }


def variations(configured: Configured, kept: dict[str, int] | None = None) -> list[tuple[str, float]]:
    """GPU-hours of the study with one assumption changed at a time."""
    h, g = configured.study.hardware, configured.study.grace
    changed: tuple[tuple[str, float], ...] = (
        ("rationale_tokens", h.rationale_tokens // 2 or 1),
        ("rationale_tokens", h.rationale_tokens * 2),
        ("compute_share", h.compute_share / 2),
        ("decode_share", h.decode_share / 2),
        ("decode_batch", h.decode_batch * 2),
        ("step_overhead_ms", h.step_overhead_ms * 2),
        ("vllm_step_overhead_ms", h.vllm_step_overhead_ms * 2),
        ("characters_per_token", h.characters_per_token - 1),
    )
    found = [
        (f"hardware.{key}: {value:g}", plan(configured, kept, h.model_copy(update={key: value})).gpu_hours)
        for key, value in changed
        if value > 0
    ]
    if g.max_steps is None or g.max_steps > STEPS:
        short = plan(configured.changed({"grace": {"max_steps": STEPS}}), kept)
        found.append((f"grace.max_steps: {STEPS}", short.gpu_hours))
    return found


# ---- the page -----------------------------------------------------------------------------------------------------

UNKNOWN = "unknown"
NAMED = 2  # runs of an ablation that are named in a line
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
FORMULA = {
    "backbone": "5",
    "rationales": "6",
    "train": "4, 5",
    "evaluate": "6",
    "general": "2, 3",
    "latency": "9",
    "cases": "9",
}


def line(made: Plan) -> str:
    """One line of totals."""
    time = f"{hours(made.gpu_hours)} GPU-hours ({days(made.wall_hours)} on {machine(made)})"
    return _words(
        made,
        f"study {made.estimates.plan.runs.name}: {sum(rule.jobs for rule in made.rules)} jobs, "
        f"{time if made.gpu_hours else 'no GPU'}, {count(made.work.written)} tokens written, "
        f"{size(sum(made.disk.values()))} of disk; estimates, not measurements",
    )


def machine(made: Plan) -> str:
    h = made.estimates.h
    return f"{h.gpus} x {h.gpu}" if h.gpus else h.gpu


def _words(made: Plan, text: str) -> str:
    """What is said of GPUs, said of the processor in a study of one."""
    if not made.estimates.processor:
        return text
    return text.replace("GPU-", "").replace("GPUs", "processors").replace("GPU", "processor")


def render(made: Plan, changed: list[tuple[str, float]]) -> str:
    """The whole page, Markdown that also reads well in a terminal. `changed`: of `variations`."""
    environment = templates().overlay()
    environment.globals |= {"count": count, "days": days, "hours": hours, "size": size, "parameters": parameters}
    environment.globals["grid"] = lambda head, rows: "\n".join(grid(head, rows))
    each = [one for one in made.additions if one.ablation != ALL and not one.at_once]
    e = made.estimates
    texts = [(source, e.texts(source)) for source in dict.fromkeys(map(e.source, e.kinds))]
    text = environment.get_template("plan.md.jinja").render(
        plan=made, e=e, machine=machine(made), names=lambda runs: names(e, runs), rules=_rules(made),
        trainings=_trainings(made), parts=_parts(made), evaluations=_evaluations(made), memory=_memory(made),
        ablations=_ablations(made), watch=watch(made), changed=changed, texts=texts,
        longest=max(each or made.additions, key=lambda one: (one.gpu_hours, one.training.written), default=None),
        counted=any(one.counted for one in each), apart=[one.ablation for one in made.additions if one.at_once],
    )  # fmt: skip
    return _words(made, text)


Grid = tuple[list[str], list[list[str]]]  # head and rows


def _rules(made: Plan) -> Grid:
    head = [
        "rule", "jobs", "GPUs a job, at most", "GPU-hours", "longest job, h", "allowed, h", "tokens read",
        "tokens written", "disk", "formula",
    ]  # fmt: skip
    rows = [
        [
            rule.name, f"{rule.jobs:,}", str(rule.gpus), hours(rule.gpu_hours) if rule.gpus else "",
            hours(rule.longest / 3600) if rule.gpus else "", f"{rule.runtime / 60:.3g}",
            count(rule.work.read), count(rule.work.written), size(rule.disk), FORMULA.get(rule.name, ""),
        ]
        for rule in made.rules
    ]  # fmt: skip
    return head, rows


def names(e: Estimates, runs: list[str]) -> str:
    """Runs in a line; of many of one ablation the number."""
    left, found = dict.fromkeys(runs), [run for run in runs if not e.study.runs[run].ablation]
    for run in found:
        del left[run]
    for name, points in e.plan.runs.points.items():
        some = [run for run in left if run in {at.run for at in points}]
        found += some if len(some) <= NAMED else [f"{len(some)} of {name}"]
        for run in some:
            del left[run]
    return ", ".join(found)


def _merged(made: Plan, head: list[str], row: Callable[[Training], list[str]], own: bool = False) -> Grid:
    """A table of the trainings, runs of a backbone with the same cells in one row. own: without the ablations'."""
    merged: dict[tuple[str, ...], list[str]] = {}
    for job in made.trainings:
        if not (own and made.estimates.study.runs[job.run].ablation):
            merged.setdefault((job.backbone, *row(job)), []).append(job.run)
    rows = [[backbone, names(made.estimates, runs), *cells] for (backbone, *cells), runs in merged.items()]
    return ["backbone", "runs", *head], rows


def _trainings(made: Plan) -> Grid:
    def row(job: Training) -> list[str]:
        written = job.work.written / job.repeats if job.repeats else 0
        time = [f"{sum(job.parts.values()):.1f}", hours(job.work.seconds / 3600), hours(job.wall / 3600)]
        return [f"{job.repeats:,}", f"{job.updates:,}", f"{job.texts:,}", count(written), *time * bool(made.gpu_hours)]

    head = ["batches", "updates", "texts a batch", "tokens written a batch"]
    return _merged(made, [*head, *["GPU-seconds a batch", "GPU-hours", "hours"] * bool(made.gpu_hours)], row)


def _parts(made: Plan) -> Grid:
    found = list(dict.fromkeys(name for job in made.trainings for name in job.parts))
    return _merged(made, found, lambda job: [f"{job.parts[n]:.2f}" if n in job.parts else "" for n in found], own=True)


def _memory(made: Plan) -> Grid:
    def row(job: Training) -> list[str]:
        parts = [job.memory[name] / 1e9 for name in ("state", "working", "vLLM")]
        fits = sum(parts) <= made.estimates.h.memory_gb and job.room
        return [*(f"{part:.1f}" for part in (*parts, sum(parts))), "yes" if fits else "NO"]

    head = ["state, GB", "working, GB", "vLLM, GB", "sum, GB", f"fits {made.estimates.h.memory_gb:g} GB"]
    return _merged(made, head, row)


def _evaluations(made: Plan) -> dict[str, Any] | None:
    """Of the study's own runs; what the ablations' take is in their table. None where no table asks for MTEB."""
    e = made.estimates
    read: dict[str, list[str]] = {}
    for _, run, group in e.mteb:
        read.setdefault(run, []).append(group)
    runs = [run for run in e.used if run in read and not e.study.runs[run].ablation]
    if not runs:
        return None
    groups = [group for group in e.sizes if any(group in read[run] for run in runs)]
    kinds = {"with rationales": True, "without": False}
    example = {name: next((r for r in runs if e.study.runs[r].rationales is kind), "") for name, kind in kinds.items()}
    example = {name: run for name, run in example.items() if run}
    most, first = example.get("with rationales", runs[0]), next(iter(e.backbones))

    def work(some: list[str], backbone: str, run: str) -> Work:
        return sum((e.evaluation(backbone, run, group) for group in some), Work())

    def sizes(label: str, some: list[str]) -> list[str]:
        asked = [field for group in some for field in e.sizes[group]]
        encoded, done = sum(n for group in some for n, _ in e.encoded(first, most, group)), work(some, first, most)
        tasks = str(sum(len(e.study.evaluation.groups[group]) for group in some))
        if not asked:
            return [label, tasks, *[UNKNOWN] * 5]
        return [
            label, tasks, f"{sum(f.texts for f in asked):,}", count(sum(f.texts * f.mean for f in asked)),
            f"{encoded:,}", count(done.read), count(done.written),
        ]  # fmt: skip

    def times(some: list[str]) -> list[str]:
        return [" / ".join(hours(work(some, b, run).seconds / 3600) for run in example.values()) for b in e.backbones]

    every = [*((group, [group]) for group in groups), ("all", groups)]
    head = ["group", "tasks", "texts", "characters", "encoded", "tokens read", "tokens written"]
    return {
        "sizes": (head, [sizes(*one) for one in every]),
        "kinds": " / ".join(example),
        "times": (["group", *e.backbones], [[label, *times(some)] for label, some in every]),
    }


def _ablations(made: Plan) -> Grid:
    timed = bool(made.gpu_hours)
    head = ["ablation", "shown in", "runs", "trainings", "evaluations", "tokens written in training", "in evaluation"]
    rows = [
        [
            one.ablation, ", ".join(one.shown_in), str(one.runs), f"{one.trainings:,}", f"{one.evaluations:,}",
            count(one.training.written), count(one.evaluation.written) if one.sized else UNKNOWN,
            *[hours(one.gpu_hours)] * timed, size(one.disk) or ("" if one.sized else UNKNOWN),
            "" if one.ablation == ALL else "yes" if one.counted else "no",
        ]
        for one in made.additions
    ]  # fmt: skip
    return [*head, *["GPU-hours"] * timed, "disk", "in the totals"], rows


def watch(made: Plan) -> list[str]:
    """What may go wrong, or is not known."""
    e, found = made.estimates, []
    for rule in made.rules:
        if rule.longest > rule.runtime * 60:
            found.append(
                f"{rule.name}: the longest job is estimated at {hours(rule.longest / 3600)} hours and is given "
                f"{rule.runtime / 60:.3g}; raise resources.{rule.name}.runtime, or start it again to go on."
            )
        if rule.gpus > e.h.gpus and not e.processor:
            found.append(f"{rule.name}: a job takes {rule.gpus} GPUs, hardware.gpus names {e.h.gpus}.")
    found += _tight(made) if made.gpu_hours else []
    found += _lengths(made)
    unknown = [source for source in dict.fromkeys(map(e.source, e.kinds)) if source not in e.kept]
    if unknown:
        rows = ", ".join(f"{source} {e.texts(source).rows:,}" for source in unknown)
        found.append(f"The rows are the paper's, or assumed, until the rule `pairs` has counted them: {rows}.")
    found += [
        f"{name}: no shape is given, so times and memory are those of {b.layers} layers of width {b.width}; add "
        f"layers, width, heads, kv_heads, feed_forward and vocab_size to available_backbones.{name}."
        for name, b in e.backbones.items()
        if b.kind != "trained" and all(getattr(b, key) == Backbone.model_fields[key].default for key in SHAPE)
    ]
    if e.unsized:
        found.append(f"Without known sizes, so in no number: {', '.join(e.unsized)}.")
    return found or ["Nothing."]


def _tight(made: Plan) -> list[str]:
    """Trainings that a GPU's memory does not hold."""
    e = made.estimates
    tight: dict[str, dict[str, float]] = {}
    room: dict[str, list[str]] = {}
    for job in made.trainings:
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


def _lengths(made: Plan) -> list[str]:
    """Trainings that are longer than the paper's figures, or shorter than what is wanted of them."""
    e, found = made.estimates, []
    jobs = [job for job in made.trainings if "decode" in job.parts]
    own = max((job.repeats for job in jobs if not e.study.runs[job.run].ablation), default=0)
    most = max(jobs, key=lambda job: job.repeats, default=None)
    if most and most.repeats > 2 * STEPS:
        other = f", {most.run} for {most.repeats:,}" if most.repeats > own else ""
        found.append(
            f"GRACE trains for {own:,} batches{other}, as its epochs say; the paper's figure 5 ends at step "
            f"{STEPS:,}. grace.max_steps shortens it."
        )
    short = {job.run: job.updates for job in jobs if e.reached(job) != e.plan.runs.keep_steps(job.run)}
    for run, updates in short.items():
        found.append(
            f"{run}: checkpoints are wanted at steps {', '.join(map(str, e.plan.runs.keep_steps(run)))}, but its "
            f"training ends after {updates:,}; change the steps of the ablation, or drop it."
        )
    return found


def kept_rows(cards: dict[str, Path]) -> dict[str, int]:
    """Rows of each source whose data card exists. Raises: UserError when a card is not whole."""
    found = {}
    for source, path in cards.items():
        if path.exists():
            kept = read_json(path).get("kept")
            if not isinstance(kept, int):
                raise UserError(f"{path}: does not say how many rows were kept; delete it and run snakemake again.")
            found[source] = kept
    return found


@stage.entry(PlanSpec, outputs=("out",))
def main(spec: PlanSpec, paths: SimpleNamespace) -> None:
    configured = Configured(spec.config)
    cards = {source: paths.out.parent / f"data/pairs/{source}.card.json" for source in configured.runs.sources}
    kept = kept_rows(cards)
    made = plan(configured, kept)
    with writing(paths.out) as temporary:
        temporary.write_text(render(made, variations(configured, kept)), encoding="utf-8")
    write_json(
        paths.out.with_suffix(".json"),
        {
            "gpu_hours": made.gpu_hours,
            "wall_hours": made.wall_hours,
            "tokens_read": made.work.read,
            "tokens_written": made.work.written,
            "disk_bytes": made.disk,
            "rules": [asdict(rule) for rule in made.rules],
            "trainings": [asdict(job) for job in made.trainings],
            "evaluations": [
                {"backbone": backbone, "run": run, "group": group, **asdict(work)}
                for (backbone, run, group), work in made.evaluations.items()
            ],
            "ablations": [asdict(one) for one in made.additions],
            "manifest": manifest.make("plan", spec, [cards[source] for source in kept], paths.started),
        },
    )
    print(line(made))


if __name__ == "__main__":
    main()
