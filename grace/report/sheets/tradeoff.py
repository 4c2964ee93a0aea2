"""The table of embeddings and generation at once: a row of the csv for each run, seed and mode, shown as means."""

from __future__ import annotations

from typing import Any

from grace import specs
from grace.report.scoring.compute import Compute
from grace.report.scoring.models import Seed
from grace.report.scoring.results import HARMLESS
from grace.report.scoring.scores import Estimate, difference
from grace.report.scoring.tradeoff import (
    CHANGES,
    COSINE,
    EMBEDDING,
    GENERAL_CHANGE,
    NDCG,
    PERPLEXITY_CHANGE,
    WRITING,
    Trade,
)  # fmt: skip
from grace.report.sheets.grid import MISSING, Grid, Piece, Sheet, Shown, marked, text
from grace.report.sheets.score_sheet import label, warnings
from grace.report.sheets.signs import Signs
from grace.shown import BUDGET, REFERENCE

FIELDS = [
    "run", "seed", "mode", NDCG, EMBEDDING, WRITING, PERPLEXITY_CHANGE, "compute_seconds",
    "backbone", GENERAL_CHANGE, COSINE, "rationale_tokens", "identical_rationales", "compute_share", "device",
    "rationale_seconds", "tokens_read", "tokens_written", "source", "note",
]  # fmt: skip
MEASURES = (NDCG, EMBEDDING, WRITING, PERPLEXITY_CHANGE, GENERAL_CHANGE, COSINE)
HEADS = {
    NDCG: "nDCG@10", EMBEDDING: "Embedding mean", WRITING: "Well-formed", PERPLEXITY_CHANGE: "Perplexity, %",
    GENERAL_CHANGE: "General average, points", COSINE: "Random-pair cosine",
}  # fmt: skip
Row = dict[str, Any]


def rows(trade: Trade) -> list[Row]:
    """One for each run, mode and seed of each backbone; a missing number is None."""
    return [
        _row(trade, backbone, point.run, seed)
        for backbone in trade.backbones
        for point in trade.points
        for seed in trade.planned(backbone, point.run)
    ]


def _row(trade: Trade, backbone: str, run: str, seed: int) -> Row:
    models = {
        name: next((one for one in of.get((backbone, run), []) if one.seed == seed), None)
        for name, of in (("embedding", trade.embedding), ("general", trade.general))
    }
    found = {name: trade.value(name, backbone, run, [seed]) for name in MEASURES}
    cost = trade.costs.get((backbone, run, seed), Compute())
    budget = trade.costs.get((backbone, BUDGET, seed), Compute()).seconds
    whole = models["embedding"].figure("mean_tokens") if models["embedding"] else None
    same = trade.identical(backbone, run, seed)
    return {
        **dict.fromkeys(FIELDS),
        "run": trade.of(run), "seed": seed, "mode": trade.mode(run), "backbone": backbone,
        **{name: round(one.point, 6) if one else None for name, one in found.items()},
        "compute_seconds": None if cost.seconds is None else round(cost.seconds, 2),
        "rationale_tokens": round(whole[0], 2) if whole else None,
        "identical_rationales": None if same is None else int(same),
        "compute_share": round(cost.seconds / budget, 4) if cost.seconds is not None and budget else None,
        "device": cost.device, "tokens_read": cost.read, "tokens_written": cost.written,
        "rationale_seconds": None if cost.rationales is None else round(cost.rationales, 2),
        "source": ";".join(dict.fromkeys(path for one in models.values() if one for path in one.files)) or None,
        "note": _note(list(models.values()), cost),
    }  # fmt: skip


def _note(models: list[Seed | None], cost: Compute) -> str | None:
    missing = [path for one in models if one for path in one.missing]
    said = [f"No result: {', '.join(dict.fromkeys(missing))}."] if missing else []
    said += [problem.text for one in models if one for problem in one.problems]
    return " ".join(dict.fromkeys([*said, *cost.problems])) or None


# ---- what is shown --------------------------------------------------------------------------


def sheet(spec: specs.TablesSpec, trade: Trade, found: list[Row]) -> Sheet:
    """The means over seeds; below the scores their differences to untrained reasoning."""
    signs = Signs(trade.problems)
    measures = [name for name in MEASURES if any(row[name] is not None for row in found) or name in FIELDS[:8]]
    head = ["backbone", "run", "mode", *(HEADS[name] for name in measures), "Rationales", "Compute"]
    grid = Grid(
        head,
        [
            [
                text(label(backbone)), text(trade.of(point.run)), text(trade.mode(point.run)),
                *(_cell(trade, name, backbone, point.run, signs) for name in measures),
                _writing(trade, backbone, point.run), _compute(trade, backbone, point.run),
            ]
            for backbone in trade.backbones
            for point in trade.points
            if trade.planned(backbone, point.run)
        ],
        names=3,
    )  # fmt: skip
    grid.notes = [*signs.notes(), *(("", marked(note)) for note in notes(spec.bootstrap, trade))]
    return Sheet(
        spec.name, spec.table.title, marked(spec.table.caption), line(spec.study, trade), warnings(trade.backbones),
        [grid],
    )  # fmt: skip


