"""Checks of what the paper prints: arithmetic on its numbers, and runs of the reward code."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, wraps
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from grace.config import tasks
from grace.config.schema import RewardConfig
from grace.paper import averages, numbers
from grace.paper.averages import Weights, mean
from grace.paper.numbers import Missing, Printed, PrintedRow

if TYPE_CHECKING:
    from torch import Tensor

Verdict = Literal["contradicted", "confirmed", "cannot be checked"]
COLUMNS = list(tasks.CATEGORIES)
COUNTS = tuple(numbers.COUNTS[category] for category in COLUMNS)
TOTAL = sum(COUNTS)
BOUND = 200  # largest total of weights that is searched


def audit(frame: pd.DataFrame, lambda1: float, lambda2: float) -> list[Finding]:
    """Every finding, those about the main results first.

    Args:
        frame: printed numbers in the form of `numbers.load`.
        lambda1, lambda2: weights of the reward that a study trains with.
    """
    printed = Printed(frame)
    return [
        average_weights(printed),
        gain(printed, "supervised"),
        gain(printed, "unsupervised"),
        column_order(printed),
        negatives_cancel(printed, lambda1, lambda2),
        unsupervised_negatives(printed, lambda1, lambda2),
        general_averages(printed),
        lambda_grid(printed, lambda1, lambda2),
        figure_and_table(printed),
        whole_answers(printed),
        near_base(printed),
        general_deltas(printed),
        subset_averages(printed),
        repeated_rows(printed),
        above_baselines(printed),
        reasoning_baseline(printed),
    ]


@dataclass(frozen=True)
class Finding:
    """claim: what the paper prints; found: what the arithmetic gives; arithmetic: Markdown; where: table or figure."""

    id: str
    title: str
    claim: str
    found: str
    verdict: Verdict
    arithmetic: str
    where: str


Outcome = tuple[str, str, Verdict, str]  # of a finding: claim, found, verdict, arithmetic


def check(name: str, title: str, where: str) -> Callable[[Callable[..., Outcome]], Callable[..., Finding]]:
    """Make a function of printed numbers a check; a missing number is its finding, not its end."""

    def wrap(function: Callable[..., Outcome]) -> Callable[..., Finding]:
        @wraps(function)
        def run(*arguments: Any) -> Finding:
            try:
                claim, found, verdict, arithmetic = function(*arguments)
            except Missing as missing:
                found = arithmetic = f"A number that the check needs is missing: {missing}."
                claim, verdict = "not among the printed numbers", "cannot be checked"
            return Finding(name, title, claim, found, verdict, arithmetic, where)

        return run

    return wrap


def grid(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A Markdown table; its first column is text, the others are numbers, floats with two decimals."""
    head = list(head)
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    for row in rows:
        lines.append("| " + " | ".join(f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row) + " |")
    return "\n".join(lines)


def listed(names: Iterable[str]) -> str:
    """`a, b and c`; `none` when there is nothing to list."""
    *first, last = list(names) or ["none"]
    return f"{', '.join(first)} and {last}" if first else last


def fits(row: PrintedRow, weights: Weights) -> bool:
    """Whether its average is the weighted mean of its scores, but for rounding; table 5 has rows of one decimal."""
    step = averages.step([*row.scores, row.average]) if row.table == "table5" else 1
    return averages.fits(weights, row.scores, row.average, step)


# ---- tables 1 and 2: averages ---------------------------------------------------------------


@check("average-weights", "What the printed averages weigh", "Tables 1 and 2")
def average_weights(printed: Printed) -> Outcome:
    own, quoted = printed.own(), printed.quoted()
    claim = f"Avg is the mean over the {TOTAL} data sets of MTEB, {_written(COUNTS)} by category."
    true = [row for row in own if fits(row, COUNTS)]
    gaps = [abs(mean(COUNTS, row.scores) - row.average) for row in own]
    agree = [row.name for row in quoted if fits(row, COUNTS)]
    text = (
        f"By category: {', '.join(COLUMNS)}. Over {TOTAL}, {len(true)} of the {len(own)} own rows agree with their "
        f"printed average. The differences lie between {min(gaps):.2f} and {max(gaps):.2f} points. Of the quoted rows "
        f"{listed(agree)} agree, in the columns as printed."
    )
    if len(true) == len(own):
        return claim, f"All {len(own)} own rows agree.", "confirmed", text
    found = common_weights(tuple(own))
    said, more = _explained(found, own)
    head = ["row", "printed", f"over {TOTAL}", "difference"]
    head += [f"over {sum(found[0])}", "difference"] if found else []
    lines = []
    for row in own:
        cells: list[Any] = [row.label, row.average]
        for vector in [COUNTS, *found[:1]]:
            value = mean(vector, row.scores)
            cells += [f"{value:.3f}", f"{value - row.average:+.3f}"]
        lines.append(cells)
    note = "Rounding allows 0.010: half a hundredth of the average and as much of the scores."
    said = f"{len(true)} of {len(own)} own rows agree with it. {said}"
    return claim, said, "contradicted", "\n\n".join([text, *more, grid(head, lines), note])


