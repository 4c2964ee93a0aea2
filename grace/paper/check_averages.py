"""Tables 1 and 2: what the printed averages weigh, and rows whose columns are printed in another order."""

from __future__ import annotations

from functools import cache

import numpy as np

from grace.paper import numbers
from grace.paper.averages import Weights, distance, fits, mean, ordered, orders, remaining, search, smallest
from grace.paper.finding import COLUMNS, Missing, Outcome, Printed, Row, Verdict, check, grid, listed

BOUND = 200  # largest total of weights that is searched
COUNTS = tuple(numbers.COUNTS[category] for category in COLUMNS)
TOTAL = sum(COUNTS)


@check("average-weights", "What the printed averages weigh", "Tables 1 and 2")
def average_weights(printed: Printed) -> Outcome:
    own, quoted = printed.own(), printed.quoted()
    claim = f"Avg is the mean over the {TOTAL} data sets of MTEB, {written(COUNTS)} by category."
    true = [row for row in own if fits(COUNTS, row.scores, row.average)]
    gaps = [abs(mean(COUNTS, row.scores) - row.average) for row in own]
    lines = [f"By category: {', '.join(COLUMNS)}."]
    lines += [f"Over {TOTAL}, {len(true)} of the {len(own)} own rows agree with their printed average."]
    lines += [f"The differences lie between {min(gaps):.2f} and {max(gaps):.2f} points."]
    agree = [row.name for row in quoted if fits(COUNTS, row.scores, row.average)]
    lines += [f"Of the quoted rows {listed(agree)} agree, in the columns as printed."]
    if len(true) == len(own):
        return Outcome(claim, f"All {len(own)} own rows agree.", "confirmed", " ".join(lines))
    found = common(own)
    said, more = _explained(found, own)
    found_text = f"{len(true)} of {len(own)} own rows agree with it. {said}"
    return Outcome(claim, found_text, "contradicted", "\n\n".join([" ".join(lines), *more, _rows(own, found)]))


def written(vector: Weights) -> str:
    return f"{'/'.join(map(str, vector))} over {sum(vector)}"


def common(rows: list[Row]) -> list[Weights]:
    """All whole weights up to a total of BOUND that fit every row. Raises: Missing when the rows are too few."""
    try:
        return _common(tuple((tuple(row.scores), row.average) for row in rows))
    except ValueError:
        raise Missing("rows enough to narrow the weights down") from None


@cache
def _common(rows: tuple[tuple[tuple[float, ...], float], ...]) -> list[Weights]:
    return search(np.array([scores for scores, _ in rows]), np.array([average for _, average in rows]), BOUND)


def _explained(found: list[Weights], own: list[Row]) -> tuple[str, list[str]]:
    """The weights that fit in words, and how they were found."""
    how = f"Every vector of seven whole weights with a total up to {BOUND} was tried on all {len(own)} rows"
    if found:
        reduced = smallest(found)
        only = "one, up to a common factor" if len(reduced) == 1 else f"{len(reduced)}, up to common factors"
        known = COUNTS[:-1]
        scores, averages = np.array([row.scores for row in own]), np.array([row.average for row in own])
        room = remaining(scores, averages, known)
        more = [f"{how}: {len(found)} fit, {only}. The smallest is {written(found[0])}."]
        if room:
            more.append(
                f"With the true counts of the other six categories, {'/'.join(map(str, known))}, {COLUMNS[-1]} must "
                f"weigh between {room[0]:.3f} and {room[1]:.3f}; it has {COUNTS[-1]} data set."
            )
        changed = [
            f"{name} counts {weight} times, not {count}"
            for name, weight, count in zip(COLUMNS, found[0], COUNTS, strict=True)
            if weight != count
        ]
        return f"{written(found[0])} fits all of them: {listed(changed)}.", more
    without = {row.label: fitting for row in own if (fitting := common([one for one in own if one is not row]))}
    if not without:
        return "No whole weights fit all of them, nor all but one.", [f"{how}: none fits, nor all rows but one."]
    odd, fit = listed(without), written(next(iter(without.values()))[0])
    said = f"No whole weights fit all of them; {fit} fits all but {odd}."
    return said, [f"{how}: none fits. Without {odd}: {fit}."]


