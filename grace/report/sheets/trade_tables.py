"""Tables of embeddings and generation at once: `tradeoff` of runs, `effects` of what two runs differ by."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from grace.config import specs
from grace.config.plan import BUDGET, REFERENCE
from grace.config.schema import Effect
from grace.report.scoring.scores import Estimate, Interval
from grace.report.scoring.tradeoff import (
    CHANGES,
    COSINE,
    EMBEDDING,
    FEWEST,
    GENERAL_CHANGE,
    NDCG,
    PERPLEXITY_CHANGE,
    WRITING,
    Compute,
    Difference,
    Trade,
    trade,
)
from grace.report.scoring.verdicts import TRADED, WORDS, Judged, judge_trade, record
from grace.report.sheets import grid
from grace.report.sheets.grid import MISSING, Footnotes, Grid, Made, Piece, Row, TableCell, label, marked, text

TRADEOFF_FIELDS = (
    f"run seed mode {NDCG} {EMBEDDING} {WRITING} {PERPLEXITY_CHANGE} compute_seconds backbone {GENERAL_CHANGE} "
    f"{COSINE} rationale_tokens identical_rationales compute_share device rationale_seconds tokens_read tokens_written "
    "source note"
).split()
EFFECTS_FIELDS = (
    "backbone gradient run mode other other_mode measure effect low high seeds seed_sd backbone_sd ours others source "
    "note"
).split()
MEASURES = (NDCG, EMBEDDING, WRITING, PERPLEXITY_CHANGE)
HEADS = {
    NDCG: "nDCG@10",
    EMBEDDING: "Embedding mean",
    WRITING: "Well-formed",
    PERPLEXITY_CHANGE: "Perplexity, %",
    GENERAL_CHANGE: "General average, points",
    COSINE: "Random-pair cosine",
}


def make(spec: specs.TablesSpec, traded: specs.Traded) -> Made:
    found = trade(traded, spec.bootstrap)
    runs = list(dict.fromkeys(point.of for point in found.points))
    seeds = sorted({cell.seed for cell in traded.cells})
    footnotes = Footnotes(found.problems)
    statements = []
    if spec.table.kind == "tradeoff":
        fields, rows = TRADEOFF_FIELDS, _tradeoff_rows(found)
        grids = [_tradeoff_grid(found, rows, footnotes)]
        notes = grid.notes(
            "tradeoff",
            resamples=spec.bootstrap,
            has_perplexity=found.has_perplexity,
            accuracies=", ".join(found.accuracies),
            unknown_compute=any(cost.problems for cost in found.costs.values()),
            missing=len(found.missing),
        )
    else:
        effects = [one for one in spec.table.effects if _has(found, one.run, one.other)]
        judged = [judge_trade(claim, found, backbone) for backbone in found.backbones for claim in TRADED]
        statements = [record(one) for one in judged]
        compared = _compared(found, effects)
        fields, rows = EFFECTS_FIELDS, _effects_rows(found, compared)
        grids = [_effects_grid(found, compared, footnotes), _claims_grid(found, judged)]
        several = max(map(len, found.embedding.values()), default=0) > 1
        across = len(found.backbones) >= FEWEST
        notes = grid.notes("effects", resamples=spec.bootstrap, several=several, across=across)
    grids[0].notes = footnotes.notes(map(marked, notes))
    without = []
    for backbone in found.backbones:
        for point in found.points:
            if found.planned(backbone, point.run) and found.value(EMBEDDING, backbone, point.run) is None:
                where = f" on {backbone}" if len(found.backbones) > 1 else ""
                without.append(_named(found, point.run) + where)
    known = grid.counted(one.seed for one in found.embedding.seeds)
    line = grid.about(spec.study, found.backbones, runs, known, without)
    sheet = grid.sheet(spec, line, found.backbones, grids)
    return Made(fields, rows, sheet, runs, seeds, found.missing, found.problems, statements)


def _has(found: Trade, *runs: str) -> bool:
    """Whether the study has all of these runs."""
    return {*runs} <= {point.run for point in found.points}


def _named(found: Trade, run: str) -> str:
    return f"{found.of(run)} ({found.mode(run)})"


def _rounded(value: float | None, digits: int = 6) -> float | None:
    return None if value is None else round(value, digits)


def _joined(parts: Iterable[str], by: str = " ") -> str | None:
    return by.join(dict.fromkeys(parts)) or None


def number(measure: str, value: float, signed: bool = True) -> str:
    """Three decimals; of a change one, in percent or in points."""
    digits, value = (1, 100 * value) if measure in CHANGES else (3, value)
    return f"{value:{'+' if signed else ''}.{digits}f}"


def _bracketed(measure: str, interval: tuple[float, float], signed: bool = True) -> str:
    return f"[{', '.join(number(measure, end, signed) for end in interval)}]"


def _cell(
    measure: str,
    value: float,
    of: Estimate | Difference,
    versus: Interval | None,
    footnotes: Footnotes,
    below: list[str],
    signed: bool = True,
) -> TableCell:
    deviation = None if of.deviation is None else number(measure, of.deviation, signed=False)
    return grid.measured(number(measure, value, signed), versus, deviation, of.problems, footnotes, *below)


# ---- tradeoff -------------------------------------------------------------------------------


def _tradeoff_rows(found: Trade) -> list[Row]:
    """One for each run, mode and seed of each backbone; a missing number is None."""
    return [
        _tradeoff_row(found, backbone, point.run, seed)
        for backbone in found.backbones
        for point in found.points
        for seed in found.planned(backbone, point.run)
    ]


def _tradeoff_row(found: Trade, backbone: str, run: str, seed: int) -> Row:
    embedding, general = (
        [one for one in models.get((backbone, run), []) if one.seed == seed][:1]
        for models in (found.embedding, found.general)
    )
    results = embedding + general
    scores = {name: found.value(name, backbone, run, [seed]) for name in (*MEASURES, GENERAL_CHANGE, COSINE)}
    cost = found.costs.get((backbone, run, seed), Compute())
    budget = found.costs.get((backbone, BUDGET, seed), Compute()).seconds
    same = found.identical(backbone, run, seed)
    missing = _joined((path for one in results for path in one.missing), ", ")
    problems = [problem.text for one in results for problem in one.problems]
    return {
        **{name: one and round(one.point, 6) for name, one in scores.items()},
        "run": found.of(run),
        "seed": seed,
        "mode": found.mode(run),
        "backbone": backbone,
        "compute_seconds": _rounded(cost.seconds, 2),
        "rationale_tokens": _rounded(embedding[0].mean_tokens if embedding else None, 2),
        "identical_rationales": None if same is None else int(same),
        "compute_share": round(cost.seconds / budget, 4) if cost.seconds is not None and budget else None,
        "device": cost.device,
        "rationale_seconds": _rounded(cost.rationales, 2),
        "tokens_read": cost.read,
        "tokens_written": cost.written,
        "source": _joined((path for one in results for path in one.files), ";"),
        "note": _joined([f"No result: {missing}."] * bool(missing) + problems + list(cost.problems)),
    }


def _tradeoff_grid(found: Trade, rows: list[Row], footnotes: Footnotes) -> Grid:
    """The means over seeds; below the scores their differences to untrained reasoning."""
    more = [name for name in (GENERAL_CHANGE, COSINE) if any(row[name] is not None for row in rows)]
    measures = [*MEASURES, *more]
    shown = []
    for backbone in found.backbones:
        for point in found.points:
            run = point.run
            if found.planned(backbone, run):
                cells = [_score(found, name, backbone, run, footnotes) for name in measures]
                names = [text(label(backbone)), text(found.of(run)), text(found.mode(run))]
                shown.append([*names, *cells, _writing(found, backbone, run), _compute(found, backbone, run)])
    head = ["backbone", "run", "mode", *(HEADS[name] for name in measures), "Rationales", "Compute"]
    return Grid(head, shown, names=3)


def _score(found: Trade, measure: str, backbone: str, run: str, footnotes: Footnotes) -> TableCell:
    one = found.value(measure, backbone, run)
    if one is None:
        return text(MISSING)
    versus, gap = one.interval, None
    if measure not in CHANGES:
        effect = found.effect(measure, backbone, run, REFERENCE) if run != REFERENCE else None
        versus, gap = (effect.interval, effect.gap) if effect else (None, None)
    below = [_bracketed(measure, versus)] if versus else []
    if versus and gap is not None:
        below.insert(0, f"{number(measure, gap)} ")
    planned = len(found.planned(backbone, run))
    if one.seeds < planned:
        below.append(f" ({one.seeds} of {planned} seeds)")
    return _cell(measure, one.point, one, versus, footnotes, below, signed=measure in CHANGES)


def _writing(found: Trade, backbone: str, run: str) -> TableCell:
    """Whether its rationales are the backbone's."""
    same = found.all_identical(backbone, run)
    if not same:
        return text(MISSING)
    some = f"{sum(same)} of {len(same)} same"
    return text("the backbone's" if all(same) else some if any(same) else "its own")