def _written(vector: Weights) -> str:
    return f"{'/'.join(map(str, vector))} over {sum(vector)}"


@cache
def common_weights(rows: tuple[PrintedRow, ...]) -> list[Weights]:
    """All whole weights up to a total of BOUND that fit every row. Raises: Missing when the rows are too few."""
    try:
        return averages.search(*_arrays(rows), BOUND)
    except ValueError:
        raise Missing("rows enough to narrow the weights down") from None


def _arrays(rows: Iterable[PrintedRow]) -> tuple[np.ndarray, np.ndarray]:
    """[rows, categories] scores, and [rows] averages."""
    return np.array([row.scores for row in rows]), np.array([row.average for row in rows])


def _explained(found: list[Weights], own: list[PrintedRow]) -> tuple[str, list[str]]:
    """The weights that fit in words, and how they were found."""
    how = f"Every vector of seven whole weights with a total up to {BOUND} was tried on all {len(own)} rows"
    if found:
        reduced = averages.smallest(found)
        only = "one, up to a common factor" if len(reduced) == 1 else f"{len(reduced)}, up to common factors"
        more = [f"{how}: {len(found)} fit, {only}. The smallest is {_written(found[0])}."]
        if room := averages.remaining(*_arrays(own), COUNTS[:-1]):
            more.append(
                f"With the true counts of the other six categories, {'/'.join(map(str, COUNTS[:-1]))}, {COLUMNS[-1]} "
                f"must weigh between {room[0]:.3f} and {room[1]:.3f}; it has {COUNTS[-1]} data set."
            )
        changed = [
            f"{name} counts {weight} times, not {count}"
            for name, weight, count in zip(COLUMNS, found[0], COUNTS, strict=True)
            if weight != count
        ]
        return f"{_written(found[0])} fits all of them: {listed(changed)}.", more
    without = {}
    for row in own:
        if fitting := common_weights(tuple(one for one in own if one is not row)):
            without[row.label] = _written(fitting[0])
    if not without:
        return "No whole weights fit all of them, nor all but one.", [f"{how}: none fits, nor all rows but one."]
    odd, fit = listed(without), next(iter(without.values()))
    said = f"No whole weights fit all of them; {fit} fits all but {odd}."
    return said, [f"{how}: none fits. Without {odd}: {fit}."]


@check("column-order", "Rows printed under the wrong columns", "Table 2")
def column_order(printed: Printed) -> Outcome:
    claim = f"Every row of table 2 gives {', '.join(COLUMNS)}, in this order."
    quoted, own = printed.quoted(), printed.own()
    odd = [row for row in quoted if not fits(row, COUNTS)]
    straight = [row for row in quoted if row not in odd]
    found = common_weights(tuple(own))
    fit = [row for row in own if found and fits(row, found[0])]
    lines = [
        f"Over {TOTAL} data sets the columns as printed give the printed average of {listed(r.name for r in straight)}."
        + (f" The {len(fit)} own rows fit it as printed over {sum(found[0])}." if found else "")
    ]
    if not odd:
        return claim, "Every quoted row agrees with its average as printed.", "confirmed", lines[0]
    fitting = {row.name: averages.orders(row.scores, row.average, COUNTS) for row in odd}
    best, by = choose_order(odd, straight or own)
    every = 5040
    counted = ", ".join(f"{len(found)} for {name}" for name, found in fitting.items())
    text = f"Of the {every} orders of seven columns, these many give the printed average: {counted}; {by}."
    if len(odd) > 1:
        chance = every * np.prod([len(found) / every for found in fitting.values()])
        text += f" Were the orders that fit a row a matter of chance, {chance:.2f} would be expected to fit all."
    lines.append(text)
    if best is None:
        said = f"{listed(fitting)}: the average does not come out, and no one order of the columns explains it."
        return claim, said, "contradicted", "\n\n".join(lines)
    names = [COLUMNS[n] for n in best]
    alphabet = ", which is the alphabet's order" if names == sorted(names) else ""
    said = f"{listed(fitting)} print {', '.join(names)}{alphabet}: put back, the averages come out over {TOTAL}."
    rows = []
    for row in odd:
        for how, scores in (("as printed", row.scores), ("put back", averages.ordered(row.scores, best))):
            rows.append([f"{row.name}, {how}", *scores, row.average, mean(COUNTS, scores)])
    lines.append(grid(["row", *COLUMNS, "printed Avg", f"over {TOTAL}"], rows))
    return claim, said, "contradicted", "\n\n".join(lines)


