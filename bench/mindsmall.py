"""Memory and time of MindSmallReranking in pieces, on data of its shape: mteb's class over synthetic candidates.

    python bench/mindsmall.py --share 0.05 [--whole]

The real task has 2,362,514 sub-queries of about 72,000 queries, 41 candidates each out of 5,277 documents; `--share`
takes a part of them. `--whole` runs mteb on all at once instead. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from store import Fast  # bench/store.py

from grace.encoder.store import Store
from grace.evaluation import evaluate, mteb_tasks, scale
from grace.evaluation.embedder import Embedder

QUERIES, EACH, DOCUMENTS, CANDIDATES = 72_000, 33, 5277, 41


def build(share: float) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    names, ranked, relevant = [], {}, {}
    for query in range(int(QUERIES * share)):
        chosen = rng.choice(DOCUMENTS, size=CANDIDATES, replace=False).tolist()
        for number in range(EACH):
            name = f"{query}_{number}"
            names.append(name)
            ranked[name] = [f"document{i}" for i in chosen]  # strings of their own, as mteb's loader makes them
            relevant[name] = {f"document{chosen[0]}": 1, f"document{chosen[1]}": 0}
    corpus = [{"id": f"document{i}", "text": f"headline {i}"} for i in range(DOCUMENTS)]
    texts = [f"read before {i}" for i in rng.integers(37_162, size=len(names))]
    return {
        "corpus": Dataset.from_list(corpus),
        "queries": Dataset.from_dict({"id": names, "text": texts}),
        "relevant_docs": relevant,
        "top_ranked": ranked,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--whole", action="store_true")
    arguments = parser.parse_args()
    (task,) = mteb_tasks.get_tasks(["MindSmallReranking"])
    task.dataset, task.data_loaded = {"default": {"test": build(arguments.share)}}, True
    mteb_tasks.get_tasks = lambda *_: [task]
    if arguments.whole:
        scale.SUBQUERIES_AT_ONCE = 1 << 40
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    begin = time.process_time()
    with (
        tempfile.TemporaryDirectory() as folder,
        Store(Path(folder), {"precision": "float16"}, arguments.width) as store,
    ):
        embedder = Embedder(Fast(arguments.width, 0), store)
        found = evaluate.run(embedder, ["MindSmallReranking"], None, "bench", "0")
    cpu, peak = time.process_time() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    score = found["MindSmallReranking"]["main_score"]
    print(
        json.dumps({**vars(arguments), "main_score": score, "cpu_seconds": cpu, "loaded_mb": loaded, "peak_mb": peak})
    )


if __name__ == "__main__":
    main()
