"""The table of what each gradient does: differences of two runs, and the statements that they bear on."""

from __future__ import annotations

from typing import Any

from grace import specs
from grace.exhibits import Effect
from grace.report.scoring import statements
from grace.report.scoring.judged import Judged
from grace.report.scoring.scores import Estimate, difference
from grace.report.scoring.tradeoff import (
    CHANGES,
    EMBEDDING,
    FEWEST,
    NDCG,
    PERPLEXITY_CHANGE,
    WRITING,
    Across,
    Trade,
)
from grace.report.sheets.grid import MISSING, Grid, Piece, Sheet, Shown, marked, text
from grace.report.sheets.score_sheet import label, warnings
from grace.report.sheets.signs import Signs
from grace.report.sheets.tradeoff import HEADS, estimated, line, number

FIELDS = [
    "backbone", "gradient", "run", "mode", "other", "other_mode", "measure", "effect", "low", "high", "seeds",
    "seed_sd", "backbone_sd", "ours", "others", "source", "note",
]  # fmt: skip
MEASURES = (NDCG, EMBEDDING, WRITING, PERPLEXITY_CHANGE)
Row = dict[str, Any]


def rows(table: Any, trade: Trade) -> list[Row]:
    """One for each comparison, measure and backbone, and for all backbones together; a missing number is None."""
    compared = [(one, measure) for one in _compared(table.effects, trade) for measure in MEASURES]
    together = [_together(trade, one, measure) for one, measure in compared]
    each = [_row(trade, backbone, one, measure) for backbone in trade.backbones for one, measure in compared]
    return [row for row in together if row] + each


def _planned(trade: Trade, *runs: str) -> bool:
    """Whether the study has all of these runs."""
    return {*runs} <= {point.run for point in trade.points}


def _compared(effects: list[Effect], trade: Trade) -> list[Effect]:
    return [one for one in effects if _planned(trade, one.run, one.other)]


def _named_row(trade: Trade, backbone: str, one: Effect, measure: str) -> Row:
    return {
        **dict.fromkeys(FIELDS), "backbone": backbone, "gradient": one.gradient, "measure": measure,
        "run": trade.of(one.run), "mode": trade.mode(one.run),
        "other": trade.of(one.other), "other_mode": trade.mode(one.other),
    }  # fmt: skip


def _together(trade: Trade, one: Effect, measure: str) -> Row | None:
    found = trade.across(measure, one.run, one.other)
    if found is None:
        return None
    low, high = found.interval
    return {
        **_named_row(trade, _every(trade), one, measure), "effect": round(found.gap, 6), "low": round(low, 6),
        "high": round(high, 6), "backbone_sd": round(found.deviation, 6),
        "source": ";".join(dict.fromkeys(path for pair in found.pairs for of in pair for path in of.sources)),
        "note": _lacking(trade, found),
    }  # fmt: skip


def _every(trade: Trade) -> str:
    """What stands in the column `backbone` of a comparison over backbones."""
    return f"all {len(trade.backbones)}"


def _lacking(trade: Trade, found: Across) -> str | None:
    has, planned = len(found.pairs), len(trade.backbones)
    return f"{has} of {planned} backbones" if has < planned else None


def _row(trade: Trade, backbone: str, one: Effect, measure: str) -> Row:
    row = _named_row(trade, backbone, one, measure)
    pair = trade.effect(measure, backbone, one.run, one.other)
    if pair is None:
        return {**row, "note": _why(trade, measure, backbone, one)}
    gap, interval = difference(*pair)
    deviation = trade.deviation(measure, backbone, one.run, one.other)
    planned = len(trade.planned(backbone, one.run))
    said = [f"{pair[0].seeds} of {planned} seeds."] if pair[0].seeds < planned else []
    said += [problem.text for each in pair for problem in each.problems]
    return {
        **row,
        "effect": round(gap, 6), "seeds": pair[0].seeds, "seed_sd": None if deviation is None else round(deviation, 6),
        "low": round(interval[0], 6) if interval else None, "high": round(interval[1], 6) if interval else None,
        "ours": round(pair[0].point, 6), "others": round(pair[1].point, 6),
        "source": ";".join(dict.fromkeys(path for each in pair for path in each.sources)),
        "note": " ".join(dict.fromkeys(said)) or None,
    }  # fmt: skip


def _why(trade: Trade, measure: str, backbone: str, one: Effect) -> str:
    """Why a difference is missing."""
    of = trade.general if measure in (WRITING, *CHANGES) else trade.embedding
    seeds = [each for run in (one.run, one.other) for each in of.get((backbone, run), [])]
    if missing := [path for each in seeds for path in each.missing]:
        return f"No result: {', '.join(dict.fromkeys(missing))}."
    if told := [problem.text for each in seeds for problem in each.problems]:
        return " ".join(dict.fromkeys(told))
    return "This study does not measure it." if seeds else "Not planned in this study."


# ---- what is shown --------------------------------------------------------------------------