def choose_order(odd: list[PrintedRow], straight: list[PrintedRow]) -> tuple[Weights | None, str]:
    """The order of columns that explains all odd rows, and by which criterion it was taken.

    Of the orders that fit every odd row, the one whose rows, put back, lie nearest to rows in the right order.
    """
    shared = set.intersection(*(set(averages.orders(row.scores, row.average, COUNTS)) for row in odd))
    if not shared:
        return None, "none fits all of these rows"
    references = [row.scores for row in straight]
    best = min(
        sorted(shared),
        key=lambda one: sum(averages.distance(averages.ordered(row.scores, one), references) for row in odd),
    )
    if len(shared) == 1:
        return best, "exactly one fits all of these rows"
    return best, f"{len(shared)} fit all of these rows, and the one nearest to the rows in order is taken"


# ---- tables 1 and 2: gains ------------------------------------------------------------------

TABLES = {"supervised": "table1", "unsupervised": "table2"}
BASELINE = {"supervised": "cl", "unsupervised": "simcse"}


def gain(printed: Printed, kind: str) -> Finding:
    """The gain over base, supervised or unsupervised."""
    where = f"{TABLES[kind].replace('table', 'Table ')} and abstract"
    return check(f"gain-{kind}", f"The {kind} gain over base", where)(_gain)(printed, kind)


def _gain(printed: Printed, kind: str) -> Outcome:
    claimed = printed.value("claims", kind, "gain", "Avg")
    lines: list[list[Any]] = []
    gains, others = [], []  # as printed, over TOTAL, of Summarization; of the rest
    for backbone, name in numbers.BACKBONES.items():
        base, grace = (printed.row(TABLES[kind], backbone, row) for row in ("base", "grace"))
        before, after = mean(COUNTS, base.scores), mean(COUNTS, grace.scores)
        given, true, small = grace.average - base.average, after - before, grace.scores[-1] - base.scores[-1]
        gains.append((given, true, small))
        others.append(mean(COUNTS[:-1], grace.scores[:-1]) - mean(COUNTS[:-1], base.scores[:-1]))
        lines.append([name, base.average, grace.average, given, before, after, true, small])
    given, true, small = (float(np.mean(values)) for values in zip(*gains, strict=True))
    lines.append(["mean", "", "", given, "", "", true, small])
    head = ["backbone", "base, printed", "GRACE, printed", "gain, printed"]
    head += [f"base, over {TOTAL}", f"GRACE, over {TOTAL}", f"gain, over {TOTAL}", f"gain, {COLUMNS[-1]}"]
    # The claim is rounded to half a hundredth, a difference of two averages to a hundredth.
    follows, holds = (abs(value - claimed) <= 0.015 + 1e-9 for value in (given, true))
    note = (
        f"The claimed {claimed:.2f} {'is' if follows else 'is not'} the mean of the gains of the printed averages "
        f"({given:.4f}). {COLUMNS[-1]} gains {small:.2f} points and the other {TOTAL - COUNTS[-1]} data sets "
        f"{np.mean(others):.2f}, so each further time it is counted pulls the mean gain down."
    )
    claim = f"GRACE gains {claimed:.2f} points over base, averaged over the four backbones."
    found = f"Over {TOTAL} data sets it gains {true:.2f}: {_each([one for _, one, _ in gains])}."
    return claim, found, "confirmed" if holds else "contradicted", f"{grid(head, lines)}\n\n{note}"