def _rows(own: list[Row], found: list[Weights]) -> str:
    head = ["row", "printed", f"over {TOTAL}", "difference"]
    if found:
        head += [f"over {sum(found[0])}", "difference"]
    lines = []
    for row in own:
        cells = [row.label, row.average]
        for vector in [COUNTS, *found[:1]]:
            value = mean(vector, row.scores)
            cells += [f"{value:.3f}", f"{value - row.average:+.3f}"]
        lines.append(cells)
    note = "Rounding allows 0.010: half a hundredth of the average and as much of the scores."
    return f"{grid(head, lines)}\n\n{note}"


@check("column-order", "Rows printed under the wrong columns", "Table 2")
def column_order(printed: Printed) -> Outcome:
    claim = f"Every row of table 2 gives {', '.join(COLUMNS)}, in this order."
    quoted, own = printed.quoted(), printed.own()
    odd = [row for row in quoted if not fits(COUNTS, row.scores, row.average)]
    straight = [row for row in quoted if row not in odd]
    found = common(own)
    kept = [row for row in own if found and fits(found[0], row.scores, row.average)]
    lines = [
        f"Over {TOTAL} data sets the columns as printed give the printed average of {listed(r.name for r in straight)}."
        + (f" The {len(kept)} own rows fit it as printed over {sum(found[0])}." if found else "")
    ]
    if not odd:
        return Outcome(claim, "Every quoted row agrees with its average as printed.", "confirmed", lines[0])
    fitting = {row.name: orders(row.scores, row.average, COUNTS) for row in odd}
    best, by = choose(odd, straight or own)
    lines.append(_searched(odd, fitting, by))
    verdict: Verdict = "contradicted"
    if best is None:
        text = f"{listed(fitting)}: the average does not come out, and no one order of the columns explains it."
        return Outcome(claim, text, verdict, "\n\n".join(lines))
    names = [COLUMNS[n] for n in best]
    alphabet = ", which is the alphabet's order" if names == sorted(names) else ""
    text = f"{listed(fitting)} print {', '.join(names)}{alphabet}: put back, the averages come out over {TOTAL}."
    lines.append(_put_back(odd, best))
    return Outcome(claim, text, verdict, "\n\n".join(lines))


def choose(odd: list[Row], straight: list[Row]) -> tuple[Weights | None, str]:
    """The order of columns that explains all odd rows, and by which criterion it was taken.

    Of the orders that fit every odd row, the one whose rows, put back, lie nearest to rows in the right order.
    """
    shared = set.intersection(*(set(orders(row.scores, row.average, COUNTS)) for row in odd))
    if not shared:
        return None, "none fits all of these rows"
    references = [row.scores for row in straight]
    best = min(sorted(shared), key=lambda one: sum(distance(ordered(row.scores, one), references) for row in odd))
    if len(shared) == 1:
        return best, "exactly one fits all of these rows"
    return best, f"{len(shared)} fit all of these rows, and the one nearest to the rows in order is taken"


def _searched(odd: list[Row], fitting: dict[str, list[Weights]], by: str) -> str:
    every = 5040
    counted = ", ".join(f"{len(found)} for {name}" for name, found in fitting.items())
    text = f"Of the {every} orders of seven columns, these many give the printed average: {counted}; {by}."
    if len(odd) > 1:
        chance = every * np.prod([len(found) / every for found in fitting.values()])
        text += f" Were the orders that fit a row a matter of chance, {chance:.2f} would be expected to fit all."
    return text


def _put_back(odd: list[Row], best: Weights) -> str:
    lines = []
    for row in odd:
        scores = ordered(row.scores, best)
        lines.append([f"{row.name}, as printed", *row.scores, row.average, mean(COUNTS, row.scores)])
        lines.append([f"{row.name}, put back", *scores, row.average, mean(COUNTS, scores)])
    return grid(["row", *COLUMNS, "printed Avg", f"over {TOTAL}"], lines)
