"""Rule `claims`: what the paper claims, tested on the study's results by paired differences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from grace import manifest, specs, stage
from grace.files import writing
from grace.paper import numbers
from grace.report.scoring import judged, statements
from grace.report.scoring.scores import Estimate, Models, difference, estimate, load
from grace.report.scoring.statements import Claim, Measure
from grace.report.scoring.tradeoff import Trade, trade
from grace.shown import files

MEAN = "mean of the paper's four"
STATED = {one.id: place for place, one in enumerate(statements.STATEMENTS)}
Entry = dict[str, Any]


class Measured(NamedTuple):
    """Models, and the measures that their results allow. baselines: the runs of which `statements.BEST` is one."""

    models: Models
    measures: list[Measure]
    baselines: Sequence[str] = ()


def judge(claim: Claim, measured: Measured) -> list[Entry]:
    """A claim on each backbone and by each measure, as in claims.json; the first measure is the one that counts.

    A gain stands once, on the mean of the paper's four backbones, and not at all where the study lacks one of them or
    the paper's tasks.
    """
    backbones = list(dict.fromkeys(backbone for backbone, _ in measured.models))
    measures = [one for one in measured.measures if claim.kind != "within" or one.bounded]
    if claim.kind == "gain":
        measures = [one for one in measures if one.comparable]
        backbones = [MEAN] if set(numbers.BACKBONES) <= set(backbones) else []
    return [
        {**_entry(_settled(claim, one, name, measured), one, name, measured.models), "headline": place == 0}
        for name in backbones
        if name == MEAN or all(_planned(run, name, measured.models) for run in (claim.run, claim.other))
        for place, one in enumerate(measures)
    ]


def _planned(run: str, backbone: str, models: Models) -> bool:
    """False of a run that other backbones have and this one does not."""
    return (backbone, run) in models or not any(name == run for _, name in models)


def _settled(claim: Claim, measure: Measure, backbone: str, measured: Measured) -> Claim:
    """The claim with the baseline that is best on a backbone; as it is where none has a result."""
    if claim.other != statements.BEST:
        return claim
    known = {run: estimate(measured.models.get((backbone, run), []), measure.weights) for run in measured.baselines}
    points = {run: one.point for run, one in known.items() if one}
    if not points:
        return claim
    best = max(points, key=lambda run: points[run])
    return replace(claim, other=best, text=f"{claim.text} (`{best}`)")


Pair = tuple[Estimate, Estimate]


def _pair(claim: Claim, measure: Measure, backbone: str, models: Models) -> Pair | None:
    ours, other = (
        estimate(models.get((backbone, run), []), measure.weights, measure.scale) for run in (claim.run, claim.other)
    )
    return (ours, other) if ours and other else None


def _mean(claim: Claim, measure: Measure, models: Models) -> Pair | None:
    """Mean over the paper's four backbones, which share their items; None when one of them is missing."""
    pairs = [pair for name in numbers.BACKBONES if (pair := _pair(claim, measure, name, models))]
    if len(pairs) < len(numbers.BACKBONES):
        return None
    ours, other = zip(*pairs, strict=True)
    return _over(ours), _over(other)


def _over(every: tuple[Estimate, ...]) -> Estimate:
    samples = [one.samples for one in every if one.samples is not None]
    return Estimate(
        point=sum(one.point for one in every) / len(every),
        samples=sum(samples[1:], samples[0]) / len(every) if len(samples) == len(every) else None,
        seeds=min(one.seeds for one in every),
        deviation=None,
        sources=[path for one in every for path in one.sources],
        problems=[problem for one in every for problem in one.problems],
    )


def _entry(claim: Claim, measure: Measure, backbone: str, models: Models) -> Entry:
    pair = _mean(claim, measure, models) if backbone == MEAN else _pair(claim, measure, backbone, models)
    comparable = measure.comparable and backbone in (MEAN, *numbers.BACKBONES)
    limit = statements.bound() if claim.kind == "within" else None
    printed = statements.printed(claim, backbone, measure.average)
    entry: Entry = {
        "id": claim.id, "group": claim.group, "text": claim.text, "kind": claim.kind, "measure": measure.name,
        "backbone": backbone, "printed": printed, "recomputed": measure.average == "categories" and printed is not None,
        "bound": limit, "ours": None, "low": None, "high": None, "levels": None, "verdict": "not run", "problems": [],
        "comparable": comparable, "runs": [claim.run, claim.other], "seeds": 0, "where": statements.WHERE[claim.table],
    }  # fmt: skip
    if pair is not None:
        entry |= _found(claim, measure, pair, limit if limit is not None else printed or 0.0)
    return {**entry, "word": statements.word(claim.group, entry["verdict"])}


def _found(claim: Claim, measure: Measure, pair: Pair, limit: float) -> Entry:
    """What the results say. limit: as for `statements.verdict`."""
    gap, interval = difference(*pair)
    found: Entry = {
        "ours": round(gap, 4),
        "levels": [round(one.point, 4) for one in pair],
        "verdict": "not separable",
        "seeds": min(one.seeds for one in pair),
        "problems": list(dict.fromkeys(problem.text for one in pair for problem in one.problems)),
    }
    # Two models that answer nothing have the same score; neither has kept anything.
    silent = claim.kind == "within" and any(problem.kind == "answers" for one in pair for problem in one.problems)
    if interval:
        low, high = interval
        sides = (-high, -low) if measure.lower else interval
        found |= {
            "low": round(low, 4),
            "high": round(high, 4),
            "verdict": "not separable" if silent else statements.verdict(claim.kind, *sides, limit),
        }
    return found