def _each(gains: list[float]) -> str:
    return ", ".join(f"{value:.2f} ({name})" for name, value in zip(numbers.BACKBONES, gains, strict=True))


@check("repeated-rows", "Rows that stand in both tables", "Tables 1 and 2")
def repeated_rows(printed: Printed) -> Outcome:
    counts: list[int] = []
    for backbone in numbers.BACKBONES:
        first, second = (printed.row(table, backbone, "base") for table in TABLES.values())
        pairs = zip([*first.scores, first.average], [*second.scores, second.average], strict=True)
        counts.append(sum(one != other for one, other in pairs))
    differ = sum(counts)
    found = "All 32 numbers are equal." if not differ else f"{differ} of 32 numbers differ."
    claim = "The base rows of table 2 are those of table 1."
    arithmetic = grid(["backbone", "numbers that differ, of 8"], zip(numbers.BACKBONES.values(), counts, strict=True))
    return claim, found, "contradicted" if differ else "confirmed", arithmetic


@check("above-baselines", "GRACE above base and contrastive training", "Tables 1 and 2")
def above_baselines(printed: Printed) -> Outcome:
    lines, behind, below = [], [], 0
    for kind, table in TABLES.items():
        for backbone in numbers.BACKBONES:
            base, other, grace = (printed.row(table, backbone, row) for row in ("base", BASELINE[kind], "grace"))
            over = [mean(COUNTS, grace.scores) - mean(COUNTS, row.scores) for row in (base, other)]
            worse = [c for c, mine, its in zip(COLUMNS, grace.scores, other.scores, strict=True) if mine < its]
            below += min(over) <= 0
            behind += worse
            lines.append([f"{kind}, {backbone}", *(f"{gap:+.2f}" for gap in over), ", ".join(worse) or "none"])
    claim = "GRACE scores above its base and above contrastive training (InfoNCE, SimCSE) on average."
    found = f"Over {TOTAL} data sets it does in {len(lines) - below} of {len(lines)} cases."
    if behind:
        counts = ", ".join(f"{name} {behind.count(name)}" for name in dict.fromkeys(behind))
        every = len(lines) * len(COLUMNS)
        found += f" By category it is behind contrastive training in {len(behind)} of {every} ({counts})."
    head = ["case", "over base", "over contrastive", "categories where it is behind contrastive"]
    return claim, found, "contradicted" if below else "confirmed", grid(head, lines)


@check("reasoning-baseline", "What reasoning without training is compared with", "Table 1")
def reasoning_baseline(printed: Printed) -> Outcome:
    lines, gains = [], []
    for backbone, name in numbers.BACKBONES.items():
        base, after = (printed.row("table1", backbone, row).average for row in ("base", "reasoning"))
        gains.append(after - base)
        lines.append([name, base, after, gains[-1]])
    claim = "Untrained reasoning gains over base, the mean of the chat prompt's last hidden states."
    found = (
        f"Printed gains: {_each(gains)}. The paper has no other untrained forward pass, such as the last token of a "
        "one-word prompt or an early layer, so what reasoning gains over the best of them cannot be told from it; the "
        "claims of a study with the table `baselines` say it of ours."
    )
    return claim, found, "cannot be checked", grid(["backbone", "base, printed", "reasoning, printed", "gain"], lines)


# ---- table 5 --------------------------------------------------------------------------------

ONES = (1,) * len(numbers.GENERAL)
GRACE = ("grace_sup", "grace_unsup")
# Of the test sets: whole numbers of right answers, in steps wide enough to see.
ITEMS = {"GSM8K": 1319, "HumanEval": 164}


def _deltas(printed: Printed) -> list[tuple[PrintedRow, PrintedRow, float]]:
    """Each row of table 5 but the bases, its base, and the printed Delta between their averages."""
    rows = printed.general()
    bases = {row.backbone: row for row in rows if row.name == "base"}
    return [
        (row, bases[row.backbone], printed.value("table5", row.backbone, row.name, "Delta"))
        for row in rows
        if row.name != "base"
    ]