def line(study: str, trade: Trade) -> str:
    """One sentence: which backbones and runs, how many seeds, and which of them have no result."""
    seeds = sorted({one.seed for every in trade.embedding.values() for one in every})
    runs = list(dict.fromkeys(trade.of(point.run) for point in trade.points))
    backbones = trade.backbones
    without = [
        f"{trade.of(point.run)} ({trade.mode(point.run)})" + (f" on {backbone}" if len(backbones) > 1 else "")
        for backbone in backbones
        for point in trade.points
        if trade.planned(backbone, point.run) and trade.value(EMBEDDING, backbone, point.run) is None
    ]
    said = (
        f"Study {study}; backbone{'s' * (len(backbones) != 1)} {', '.join(backbones)}; runs {', '.join(runs)}; "
        f"{len(seeds)} seed{'s' * (len(seeds) != 1)} ({', '.join(map(str, seeds))})"
    )
    return said + (f"; no result of {', '.join(without)}." if without else ".")


def _cell(trade: Trade, measure: str, backbone: str, run: str, signs: Signs) -> Shown:
    one = trade.value(measure, backbone, run)
    if one is None:
        return text(MISSING)
    gap, interval = None, one.interval if measure in CHANGES else None
    if measure not in CHANGES and run != REFERENCE and (pair := trade.effect(measure, backbone, run, REFERENCE)):
        gap, interval = difference(*pair)
    shown = estimated(measure, one, interval, signs, signed=measure in CHANGES)
    if interval and gap is not None:
        shown.interval.insert(0, Piece(f"{number(measure, gap)} "))
    planned = len(trade.planned(backbone, run))
    if one.seeds < planned:
        shown.interval.append(Piece(f" ({one.seeds} of {planned} seeds)"))
    return shown


def estimated(
    measure: str, one: Estimate, interval: tuple[float, float] | None, signs: Signs, signed: bool = True
) -> Shown:
    """A number with its deviation between seeds, bold with an arrow where the interval excludes zero."""
    shown = Shown([Piece(number(measure, one.point, signed))])
    if interval and (interval[0] > 0 or interval[1] < 0) and all(each.kind in HARMLESS for each in one.problems):
        shown.main = [Piece(shown.main[0].text, "bold"), Piece(" ↑" if interval[0] > 0 else " ↓")]
    if one.deviation is not None:
        shown.main.append(Piece(f" ± {number(measure, one.deviation, signed=False)}"))
    if one.problems:
        shown.main.append(Piece(signs.of(one.problems), "sign"))
    if interval:
        shown.interval = [Piece(f"[{number(measure, interval[0])}, {number(measure, interval[1])}]")]
    return shown


def number(measure: str, value: float, signed: bool = True) -> str:
    """Three decimals; of a change one, in percent or in points."""
    digits, value = (1, 100 * value) if measure in CHANGES else (3, value)
    return f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"


def _writing(trade: Trade, backbone: str, run: str) -> Shown:
    """Whether its rationales are the backbone's."""
    known = [trade.identical(backbone, run, seed) for seed in trade.planned(backbone, run)]
    found = [one for one in known if one is not None]
    if not found:
        return text(MISSING)
    return text(
        "the backbone's" if all(found) else "its own" if not any(found) else f"{sum(found)} of {len(found)} same"
    )


def _compute(trade: Trade, backbone: str, run: str) -> Shown:
    seconds, share = trade.compute(backbone, run), trade.compute_share(backbone, run, BUDGET)
    if seconds is None:
        return text(MISSING)
    if not seconds:
        return text("none")
    return Shown([Piece(f"{seconds:,.0f} s")], [Piece(f"{share:.2f} of {BUDGET}")] if share is not None else [])


def notes(resamples: int, trade: Trade) -> list[str]:
    """What a reader must know; only what applies."""
    found = [
        f"Below a score: its difference to untrained `{REFERENCE}` of the same backbone with the 95 % interval of "
        f"{resamples} paired bootstrap resamples of the items, over the mean of the seeds; below a change its own "
        "interval. **Bold**: the interval excludes zero; the arrow gives its direction. ±: standard deviation between "
        "seeds.",
        f"{HEADS[WRITING]}: share of the rationales of held-out texts that keep the format; a mode changes no "
        "generation, so both modes of a model share it. Rationales: whether these are the backbone's, token for token.",
    ]
    if not trade.has_perplexity:
        found.append(
            "This study measures no perplexity, so that column is empty; what stands for generation is the change of "
            f"the general average ({', '.join(trade.accuracies)}), in points of accuracy."
        )
    elif trade.accuracies:
        found.append(f"{HEADS[GENERAL_CHANGE]}: change of {', '.join(trade.accuracies)}, in points of accuracy.")
    if any(cost.problems for cost in trade.costs.values()):
        found.append("Of some trainings the compute is not wholly known; the csv says of which, and why.")
    if missing := trade.missing:
        found.append(f"{MISSING}: no result ({len(missing)} files are missing; the csv names them).")
    return found