def every(spec: specs.ClaimsSpec, embedding: Models, general: Models, traded: Trade | None = None) -> list[Entry]:
    """All claims in their order, as in claims.json, then the statements about embeddings and generation at once."""
    made = [one for seeds in general.values() for one in seeds]
    known = {name for one in made for name in one.scores}
    limited = any(one.limited for one in made)
    by_mteb = Measured(embedding, statements.embedding_measures(spec.tasks, bool(embedding.samples)))
    by_general = Measured(general, statements.general_measures(known, limited))
    subset = Measured(embedding, statements.embedding_measures(spec.subset)[-1:], spec.baselines)
    stated = judged.every(traded) if traded else []
    claimed = [
        entry
        for one in statements.CLAIMS
        for entry in judge(one, by_general if one.general else subset if one.other == statements.BEST else by_mteb)
        if one.other != statements.BEST or spec.baselines
    ]
    return claimed + [judged.entry(one) for one in sorted(stated, key=lambda one: STATED[one.statement.id])]


# ---- Markdown -------------------------------------------------------------------------------


def render(spec: specs.ClaimsSpec, entries: list[Entry]) -> str:
    """The page in Markdown: how many claims got which verdict, each claim, and how to read them."""
    lines = ["# What the paper claims, and what this study found", "", f"Study `{spec.study}`. {totals(entries)}.", ""]
    lines += [f"{sentence}\n" for sentence in notes(entries, spec.bootstrap)]
    for group in statements.GROUPS:
        rows = [one for one in entries if one["group"] == group]
        if rows:
            lines += [f"## {group}", "", *_grid(rows), ""]
    return "\n".join(lines)


def totals(entries: list[Entry]) -> str:
    """One line: how many of the paper's claims got which verdict, each once per backbone by its first measure."""
    counted = [one for one in entries if one["headline"]]
    own = [one for one in counted if one["group"] not in statements.OWN]
    counts = Counter(one["verdict"] for one in own)
    once = ", counted once per backbone" if len({one["backbone"] for one in own} - {MEAN}) > 1 else ""
    more = f"; {len(counted) - len(own)} comparisons beyond it" if len(counted) > len(own) else ""
    found = ", ".join(f"{counts[name]} {name}" for name in statements.VERDICTS)
    return f"{len(own)} claims of the paper{once}: {found}{more}"


def _split(entries: list[Entry]) -> set[tuple[str, str]]:
    """Id and backbone of the claims whose measures disagree."""
    return statements.split(((one["id"], one["backbone"]), one["verdict"]) for one in entries)


def notes(entries: list[Entry], resamples: int) -> list[str]:
    """What a reader must know to read the verdicts; only what applies."""
    out = [
        "Ours is the difference between the two runs, in points, with the 95 % interval of "
        f"{resamples} paired bootstrap resamples of the test items. Reproduced: the interval lies wholly on the "
        "claimed side, or within the bound; contradicted: wholly on the other, or outside; not separable: neither, or "
        "there is no interval; not run: one of the two runs has no result."
    ]
    if any(one["kind"] == "gain" for one in entries):
        out[0] += " A printed gain is reproduced when ours is surely above zero and may be as large."
    elif entries:
        out.append(
            "The printed gains are means over the paper's four backbones and all its tasks. This study does not have "
            "all of these, so it cannot test them: they are neither listed nor counted."
        )
    if any(one["id"].endswith("-baselines") for one in entries):
        out.append(
            "The best baseline is chosen by the same items on which it is compared, so such a difference is rather too "
            "small than too large; the table of baselines has all of them."
        )
    out += _measures(entries)
    seeds = sorted({one["seeds"] for one in entries if one["seeds"]})
    if seeds == [1]:
        out.append("One seed: the intervals say nothing about how another training would turn out.")
    elif seeds:
        out.append(
            f"{' to '.join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))} seeds, whose mean is taken: the intervals "
            "are those of the test items, not of other trainings."
        )
    if flawed := sum(bool(one["problems"]) for one in entries):
        out.append(
            f"{flawed} of {len(entries)} tests rest on results with a problem; their verdicts hold as far as these do."
        )
    own = [one for one in entries if not one["comparable"]]
    if own:
        who = "No test here is" if len(own) == len(entries) else f"{len(own)} of {len(entries)} tests are not"
        out.append(
            f"{who} of the paper's backbones and tasks: there only the direction of a difference can be set beside the "
            f"paper, not its size{_beside(own)}."
        )
    if any(one["recomputed"] for one in entries):
        out.append("Over 56 tasks the paper's number is recomputed from its category scores.")
    return out


def _measures(entries: list[Entry]) -> list[str]:
    """How claims with more than one measure are counted."""
    if all(one["headline"] for one in entries):
        return []
    apart = len(_split(entries))
    more = f" The measures disagree in {apart} claim{'s' * (apart != 1)}, which say{'s' * (apart == 1)} so."
    return [
        "A claim counts once per backbone, by the first measure it is listed with; its further measures stand below."
        + more * bool(apart)
    ]


def _beside(entries: list[Entry]) -> str:
    """What the printed numbers of tests that are not comparable are."""
    known = {one["backbone"] in numbers.BACKBONES for one in entries if one["printed"] is not None}
    if known == {True}:
        return ", and the printed number is the paper's for the same backbone"
    if known == {False}:
        return ", and the printed number is its mean over the paper's four backbones"
    if known:
        return (
            ", and the printed number is the paper's for the same backbone, or its mean over its four where the "
            "backbone is none of them"
        )
    return ""


def _grid(entries: list[Entry]) -> list[str]:
    apart = _split(entries)
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