@check("table5-averages", "Averages of general capability", "Table 5")
def general_averages(printed: Printed) -> Outcome:
    rows = printed.general()
    deltas = {(row.backbone, row.name): (base, delta) for row, base, delta in _deltas(printed)}
    odd = [row for row in rows if not fits(row, ONES)]
    lines = []
    for row in rows:
        value, delta = mean(ONES, row.scores), ["", ""]
        if (row.backbone, row.name) in deltas:
            base, given = deltas[row.backbone, row.name]
            delta = [f"{given:+z.2f}", f"{value - mean(ONES, base.scores):+z.2f}"]
        agrees = "no" if row in odd else "yes"
        lines.append([row.label, row.average, f"{value:.3f}", f"{row.average - value:+.3f}", *delta, agrees])
    head = ["row", "printed Avg", "mean of six", "printed - mean", "printed Delta", "Delta of the means", "agrees"]
    note = (
        "Rounding allows 0.010, or 0.100 in rows printed with one decimal. Where a row does not agree, its Delta is "
        "off by about as much."
    )
    claim = "Avg is the mean of the six columns."
    arithmetic = f"{grid(head, lines)}\n\n{note}"
    if not odd:
        return claim, f"All {len(rows)} rows agree.", "confirmed", arithmetic
    gaps = ", ".join(f"{row.label} {row.average - mean(ONES, row.scores):+z.2f}" for row in odd)
    found = f"{len(rows) - len(odd)} of {len(rows)} rows agree; the printed average of the others is off: {gaps}."
    return claim, found, "contradicted", arithmetic


@check("table5-deltas", "Differences to base", "Table 5")
def general_deltas(printed: Printed) -> Outcome:
    lines, odd = [], []
    for row, base, delta in _deltas(printed):
        difference = row.average - base.average
        # All three are printed numbers: what is subtracted may have been rounded before or after.
        if abs(difference - delta) > 0.015 + 1e-9:
            odd.append(row.label)
        lines.append([row.label, delta, f"{difference:.2f}"])
    claim = "Delta is a row's Avg minus its base's."
    found = f"Of the printed averages it is, in {len(lines) - len(odd)} of {len(lines)} rows."
    found += f" Not in {listed(odd)}." if odd else ""
    arithmetic = grid(["row", "printed Delta", "difference of the printed averages"], lines)
    return claim, found, "contradicted" if odd else "confirmed", arithmetic


@check("general-capability", "General capability near base", "Table 5 and text")
def near_base(printed: Printed) -> Outcome:
    limit = printed.value("claims", "general", "difference", "Delta")
    lines = [
        [row.label, f"{delta:+z.2f}", f"{mean(ONES, row.scores) - mean(ONES, base.scores):+z.2f}"]
        for row, base, delta in _deltas(printed)
        if row.name in GRACE
    ]
    widest = [max(abs(float(line[n])) for line in lines) for n in (1, 2)]
    claim = f"GRACE stays within {limit:.2f} points of its base on average."
    found = f"The largest printed Delta is {widest[0]:.2f}, the largest of the means of six columns {widest[1]:.2f}."
    verdict: Verdict = "confirmed" if max(widest) <= limit + 0.005 else "contradicted"
    return claim, found, verdict, grid(["row", "printed Delta", "Delta of the means"], lines)


def attainable(score: float, items: int, unit: int) -> int | None:
    """The number of right answers of `items` that a printed score may stand for, rounded or cut off; None: no number.

    Args:
        unit: hundredths between two numbers that could be printed.
    """
    value = int(averages.hundredths([score])[0])
    near = round(score / 100 * items)
    for right in (near, near + 1, near - 1):
        gap = right * 10_000 - value * items  # hundredths of a percent, times items
        if -unit * items <= 2 * gap <= unit * items or 0 <= gap < unit * items:
            return right
    return None


@check("whole-answers", "Scores as shares of whole answers", "Table 5")
def whole_answers(printed: Printed) -> Outcome:
    lines: list[list[str]] = []
    counts: dict[tuple[str, str], list[bool]] = {}
    for row in printed.general():
        scores = dict(zip(numbers.GENERAL, row.scores, strict=True))
        if not any(scores[name] for name in ITEMS):
            continue
        cells: list[str] = [row.label]
        for name, items in ITEMS.items():
            score, right = scores[name], attainable(scores[name], items, averages.step([*row.scores, row.average]))
            counts.setdefault((name, "GRACE" if row.name in GRACE else row.name), []).append(right is not None)
            cells += [f"{score:.2f}", f"{score / 100 * items:.2f}", "none" if right is None else str(right)]
        lines.append(cells)
    text = [f"{name}, {kind}: {sum(whole)} of {len(whole)}" for (name, kind), whole in counts.items()]
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
    fit = all(one for whole in counts.values() for one in whole)
    return claim, found, "confirmed" if fit else "cannot be checked", f"{grid(head, lines)}\n\n{note}"


