"""From result files to estimates: a score, its interval, its difference to another run, its seeds.

Every cell of a table is a weighted mean of task scores. Runs are resampled together, item by item
within each task; over seeds the mean is taken after resampling, so seeds share their items too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from grace import manifest, specs
from grace.report import bootstrap
from grace.section import UserError

log = logging.getLogger(__name__)
WELL_FORMED = "well_formed"  # the well-formed rate of rationales, beside the general tasks


class Score(NamedTuple):
    """A task's score of one seed: 0 to 1 (or a perplexity), its resamples [R] if it has items, its file."""

    point: float
    samples: np.ndarray | None
    source: str


@dataclass
class Seed:
    """The results of one trained model. `texts`: per result file, name of a figure -> (value, texts behind it)."""

    seed: int
    scores: dict[str, Score] = field(default_factory=dict)
    categories: dict[str, str] = field(default_factory=dict)
    texts: dict[str, dict[str, tuple[float, int]]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)  # result files that are not there

    def figure(self, name: str) -> tuple[float, list[str]] | None:
        """Mean over the files' texts of `random_pair_cosine` or `mean_tokens`, and the files."""
        found = {path: group[name] for path, group in self.texts.items() if name in group}
        total = sum(count for _, count in found.values())
        return (sum(value * count for value, count in found.values()) / total, list(found)) if total else None


@dataclass
class Estimate:
    """A cell: mean over its seeds; samples [R] or None; `deviation` between seeds when there are two."""

    point: float
    samples: np.ndarray | None
    seeds: int
    deviation: float | None
    sources: list[str]

    @property
    def interval(self) -> tuple[float, float] | None:
        return None if self.samples is None else bootstrap.interval(self.samples)


Models = dict[tuple[str, str], list[Seed]]


def load(cells: list[specs.Cell], resamples: int, seed: int = 0) -> Models:
    """All results of a study, resampled.

    Returns:
        (backbone, run) -> its seeds. A result file that does not exist leaves its tasks out of `scores` and
        stands in `missing`.

    Raises:
        UserError: naming a file that is cut off, has no manifest or lacks a field, or two files of one model that
            were made with different weights or settings, or whose items differ in number.
    """
    models: Models = {}
    raw: dict[str, list[tuple[Seed, dict[str, Any], str]]] = {}
    for cell in cells:
        one = Seed(cell.seed)
        models.setdefault((cell.backbone, cell.run), []).append(one)
        made: dict[str | None, str] = {}  # hash of weights and settings -> the first file with it
        for path in cell.results:
            if not Path(path).exists():
                one.missing.append(path)
                continue
            result = manifest.read_result(path)
            made.setdefault(result["manifest"].get("revision"), path)
            if len(made) > 1:
                raise UserError(
                    f"{path}: made with other weights or settings than {next(iter(made.values()))}; delete the older "
                    "of the two and run snakemake again."
                )
            for name, entry in _entries(one, path, result):
                raw.setdefault(name, []).append((one, entry, path))
    for name, entries in raw.items():
        log.info("resampling %s of %d models", name, len(entries))
        for (one, entry, path), samples in zip(entries, _resampled(name, entries, resamples, seed), strict=True):
            one.scores[name] = Score(float(entry["score"]), samples, path)
    return models


def _entries(one: Seed, path: str, result: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The tasks of a result file as name -> {score, items}; fills in categories and text figures."""
    try:
        said = result["rationale"]
        if "geometry" in result:
            cosine, texts = result["geometry"]["random_pair_cosine"], result["geometry"]["texts"]
            group = {} if cosine is None else {"random_pair_cosine": (float(cosine), int(texts))}
            if said:
                group["mean_tokens"] = (float(said["mean_tokens"]), int(said["texts"]))
            one.texts[path] = group
        elif said:
            yield WELL_FORMED, {"score": said["well_formed_share"], "items": said["items"]}
        for name, entry in result["tasks"].items():
            score = entry["main_score"] if "category" in entry else entry["score"]
            if "category" in entry:
                one.categories[name] = entry["category"]
            if score is not None:  # a metric that is undefined, as a correlation without spread
                yield name, {"score": score, "items": entry["items"]}
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a whole result (field {error}); delete it and run snakemake again.") from None


def _resampled(
    name: str, entries: list[tuple[Seed, dict[str, Any], str]], resamples: int, seed: int
) -> list[np.ndarray | None]:
    """Per entry of one task its resampled scores [R]; None for one without items."""
    out: list[np.ndarray | None] = [None] * len(entries)
    known = [i for i, (_, entry, _) in enumerate(entries) if entry["items"]]
    if not known:
        return out
    sizes = {i: [len(part["values"]) for part in entries[i][1]["items"]["parts"]] for i in known}
    for i in known:
        if sizes[i] != sizes[known[0]]:
            raise UserError(
                f"{entries[i][2]}: task {name!r} has other items than in {entries[known[0]][2]}; "
                "delete the older of the two and run snakemake again."
            )
    parts = sizes[known[0]]
    for i in known:
        out[i] = np.zeros(resamples)
    for number, size in enumerate(parts):
        start = 0
        prepared = {i: _prepare(entries[i][1]["items"]["parts"][number]) for i in known}
        for drawn in bootstrap.counts(size, resamples, seed, f"{name}/{number}"):
            for i in known:
                values, gold = prepared[i]
                score = bootstrap.statistic(entries[i][1]["items"]["statistic"], values, gold, drawn)
                out[i][start : start + len(drawn)] += score / len(parts)  # type: ignore[index]
            start += len(drawn)
    return out


def _prepare(part: dict[str, list[float]]) -> tuple[np.ndarray, np.ndarray | None]:
    gold = part.get("gold")
    return np.asarray(part["values"], dtype=float), None if gold is None else np.asarray(gold, dtype=float)


def estimate(seeds: list[Seed], weights: dict[str, float], scale: float = 100.0) -> Estimate | None:
    """The weighted mean of task scores, times `scale`, over the seeds that have all of these tasks.

    Returns:
        None when no seed has them all: an average over fewer tasks would be another quantity.
    """
    whole = [one for one in seeds if weights and weights.keys() <= one.scores.keys()]
    if not whole:
        return None
    total = sum(weights.values())

    def mixed(one: Seed, pick: Any) -> Any:
        return scale * sum(weight * pick(one.scores[name]) for name, weight in weights.items()) / total

    points = [mixed(one, lambda score: score.point) for one in whole]
    sampled = all(one.scores[name].samples is not None for one in whole for name in weights)
    samples = np.mean([mixed(one, lambda score: score.samples) for one in whole], axis=0) if sampled else None
    return Estimate(
        point=float(np.mean(points)),
        samples=samples,
        seeds=len(whole),
        deviation=float(np.std(points, ddof=1)) if len(points) > 1 else None,
        sources=list(dict.fromkeys(one.scores[name].source for one in whole for name in weights)),
    )


def difference(ours: Estimate, other: Estimate) -> tuple[float, tuple[float, float] | None]:
    """ours - other, with the interval of the paired resamples."""
    paired = None if ours.samples is None or other.samples is None else ours.samples - other.samples
    return ours.point - other.point, None if paired is None else bootstrap.interval(paired)
