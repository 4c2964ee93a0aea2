"""Tables 1 and 2: the gains that the text names, rows that stand twice, and GRACE against its baselines."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from grace.paper import numbers
from grace.paper.averages import mean
from grace.paper.check_averages import COUNTS, TOTAL
from grace.paper.finding import COLUMNS, Finding, Outcome, Printed, Verdict, check, grid

TABLES = {"supervised": "table1", "unsupervised": "table2"}
BASELINE = {"supervised": "cl", "unsupervised": "simcse"}


def gain(kind: str) -> Callable[[Printed], Finding]:
    """The check of the gain over base, supervised or unsupervised."""
    table = TABLES[kind]

    @check(f"gain-{kind}", f"The {kind} gain over base", f"{table.replace('table', 'Table ')} and abstract")
    def run(printed: Printed) -> Outcome:
        claimed = printed.value("claims", kind, "gain", "Avg")
        lines, true, given, small, large = [], [], [], [], []
        for backbone in numbers.BACKBONES:
            base, grace = printed.row(table, backbone, "base"), printed.row(table, backbone, "grace")
            before, after = mean(COUNTS, base.scores), mean(COUNTS, grace.scores)
            true.append(after - before)
            given.append(grace.average - base.average)
            small.append(grace.scores[-1] - base.scores[-1])
            large.append(mean(COUNTS[:-1], grace.scores[:-1]) - mean(COUNTS[:-1], base.scores[:-1]))
            name = numbers.BACKBONES[backbone]
            lines.append([name, base.average, grace.average, given[-1], before, after, true[-1], small[-1]])
        averages = [float(np.mean(values)) for values in (given, true, small)]
        lines.append(["mean", "", "", averages[0], "", "", averages[1], averages[2]])
        head = ["backbone", "base, printed", "GRACE, printed", "gain, printed"]
        head += [f"base, over {TOTAL}", f"GRACE, over {TOTAL}", f"gain, over {TOTAL}", f"gain, {COLUMNS[-1]}"]
        # The claim is rounded to half a hundredth, a difference of two averages to a hundredth.
        near = [abs(value - claimed) <= 0.015 + 1e-9 for value in averages[:2]]
        follows = "is" if near[0] else "is not"
        note = (
            f"The claimed {claimed:.2f} {follows} the mean of the gains of the printed averages ({averages[0]:.4f}). "
            f"{COLUMNS[-1]} gains {averages[2]:.2f} points and the other {TOTAL - COUNTS[-1]} data sets "
            f"{np.mean(large):.2f}, so each further time it is counted pulls the mean gain down."
        )
        claim = f"GRACE gains {claimed:.2f} points over base, averaged over the four backbones."
        found = f"Over {TOTAL} data sets it gains {averages[1]:.2f}: {_each(true)}."
        verdict: Verdict = "confirmed" if near[1] else "contradicted"
        return Outcome(claim, found, verdict, f"{grid(head, lines)}\n\n{note}")

    return run


def _each(gains: list[float]) -> str:
    return ", ".join(f"{value:.2f} ({name})" for name, value in zip(numbers.BACKBONES, gains, strict=True))


@check("repeated-rows", "Rows that stand in both tables", "Tables 1 and 2")
def repeated(printed: Printed) -> Outcome:
    counts: list[int] = []
    for backbone in numbers.BACKBONES:
        first, second = (printed.row(table, backbone, "base") for table in TABLES.values())
        pairs = zip([*first.scores, first.average], [*second.scores, second.average], strict=True)
        counts.append(sum(one != other for one, other in pairs))
    differ = sum(counts)
    found = "All 32 numbers are equal." if not differ else f"{differ} of 32 numbers differ."
    claim = "The base rows of table 2 are those of table 1."
    arithmetic = grid(["backbone", "numbers that differ, of 8"], zip(numbers.BACKBONES.values(), counts, strict=True))
    return Outcome(claim, found, "contradicted" if differ else "confirmed", arithmetic)


@check("above-baselines", "GRACE above base and contrastive training", "Tables 1 and 2")
def above(printed: Printed) -> Outcome:
    lines, behind, every, below = [], [], 0, 0
    for kind, table in TABLES.items():
        for backbone in numbers.BACKBONES:
            base, other, grace = (printed.row(table, backbone, row) for row in ("base", BASELINE[kind], "grace"))
            over = [mean(COUNTS, grace.scores) - mean(COUNTS, row.scores) for row in (base, other)]
            worse = [c for c, mine, its in zip(COLUMNS, grace.scores, other.scores, strict=True) if mine < its]
            every, below = every + len(COLUMNS), below + (min(over) <= 0)
            behind += worse
            lines.append([f"{kind}, {backbone}", *(f"{gap:+.2f}" for gap in over), ", ".join(worse) or "none"])
    claim = "GRACE scores above its base and above contrastive training (InfoNCE, SimCSE) on average."
    found = f"Over {TOTAL} data sets it does in {len(lines) - below} of {len(lines)} cases."
    if behind:
        counts = ", ".join(f"{name} {behind.count(name)}" for name in dict.fromkeys(behind))
        found += f" By category it is behind contrastive training in {len(behind)} of {every} ({counts})."
    head = ["case", "over base", "over contrastive", "categories where it is behind contrastive"]
    return Outcome(claim, found, "contradicted" if below else "confirmed", grid(head, lines))


@check("reasoning-baseline", "What reasoning without training is compared with", "Table 1")
def reasoning(printed: Printed) -> Outcome:
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
    arithmetic = grid(["backbone", "base, printed", "reasoning, printed", "gain"], lines)
    return Outcome(claim, found, "cannot be checked", arithmetic)