# ---- table 4 and figure 3 -------------------------------------------------------------------

SUBSET_WEIGHTS = tuple(numbers.SUBSET_COUNTS[category] for category in COLUMNS)


@check("table4-averages", "Averages over the subset", "Tables 3 and 4")
def subset_averages(printed: Printed) -> Outcome:
    rows = [printed.row("table4", *name) for name in printed.names("table4")]
    odd = [row.name for row in rows if not fits(row, SUBSET_WEIGHTS)]
    values = [mean(SUBSET_WEIGHTS, row.scores) for row in rows]
    lines = [
        [row.name, row.average, f"{value:.3f}", f"{value - row.average:+.3f}"]
        for row, value in zip(rows, values, strict=True)
    ]
    total, weights = sum(SUBSET_WEIGHTS), "/".join(map(str, SUBSET_WEIGHTS))
    claim = f"Avg is the mean over the {total} data sets of table 3, {weights} by category."
    found = f"{len(rows) - len(odd)} of {len(rows)} rows agree." + (f" Not {listed(odd)}." if odd else "")
    note = f"Here {COLUMNS[-1]} counts once. Rounding allows 0.010."
    arithmetic = f"{grid(['row', 'printed', f'over {total}', 'difference'], lines)}\n\n{note}"
    return claim, found, "contradicted" if odd else "confirmed", arithmetic


def _marginal(cells: dict[tuple[float, float], float], place: int) -> dict[float, float]:
    """Means of the cells that are read, by lambda2 (place 0) or lambda1 (1)."""
    frame = pd.Series(cells)
    return frame.groupby(level=place).mean().to_dict()


def spread(printed: Printed, kind: str) -> str:
    """How far lambda2 moves the means of figure 3's rows, in words. Raises: Missing."""
    means = _marginal(printed.heatmap(kind), 0)
    low, high = min(means, key=lambda at: means[at]), max(means, key=lambda at: means[at])
    return f"from {means[low]:.2f} (lambda2 = {low:g}) to {means[high]:.2f} (lambda2 = {high:g})"


def _pair(at: tuple[float, float]) -> str:
    return f"lambda1 = {at[1]:g}, lambda2 = {at[0]:g}"


def _used(printed: Printed) -> tuple[float, float]:
    """lambda2 and lambda1 of the paper's training. Raises: Missing."""
    two, one = (printed.value("claims", "training", "weight", name) for name in ("lambda2", "lambda1"))
    return two, one


@check("lambda-grid", "The weights of the reward and the grid they were chosen on", "Figure 3 and A.2.5")
def lambda_grid(printed: Printed, lambda1: float, lambda2: float) -> Outcome:
    at = _used(printed)
    maps = {kind: printed.heatmap(kind) for kind in ("supervised", "unsupervised")}
    best, lines, parts, unread = [], [], [], []
    for kind, cells in maps.items():
        highest = max(cells.values())
        top = [key for key, value in cells.items() if value == highest]
        best.append(top)
        parts.append(f"{kind} {highest:.1f} at {' and '.join(map(_pair, top))}")
        for place, name in ((1, "lambda1"), (0, "lambda2")):
            means = _marginal(cells, place)
            values = " ".join(f"{key:g}: {value:.2f}" for key, value in means.items())
            lines.append([f"{kind}, by {name}", values, max(means.values()) - min(means.values())])
        missing = {key[0] for other in maps.values() for key in other} - {key[0] for key in cells}
        unread += [f"{kind} at lambda2 = {value:g}" for value in sorted(missing)]
    on = all(at in cells for cells in maps.values())
    verdict: Verdict = "cannot be checked" if not on else "confirmed" if all(at in b for b in best) else "contradicted"
    claim = f"Training uses {_pair(at)}; figure 3 tries weights on a grid."
    found = f"The pair used is {'' if on else 'not '}on the grid. The best cells: {'; '.join(parts)}."
    note = f"Cells that are not read: {listed(unread)}. This study trains with {_pair((lambda2, lambda1))}."
    arithmetic = grid(["heat map", "means of the 16-task average", "range"], lines)
    return claim, found, verdict, f"{arithmetic}\n\n{note}"


