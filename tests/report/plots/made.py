"""Result files as the stages write them, with chosen scores, and the specs of the configured figures."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np

from grace.config import specs, tasks
from grace.config.plan import Plan
from grace.config.studies import read_config
from grace.jobs import manifest
from grace.report import figures
from grace.report.plots.marks import Mark, Plot

CONFIG = read_config(Path(__file__).parents[3] / "config.yaml")
SIZE = 60


def spec(figure: str, root: Path, study: str = "demo", **over) -> specs.FiguresSpec:
    """A configured figure whose results lie under `root`; `over`: sections of the study, changed."""
    config = copy.deepcopy(CONFIG)
    config["study"] = study
    config["backbones"] = ["tiny"] if study == "demo" else None
    for key, value in over.items():
        config[key] = value
    made = specs.FiguresSpec.model_validate_json(Plan(config).spec_figures(figure)).model_dump()
    made["bootstrap"] = 100
    for cell in made["cells"] + made["general"]:
        cell["results"] = [str(root / path) for path in cell["results"]]
    made["latency"] = {name: str(root / path) for name, path in made["latency"].items()}
    return specs.FiguresSpec(**made)


def write(path: str | Path, stage: str, **content) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    manifest.write_result(path, {"stage": stage, "versions": {}, "settings": {}}, **content)


def items(score: float, spread: float = 0.0, seed: int = 0, own: int = 0) -> dict:
    """Items whose mean is `score`; those of one seed share their noise, as the items of one task do.

    own: seed of noise of a model's own beside it; 0: none, so that the difference of two models has no spread.
    """
    noise = np.random.default_rng(seed).normal(size=SIZE)
    noise += 0.3 * np.random.default_rng(own).normal(size=SIZE) if own else 0
    values = score + spread * (noise - noise.mean())
    return {"statistic": "mean", "parts": [{"values": [float(value) for value in values]}]}


def evaluate(
    cell: specs.Cell,
    names: list[str],
    score: float | dict[str, float],
    tokens: float | None = None,
    spread: float = 0.1,
    own: int = 0,
) -> None:
    """MTEB results of a model, each task with `score` (0 to 1) or its own, spread over its files."""
    score = score if isinstance(score, dict) else dict.fromkeys(names, score)
    for number, path in enumerate(cell.results):
        held = names[number :: len(cell.results)]
        entries = {
            name: {
                "category": tasks.CATEGORY[name],
                "main_score": score[name],
                "metric": "x",
                "items": items(score[name], spread, seed=len(name), own=own),
            }
            for name in held
        }
        said = None if tokens is None else {"mean_tokens": tokens, "texts": 10}
        write(path, "evaluate", tasks=entries, geometry=None, rationale=said)


def filled(
    spec: specs.FiguresSpec,
    scores: dict[str, float] | None = None,
    without: tuple[str, ...] = (),
    own: tuple[str, ...] = (),
) -> tuple[Plot, list[Mark]]:
    """A figure with MTEB results.

    scores: of runs; without them each run has one point more than the run before it. own: runs with noise of their own.
    """
    for place, cell in enumerate(spec.cells):
        score = 0.3 + 0.01 * place if scores is None else scores.get(cell.run)
        if score is not None and cell.run not in without:
            evaluate(cell, spec.tasks, score, tokens=20.0 + place, own=7 * (cell.run in own))
    return figures.build(spec)


def general(cell: specs.Cell, scores: dict[str, float], well_formed: float) -> None:
    """General results of a model: task -> score (0 to 1)."""
    entries = {name: {"score": score, "metric": "x", "items": items(score, 0.1)} for name, score in scores.items()}
    said = {"well_formed_share": well_formed, "items": items(well_formed, 0.1, seed=1), "mean_tokens": 30, "texts": 10}
    write(cell.results[0], "general", tasks=entries, rationale=said)


def timed(path: str, budgets: tuple[int, ...], scale: float = 1.0) -> None:
    """Latency results of a backbone: seconds grow with the budget; percentiles lie at 0.8 and 1.3 of the median."""

    def system(name: str, budget: int | None, encode: float, generate: float) -> dict:
        times = {"encode": encode * scale, "generate": generate * scale, "match": 0.001}
        times["total"] = sum(times.values())
        parts = {part: {"p10": 0.8 * one, "p50": one, "p90": 1.3 * one} for part, one in times.items()}
        return {"system": name, "budget": budget, **parts, "new_tokens": float(budget or 0)}

    systems = [system("encoder", None, 0.006, 0.0), system("direct", None, 0.02, 0.0)]
    systems += [system(name, budget, 0.02, 0.012 * budget) for name in ("reasoning", "grace") for budget in budgets]
    write(path, "latency", corpus=100, top=10, texts=5, repeats=2, systems=systems)
