"""Rule `claims`: what the paper claims, tested on the study's results by paired differences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

from grace.config import specs, tasks
from grace.config.plan import files
from grace.jobs import manifest, stage
from grace.jobs.files import writing
from grace.paper import numbers
from grace.report.scoring.results import WELL_FORMED
from grace.report.scoring.scores import Estimate, Models, estimate, load
from grace.report.scoring.tradeoff import Trade, trade
from grace.report.scoring.verdicts import (
    BEST,
    CLAIMS,
    OWN,
    TRADED,
    VERDICTS,
    Claim,
    entry,
    judge,
    judge_trade,
    split,
    trade_entry,
)
from grace.report.sheets import grid

MEAN = "mean of the paper's four"  # stands for a backbone
Entry = dict[str, Any]


class Measure(NamedTuple):
    """A weighted mean of task scores, in percent unless `scale` says otherwise.

    average: the column of the paper that it is set beside, "Avg" as printed, "categories" recomputed from its category
    scores; empty: none, since the paper measures nothing of the kind. comparable: whether the tasks are the paper's.
    lower: whether lower is better. bounded: whether the paper's bound of general capability, in points, can be applied.
    """

    name: str
    weights: dict[str, float]
    average: Literal["Avg", "categories", ""] = ""
    comparable: bool = False
    scale: float = 100.0
    lower: bool = False
    bounded: bool = False


def embedding_measures(planned: Iterable[str], sampled: bool = False) -> list[Measure]:
    """The plain mean over a study's tasks; with the paper's 56, first the mean as its tables weigh it.

    Args:
        planned: names of the tasks. sampled: whether of some of them a part was drawn.
    """
    names = list(planned)
    plain = dict.fromkeys(names, 1.0)
    if set(names) != {name for group in tasks.MTEB.values() for name in group.split()}:
        return [Measure(f"mean of {len(names)} task{'s' * (len(names) != 1)}", plain, "Avg")]
    factor = {c: numbers.PAPER_WEIGHTS[c] / numbers.COUNTS[c] for c in tasks.CATEGORIES}
    weighted = {name: factor[tasks.CATEGORY[name]] for name in names}
    return [
        Measure("average as the paper weighs it", weighted, "Avg", comparable=not sampled),
        Measure("mean of 56 tasks", plain, "categories", comparable=not sampled),
    ]


def general_measures(general: Models) -> list[Measure]:
    """The mean of the paper's six tasks; where none of these ran, the demo's own, which the paper prints nothing of."""
    known = {name for one in general.seeds for name in one.scores}
    six = dict.fromkeys(numbers.GENERAL.values(), 1.0)
    if known & six.keys() or not known & {"docstring_choice", "docstring_perplexity"}:
        limited = any(one.limited for one in general.seeds)
        return [Measure("mean of the six tasks", six, "Avg", comparable=not limited, bounded=True)]
    return [
        Measure("multiple choice", {"docstring_choice": 1.0}, bounded=True),
        Measure("well-formed rationales", {WELL_FORMED: 1.0}),
        Measure("perplexity, lower is better", {"docstring_perplexity": 1.0}, scale=1.0, lower=True),
    ]


# ---- judging --------------------------------------------------------------------------------


def every(spec: specs.ClaimsSpec, embedding: Models, general: Models, traded: Trade | None = None) -> list[Entry]:
    """All claims in their order, as in claims.json."""
    measured = {
        "tasks": (embedding, embedding_measures(spec.tasks, bool(embedding.samples))),
        "subset": (embedding, embedding_measures(spec.subset)[-1:]),
        "general": (general, general_measures(general)),
    }
    found = []
    for claim in CLAIMS:
        if claim in TRADED:
            backbones = traded.backbones if traded else []
            found += [trade_entry(judge_trade(claim, traded, backbone)) for backbone in backbones if traded]
        elif claim.other != BEST or spec.baselines:
            found += _entries(claim, *measured[claim.measure], spec.baselines)
    return found


def _entries(claim: Claim, models: Models, measures: list[Measure], baselines: list[str]) -> list[Entry]:
    """A claim on each backbone and by each measure; the first measure is the one that counts.

    A gain stands once, on the mean of the paper's four backbones, and not at all where the study lacks one of them or
    the paper's tasks.
    """
    backbones = models.backbones
    if claim.kind == "within":
        measures = [one for one in measures if one.bounded]
    if claim.kind == "gain":
        measures = [one for one in measures if one.comparable]
        backbones = [MEAN] if set(numbers.BACKBONES) <= set(backbones) else []
    found = []
    for backbone in backbones:
        # A run that only other backbones have is not compared on this one.
        elsewhere = {run for _, run in models} - {run for name, run in models if name == backbone}
        if backbone != MEAN and elsewhere & set(claim.runs):
            continue
        for place, measure in enumerate(measures):
            found.append({**_entry(claim, measure, backbone, models, baselines), "headline": place == 0})
    return found


def _entry(claim: Claim, measure: Measure, backbone: str, models: Models, baselines: list[str]) -> Entry:
    if claim.other == BEST:
        scores = {run: estimate(models.get((backbone, run), []), measure.weights) for run in baselines}
        points = {run: one.point for run, one in scores.items() if one}
        if points:
            best = max(points, key=lambda run: points[run])
            claim = replace(claim, other=best, text=f"{claim.text} (`{best}`)")
    bound = numbers.value("claims", "general", "difference", "Delta") if claim.kind == "within" else None
    paper = printed(claim, backbone, measure.average)
    limit = bound if bound is not None else paper or 0.0
    return entry(
        judge(claim, backbone, _pair(claim, measure, backbone, models), limit, measure.lower),
        measure.name,
        printed=paper,
        recomputed=measure.average == "categories" and paper is not None,
        bound=bound,
        comparable=measure.comparable and backbone in (MEAN, *numbers.BACKBONES),
    )


def _pair(claim: Claim, measure: Measure, backbone: str, models: Models) -> list[Estimate]:
    """Both runs on a backbone, or their means over the paper's four; empty when a result is missing."""
    backbones = list(numbers.BACKBONES) if backbone == MEAN else [backbone]
    pair = []
    for run in (claim.run, claim.other):
        known = [estimate(models.get((name, run), []), measure.weights, measure.scale) for name in backbones]
        found = [one for one in known if one]
        if len(found) < len(backbones):
            return []
        pair.append(_mean(found) if backbone == MEAN else found[0])
    return pair