@check("figure3-and-table4", "One model in a table and in a figure", "Figure 3 and table 4")
def figure_and_table(printed: Printed) -> Outcome:
    at = _used(printed)
    score = printed.value("table4", "grace-3b", "grpo", "Avg")
    cells = printed.heatmap("supervised")
    sides = []  # of both weights the nearest on the grid, below and above, or itself
    for place, value in enumerate(at):
        every = sorted({key[place] for key in cells})
        below, over = [v for v in every if v <= value], [v for v in every if v >= value]
        if not below or not over:
            raise Missing(f"figure3, supervised, a grid around {value:g}")
        sides.append(sorted({below[-1], over[0]}))
    around = {(two, one): cells[two, one] for two in sides[0] for one in sides[1] if (two, one) in cells}
    lines = [[_pair(key), f"{value:.1f}"] for key, value in around.items()]
    lines.append([f"table 4, GRPO ({_pair(at)})", f"{score:.2f}"])
    low, high = min(around.values()), max(around.values())
    inside = low - 0.05 <= score <= high + 0.05
    claim = f"GRACE-3B with {_pair(at)} averages {score:.2f} over the subset (table 4)."
    found = (
        f"The cells of figure 3 around these weights lie between {low:.1f} and {high:.1f}, "
        f"table 4's score {'among' if inside else 'outside of'} them."
    )
    note = "The score agrees with the cells around it."
    if not inside:
        note = "Between two grid points a score may leave their range, so this alone refutes nothing."
    arithmetic = f"{grid(['point', '16-task average'], lines)}\n\n{note}"
    return claim, found, "confirmed" if inside else "cannot be checked", arithmetic


# ---- equations: what reaches the advantage --------------------------------------------------

SEED = 0
INSTANCES, ROLLOUTS, NEGATIVES, WIDTH = 16, 8, 1, 64
EQUAL = 1e-12  # float64: rewards are of the order of 10, and a sum of a few of them errs by about 1e-15
ESTIMATORS = {"grpo": "GRPO (eq. 18)", "dapo": "DAPO", "reinforce++": "REINFORCE++"}


class Batch(NamedTuple):
    """Random embeddings: query [B, d], positives [B, K, d], negatives [B, M, d], truncated [B, K]."""

    query: Tensor
    positives: Tensor
    negatives: Tensor
    truncated: Tensor


class Change(NamedTuple):
    """A change of the reward whose effect is measured: whether d- enters before and after it, and the new lambda2."""

    label: str
    before: bool
    after: bool
    lambda2: float


def batch(truncate: bool = False) -> Batch:
    """Positives and negatives scattered about their query. truncate: one rollout was cut, the very first."""
    import torch

    dice = torch.Generator().manual_seed(SEED)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, WIDTH, generator=dice, dtype=torch.float64)

    query = noise(INSTANCES)
    positives = query.unsqueeze(1) + noise(INSTANCES, ROLLOUTS)
    negatives = query.unsqueeze(1) + 2 * noise(INSTANCES, NEGATIVES)
    truncated = torch.zeros(INSTANCES, ROLLOUTS, dtype=torch.bool)
    truncated[0, 0] = truncate
    return Batch(query, positives, negatives, truncated)


def advantages(at: Batch, config: RewardConfig, negatives: bool, estimator: str = "grpo") -> Tensor:
    """[B, K] advantages; negatives: whether d- enters (never without supervision)."""
    from grace.method.advantages import group_advantages
    from grace.method.rewards import compute_rewards

    rewards = compute_rewards(at.query, at.positives, at.negatives if negatives else None, at.truncated, config)
    return group_advantages(rewards.total, estimator)


def _moved(at: Batch, config: RewardConfig, change: Change, estimator: str = "grpo") -> Tensor:
    """[B, K]: how far a change moves each advantage."""
    changed = config.model_copy(update={"lambda2": change.lambda2})
    before = advantages(at, config, change.before, estimator)
    return (before - advantages(at, changed, change.after, estimator)).abs()


