"""Table 4 and figure 3: averages over the 16-task subset, and the weights of the reward that were tried."""

from __future__ import annotations

from grace.paper import numbers
from grace.paper.averages import fits, mean
from grace.paper.finding import COLUMNS, Missing, Outcome, Printed, Verdict, check, grid, listed

WEIGHTS = tuple(numbers.SUBSET_COUNTS[category] for category in COLUMNS)
Cells = dict[tuple[float, float], float]  # (lambda2, lambda1) -> average


@check("table4-averages", "Averages over the subset", "Tables 3 and 4")
def averages(printed: Printed) -> Outcome:
    rows = [printed.row("table4", *name) for name in printed.names("table4")]
    odd = [row.name for row in rows if not fits(WEIGHTS, row.scores, row.average)]
    lines = []
    for row in rows:
        value = mean(WEIGHTS, row.scores)
        lines.append([row.name, row.average, f"{value:.3f}", f"{value - row.average:+.3f}"])
    weights = "/".join(map(str, WEIGHTS))
    claim = f"Avg is the mean over the {sum(WEIGHTS)} data sets of table 3, {weights} by category."
    found = f"{len(rows) - len(odd)} of {len(rows)} rows agree." + (f" Not {listed(odd)}." if odd else "")
    table = grid(["row", "printed", f"over {sum(WEIGHTS)}", "difference"], lines)
    note = f"Here {COLUMNS[-1]} counts once. Rounding allows 0.010."
    return Outcome(claim, found, "contradicted" if odd else "confirmed", f"{table}\n\n{note}")


def heatmap(printed: Printed, kind: str) -> Cells:
    """A heat map of figure 3. Raises: Missing."""
    found = {
        (float(row), float(column)): value
        for (table, backbone, row, column), value in printed.numbers.items()
        if (table, backbone) == ("figure3", kind)
    }
    if not found:
        raise Missing(f"figure3, {kind}")
    return found


def _marginal(cells: Cells, place: int) -> dict[float, float]:
    """Means of the cells that are read, by lambda2 (place 0) or lambda1 (1)."""
    every = sorted({key[place] for key in cells})
    lines = {at: [value for key, value in cells.items() if key[place] == at] for at in every}
    return {at: sum(values) / len(values) for at, values in lines.items()}


def spread(printed: Printed, kind: str) -> str:
    """How far lambda2 moves the means of figure 3's rows, in words. Raises: Missing."""
    means = _marginal(heatmap(printed, kind), 0)
    low, high = min(means, key=lambda at: means[at]), max(means, key=lambda at: means[at])
    return f"from {means[low]:.2f} (lambda2 = {low:g}) to {means[high]:.2f} (lambda2 = {high:g})"


@check("lambda-grid", "The weights of the reward and the grid they were chosen on", "Figure 3 and A.2.5")
def grid_of_lambdas(printed: Printed, lambda1: float, lambda2: float) -> Outcome:
    used = {name: printed.value("claims", "training", "weight", name) for name in ("lambda1", "lambda2")}
    at = (used["lambda2"], used["lambda1"])
    best, lines, parts = [], [], []
    maps = {kind: heatmap(printed, kind) for kind in ("supervised", "unsupervised")}
    for kind, cells in maps.items():
        top = [key for key, value in cells.items() if value == max(cells.values())]
        best.append(top)
        points = " and ".join(f"lambda1 = {key[1]:g}, lambda2 = {key[0]:g}" for key in top)
        parts.append(f"{kind} {max(cells.values()):.1f} at {points}")
        for place, name in ((1, "lambda1"), (0, "lambda2")):
            means = _marginal(cells, place)
            values = " ".join(f"{key:g}: {value:.2f}" for key, value in means.items())
            lines.append([f"{kind}, by {name}", values, max(means.values()) - min(means.values())])
    on = all(at in cells for cells in maps.values())
    verdict: Verdict = "cannot be checked" if not on else "confirmed" if all(at in b for b in best) else "contradicted"
    claim = f"Training uses lambda1 = {at[1]:g}, lambda2 = {at[0]:g}; figure 3 tries weights on a grid."
    found = f"The pair used is {'' if on else 'not '}on the grid. The best cells: {'; '.join(parts)}."
    unread = [f"{kind} at lambda2 = {value:g}" for kind, cells in maps.items() for value in _unread(cells, maps)]
    note = f"Cells that are not read: {listed(unread)}. "
    note += f"This study trains with lambda1 = {lambda1:g}, lambda2 = {lambda2:g}."
    arithmetic = grid(["heat map", "means of the 16-task average", "range"], lines)
    return Outcome(claim, found, verdict, f"{arithmetic}\n\n{note}")


def _unread(cells: Cells, maps: dict[str, Cells]) -> list[float]:
    """Values of lambda2 at which a map lacks cells that another has."""
    return sorted({key[0] for other in maps.values() for key in other} - {key[0] for key in cells})


@check("figure3-and-table4", "One model in a table and in a figure", "Figure 3 and table 4")
def between(printed: Printed) -> Outcome:
    at = [printed.value("claims", "training", "weight", name) for name in ("lambda2", "lambda1")]
    score = printed.value("table4", "grace-3b", "grpo", "Avg")
    cells = heatmap(printed, "supervised")
    around = _neighbours(cells, at)
    values = [cells[key] for key in around]
    lines = [[f"lambda1 = {key[1]:g}, lambda2 = {key[0]:g}", f"{cells[key]:.1f}"] for key in around]
    lines.append([f"table 4, GRPO (lambda1 = {at[1]:g}, lambda2 = {at[0]:g})", f"{score:.2f}"])
    inside = min(values) - 0.05 <= score <= max(values) + 0.05
    claim = f"GRACE-3B with lambda1 = {at[1]:g}, lambda2 = {at[0]:g} averages {score:.2f} over the subset (table 4)."
    found = (
        f"The cells of figure 3 around these weights lie between {min(values):.1f} and {max(values):.1f}, "
        f"table 4's score {'among' if inside else 'outside of'} them."
    )
    note = (
        "Between two grid points a score may leave their range, so this alone refutes nothing."
        if not inside
        else "The score agrees with the cells around it."
    )
    arithmetic = f"{grid(['point', '16-task average'], lines)}\n\n{note}"
    return Outcome(claim, found, "confirmed" if inside else "cannot be checked", arithmetic)


def _neighbours(cells: Cells, at: list[float]) -> list[tuple[float, float]]:
    """The grid points around a point: nearest below and above in both weights, itself when it is one of them."""
    sides = []
    for place, value in enumerate(at):
        every = sorted({key[place] for key in cells})
        below, over = [v for v in every if v <= value], [v for v in every if v >= value]
        if not below or not over:
            raise Missing(f"figure3, supervised, a grid around {value:g}")
        sides.append(sorted({below[-1], over[0]}))
    return [(two, one) for two in sides[0] for one in sides[1] if (two, one) in cells]