def _compute(found: Trade, backbone: str, run: str) -> TableCell:
    seconds, share = found.compute(backbone, run), found.compute_share(backbone, run, BUDGET)
    if not seconds:
        return text(MISSING if seconds is None else "none")
    return TableCell([Piece(f"{seconds:,.0f} s")], [Piece(f"{share:.2f} of {BUDGET}")] if share is not None else [])


# ---- effects --------------------------------------------------------------------------------


class Compared(NamedTuple):
    """An effect on one backbone, or over all (None), by each measure."""

    backbone: str | None
    effect: Effect
    gaps: dict[str, Difference | None]


def _compared(found: Trade, effects: list[Effect]) -> list[Compared]:
    """First over all backbones."""
    across = [
        Compared(None, one, {name: found.across(name, one.run, one.other) for name in MEASURES})
        for one in effects
        if len(found.backbones) >= FEWEST
    ]
    return across + [
        Compared(backbone, one, {name: found.effect(name, backbone, one.run, one.other) for name in MEASURES})
        for backbone in found.backbones
        for one in effects
    ]


def _effects_rows(found: Trade, compared: list[Compared]) -> list[Row]:
    """One for each comparison and measure; a missing number is None."""
    return [
        _effects_row(found, backbone, one, measure, gap)
        for backbone, one, gaps in compared
        for measure, gap in gaps.items()
        if gap or backbone
    ]