def _movements(config: RewardConfig, changes: list[Change]) -> list[list[float]]:
    """Of each change the largest movement: without truncation; with it in its group, and in others; by rollout."""
    whole, cut = batch(), batch(truncate=True)
    by_rollout = config.model_copy(update={"negatives": "rollout"})
    found = []
    for change in changes:
        truncated = _moved(cut, config, change)
        tensors = (_moved(whole, config, change), truncated[0], truncated[1:], _moved(whole, by_rollout, change))
        found.append([float(one.max()) for one in tensors])
    return found


def _lambda2s(lambda2: float, negatives: bool) -> list[Change]:
    return [Change(f"lambda2 = {v:g}", negatives, negatives, v) for v in (0.0, 0.2, 1.0) if v != lambda2]


def _small(value: float) -> str:
    return f"{value:.1e}" if value < 0.001 else f"{value:.3f}"


def _lines(changes: list[Change], movements: list[list[float]]) -> list[list[str]]:
    return [[change.label, *map(_small, moved)] for change, moved in zip(changes, movements, strict=True)]


def _figure(printed: Printed, kind: str) -> str:
    try:
        return f" Figure 3: lambda2 moves the 16-task average {spread(printed, kind)}."
    except Missing:
        return ""


@check("negatives-cancel", "Negatives that cancel, supervised", "Eqs. 12-18, figure 3")
def negatives_cancel(printed: Printed, lambda1: float, lambda2: float) -> Outcome:
    config = RewardConfig(lambda1=lambda1, lambda2=lambda2)
    changes = [Change("without d-", True, False, lambda2), *_lambda2s(lambda2, True)]
    movements, whole = _movements(config, changes), batch()
    head = ["change", "none truncated", "one truncated: its group", "the other groups", "`negatives: rollout`"]
    by_estimator = [
        [label, *(_small(float(_moved(whole, config, change, name).max())) for change in changes)]
        for name, label in ESTIMATORS.items()
    ]
    text = (
        f"Random embeddings, seed {SEED}, float64: {INSTANCES} instances, {ROLLOUTS} rollouts, {NEGATIVES} negative, "
        f"lambda1 = {lambda1:g}, lambda2 = {lambda2:g}; the largest advantage is "
        f"{float(advantages(whole, config, True).abs().max()):.2f}. Shown is the largest change of an advantage. q and "
        "d- are sampled once per instance, so cos(q, d-) and eq. 15 are equal for all its rollouts, and subtracting "
        "the group's mean removes them. A truncated rollout has -gamma instead of its reward, so in its group they do "
        "not cancel."
    )
    algorithms = (
        "By algorithm, no rollout truncated; REINFORCE++ subtracts the mean of the batch, not that of the group:"
    )
    most = max(moved[0] for moved in movements)
    found = f"Without truncation no advantage changes by more than {most:.1e}."
    found += " The gradient depends neither on d- nor on lambda2." if most <= EQUAL else ""
    claim = "Eqs. 13, 15 and 16 let d- and the hardest in-batch negatives shape the training."
    claim += _figure(printed, "supervised")
    tables = [
        grid(head, _lines(changes, movements)),
        grid(["algorithm", *(one.label for one in changes)], by_estimator),
    ]
    arithmetic = "\n\n".join([text, tables[0], algorithms, tables[1]])
    return claim, found, "contradicted" if most <= EQUAL else "confirmed", arithmetic


@check("unsupervised-negatives", "Negatives that cancel, unsupervised", "Eqs. 20-21, figure 3")
def unsupervised_negatives(printed: Printed, lambda1: float, lambda2: float) -> Outcome:
    changes = _lambda2s(lambda2, False)
    movements = _movements(RewardConfig(lambda1=lambda1, lambda2=lambda2), changes)
    head = ["change", "text: none truncated", "one truncated: its group", "the other groups", "code: none truncated"]
    text = (
        "The same embeddings, q as the anchor and no d-. Text: each anchor against the other instances' rollouts, as "
        "supervised (eq. 15). Code: each rollout against the other anchors, which differs within a group."
    )
    most, by_code = (max(moved[place] for moved in movements) for place in (0, -1))
    found = f"As the text describes it, no advantage changes by more than {most:.1e} when lambda2 does"
    found += f"; as the code does it, by up to {by_code:.3f}."
    claim = "Hard negatives, as in the supervised case, shape the training."
    claim += _figure(printed, "unsupervised")
    arithmetic = f"{text}\n\n{grid(head, _lines(changes, movements))}"
    return claim, found, "contradicted" if most <= EQUAL else "confirmed", arithmetic
