"""A small study's result files, written as the stages write them, and the table made of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from grace.config import specs
from grace.config import tasks as names
from grace.config.schema import Table
from grace.jobs import manifest
from grace.report import tables
from tests.config.test_schema import CONFIG

SIZE = 200
DEMO = {name: category for category, name in names.DEMO.items()}
RUNS = {"base": 0.1, "reasoning": 0.2, "cl": 0.4, "grace": 0.2, "my-ablation": 0.3}
VERSIONS = {"mteb": "2.10.1", "lm_eval": "0.4.9"}


def mean_items(values) -> dict:
    return {"statistic": "mean", "parts": [{"values": [float(v) for v in values]}]}


def result(tasks: dict[str, str], rng, shift: float, rationale: bool = True) -> dict[str, Any]:
    """The content of a file of the stage `evaluate` whose tasks are all means of items."""
    found = {}
    for name, category in tasks.items():
        values = np.random.default_rng(len(name)).random(SIZE) * 0.5 + shift + 0.02 * rng.normal(size=SIZE)
        values = np.clip(values, 0, 1)
        entry = {"main_score": float(values.mean()), "metric": "x", "items": mean_items(values)}
        found[name] = {"category": category, **entry}
    squared = rng.random(50).tolist()
    geometry = {"pairs": 50, "texts": 100, "random_pair_cosine": 0.25 + shift, "uniformity": -2.5, "width": 128}
    geometry |= {"alignment": float(np.mean(squared)), "effective_rank": 40.25, "items": {"alignment": squared}}
    said = {"mean_tokens": 30.0, "texts": 100} if rationale else None
    return {"tasks": found, "geometry": geometry, "rationale": said}


def general(rng) -> dict[str, Any]:
    """The content of a file of the stage `general`."""
    values, tokens = -rng.random(SIZE) * 100, [20] * SIZE
    choice = rng.random(SIZE) < 0.4
    perplexity = {"statistic": "perplexity", "parts": [{"values": values.tolist(), "gold": tokens}]}
    score = float(np.exp(-values.sum() / (20 * SIZE)))
    return {
        "tasks": {
            "docstring_perplexity": {"score": score, "metric": "token_perplexity", "items": perplexity},
            "docstring_choice": {"score": float(choice.mean()), "metric": "acc", "items": mean_items(choice)},
        },
        "rationale": {"well_formed_share": 0.9, "items": mean_items([1] * 9 + [0]), "mean_tokens": 30, "texts": 10},
    }


def write(path: Path, content: dict[str, Any], stage: str = "evaluate", **more: Any) -> Path:
    manifest.write_result(path, {"stage": stage, "versions": VERSIONS, "revision": "one", **more}, **content)
    return path


class Files(NamedTuple):
    """The results of one model: of `evaluate` and of `general`."""

    run: str
    seed: int
    mteb: Path
    general: Path


def study(folder: Path, seeds: tuple[int, ...] = (0, 1)) -> list[Files]:
    """Five runs on the tiny backbone."""
    found = []
    for run, shift in RUNS.items():
        for seed in seeds:
            rng = np.random.default_rng([seed, len(run)])
            mteb = result(DEMO, rng, shift + 0.01 * seed, rationale=run != "base")
            one = write(folder / f"{run}-{seed}.json", mteb)
            found.append(Files(run, seed, one, write(folder / f"{run}-{seed}-general.json", general(rng), "general")))
    return found


def change(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Edit a result's content as if its stage had written it so."""
    value = json.loads(path.read_text())
    edit(value)
    manifest.write_result(path, value.pop("manifest"), **value)


def by_hand(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Edit a result as one does in an editor."""
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


def entry(name: str, *more: str) -> Table:
    """The configuration's entry, with more runs that the paper does not have."""
    table = Table(**CONFIG["defaults"]["tables"][name])
    return table.model_copy(update={"rows": {**table.rows, **dict.fromkeys(more)}})


def spec_of(files: list[Files], name: str = "table1", backbone: str = "tiny", tasks=tuple(DEMO)) -> specs.TablesSpec:
    table = entry(name, "my-ablation") if name == "table1" and backbone == "tiny" else entry(name)
    kind = "general" if table.kind == "general" else "mteb"
    cells = [
        specs.Cell(backbone=backbone, run=one.run, seed=one.seed, results=[str(getattr(one, kind))]) for one in files
    ]
    return specs.TablesSpec(study="demo", bootstrap=200, name=name, table=table, tasks=list(tasks), cells=cells)


def cells_of(spec: specs.TablesSpec) -> dict[tuple[str, str, str], dict[str, Any]]:
    return {(row["backbone"], row["run"], row["column"]): row for row in tables.make(spec).rows}


class Written(NamedTuple):
    """What the stage has written."""

    csv: Path
    md: str
    tex: str
    html: str
    record: dict[str, Any]


def run(spec: specs.TablesSpec, folder: Path) -> Written:
    """Through the real stage."""
    paths = {form: folder / f"{spec.name}.{form}" for form in ("csv", "md", "tex", "html")}
    record = folder / f"{spec.name}.json"
    options = [f"--{form}={path}" for form, path in paths.items()]
    tables.main(["--spec", spec.model_dump_json(), *options, f"--record={record}"])
    texts = (paths[form].read_text() for form in ("md", "tex", "html"))
    return Written(paths["csv"], *texts, json.loads(record.read_text()))
