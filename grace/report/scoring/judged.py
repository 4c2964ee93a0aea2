"""The statements about embeddings and generation at once, judged on a study's results."""

from __future__ import annotations

from typing import Any, NamedTuple

from grace.report.scoring import statements
from grace.report.scoring.scores import Estimate
from grace.report.scoring.statements import STATEMENTS, Statement, Verdict
from grace.report.scoring.tradeoff import NDCG, PERPLEXITY_CHANGE, WRITING, Trade, paired

Interval = tuple[float, float]
# As a difference is called on the page, where it is in percent or points.
MEASURED = {NDCG: "nDCG@10", WRITING: "points above the bound", PERPLEXITY_CHANGE: "points below the bound"}


class Judged(NamedTuple):
    """A statement on one backbone.

    value: the difference of the two runs, or the run's own measure; of `same` the share of seeds that write the same.
    levels: what each run measures. compute: of the run, as a share of the other's.
    """

    statement: Statement
    backbone: str
    verdict: Verdict
    value: float | None = None
    interval: Interval | None = None
    levels: list[float] | None = None
    seeds: int = 0
    compute: float | None = None
    problems: tuple[str, ...] = ()

    @property
    def margin(self) -> float | None:
        """How far the measure is on the right side of the bound, of `most` and `least`; else the value."""
        return None if self.value is None else self._from_bound(self.value)

    @property
    def margins(self) -> Interval | None:
        """The interval of `margin`."""
        if self.interval is None:
            return None
        low, high = sorted(map(self._from_bound, self.interval))
        return low, high

    def _from_bound(self, value: float) -> float:
        return {"most": self.statement.bound - value, "least": value - self.statement.bound}.get(
            self.statement.kind, value
        )


def every(trade: Trade) -> list[Judged]:
    """All statements on each backbone; those whose runs the study does not have are `not run`."""
    return [judge(one, trade, backbone) for backbone in trade.backbones for one in STATEMENTS]


def judge(statement: Statement, trade: Trade, backbone: str) -> Judged:
    if statement.kind == "same":
        return _same(statement, trade, backbone)
    if statement.other:
        pair = trade.effect(statement.measure, backbone, statement.run, statement.other)
        found = paired(pair)
        if not pair or not found:
            return Judged(statement, backbone, "not run")
        value, interval = found
        share = trade.compute_share(backbone, statement.run, statement.other)
        return _found(statement, backbone, value, interval, list(pair))._replace(compute=share)
    one = trade.value(statement.measure, backbone, statement.run)
    return (
        _found(statement, backbone, one.point, one.interval, [one]) if one else Judged(statement, backbone, "not run")
    )


def _found(statement: Statement, backbone: str, value: float, interval: Interval | None, of: list[Estimate]) -> Judged:
    verdict: Verdict = "not separable"
    if interval:
        verdict = statements.verdict(statement.kind, *interval, statement.bound)
    problems = tuple(dict.fromkeys(problem.text for one in of for problem in one.problems))
    seeds = min(one.seeds for one in of)
    return Judged(statement, backbone, verdict, value, interval, [one.point for one in of], seeds, problems=problems)


def _same(statement: Statement, trade: Trade, backbone: str) -> Judged:
    known = [trade.identical(backbone, statement.run, seed) for seed in trade.planned(backbone, statement.run)]
    found = [one for one in known if one is not None]
    if not found:
        return Judged(statement, backbone, "not run")
    share = sum(found) / len(found)
    return Judged(statement, backbone, "reproduced" if share == 1 else "contradicted", share, seeds=len(found))


def record(one: Judged) -> dict[str, Any]:
    """As JSON: the numbers are shares, as in the csv."""
    about, (low, high) = one.statement, one.interval or (None, None)

    def rounded(value: float | None) -> float | None:
        return None if value is None else round(value, 6)

    return {
        "id": about.id, "text": about.text, "kind": about.kind, "measure": about.measure, "bound": about.bound,
        "backbone": one.backbone, "runs": [run for run in (about.run, about.other) if run],
        "value": rounded(one.value), "low": rounded(low), "high": rounded(high),
        "levels": [rounded(level) for level in one.levels] if one.levels else None, "seeds": one.seeds,
        "compute_share": rounded(one.compute), "verdict": one.verdict, "problems": list(one.problems),
    }  # fmt: skip


def entry(one: Judged) -> dict[str, Any]:
    """As an entry of claims.json, in percent: of a bound on one run how far it is on the right side of it."""
    about, margins = one.statement, one.margins
    alone = about.kind in ("most", "least")
    low, high = (round(100 * end, 4) for end in margins) if margins else (None, None)
    return {
        "id": about.id, "group": statements.AT_ONCE, "text": about.text, "kind": about.kind,
        "measure": MEASURED[about.measure] if about.kind != "same" else "share of seeds that write the same, %",
        "backbone": one.backbone, "printed": None, "recomputed": False,
        "bound": 100 * about.bound if about.kind == "within" else None,
        "ours": None if one.margin is None else round(100 * one.margin, 4), "low": low, "high": high,
        "levels": [round(100 * level, 4) for level in one.levels] if one.levels and not alone else None,
        "verdict": one.verdict, "word": statements.word(statements.AT_ONCE, one.verdict),
        "problems": list(one.problems), "comparable": False,
        "runs": [run for run in (about.run, about.other) if run], "seeds": one.seeds,
        "where": "not in the paper", "headline": True,
    }  # fmt: skip
