"""What `grace search` searches with: the time of one answer, recall@10 and the making of each kind of index.

    python -m bench.index [--count 100000] [--widths 128 1536] [--kinds exact ours graph]

Synthetic unit vectors on one core: `clustered` lie around 500 centres in 32 dimensions with some noise, as embeddings
of texts on some hundred subjects do; `even` have no structure at all, which no index can make use of. Queries are new
vectors of the same kind. Recall is against exact search in float32.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from bench import common
from grace.cli import index

QUERIES, K = 200, 10
LIMIT = 20.0  # ms that an answer may take
KINDS = ("exact", "ours", "graph")
BREADTHS = (64, 512)  # of a graph's search
COLUMNS = ("vectors", "width", "index", "made, s", "answer, ms: median (lowest - highest)", "95 %", "recall@10", "kept")


def vectors(kind: str, count: int, width: int, seed: int) -> np.ndarray:
    """[count, width] float32 of unit length."""
    draw, fixed = np.random.default_rng(seed), np.random.default_rng(0)
    made = draw.standard_normal((count, width), dtype=np.float32)
    if kind == "clustered":
        centres, turn = fixed.standard_normal((500, 32)), fixed.standard_normal((32, width)) / 32**0.5
        inner = centres[draw.integers(500, size=count)] + 0.7 * draw.standard_normal((count, 32))
        made = 0.3 * made + (inner @ turn).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def answers(search: Any, queries: np.ndarray) -> tuple[list[float], np.ndarray]:
    """Milliseconds of each query on its own, and the rows that it found."""
    search(queries[:1])
    times, rows = [], []
    for i in range(len(queries)):
        started = time.perf_counter()
        found = search(queries[i : i + 1])[1]
        times.append(1e3 * (time.perf_counter() - started))
        rows.append(found[0])
    return times, np.array(rows)


def graph(corpus: np.ndarray) -> Any:
    made = faiss.IndexHNSWFlat(corpus.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    made.hnsw.efConstruction = 100
    made.add(corpus)
    return made


def measure(kind: str, count: int, width: int, kinds: list[str]) -> tuple[list[list[Any]], list[float]]:
    """Rows of the table, and the milliseconds of our index."""
    corpus, queries = vectors(kind, count, width, 1), vectors(kind, QUERIES, width, 2)
    best = faiss.knn(queries, corpus, K, metric=faiss.METRIC_INNER_PRODUCT)[1]
    rows: list[list[Any]] = []
    ours: list[float] = []

    def add(name: str, seconds: float | None, search: Any) -> list[float]:
        times, found = answers(search, queries)
        recall = np.mean([len({*a} & {*b}) / K for a, b in zip(found.tolist(), best.tolist(), strict=True)])
        late = float(np.percentile(times, 95))
        made = None if seconds is None else f"{seconds:.1f}"
        kept = "yes" if np.median(times) <= LIMIT else "no"
        rows.append([kind, width, name, made, common.spread(times), f"{late:.2f}", f"{recall:.3f}", kept])
        return times

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        np.save(folder / index.VECTORS, corpus)
        if "exact" in kinds:
            there = index.Index(folder)
            add("exact", None, lambda some: there.search(some, K))
        if "ours" in kinds:
            started = time.perf_counter()
            index.build(folder, exact=0)
            seconds = time.perf_counter() - started
            listed = index.Index(folder)
            name = f"ours, {listed.lists.nprobe} of {listed.lists.nlist} lists"
            ours = add(name, seconds, lambda some: listed.search(some, K))
    if "graph" in kinds:
        started = time.perf_counter()
        made = graph(corpus)
        seconds = time.perf_counter() - started
        for breadth in BREADTHS:
            made.hnsw.efSearch = breadth
            add(f"graph (HNSW), breadth {breadth}", seconds, lambda some: made.search(some, K))
    return rows, ours


def main(argv: list[str] | None = None) -> None:
    parser = common.parser(__doc__, repeats=1)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--widths", type=int, nargs="+", default=[128, 1536])
    parser.add_argument("--structures", nargs="+", default=["clustered", "even"], choices=["clustered", "even"])
    parser.add_argument("--kinds", nargs="+", default=["exact", "ours"], choices=KINDS, help="a graph takes minutes")
    arguments = parser.parse_args(argv)
    faiss.omp_set_num_threads(1)
    rows, entries = [], []
    for width in arguments.widths:
        for kind in arguments.structures:
            found, ours = measure(kind, arguments.count, width, arguments.kinds)
            rows += found
            if ours:
                meaning = f"an answer from {arguments.count:,} {kind} vectors of width {width} / {LIMIT:.0f} ms"
                ratios = [value / LIMIT for value in ours]
                entries.append(common.entry(f"search_{kind}_{width}", ratios, common.command(), meaning))
    print(f"{common.hardware()}; {arguments.count:,} vectors, {QUERIES} queries, one core")
    print(common.table(COLUMNS, rows))
    common.write(arguments.json, entries)


if __name__ == "__main__":
    main()
