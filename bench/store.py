"""Memory and time of evaluating on a large scale: mteb's own classes over synthetic texts.

    python -m bench.store --texts 1000000 --width 128 [--tokens 64] [--repeat 2] [--no-store]
    python -m bench.store mindsmall --share 0.05 --width 2048 [--whole]

The encoder makes vectors from a hash of the text, so what is measured is the rest: reading the corpus, digests, store,
mteb's search. Each repeat of a retrieval task is a run in a process of its own; from the second one on all embeddings
are found in the store. MindSmallReranking has 2,362,514 sub-queries of about 72,000 queries, 41 candidates each out of
5,277 documents; `--share` takes a part of them, `--whole` runs mteb on all at once instead of in pieces. Prints one
line of JSON per run.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench import common

TASK = "SciFact"  # an ordinary AbsTaskRetrieval; only its data is replaced
WORDS = [f"word{i}" for i in range(16)]
QUERIES, EACH, DOCUMENTS, CANDIDATES = 72_000, 33, 5277, 41  # of MindSmallReranking


class HashEncoder:
    """An encoder whose embeddings are a hash of the text, with rationales of `tokens` ids where asked for."""

    dtype = "float32"

    def __init__(self, width: int, tokens: int = 0) -> None:
        self.width, self.tokens = width, tokens
        self.odd = np.random.default_rng(0).integers(1 << 62, size=(2, width), dtype=np.uint64) | np.uint64(1)

    def encode_batches(self, texts: list[str]) -> Iterator[tuple[list[int], Any]]:
        from grace.encoder.encoder import Encoding, Rationale
        from grace.encoder.store import digests_of

        for start in range(0, len(texts), 256):
            rows = list(range(start, min(start + 256, len(texts))))
            digests = digests_of(texts[i] for i in rows)
            bits = digests[:, :1] * self.odd[0] + digests[:, 1:] * self.odd[1]
            vectors = (bits >> np.uint64(40)).astype(np.float32) / (1 << 23) - 1
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            written = None
            if self.tokens:
                zipf = np.minimum(np.random.default_rng(start).zipf(1.3, (len(rows), self.tokens)), 150_000)
                written = [Rationale("", ids, False, True) for ids in zipf.tolist()]
            yield rows, Encoding(vectors, written)


class Storeless:
    """`Embedder` without a store."""

    def __init__(self, encoder: Any) -> None:
        self.encoder = encoder

    def check_room(self, *_: Any) -> None: ...

    def encode(self, texts: list[str]) -> np.ndarray:
        out = np.empty((len(texts), self.encoder.width), dtype=np.float32)
        for rows, made in self.encoder.encode_batches(texts):
            out[rows] = made.embeddings
        return out


def write_corpus(folder: Path, texts: int, queries: int) -> None:
    """Every query is the text of one document, so the score must be 1."""
    rng = np.random.default_rng(0)
    step = texts // queries
    with (
        open(folder / "corpus.jsonl", "w") as corpus,
        open(folder / "queries.jsonl", "w") as asked,
        open(folder / "qrels.jsonl", "w") as judged,
    ):
        for i in range(texts):
            title, words = f"Document {i}", " ".join(WORDS[k] for k in rng.integers(len(WORDS), size=40))
            corpus.write(json.dumps({"_id": f"d{i}", "title": title, "text": words}) + "\n")
            if i % step == 0:
                asked.write(json.dumps({"_id": f"q{i}", "text": f"{title} {words}"}) + "\n")
                judged.write(json.dumps({"query-id": f"q{i}", "corpus-id": f"d{i}", "score": 1}) + "\n")


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def retrieval(arguments: argparse.Namespace) -> dict[str, Any]:
    """Figures of one run on the corpus in `arguments.folder`."""
    import mteb  # noqa: F401  # its import is not what is measured

    from grace.encoder.store import Store
    from grace.evaluation.evaluate import Embedder
    from grace.evaluation.mteb_scores import run
    from grace.evaluation.mteb_tasks import find

    peak, folder = common.PeakMemory(), arguments.folder
    encoder = HashEncoder(arguments.width, arguments.tokens)
    local = {TASK: str(folder / "data")}
    begin, begin_cpu = time.perf_counter(), time.process_time()
    figures: dict[str, Any] = {}
    if arguments.no_store:
        found = run(Storeless(encoder), find([TASK], None, local), "bench", "0")  # type: ignore[arg-type]
    else:
        settings = {"precision": "float16", "width": arguments.width, "tokens": arguments.tokens}
        with Store(folder / "store", settings, arguments.width) as store:
            figures["opened_seconds"] = round(time.perf_counter() - begin, 1)
            figures["texts_known"] = len(store)
            found = run(Embedder(encoder, store), find([TASK], None, local), "bench", "0")
        figures["segments"] = len(list(store.folder.glob("*.npy")))
        figures["store_bytes_per_text"] = round(size(store.folder) / len(store), 1)
    figures["datasets_cache_bytes_per_text"] = round(size(folder / "cache") / arguments.texts, 1)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - begin_cpu
    score = found[TASK]["main_score"]
    return {"seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1), "main_score": score, **figures} | {
        "peak_mb": peak.found
    }


def mindsmall(arguments: argparse.Namespace) -> dict[str, Any]:
    """Figures of MindSmallReranking on data of its shape."""
    from datasets import Dataset

    from grace.encoder.store import Store
    from grace.evaluation import mteb_scores, mteb_tasks
    from grace.evaluation.evaluate import Embedder

    rng = np.random.default_rng(0)
    names, ranked, relevant = [], {}, {}
    for query in range(int(QUERIES * arguments.share)):
        chosen = rng.choice(DOCUMENTS, size=CANDIDATES, replace=False).tolist()
        for number in range(EACH):
            name = f"{query}_{number}"
            names.append(name)
            ranked[name] = [f"document{i}" for i in chosen]  # strings of their own, as mteb's loader makes them
            relevant[name] = {f"document{chosen[0]}": 1, f"document{chosen[1]}": 0}
    texts = [f"read before {i}" for i in rng.integers(37_162, size=len(names))]
    data = {
        "corpus": Dataset.from_list([{"id": f"document{i}", "text": f"headline {i}"} for i in range(DOCUMENTS)]),
        "queries": Dataset.from_dict({"id": names, "text": texts}),
        "relevant_docs": relevant,
        "top_ranked": ranked,
    }
    (task,) = mteb_tasks.get_tasks(["MindSmallReranking"])
    task.dataset, task.data_loaded = {"default": {"test": data}}, True
    if arguments.whole:
        mteb_scores.SUBQUERIES_AT_ONCE = 1 << 40
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    begin = time.process_time()
    with (
        tempfile.TemporaryDirectory() as folder,
        Store(Path(folder), {"precision": "float16"}, arguments.width) as store,
    ):
        embedder = Embedder(HashEncoder(arguments.width), store)
        found = mteb_scores.run(embedder, [task], "bench", "0")
    cpu, peak = time.process_time() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    score = found["MindSmallReranking"]["main_score"]
    return {"main_score": score, "cpu_seconds": cpu, "loaded_mb": loaded, "peak_mb": peak}


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("what", nargs="?", choices=["retrieval", "mindsmall"], default="retrieval")
    parser.add_argument("--texts", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=0)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--no-store", action="store_true")
    parser.add_argument("--folder", type=Path, help="keep corpus and store here")
    parser.add_argument("--share", type=float, default=0.05, help="of MindSmallReranking")
    parser.add_argument("--whole", action="store_true", help="MindSmallReranking in one piece")
    parser.add_argument("--run", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run or arguments.what == "mindsmall":
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
        figures = mindsmall(arguments) if arguments.what == "mindsmall" else retrieval(arguments)
        print(json.dumps({**vars(arguments), **figures}, default=str), flush=True)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        if not (folder / "data/qrels.jsonl").exists():
            (folder / "data").mkdir(parents=True, exist_ok=True)
            write_corpus(folder / "data", arguments.texts, arguments.queries)
        os.environ["HF_DATASETS_CACHE"] = str(folder / "cache")
        command = [sys.executable, "-m", "bench.store", *sys.argv[1:], "--run", "--folder", str(folder)]
        for _ in range(arguments.repeat):
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