def sheet(spec: specs.TablesSpec, trade: Trade, judged: list[Judged]) -> Sheet:
    """The effects, those of one gradient together, and below them the statements with their verdicts."""
    signs = Signs(trade.problems)
    effects = _compared(spec.table.effects, trade)
    groups: list[tuple[str, str | None]] = [(label(name), name) for name in trade.backbones]
    groups = [(_every(trade), None), *groups] if len(groups) >= FEWEST else groups
    shown = [
        [text(named), text(one.gradient), text(_named(trade, one.run)), text(_named(trade, one.other)),
         *(_cell(trade, measure, backbone, one, signs) for measure in MEASURES)]
        for named, backbone in groups
        for one in effects
    ]  # fmt: skip
    head = ["backbone", "gradient", "run", "minus", *(HEADS[name] for name in MEASURES)]
    grid = Grid(head, shown, names=4)
    grid.notes = [*signs.notes(), *(("", marked(note)) for note in notes(spec.bootstrap, trade))]
    found = Grid(
        ["backbone", "statement", "runs", "verdict", "found"],
        [_statement(trade, one) for one in judged if _planned(trade, *_runs(one))],
        names=4,
        heading="What was found before, and whether it holds here",
        notes=[("", marked(note)) for note in STATED],
    )
    return Sheet(
        spec.name, spec.table.title, marked(spec.table.caption), line(spec.study, trade), warnings(trade.backbones),
        [grid, found],
    )  # fmt: skip


STATED = (
    "Holds: the interval lies wholly within the bound, or wholly on the stated side; does not hold: wholly outside; "
    "not separable: neither; not run: a run has no result. Compute: of the first run, as a share of the second's.",
)


def _named(trade: Trade, run: str) -> str:
    return f"{trade.of(run)} ({trade.mode(run)})"


def _cell(trade: Trade, measure: str, backbone: str | None, one: Effect, signs: Signs) -> Shown:
    if backbone is None:
        return _across_cell(trade, measure, one, signs)
    pair = trade.effect(measure, backbone, one.run, one.other)
    if pair is None:
        return text(MISSING)
    gap, interval = difference(*pair)
    problems = list(dict.fromkeys(problem for each in pair for problem in each.problems))
    deviation = trade.deviation(measure, backbone, one.run, one.other)
    return estimated(measure, Estimate(gap, None, pair[0].seeds, deviation, [], problems), interval, signs)


def _across_cell(trade: Trade, measure: str, one: Effect, signs: Signs) -> Shown:
    found = trade.across(measure, one.run, one.other)
    if found is None:
        return text(MISSING)
    problems = list(dict.fromkeys(problem for pair in found.pairs for of in pair for problem in of.problems))
    point = Estimate(found.gap, None, len(found.pairs), found.deviation, [], problems)
    shown = estimated(measure, point, found.interval, signs)
    if said := _lacking(trade, found):
        shown.interval.append(Piece(f" ({said})"))
    return shown


def _runs(one: Judged) -> list[str]:
    return [run for run in (one.statement.run, one.statement.other) if run]


def _statement(trade: Trade, one: Judged) -> list[Shown]:
    about = one.statement
    runs = [_named(trade, run) for run in _runs(one)]
    said = statements.word(statements.AT_ONCE, one.verdict)
    return [text(label(one.backbone)), text(about.text), text(" − ".join(runs)), text(said), text(found(one))]


def found(one: Judged) -> str:
    """What was found, as `-0.003 [-0.015, +0.008], bound ±0.02; compute 0.94`."""
    about, value = one.statement, one.value
    if value is None:
        return MISSING
    if about.kind == "same":
        return f"the same for {round(value * one.seeds)} of {one.seeds} seeds"
    signed = about.kind in ("above", "within") or about.measure in CHANGES
    said = number(about.measure, value, signed)
    if one.interval:
        low, high = (number(about.measure, end, signed) for end in one.interval)
        said += f" [{low}, {high}]"
    bound = number(about.measure, about.bound, signed=False)
    unit = " %" if about.measure in CHANGES else ""
    said += {
        "within": f", bound ±{bound}",
        "most": f"{unit}, at most {bound}{unit}",
        "least": f", at least {bound}",
    }.get(about.kind, "")
    return said + (f"; compute {one.compute:.2f}" if one.compute is not None else "")


def notes(resamples: int, trade: Trade) -> list[str]:
    """What a reader must know; only what applies."""
    seeds = max(map(len, trade.embedding.values()), default=0)
    between = "±: standard deviation of the difference between seeds." if seeds > 1 else "One seed."
    together = [
        "all N: the mean over N backbones, each of which counts once. There ±: standard deviation of the difference "
        "between backbones; [low, high]: Student's 95 % interval of the mean, as if the backbones were drawn from more "
        "of their kind. An interval of one backbone says nothing about another."
    ]
    return [
        *(together if len(trade.backbones) >= FEWEST else []),
        f"[low, high] is the 95 % interval of {resamples} paired bootstrap resamples of the items, over the mean of "
        "the seeds that both runs have. **Bold**: it excludes zero; the arrow gives the direction. "
        f"{between} Not corrected for the number of comparisons.",
        f"{HEADS[PERPLEXITY_CHANGE]}: in points of the percentage by which each run's perplexity differs from the "
        "untrained backbone's; lower is better.",
    ]
