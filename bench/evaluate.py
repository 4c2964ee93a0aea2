"""What the store of embeddings saves and what it costs, on a retrieval task where 30 % of the documents are repeats.

    python -m bench.evaluate [--documents 20000] [--new 8] [--json results/bench.json]

The task goes through `grace.evaluation.mteb_scores.run`, as a job does, with the demo's backbone where there is one and
else a small model with random weights:

- cold: with a store that is empty. warm: with the same store, now full; it must write no rationale.
- none: without a store; repeated texts are found in memory and embedded once, so that only the store is missing.
- mteb cold, mteb warm: mteb's own cache (`CachedEmbeddingWrapper`) around the same encoder, measured once.

The store's overhead is taken from within the cold run: all of `Embedder.encode` that is not the encoder (digests,
looking up, keeping, reading back), with opening and closing the store, over the rest of the run. The difference
between the runs cold and none would hold the machine's drift of some per cent, more than the store itself.
"""

from __future__ import annotations

import json
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from bench import common
from bench.store import TASK, HashEncoder, Storeless
from grace.encoder import store
from grace.encoder.encoder import RationaleEncoder
from grace.encoder.store import digests_of
from grace.evaluation import mteb_scores, mteb_tasks
from grace.evaluation.evaluate import Embedder
from grace.jobs import manifest

REPEATED = 0.3  # share of the documents whose text another document has
COLUMNS = ("run", "seconds", "texts embedded", "tokens written", "nDCG@10", "bytes on disk a text")
WARM = "seconds of a job that finds all its embeddings in the store / seconds of the one that made them"
OVERHEAD = "seconds that the store takes in a job that fills it / seconds of all else in that job"


class Run(NamedTuple):
    seconds: float
    own: float  # seconds of the store
    texts: int  # that the encoder was given
    tokens: int  # that it wrote
    score: float
    bytes: int  # on disk


class Clock:
    """Adds up the seconds within its `with` blocks, which may lie in one another."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - started


class CountingEncoder(Clock):
    """An encoder that counts its seconds, texts and tokens."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder, self.width, self.texts, self.tokens = encoder, encoder.width, 0, 0

    def encode_batches(self, texts: list[str]) -> Iterator[Any]:
        made = self.encoder.encode_batches(texts)
        while True:
            with self.running():
                batch = next(made, None)
            if batch is None:
                return
            self.texts += len(batch[0])
            self.tokens += sum(len(one.token_ids) for one in batch[1].rationales or [])
            yield batch


class TimedEmbedder(Embedder):
    """An embedder with a clock around what a job asks of it."""

    clock: Clock

    def encode(self, texts: list[str]) -> np.ndarray:
        with self.clock.running():
            return super().encode(texts)

    def check_room(self, *arguments: Any) -> None:
        with self.clock.running():
            super().check_room(*arguments)


class MemoryEmbedder(Storeless):
    """An embedder without a store that embeds a text once a job."""

    def __init__(self, encoder: Any) -> None:
        super().__init__(encoder)
        self.found: dict[bytes, np.ndarray] = {}

    def encode(self, texts: list[str]) -> np.ndarray:
        names = [row.tobytes() for row in digests_of(texts)]
        fresh = {name: text for name, text in zip(names, texts, strict=True) if name not in self.found}
        if fresh:
            self.found.update(zip(fresh, super().encode(list(fresh.values())), strict=True))
        return np.stack([self.found[name] for name in names])


class Jobs:
    """The task's data and the encoder; each method is a job and appends to `runs`.

    Args:
        folder: for the data, the stores and mteb's cache.
        settings: that the store's folder is named by.
    """

    def __init__(self, folder: Path, encoder: Any, settings: dict[str, Any]) -> None:
        self.folder, self.encoder, self.settings = folder, encoder, settings
        self.number = 0  # of the store in use
        self.runs: dict[str, list[Run]] = {}

    def _score(self, embedder: Any) -> float:
        found = mteb_scores.run(
            embedder, mteb_tasks.find([TASK], None, {TASK: str(self.folder / "data")}), "bench", "0"
        )
        return found[TASK]["main_score"]

    def _append(
        self, name: str, seconds: float, own: float, counting: CountingEncoder, score: float, size: int
    ) -> None:
        run = Run(seconds, own, counting.texts, counting.tokens, score, size)
        self.runs.setdefault(name, []).append(run)

    def stored(self, name: str) -> None:
        counting, clock, started = CountingEncoder(self.encoder), Clock(), time.perf_counter()
        with clock.running():
            held = store.Store(self.folder / f"store{self.number}", self.settings, counting.width)
            embedder = TimedEmbedder(counting, held)
            embedder.clock = clock
        score = self._score(embedder)
        with clock.running():
            held.__exit__(None)
        seconds, own = time.perf_counter() - started, clock.seconds - counting.seconds
        self._append(name, seconds, own, counting, score, on_disk(held.folder))

    def cold(self) -> None:
        self.number += 1
        self.stored("cold")

    def warm(self) -> None:
        self.stored("warm")

    def none(self) -> None:
        counting, started = CountingEncoder(self.encoder), time.perf_counter()
        score = self._score(MemoryEmbedder(counting))
        self._append("none", time.perf_counter() - started, 0.0, counting, score, 0)

    def mteb(self, name: str) -> None:
        """mteb's cache around the encoder that `mteb_scores.run` hands to mteb."""
        from mteb.models import CachedEmbeddingWrapper

        counting, made, started = CountingEncoder(self.encoder), mteb_scores._Model, time.perf_counter()
        cache = self.folder / "mteb"
        with mock.patch.object(mteb_scores, "_Model", lambda *given: CachedEmbeddingWrapper(made(*given), cache)):  # type: ignore[arg-type]
            score = self._score(Storeless(counting))
        self._append(name, time.perf_counter() - started, 0.0, counting, score, on_disk(cache))


