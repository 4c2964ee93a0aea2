"""Memory and time of evaluating on a large corpus: mteb's own retrieval class over synthetic documents.

    python bench/store.py --texts 1000000 --width 128 [--tokens 64] [--repeat 2] [--no-store]

The engine is a stand-in that makes vectors from a hash of the text, so that what is measured is the rest: reading
the corpus, digests, store, mteb's search. Each repeat is a run in a process of its own; from the second one on all
embeddings are found in the store. Prints one line of JSON per run.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

TASK = "SciFact"  # an ordinary AbsTaskRetrieval; only its data is replaced
WORDS = [f"word{i}" for i in range(16)]


class Fast:
    """An encoder whose embeddings are a hash of the text, with rationales of `tokens` ids where asked for."""

    dtype = "float32"

    def __init__(self, width: int, tokens: int) -> None:
        self.width, self.tokens = width, tokens
        self.odd = np.random.default_rng(0).integers(1 << 62, size=(2, width), dtype=np.uint64) | np.uint64(1)

    def encode_batches(self, texts: list[str]) -> Iterator[tuple[list[int], Any]]:
        from grace.encoder.digests import digests_of
        from grace.encoder.encoder import Encoding, Rationale

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


class Plain:
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
    """Every query is the text of one document, so that the score must be 1."""
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


class Peak(threading.Thread):
    """Largest resident memory in MB, and of it what is the process's own (not pages of mapped files)."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.found = {"VmRSS": 0, "RssAnon": 0}

    def run(self) -> None:
        while True:
            for line in Path("/proc/self/status").read_text().splitlines():
                name, _, rest = line.partition(":")
                if name in self.found:
                    self.found[name] = max(self.found[name], int(rest.split()[0]) // 1024)
            time.sleep(0.05)


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    import mteb  # noqa: F401  # its import is not what is measured

    from grace.encoder.store import Store
    from grace.evaluation.embedder import Embedder
    from grace.evaluation.evaluate import run

    peak = Peak()
    peak.start()
    encoder = Fast(arguments.width, arguments.tokens)
    local = {TASK: str(folder / "data")}
    begin, begin_cpu = time.perf_counter(), time.process_time()
    figures: dict[str, Any] = {}
    if arguments.no_store:
        found = run(Plain(encoder), [TASK], None, "bench", "0", local)  # type: ignore[arg-type]
    else:
        settings = {"precision": "float16", "width": arguments.width, "tokens": arguments.tokens}
        with Store(folder / "store", settings, arguments.width) as store:
            figures["opened_seconds"] = round(time.perf_counter() - begin, 1)
            figures["texts_known"] = len(store)
            embedder = Embedder(encoder, store)
            found = run(embedder, [TASK], None, "bench", "0", local)
        figures["segments"] = len(list(store.folder.glob("*.npy")))
        figures["store_bytes_per_text"] = round(size(store.folder) / len(store), 1)
    figures["datasets_cache_bytes_per_text"] = round(size(folder / "cache") / arguments.texts, 1)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - begin_cpu
    main = found[TASK]["main_score"]
    return {
        **vars(arguments),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "main_score": main,
        **figures,
        "peak_mb": peak.found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--texts", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=0)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--no-store", action="store_true")
    parser.add_argument("--folder", type=Path, help="keep corpus and store here")
    parser.add_argument("--run", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if arguments.run:
        print(json.dumps(measure(arguments, arguments.folder), default=str), flush=True)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        if not (folder / "data/qrels.jsonl").exists():
            (folder / "data").mkdir(parents=True, exist_ok=True)
            write_corpus(folder / "data", arguments.texts, arguments.queries)
        os.environ["HF_DATASETS_CACHE"] = str(folder / "cache")
        for _ in range(arguments.repeat):
            subprocess.run([sys.executable, __file__, *sys.argv[1:], "--run", "--folder", str(folder)], check=True)


if __name__ == "__main__":
    main()
