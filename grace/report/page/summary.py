"""The claims as the page shows them: how many got which verdict, and each difference as an interval around zero."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import groupby
from typing import Any, NamedTuple

from markupsafe import Markup

from grace.report.page.reading import Record, number, objects, said
from grace.report.scoring.statements import OWN, VERDICTS, split

MEANING = {
    "reproduced": "as the paper claims",
    "contradicted": "the other way round",
    "not separable": "the interval covers both",
    "not run": "a run has no result",
}
NEED = ("id", "group", "text", "measure", "backbone", "verdict", "headline", "comparable", "runs")
DRAWN = ("ours", "low", "high", "bound")
WIDTH, HEIGHT = 160, 18  # of an interval's drawing, in its own units


class Test(NamedTuple):
    """A claim on one backbone by one measure. headline: whether the claim is counted by it."""

    backbone: str
    measure: str
    headline: bool
    printed: str
    bound: str
    ours: str
    interval: str
    levels: str
    verdict: str
    word: str
    comparable: bool
    problems: int
    plot: Markup


class Claimed(NamedTuple):
    """A claim: its text, the runs that it compares, where the paper makes it, and its tests."""

    text: str
    runs: list[str]
    where: str
    tests: list[Test]

    @property
    def tally(self) -> list[tuple[str, str, int]]:
        """Each verdict that counts: its name, how it is worded, and on how many backbones."""
        found = Counter((one.verdict, one.word) for one in self.tests if one.headline)
        return [(verdict, word, count) for (verdict, word), count in found.items()]

    @property
    def split(self) -> str:
        """Says on how many backbones the measures disagree; empty where they agree."""
        apart = len(split((one.backbone, one.verdict) for one in self.tests))
        every = len({one.backbone for one in self.tests})
        where = f" on {apart} of {every} backbones" if every > 1 else ""
        return f"measures disagree{where}" if apart else ""


class Summary(NamedTuple):
    """counts: verdict -> the paper's claims, each once per backbone; groups: name -> claims.

    tests: number of all tests; comparable: of those with the paper's backbones and tasks.
    """

    counts: dict[str, int]
    groups: list[tuple[str, list[Claimed]]]
    comparable: int
    notes: list[str]
    tests: int


def summary(record: Record) -> Summary:
    """The claims of a claims.json. Entries that lack what is shown are left out, and counted nowhere."""
    found = [one for one in objects(record, "claims", *NEED) if isinstance(one["runs"], list)]
    claimed = [one for one in found if one["group"] not in OWN and one["headline"]]
    counts: dict[str, int] = {name: sum(one["verdict"] == name for one in claimed) for name in VERDICTS}
    scales = _scales(found)
    groups = [
        (group, [_claimed(list(tests), scales) for _, tests in groupby(some, key=lambda one: one["id"])])
        for group, some in groupby(found, key=lambda one: str(one["group"]))
    ]
    return Summary(counts, groups, sum(bool(one["comparable"]) for one in found), said(record, "notes"), len(found))


def _scales(entries: Iterable[dict[str, Any]]) -> dict[tuple[str, str], float]:
    """The largest distance from zero that is drawn, by group and measure: their intervals share a scale."""
    out: dict[tuple[str, str], float] = {}
    for one in entries:
        drawn = [*(number(one.get(key)) for key in DRAWN), _mark(one)]
        ends = [abs(value) for value in drawn if value is not None]
        out[_scale(one)] = max([out.get(_scale(one), 0.0), *ends])
    return out


def _scale(entry: dict[str, Any]) -> tuple[str, str]:
    return str(entry["group"]), str(entry["measure"])


def _mark(entry: dict[str, Any]) -> float | None:
    """The paper's difference, where ours can be compared with it."""
    return number(entry.get("printed")) if entry["comparable"] else None


def _claimed(entries: list[dict[str, Any]], scales: dict[tuple[str, str], float]) -> Claimed:
    first = entries[0]
    tests = [_test(one, scales[_scale(one)]) for one in entries]
    return Claimed(str(first["text"]), [str(run) for run in first["runs"]], str(first.get("where", "")), tests)


def _test(entry: dict[str, Any], scale: float) -> Test:
    ours, low, high, printed, bound = (number(entry.get(key)) for key in (*DRAWN[:3], "printed", "bound"))
    paper = "—" if printed is None else signed(printed)
    given = entry["levels"] if isinstance(entry.get("levels"), list) else []
    levels = zip(entry["runs"], map(number, given), strict=False)
    return Test(
        backbone=str(entry["backbone"]),
        measure=str(entry["measure"]),
        headline=bool(entry["headline"]),
        printed=paper,
        bound="" if bound is None else f"bound ±{bound:g}",
        ours="—" if ours is None else signed(ours),
        interval="" if low is None or high is None else f"[{signed(low)}, {signed(high)}]",
        levels=" − ".join(f"{run} {value:.2f}" for run, value in levels if value is not None),
        verdict=str(entry["verdict"]),
        word=str(entry.get("word", entry["verdict"])),
        comparable=bool(entry["comparable"]),
        problems=len(said(entry, "problems")),
        plot=Markup("") if ours is None or not scale else _plot(scale, ours, (low, high), bound, _mark(entry)),
    )


def signed(value: float) -> str:
    """Two decimals with a sign, a true minus."""
    return f"{value:+.2f}".replace("-", "−")


def _plot(
    scale: float, ours: float, interval: tuple[float | None, float | None], bound: float | None, mark: float | None
) -> Markup:
    """A difference and its interval around zero, the bound as a band, the paper's difference as a mark.

    Args:
        scale: distance of the ends from zero.
    """

    def x(value: float) -> float:
        return round(WIDTH / 2 + value / scale * (WIDTH / 2 - 5), 2)

    middle, parts = HEIGHT / 2, []
    if bound is not None:
        wide = x(bound) - x(-bound)
        parts.append(f'<rect class="bound" x="{x(-bound)}" y="0" width="{wide:.2f}" height="{HEIGHT}"/>')
    parts.append(f'<line class="zero" x1="{x(0)}" x2="{x(0)}" y1="0" y2="{HEIGHT}"/>')
    low, high = interval
    if low is not None and high is not None:
        parts.append(f'<line class="reach" x1="{x(low)}" x2="{x(high)}" y1="{middle}" y2="{middle}"/>')
    if mark is not None:
        parts.append(f'<line class="mark" x1="{x(mark)}" x2="{x(mark)}" y1="3" y2="{HEIGHT - 3}"/>')
    parts.append(f'<circle class="point" cx="{x(ours)}" cy="{middle}" r="3.5"/>')
    return Markup(f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" aria-hidden="true">{"".join(parts)}</svg>')
