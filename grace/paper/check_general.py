"""Table 5: its averages, its differences to base, and scores that no whole test set can give."""

from __future__ import annotations

from typing import NamedTuple

from grace.paper import numbers
from grace.paper.averages import fits, hundredths, mean, step
from grace.paper.finding import Outcome, Printed, Verdict, check, grid, listed

COLUMNS = list(numbers.GENERAL)
ONES = (1,) * len(COLUMNS)
GRACE = ("grace_sup", "grace_unsup")
ITEMS = {
    "GSM8K": 1319,
    "HumanEval": 164,
}  # of the test sets: whole numbers of right answers, in steps wide enough to see


class General(NamedTuple):
    """A row of table 5; delta is None for base."""

    backbone: str
    name: str
    scores: list[float]
    average: float
    delta: float | None

    @property
    def label(self) -> str:
        return f"{self.backbone} {self.name}"

    @property
    def mean(self) -> float:
        return mean(ONES, self.scores)

    @property
    def step(self) -> int:
        return step([*self.scores, self.average])


def _rows(printed: Printed) -> list[General]:
    out = []
    for backbone, name in printed.names("table5"):
        scores = [printed.value("table5", backbone, name, column) for column in COLUMNS]
        delta = None if name == "base" else printed.value("table5", backbone, name, "Delta")
        out.append(General(backbone, name, scores, printed.value("table5", backbone, name, "Avg"), delta))
    return out


def _base(rows: list[General], row: General) -> General:
    return next(one for one in rows if (one.backbone, one.name) == (row.backbone, "base"))


@check("table5-averages", "Averages of general capability", "Table 5")
def averages(printed: Printed) -> Outcome:
    rows = _rows(printed)
    odd = [row for row in rows if not fits(ONES, row.scores, row.average, row.step)]
    lines = []
    for row in rows:
        gap, base = row.average - row.mean, _base(rows, row)
        delta = ["", ""] if row.delta is None else [f"{row.delta:+z.2f}", f"{row.mean - base.mean:+z.2f}"]
        lines.append([row.label, row.average, f"{row.mean:.3f}", f"{gap:+.3f}", *delta, "no" if row in odd else "yes"])
    head = ["row", "printed Avg", "mean of six", "printed - mean", "printed Delta", "Delta of the means", "agrees"]
    note = (
        "Rounding allows 0.010, or 0.100 in rows printed with one decimal. Where a row does not agree, its Delta is "
        "off by about as much."
    )
    claim = "Avg is the mean of the six columns."
    arithmetic = f"{grid(head, lines)}\n\n{note}"
    if not odd:
        return Outcome(claim, f"All {len(rows)} rows agree.", "confirmed", arithmetic)
    gaps = ", ".join(f"{row.label} {row.average - row.mean:+z.2f}" for row in odd)
    found = f"{len(rows) - len(odd)} of {len(rows)} rows agree; the printed average of the others is off: {gaps}."
    return Outcome(claim, found, "contradicted", arithmetic)


@check("table5-deltas", "Differences to base", "Table 5")
def deltas(printed: Printed) -> Outcome:
    rows = _rows(printed)
    lines, odd = [], []
    for row in rows:
        if row.delta is not None:
            difference = row.average - _base(rows, row).average
            # All three are printed numbers: what is subtracted may have been rounded before or after.
            if abs(difference - row.delta) > 0.015 + 1e-9:
                odd.append(row.label)
            lines.append([row.label, row.delta, f"{difference:.2f}"])
    claim = "Delta is a row's Avg minus its base's."
    found = f"Of the printed averages it is, in {len(lines) - len(odd)} of {len(lines)} rows."
    found += f" Not in {listed(odd)}." if odd else ""
    arithmetic = grid(["row", "printed Delta", "difference of the printed averages"], lines)
    return Outcome(claim, found, "contradicted" if odd else "confirmed", arithmetic)


@check("general-capability", "General capability near base", "Table 5 and text")
def near_base(printed: Printed) -> Outcome:
    limit = printed.value("claims", "general", "difference", "Delta")
    rows = _rows(printed)
    lines = []
    for row in rows:
        if row.name in GRACE and row.delta is not None:
            lines.append([row.label, f"{row.delta:+z.2f}", f"{row.mean - _base(rows, row).mean:+z.2f}"])
    widest = [max(abs(float(line[n])) for line in lines) for n in (1, 2)]
    claim = f"GRACE stays within {limit:.2f} points of its base on average."
    found = f"The largest printed Delta is {widest[0]:.2f}, the largest of the means of six columns {widest[1]:.2f}."
    verdict: Verdict = "confirmed" if max(widest) <= limit + 0.005 else "contradicted"
    return Outcome(claim, found, verdict, grid(["row", "printed Delta", "Delta of the means"], lines))


def attainable(score: float, items: int, unit: int) -> int | None:
    """The number of right answers of `items` that a printed score may stand for, rounded or cut off; None: no number.

    Args:
        unit: hundredths between two numbers that could be printed.
    """
    value = int(hundredths([score])[0])
    near = round(score / 100 * items)
    for right in (near, near + 1, near - 1):
        gap = right * 10_000 - value * items  # hundredths of a percent, times items
        if -unit * items <= 2 * gap <= unit * items or 0 <= gap < unit * items:
            return right
    return None


@check("whole-answers", "Scores as shares of whole answers", "Table 5")
def whole(printed: Printed) -> Outcome:
    rows = [row for row in _rows(printed) if any(row.scores[COLUMNS.index(name)] for name in ITEMS)]
    lines: list[list[str]] = []
    counts: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        cells: list[str] = [row.label]
        for name, items in ITEMS.items():
            score = row.scores[COLUMNS.index(name)]
            right = attainable(score, items, row.step)
            group = counts.setdefault((name, "GRACE" if row.name in GRACE else row.name), [0, 0])
            group[0], group[1] = group[0] + (right is not None), group[1] + 1
            cells += [f"{score:.2f}", f"{score / 100 * items:.2f}", "none" if right is None else str(right)]
        lines.append(cells)
    text = [f"{name}, {kind}: {fit} of {of}" for (name, kind), (fit, of) in counts.items()]
    claim = "HumanEval is pass@1 over 164 problems, GSM8K exact match over 1,319 questions."
    found = f"Scores that a whole number of right answers gives: {'; '.join(text)}."
    head = ["row"] + [f"{name}{what}" for name in ITEMS for what in (", printed", ", answers", ", whole")]
    # Rounded or cut off, a whole number of answers reaches a range one and a half printed steps wide.
    shares = [
        f"{name} {min(1.0, 1.5 * unit * items / 10_000):.0%}" for unit in (1, 10) for name, items in ITEMS.items()
    ]
    note = (
        "Each problem answered once, a score is a multiple of 1/164 (0.61 points) or 1/1319 (0.08 points), rounded or "
        "cut off to the digits printed. Of all scores with two decimals these are at most "
        f"{listed(shares[:2])}, with one decimal {listed(shares[2:])}. Other scores need a mean over several samples "
        "or runs, which the numbers cannot rule out. Rows of zeros are left out."
    )
    fit = all(right == of for right, of in counts.values())
    return Outcome(claim, found, "confirmed" if fit else "cannot be checked", f"{grid(head, lines)}\n\n{note}")