def on_disk(folder: Path) -> int:
    """Bytes that the files take, holes not counted."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def write_task(folder: Path, tokenizer: Any, documents: int) -> int:
    """Corpus, queries and judgements; a query is the beginning of a document. Returns the number of distinct texts."""
    texts = common.texts(tokenizer, round(documents * (1 - REPEATED)), 0)
    draw = np.random.default_rng(1)
    numbers = [*range(len(texts)), *draw.integers(len(texts), size=documents - len(texts))]
    draw.shuffle(numbers)
    first = {int(number): at for at, number in reversed(list(enumerate(numbers)))}
    asked = draw.choice(len(texts), size=max(1, documents // 40), replace=False).tolist()
    queries = {number: " ".join(texts[number].split()[:8]) for number in asked}
    rows = {
        "corpus": [{"_id": f"d{at}", "text": texts[number]} for at, number in enumerate(numbers)],
        "queries": [{"_id": f"q{number}", "text": text} for number, text in queries.items()],
        "qrels": [{"query-id": f"q{number}", "corpus-id": f"d{first[number]}", "score": 1} for number in queries],
    }
    folder.mkdir()
    for name, lines in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return len({*texts, *queries.values()})


def encoder_of(given: Path | None, new: int) -> tuple[RationaleEncoder, dict[str, Any], str]:
    """The encoder, its store's settings, and what the model is."""
    folder = given or common.DEMO
    if given is None and not (folder / "config.json").exists():
        model, tokenizer = common.random_model(width=64, layers=2, vocabulary=2048)
        name, prompt, weights = "random weights", common.SHORT_PROMPT, "random"
    else:
        model, tokenizer, name = common.backbone_or_random(given)
        prompt, weights = common.prompt_of(folder), manifest.weights_hash(folder)
    encoder = RationaleEncoder(model, tokenizer, common.encode_spec(prompt, new, 64))
    return encoder, store.settings(encoder.spec, weights, encoder.dtype, "float16", encoder.template.digest), name


def measure(jobs: Jobs, repeats: int, mteb: bool) -> dict[str, list[Run]]:
    """All jobs' figures.

    Raises:
        RuntimeError: when a job that finds all in the store writes a token or scores otherwise.
    """
    import datasets

    # Where a job's data sets are read into, for the first job of these and all others.
    datasets.config.HF_DATASETS_CACHE = jobs.folder / "cache"
    encoder, jobs.encoder = jobs.encoder, HashEncoder(jobs.encoder.width)
    jobs.none()
    jobs.encoder, jobs.runs = encoder, {}
    common.interleaved({"cold": jobs.cold, "warm": jobs.warm, "none": jobs.none}, repeats, warm_up=False)
    if mteb:
        jobs.mteb("mteb cold")
        jobs.mteb("mteb warm")
    for cold, warm in zip(jobs.runs["cold"], jobs.runs["warm"], strict=True):
        if warm.tokens or warm.texts or warm.score != cold.score:
            raise RuntimeError(f"the warm job wrote {warm.tokens} tokens and scored {warm.score}, not {cold.score}")
    return jobs.runs


def main(argv: list[str] | None = None) -> None:
    parser = common.parser(__doc__, repeats=3)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--new", type=int, default=8, help="longest rationale in tokens")
    parser.add_argument("--backbone", type=Path, help="model folder in place of the demo's backbone")
    parser.add_argument("--no-mteb", action="store_true", help="leave mteb's cache out")
    arguments = parser.parse_args(argv)
    documents, command = arguments.documents, common.command()
    encoder, settings, name = encoder_of(arguments.backbone, arguments.new)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        distinct = write_task(folder / "data", encoder.tokenizer, documents)
        runs = measure(Jobs(folder, encoder, settings), arguments.repeats, not arguments.no_mteb)
    seconds = {way: [run.seconds for run in found] for way, found in runs.items()}
    first = {way: found[0] for way, found in runs.items()}
    each = {way: run.bytes / distinct for way, run in first.items() if run.bytes}
    rows = [
        [
            way,
            common.spread(seconds[way]),
            run.texts,
            run.tokens,
            f"{run.score:.4f}",
            f"{each[way]:.0f}" if way in each else None,
        ]
        for way, run in first.items()
    ]
    print(
        f"{name}, {documents:,} documents, with the queries {distinct:,} distinct texts, "
        f"{arguments.new} new tokens each"
    )
    print(common.table(COLUMNS, rows))
    figures = {
        "model": name,
        "documents": documents,
        "distinct_texts": distinct,
        "seconds": {way: statistics.median(values) for way, values in seconds.items()},
        "tokens_written": {way: run.tokens for way, run in first.items()},
        "bytes_a_text": {way: round(value, 1) for way, value in each.items()},
    }
    own = [run.own / (run.seconds - run.own) for run in runs["cold"]]
    apart = [ratio - 1 for ratio in common.ratios(seconds["cold"], seconds["none"])]
    entries = [
        common.entry("warm_vs_cold", common.ratios(seconds["warm"], seconds["cold"]), command, WARM, **figures),
        common.entry("store_overhead", own, command, OVERHEAD, cold_against_none=apart, **figures),
    ]
    for entry in entries:
        print("{name}: {ratio:.4f} ({low:.4f} - {high:.4f}), {meaning}".format(**entry))
    common.write(arguments.json, entries)


if __name__ == "__main__":
    logging.getLogger("mteb").setLevel(logging.ERROR)  # a line for every repeated text
    warnings.filterwarnings("ignore", message="Hash collision or duplicate")
    main()