def _effects_row(found: Trade, backbone: str | None, one: Effect, measure: str, gap: Difference | None) -> Row:
    row = {
        **dict.fromkeys(EFFECTS_FIELDS),
        "backbone": backbone or f"all {len(found.backbones)}",
        "gradient": one.gradient,
        "measure": measure,
        "run": found.of(one.run),
        "mode": found.mode(one.run),
        "other": found.of(one.other),
        "other_mode": found.mode(one.other),
    }
    if gap is None:
        return {**row, "note": _why(found, measure, str(backbone), one)}
    row |= {"effect": gap.gap, "source": ";".join(gap.sources)}
    row["low"], row["high"] = gap.interval or (None, None)
    if backbone is None:
        row |= {"backbone_sd": gap.deviation, "note": _fewer(found, gap)}
    else:
        [(ours, other)] = gap.pairs
        planned = len(found.planned(backbone, one.run))
        fewer = [f"{ours.seeds} of {planned} seeds."] if ours.seeds < planned else []
        row |= {"seeds": ours.seeds, "seed_sd": gap.deviation, "ours": ours.point, "others": other.point}
        row["note"] = _joined(fewer + [problem.text for problem in gap.problems])
    return {key: round(value, 6) if isinstance(value, float) else value for key, value in row.items()}


def _fewer(found: Trade, gap: Difference) -> str | None:
    has, planned = len(gap.pairs), len(found.backbones)
    return f"{has} of {planned} backbones" if has < planned else None


def _why(found: Trade, measure: str, backbone: str, one: Effect) -> str:
    """Why a difference is missing."""
    models = found.general if measure in (WRITING, *CHANGES) else found.embedding
    seeds = [each for run in (one.run, one.other) for each in models.get((backbone, run), [])]
    if missing := _joined((path for each in seeds for path in each.missing), ", "):
        return f"No result: {missing}."
    problems = _joined(problem.text for each in seeds for problem in each.problems)
    return problems or ("This study does not measure it." if seeds else "Not planned in this study.")


def _effects_grid(found: Trade, compared: list[Compared], footnotes: Footnotes) -> Grid:
    shown = []
    for backbone, one, gaps in compared:
        named = label(backbone) if backbone else f"all {len(found.backbones)}"
        names = [named, one.gradient, _named(found, one.run), _named(found, one.other)]
        cells = []
        for measure, gap in gaps.items():
            below = [_bracketed(measure, gap.interval)] if gap and gap.interval else []
            if gap and backbone is None and (fewer := _fewer(found, gap)):
                below.append(f" ({fewer})")
            cells.append(_cell(measure, gap.gap, gap, gap.interval, footnotes, below) if gap else text(MISSING))
        shown.append([*map(text, names), *cells])
    return Grid(["backbone", "gradient", "run", "minus", *(HEADS[name] for name in MEASURES)], shown, names=4)


def _claims_grid(found: Trade, judged: list[Judged]) -> Grid:
    """The claims about runs of the study, with their verdicts."""
    rows = []
    for one in judged:
        if _has(found, *one.claim.runs):
            runs = " − ".join(_named(found, run) for run in one.claim.runs)
            said = WORDS[one.claim.group].get(one.verdict, one.verdict)
            rows.append([*map(text, (label(one.backbone), one.claim.text, runs, said, _found(one)))])
    made = Grid(["backbone", "statement", "runs", "verdict", "found"], rows, names=4)
    made.heading = "What was found before, and whether it holds here"
    note = (
        "Holds: the interval lies wholly within the bound, or wholly on the stated side; does not hold: wholly "
        "outside; not separable: neither; not run: a run has no result. Compute: of the first run, as a share of the "
        "second's."
    )
    made.notes = [("", marked(note))]
    return made


def _found(one: Judged) -> str:
    """What was found, as `-0.003 [-0.015, +0.008], bound ±0.02; compute 0.94`."""
    claim, measure = one.claim, one.claim.measure
    if one.value is None:
        return MISSING
    if claim.kind == "same":
        return f"the same for {round(one.value * one.seeds)} of {one.seeds} seeds"
    signed = claim.kind in ("above", "within") or measure in CHANGES
    said = number(measure, one.value, signed)
    said += f" {_bracketed(measure, one.interval, signed)}" if one.interval else ""
    bound, unit = number(measure, claim.bound, signed=False), " %" if measure in CHANGES else ""
    said += {
        "within": f", bound ±{bound}",
        "most": f"{unit}, at most {bound}{unit}",
        "least": f", at least {bound}",
    }.get(claim.kind, "")
    return said + (f"; compute {one.compute:.2f}" if one.compute is not None else "")