def _mean(found: list[Estimate]) -> Estimate:
    """The mean over backbones, which share their items."""
    samples = [one.samples for one in found if one.samples is not None]
    return Estimate(
        point=sum(one.point for one in found) / len(found),
        samples=sum(samples[1:], samples[0]) / len(found) if len(samples) == len(found) else None,
        seeds=min(one.seeds for one in found),
        deviation=None,
        sources=[path for one in found for path in one.sources],
        problems=[problem for one in found for problem in one.problems],
    )


def printed(claim: Claim, backbone: str, average: str) -> float | None:
    """What the paper prints for a claim: the difference of its two rows, in points.

    A backbone that is not the paper's, and a gain, get the mean over the paper's four.
    """
    if not claim.table or not average:
        return None
    gaps = []
    for name in [backbone] if backbone in numbers.BACKBONES else numbers.BACKBONES:
        ours, other = (_average(claim.table, name, row, average) for row in (claim.row, claim.other_row))
        gaps.append(ours - other)
    return round(sum(gaps) / len(gaps), 2)


def _average(table: str, backbone: str, row: str, average: str) -> float:
    if average == "Avg":
        return numbers.value(table, backbone, row, "Avg")
    scores = {category: numbers.value(table, backbone, row, category) for category in tasks.CATEGORIES}
    return numbers.average(scores, numbers.COUNTS)


# ---- Markdown -------------------------------------------------------------------------------


def render(spec: specs.ClaimsSpec, entries: list[Entry]) -> str:
    """The page in Markdown: how many claims got which verdict, each claim, and how to read them."""
    lines = ["# What the paper claims, and what this study found", "", f"Study `{spec.study}`. {totals(entries)}.", ""]
    lines += [f"{sentence}\n" for sentence in notes(entries, spec.bootstrap)]
    for group in dict.fromkeys(one["group"] for one in entries):
        lines += [f"## {group}", "", *_grid([one for one in entries if one["group"] == group]), ""]
    return "\n".join(lines)


