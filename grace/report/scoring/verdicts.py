"""What is claimed (claims.csv beside this file), and the verdict of results on it.

The csv has one row per claim, those of the paper first:

- kind: `run` is above or below `other`, within the bound of it, or above it by the printed gain, a mean over the
  paper's backbones; or `run` by itself is at most or at least the bound, or writes the same rationales as its backbone.
- run, other: runs, or points of the ablation of modes; `other` may be BEST.
- measure: tasks or subset (mean over the study's tasks or the subset's), general, or one of `scoring.tradeoff`.
- bound: a share. The paper's bound of general capability is among its printed numbers.
- table, row, other_row: where the paper prints the two; empty: nowhere.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal, NamedTuple, TypeVar

import pandas as pd

from grace.report.scoring.scores import Estimate, Interval, difference
from grace.report.scoring.tradeoff import NDCG, PERPLEXITY_CHANGE, WRITING, Trade

Kind = Literal["above", "below", "within", "gain", "most", "least", "same"]
Verdict = Literal["reproduced", "contradicted", "not separable", "not run"]
VERDICTS: tuple[Verdict, ...] = ("reproduced", "contradicted", "not separable", "not run")
BEYOND, TOGETHER = "Beyond the paper", "Embeddings and generation at once"
OWN = (BEYOND, TOGETHER)  # groups of which the paper claims nothing
# How a verdict is worded there.
WORDS = {
    BEYOND: {"reproduced": "holds", "contradicted": "the opposite holds"},
    TOGETHER: {"reproduced": "holds", "contradicted": "does not hold"},
}
BEST = "the best baseline"  # of ClaimsSpec.baselines, on each backbone by the measure itself
# How the page calls a difference by a measure of the trade-off, in percent or points.
UNITS = {NDCG: "nDCG@10", WRITING: "points above the bound", PERPLEXITY_CHANGE: "points below the bound"}
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Claim:
    """A row of claims.csv."""

    id: str
    group: str
    kind: Kind
    run: str
    other: str
    measure: str
    bound: float
    table: str
    row: str
    other_row: str
    text: str

    @property
    def runs(self) -> list[str]:
        return [run for run in (self.run, self.other) if run]


def _load() -> tuple[Claim, ...]:
    with resources.files("grace.report.scoring").joinpath("claims.csv").open(encoding="utf-8") as handle:
        frame = pd.read_csv(handle, dtype=str, keep_default_na=False)
    return tuple(Claim(**{**row, "bound": float(row["bound"] or 0)}) for row in frame.to_dict("records"))


CLAIMS = _load()
TRADED = tuple(claim for claim in CLAIMS if claim.group == TOGETHER)


class Judged(NamedTuple):
    """A claim on one backbone.

    value: the difference of the two runs, or the run's own measure; of `same` the share of seeds that write the same.
    levels: what each run measures. compute: of the run, as a share of the other's.
    """

    claim: Claim
    backbone: str
    verdict: Verdict = "not run"
    value: float | None = None
    interval: Interval | None = None
    levels: tuple[float, ...] = ()
    seeds: int = 0
    compute: float | None = None
    problems: tuple[str, ...] = ()


def verdict(kind: Kind, low: float, high: float, limit: float = 0.0) -> Verdict:
    """What the 95 % interval [low, high] says of a claim of any kind but `same`.

    Args:
        limit: of `within` the bound on either side, of `most` and `least` the bound; of `gain` the printed gain, which
            is reproduced when the difference is surely above zero and may be as large, and contradicted when it is
            surely smaller.
    """
    if kind == "below":
        low, high = -high, -low
    holds, fails = {
        "within": (-limit <= low and high <= limit, low > limit or high < -limit),
        "gain": (low > 0 and high >= limit, high < limit),
        "most": (high <= limit, low > limit),
        "least": (low >= limit, high < limit),
    }.get(kind, (low > 0, high < 0))
    return "reproduced" if holds else "contradicted" if fails else "not separable"


def judge(claim: Claim, backbone: str, found: Sequence[Estimate], limit: float, lower: bool = False) -> Judged:
    """A claim on what was measured.

    Args:
        found: of `run`, or of `run` and `other`; empty: not run.
        limit: as for `verdict`. lower: whether lower is better.
    """
    if not found:
        return Judged(claim, backbone)
    value, interval = difference(*found) if len(found) > 1 else (found[0].point, found[0].interval)
    problems = [problem for one in found for problem in one.problems]
    # Two models that answer nothing have the same score; neither has kept anything.
    silent = claim.kind == "within" and any(problem.kind == "answers" for problem in problems)
    said: Verdict = "not separable"
    if interval and not silent:
        low, high = (-interval[1], -interval[0]) if lower else interval
        said = verdict(claim.kind, low, high, limit)
    return Judged(
        claim,
        backbone,
        said,
        value,
        interval,
        levels=tuple(one.point for one in found),
        seeds=min(one.seeds for one in found),
        problems=tuple(dict.fromkeys(problem.text for problem in problems)),
    )


def judge_trade(claim: Claim, trade: Trade, backbone: str) -> Judged:
    """A claim about embeddings and generation at once; `not run` where the study does not have its runs."""
    if claim.kind == "same":
        same = trade.all_identical(backbone, claim.run)
        if not same:
            return Judged(claim, backbone)
        said: Verdict = "reproduced" if all(same) else "contradicted"
        return Judged(claim, backbone, said, value=sum(same) / len(same), seeds=len(same))
    if not claim.other:
        one = trade.value(claim.measure, backbone, claim.run)
        return judge(claim, backbone, [one] if one else [], claim.bound)
    effect = trade.effect(claim.measure, backbone, claim.run, claim.other)
    judged = judge(claim, backbone, effect.pairs[0] if effect else [], claim.bound)
    return judged._replace(compute=trade.compute_share(backbone, claim.run, claim.other) if effect else None)


def record(one: Judged) -> dict[str, Any]:
    """In the record of the table `effects`: the numbers are shares, as in its csv."""
    low, high = one.interval or (None, None)
    numbers = {"value": one.value, "low": low, "high": high, "compute_share": one.compute}
    return {
        **{key: getattr(one.claim, key) for key in ("id", "text", "kind", "measure", "bound", "runs")},
        **{key: None if number is None else round(number, 6) for key, number in numbers.items()},
        "backbone": one.backbone,
        "levels": [round(level, 6) for level in one.levels] or None,
        "seeds": one.seeds,
        "verdict": one.verdict,
        "problems": list(one.problems),
    }


def entry(one: Judged, measure: str, scale: float = 1.0, **more: Any) -> dict[str, Any]:
    """In claims.json, in percent or points.

    Args:
        measure: its name. scale: of the numbers.
        more: what stands beside them, where it is not what holds of a claim that is not the paper's.
    """
    claim, (low, high) = one.claim, one.interval or (None, None)
    numbers = {"ours": one.value, "low": low, "high": high}
    return {
        **{key: getattr(claim, key) for key in ("id", "group", "text", "kind", "runs")},
        **{key: None if number is None else round(scale * number, 4) for key, number in numbers.items()},
        "measure": measure,
        "backbone": one.backbone,
        "printed": None,
        "recomputed": False,
        "bound": None,
        "levels": [round(scale * level, 4) for level in one.levels] or None,
        "verdict": one.verdict,
        "word": WORDS.get(claim.group, {}).get(one.verdict, one.verdict),
        "problems": list(one.problems),
        "comparable": False,
        "seeds": one.seeds,
        "where": f"Table {claim.table[-1]}" if claim.table else "not in the paper",
        "headline": True,
        **more,
    }


def trade_entry(one: Judged) -> dict[str, Any]:
    """As `entry`, in percent: of a bound on one run how far it is on the right side of it."""
    claim = one.claim
    bound = 100 * claim.bound if claim.kind == "within" else None
    measure = UNITS[claim.measure] if claim.kind != "same" else "share of seeds that write the same, %"
    if claim.kind in ("most", "least"):

        def margin(value: float) -> float:
            return claim.bound - value if claim.kind == "most" else value - claim.bound

        low, high = sorted(map(margin, one.interval)) if one.interval else (None, None)
        interval = None if low is None or high is None else (low, high)
        one = one._replace(value=None if one.value is None else margin(one.value), interval=interval, levels=())
    return entry(one, measure, scale=100.0, bound=bound)


def split(verdicts: Iterable[tuple[Key, str]]) -> set[Key]:
    """The keys with more than one verdict, of those that ran."""
    found: dict[Key, set[str]] = {}
    for key, one in verdicts:
        if one != "not run":
            found.setdefault(key, set()).add(one)
    return {key for key, every in found.items() if len(every) > 1}
