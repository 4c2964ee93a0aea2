"""Results of a trade-off that can be worked out by hand: chosen scores of runs in two modes, written as files."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np

from grace.config import specs, tasks
from grace.config.plan import Plan
from grace.jobs import manifest
from tests.report.plots.made import CONFIG, items, write

DEMO = list(tasks.DEMO.values())
# Run -> (retrieval score of a text embedded directly, of one after a rationale); the other tasks have 0.5.
SCORES = {
    "base": (0.15, 0.20), "reasoning": (0.15, 0.20), "cl": (0.33, 0.11), "cl-long": (0.40, 0.11), "grace": (0.15, 0.19),
    "grace-rollout": (0.15, 0.20), "grace-random": (0.15, 0.18), "adapter-direct": (0.39, 0.26),
    "adapter": (0.38, 0.35), "fence-direct": (0.37, 0.30), "fence-rationale": (0.27, 0.33),
    "adapter-grace": (0.38, 0.36), "adapter-grace-random": (0.38, 0.35),
    "reasoning-sampled": (0.15, 0.19), "grace-apart": (0.15, 0.21), "grace-apart-random": (0.15, 0.21),
}  # fmt: skip
# Factor of the perplexity, well-formed rate, hash of the rationales; of the others the backbone's.
WRITING = {
    "cl": (1.5, 0.0, "cl"), "cl-long": (2.5, 0.0, "cl-long"), "fence-direct": (1.02, 1.0, "fd"),
    "fence-rationale": (1.05, 0.99, "fr"), "grace": (1.01, 0.99, "g"), "grace-random": (1.01, 0.97, "gr"),
    "grace-rollout": (1.01, 0.99, "go"), "adapter-grace": (1.01, 0.99, "ag"),
    "adapter-grace-random": (1.01, 0.99, "ar"),
}  # fmt: skip


def plan(study: str = "demo", **over: Any) -> Plan:
    one = {"backbones": ["tiny"] if study == "demo" else None}
    return Plan({**copy.deepcopy(CONFIG), "study": study, **one, **over})


def spec(
    root: Path, table: str = "tradeoff", study: str = "demo", only: tuple[str, ...] = (), **over: Any
) -> specs.TablesSpec:
    """Of a configured table whose results lie under `root`; only: the models of these runs, and reasoning."""
    made = json.loads(plan(study, **over).spec_tables(table))
    moved(made["traded"], root)
    if only:
        points = [one for one in made["traded"]["points"] if one["of"] in ("reasoning", *only)]
        runs = {one["run"] for one in points}
        kinds = {kind: [c for c in made["traded"][kind] if c["run"] in runs] for kind in ("cells", "general", "costs")}
        made["traded"] |= {"points": points, **kinds}
    return specs.TablesSpec.model_validate({**made, "bootstrap": 100})


def moved(traded: dict[str, Any], root: Path) -> None:
    """Paths of results to a folder."""
    for cell in traded["cells"] + traded["general"] + traded["costs"]:
        cell["results"] = [str(root / path) for path in cell["results"]]


def fill(traded: specs.Traded, without: tuple[str, ...] = ()) -> None:
    """Every result but those of the runs `without`, as the stages write them. Each seed adds 0.01 to the retrieval."""
    points = {point.run: point for point in traded.points}
    for cell in traded.cells:
        if cell.run not in without:
            embedded(cell, points[cell.run].of, str(points[cell.run].at["mode"]))
    for cell in traded.general:
        if cell.run not in without and not Path(cell.results[0]).exists():
            written(cell, points[cell.run].of)
    for cell in traded.costs:
        if cell.run not in without:
            trained(cell)


def embedded(cell: specs.Cell, of: str, mode: str) -> None:
    score = SCORES[of][mode == "reasoning"] + 0.01 * cell.seed
    names = {name: score if name == "DocstringRetrieval" else 0.5 for name in DEMO}
    found = {
        name: {
            "category": tasks.CATEGORY[name], "main_score": value, "metric": "x",
            "items": items(value, 0.1, seed=len(name)),
        }
        for name, value in names.items()
    }  # fmt: skip
    said = {"mean_tokens": 20.0, "texts": 10} if mode == "reasoning" else None
    write(cell.results[0], "evaluate", tasks=found, geometry={"random_pair_cosine": 0.3, "items": {}}, rationale=said)


def written(cell: specs.Cell, of: str) -> None:
    factor, formed, digest = WRITING.get(of, (1.0, 1.0, "backbone"))
    values, gold = -np.random.default_rng(3).random(40) * 100, [20] * 40
    values = values - np.log(factor) * 20  # of each text, so that every resample has the same factor
    perplexity = {"statistic": "perplexity", "parts": [{"values": values.tolist(), "gold": gold}]}
    score = float(np.exp(-values.sum() / sum(gold)))
    entries = {
        "docstring_perplexity": {"score": score, "metric": "x", "items": perplexity},
        "docstring_choice": {"score": 0.5, "metric": "x", "items": items(0.5)},
    }
    kept = {"statistic": "mean", "parts": [{"values": [formed] * 20}]}
    said = {"well_formed_share": formed, "items": kept, "mean_tokens": 20, "texts": 20, "digest": digest}
    write(cell.results[0], "general", tasks=entries, rationale=said)


def trained(cell: specs.Cell, seconds: float = 100.0, **more: Any) -> None:
    """The manifest of a training of 100 CPU-seconds, and 60 for writing the rationales of 10,000 rows."""
    shared = {"rationales": {"rows": 5000}} if len(cell.results) > 1 else {}
    made = {"stage": "train", "settings": {"contrastive": {"processes": 1}, **shared}, "seconds": 55.0}
    made |= {"cpu_seconds": seconds, "hardware": {"gpus": []}, "tokens": {"read": 1000, "written": 50}, **more}
    for path in cell.results:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    for path in cell.results[:1]:
        Path(path).write_text(json.dumps(made))
    for path in cell.results[1:]:
        record = {"stage": "rationales", "settings": {}, "seconds": 40.0, "cpu_seconds": 60.0}
        manifest.write_result(path, {**record, "hardware": {"gpus": []}}, rows=10_000)