def totals(entries: list[Entry]) -> str:
    """One line: how many of the paper's claims got which verdict, each once per backbone by its first measure."""
    counted = [one for one in entries if one["headline"]]
    own = [one for one in counted if one["group"] not in OWN]
    counts = Counter(one["verdict"] for one in own)
    once = ", counted once per backbone" if len({one["backbone"] for one in own} - {MEAN}) > 1 else ""
    more = f"; {len(counted) - len(own)} comparisons beyond it" if len(counted) > len(own) else ""
    found = ", ".join(f"{counts[name]} {name}" for name in VERDICTS)
    return f"{len(own)} claims of the paper{once}: {found}{more}"


def _disagreeing(entries: list[Entry]) -> set[tuple[str, str]]:
    """Id and backbone of the claims whose measures disagree."""
    return split(((one["id"], one["backbone"]), one["verdict"]) for one in entries)


def notes(entries: list[Entry], resamples: int) -> list[str]:
    """What a reader must know to read the verdicts; only what applies."""
    seeds = sorted({one["seeds"] for one in entries if one["seeds"]})
    other = [one for one in entries if not one["comparable"]]
    of_paper = [one["backbone"] in numbers.BACKBONES for one in other if one["printed"] is not None]
    return grid.notes(
        "claims",
        resamples=resamples,
        tests=len(entries),
        gains=any(one["kind"] == "gain" for one in entries),
        baselines=any(one["id"].endswith("-baselines") for one in entries),
        several=not all(one["headline"] for one in entries),
        apart=len(_disagreeing(entries)),
        seeds=list(dict.fromkeys([*seeds[:1], *seeds[-1:]])),
        flawed=sum(bool(one["problems"]) for one in entries),
        other=len(other),
        printed_same=any(of_paper),
        printed_mean=not all(of_paper),
        recomputed=any(one["recomputed"] for one in entries),
    )


def _grid(entries: list[Entry]) -> list[str]:
    apart = _disagreeing(entries)
    lines = ["| claim | backbone | measure | paper | ours | verdict |", "|---|---|---|---:|---:|---|"]
    for one in entries:
        paper = "—" if one["printed"] is None else f"{one['printed']:+.2f}"
        paper += f" (bound {one['bound']:g})" if one["bound"] is not None else ""
        said = "; measures disagree" if one["headline"] and (one["id"], one["backbone"]) in apart else ""
        cells = [one["text"], one["backbone"], one["measure"], paper, _ours(one), one["word"] + said]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _ours(one: Entry) -> str:
    if one["ours"] is None:
        return "—"
    interval = "" if one["low"] is None else f" [{one['low']:+.2f}, {one['high']:+.2f}]"
    return f"{one['ours']:+.2f}{interval}"


@stage.entry(specs.ClaimsSpec, outputs=("md", "json"))
def main(spec: specs.ClaimsSpec, paths: SimpleNamespace) -> None:
    embedding, general = (load(cells, spec.bootstrap) for cells in (spec.cells, spec.general))
    traded = trade(spec.traded, spec.bootstrap) if spec.traded else None
    entries = every(spec, embedding, general, traded)
    loaded = [one for one in (embedding, general, traded) if one]
    missing = sorted({path for one in loaded for path in one.missing})
    problems = list(dict.fromkeys(problem.text for one in loaded for problem in one.problems))
    named = [path for cell in spec.cells + spec.general for path in cell.results]
    named += files(spec.traded) if spec.traded else []
    read = sorted({path for path in named if Path(path).exists()})
    with writing(paths.md) as temporary:
        temporary.write_text(render(spec, entries), encoding="utf-8")
    record = manifest.make("claims", spec, list(read), paths.started)
    said = notes(entries, spec.bootstrap)
    manifest.write_result(paths.json, record, claims=entries, notes=said, missing=missing, problems=problems)
    print(totals(entries))


if __name__ == "__main__":
    main()
