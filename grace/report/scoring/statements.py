"""What the paper claims of its methods, each as one method against another, and what counts as reproduced."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

from grace import tasks
from grace.paper import numbers
from grace.report.scoring.scores import WELL_FORMED

Kind = Literal["above", "below", "within", "gain"]
Key = TypeVar("Key", bound=Hashable)
Verdict = Literal["reproduced", "contradicted", "not separable", "not run"]
VERDICTS: tuple[Verdict, ...] = ("reproduced", "contradicted", "not separable", "not run")
SUPERVISED = "Embeddings, supervised"
UNSUPERVISED = "Embeddings, unsupervised"
GENERAL = "General capability"
BEYOND = "Beyond the paper"
AT_ONCE = "Embeddings and generation at once"
OWN = (BEYOND, AT_ONCE)  # of which the paper claims nothing
# How a verdict is worded where the paper claims nothing.
WORDS = {
    BEYOND: {"reproduced": "holds", "contradicted": "the opposite holds"},
    AT_ONCE: {"reproduced": "holds", "contradicted": "does not hold"},
}
BEST = "the best baseline"  # of ClaimsSpec.baselines, on each backbone by the measure itself
GROUPS = (SUPERVISED, UNSUPERVISED, GENERAL, BEYOND, AT_ONCE)
WHERE = {"table1": "Table 1", "table2": "Table 2", "table5": "Table 5", "": "not in the paper"}


@dataclass(frozen=True)
class Claim:
    """`run` against `other`: above it, below it, within the paper's bound of it, or above it by the printed gain.

    table, rows: where the paper prints the two; empty: nowhere. A `gain` is of the mean over the paper's backbones.
    other: a run, or BEST.
    """

    id: str
    group: str
    text: str
    kind: Kind
    run: str
    other: str
    table: str = ""
    rows: tuple[str, str] = ("", "")

    @property
    def general(self) -> bool:
        return self.group == GENERAL


CLAIMS = (
    Claim("grace-above-base", SUPERVISED, "GRACE embeds better than its base", "above",
          "grace", "base", "table1", ("grace", "base")),
    Claim("grace-gain", SUPERVISED, "GRACE gains the printed points over base", "gain",
          "grace", "base", "table1", ("grace", "base")),
    Claim("grace-above-reasoning", SUPERVISED, "GRACE embeds better than untrained reasoning", "above",
          "grace", "reasoning", "table1", ("grace", "reasoning")),
    Claim("grace-above-cl", SUPERVISED, "GRACE embeds better than contrastive training", "above",
          "grace", "cl", "table1", ("grace", "cl")),
    Claim("reasoning-above-base", SUPERVISED, "Reasoning without training embeds better than base", "above",
          "reasoning", "base", "table1", ("reasoning", "base")),
    Claim("cl-above-base", SUPERVISED, "Contrastive training embeds better than base", "above",
          "cl", "base", "table1", ("cl", "base")),
    Claim("grace-unsup-above-base", UNSUPERVISED, "Unsupervised GRACE embeds better than its base", "above",
          "grace-unsup", "base", "table2", ("grace", "base")),
    Claim("grace-unsup-gain", UNSUPERVISED, "Unsupervised GRACE gains the printed points over base", "gain",
          "grace-unsup", "base", "table2", ("grace", "base")),
    Claim("grace-unsup-above-simcse", UNSUPERVISED, "Unsupervised GRACE embeds better than SimCSE", "above",
          "grace-unsup", "simcse", "table2", ("grace", "simcse")),
    Claim("simcse-above-base", UNSUPERVISED, "SimCSE embeds better than base", "above",
          "simcse", "base", "table2", ("simcse", "base")),
    Claim("cl-general-below-base", GENERAL, "Contrastive training takes general capability away", "below",
          "cl", "base", "table5", ("cl", "base")),
    Claim("grace-general-above-cl", GENERAL, "GRACE keeps more general capability than contrastive training", "above",
          "grace", "cl", "table5", ("grace_sup", "cl")),
    Claim("grace-general-within", GENERAL, "GRACE keeps its base's general capability", "within",
          "grace", "base", "table5", ("grace_sup", "base")),
    Claim("grace-unsup-general-within", GENERAL, "Unsupervised GRACE keeps its base's general capability", "within",
          "grace-unsup", "base", "table5", ("grace_unsup", "base")),
    Claim("reasoning-above-baselines", BEYOND,
          "Reasoning without training embeds better than the best of one forward pass without it", "above",
          "reasoning", BEST),
    Claim("grace-above-baselines", BEYOND, "GRACE embeds better than the best untrained forward pass", "above",
          "grace", BEST),
    Claim("grace-rollout-above-baselines", BEYOND, "So it does with rollout credit", "above", "grace-rollout", BEST),
    Claim("grace-above-random", BEYOND, "GRACE's reward does more than one without information", "above",
          "grace", "grace-random"),
    Claim("grace-unsup-above-random", BEYOND, "Unsupervised GRACE's reward does more than one without information",
          "above", "grace-unsup", "grace-unsup-random"),
    Claim("rollout-above-anchor", BEYOND, "Comparing each rollout with the negatives does more than the printed reward",
          "above", "grace-rollout", "grace"),
    Claim("unsup-rollout-above-anchor", BEYOND,
          "Unsupervised: comparing each rollout with the negatives does more than the printed reward",
          "above", "grace-unsup-rollout", "grace-unsup"),
)  # fmt: skip


@dataclass(frozen=True)
class Statement:
    """A finding about embeddings and generation at once, by a measure of `scoring.tradeoff`.

    kind: `run` is above `other`, or within `bound` of it; or by itself at most or at least `bound`; or it writes the
        same rationales as the backbone.
    run, other: runs, or points of the ablation of modes.
    """

    id: str
    text: str
    kind: Literal["above", "within", "most", "least", "same"]
    measure: str
    run: str
    other: str = ""
    bound: float = 0.0


STATEMENTS = (
    Statement("adapter-within-cl", "A pooling adapter on a frozen backbone retrieves as well as contrastive training",
              "within", "ndcg", "adapter-direct", "cl-long", 0.02),
    Statement("adapter-half-within-cl", "So does one whose loss is half over rationales",
              "within", "ndcg", "adapter", "cl-long", 0.02),
    Statement("adapter-direct-writes-the-same", "With a pooling adapter it writes what its backbone writes",
              "same", "well_formed", "adapter-direct"),
    Statement("adapter-writes-the-same", "So does one whose loss is half over rationales",
              "same", "well_formed", "adapter"),
    Statement("fence-direct-perplexity", "One set of weights, fenced by the KL: perplexity rises by at most 3 %",
              "most", "perplexity_change", "fence-direct", bound=0.03),
    Statement("fence-perplexity", "The same when it learns through the hidden states of rationales",
              "most", "perplexity_change", "fence-rationale", bound=0.03),
    Statement("fence-direct-well-formed", "Fenced by the KL, at least 98 % of its rationales are well formed",
              "least", "well_formed", "fence-direct", bound=0.98),
    Statement("fence-well-formed", "The same when it learns through the hidden states of rationales",
              "least", "well_formed", "fence-rationale", bound=0.98),
    Statement("adapter-grace-above-random",
              "Policy gradient on a generator of its own retrieves better than a reward without information",
              "above", "ndcg", "adapter-grace", "adapter-grace-random"),
    Statement("grace-apart-above-random",
              "So it does where the frozen backbone embeds and rationales of queries are trained too",
              "above", "ndcg", "grace-apart", "grace-apart-random"),
    Statement("grace-above-random-retrieval",
              "GRACE's policy gradient retrieves better than a reward without information",
              "above", "ndcg", "grace", "grace-random"),
    Statement("grace-rollout-above-random-retrieval", "So it does with rollout credit",
              "above", "ndcg", "grace-rollout", "grace-random"),
)  # fmt: skip


class Measure(NamedTuple):
    """A weighted mean of task scores, in percent unless `scale` says otherwise.

    average: the column of the paper that it is set beside, "Avg" as printed, "categories" recomputed from its category
    scores; empty: none, since the paper measures nothing of the kind. comparable: whether the tasks are the paper's.
    lower: whether lower is better. bounded: whether the paper's bound of general capability, in points, can be applied.
    """

    name: str
    weights: dict[str, float]
    average: Literal["Avg", "categories", ""] = ""
    comparable: bool = False
    scale: float = 100.0
    lower: bool = False
    bounded: bool = False


def embedding_measures(planned: Iterable[str], sampled: bool = False) -> list[Measure]:
    """The plain mean over a study's tasks; with the paper's 56, first the mean as its tables weigh it.

    Args:
        planned: names of the tasks. sampled: whether of some of them a part was drawn.
    """
    names = list(planned)
    whole = {name for group in tasks.MTEB.values() for name in group.split()}
    plain = dict.fromkeys(names, 1.0)
    if set(names) != whole:
        return [Measure(f"mean of {len(names)} task{'s' * (len(names) != 1)}", plain, "Avg")]
    factor = {c: numbers.PAPER_WEIGHTS[c] / numbers.COUNTS[c] for c in tasks.CATEGORIES}
    weighted = {name: factor[tasks.CATEGORY[name]] for name in names}
    return [
        Measure("average as the paper weighs it", weighted, "Avg", comparable=not sampled),
        Measure("mean of 56 tasks", plain, "categories", comparable=not sampled),
    ]


def general_measures(known: set[str], limited: bool = False) -> list[Measure]:
    """The mean of the paper's six tasks; where none of these ran, the demo's own, which the paper prints nothing of.

    Args:
        known: names of all tasks with a score.
        limited: whether only the first items of each task were asked.
    """
    own = [
        Measure("multiple choice", {"docstring_choice": 1.0}, bounded=True),
        Measure("well-formed rationales", {WELL_FORMED: 1.0}),
        Measure("perplexity, lower is better", {"docstring_perplexity": 1.0}, scale=1.0, lower=True),
    ]
    six = dict.fromkeys(numbers.GENERAL.values(), 1.0)
    if known & six.keys() or not known & {"docstring_choice", "docstring_perplexity"}:
        return [Measure("mean of the six tasks", six, "Avg", comparable=not limited, bounded=True)]
    return own


def bound() -> float:
    """Points by which GRACE and its base differ at most in general capability, as printed."""
    value = numbers.printed("claims", "general", "difference", "Delta")
    assert value is not None
    return value


def printed(claim: Claim, backbone: str, average: str) -> float | None:
    """What the paper prints for a claim: the difference of its two rows, in points.

    A backbone that is not the paper's, and a gain, get the mean over the paper's four.
    """
    backbones = [backbone] if backbone in numbers.BACKBONES else list(numbers.BACKBONES)
    gaps = [
        _average(claim.table, name, claim.rows[0], average) - _average(claim.table, name, claim.rows[1], average)
        for name in backbones
        if claim.table and average
    ]
    return round(sum(gaps) / len(gaps), 2) if gaps else None


def _average(table: str, backbone: str, row: str, average: str) -> float:
    if average == "Avg":
        value = numbers.printed(table, backbone, row, "Avg")
        assert value is not None
        return value
    scores = {c: numbers.printed(table, backbone, row, c) for c in tasks.CATEGORIES}
    return numbers.average({c: value for c, value in scores.items() if value is not None}, numbers.COUNTS)


def verdict(kind: str, low: float, high: float, limit: float = 0.0) -> Verdict:
    """What the 95 % interval [low, high] of a difference says.

    Args:
        kind: of a claim or a statement, but for `same`.
        limit: of `within` the bound on either side, of `most` and `least` the bound; of `gain` the printed gain, which
            is reproduced when the difference is surely above zero and may be as large, and contradicted when it is
            surely smaller.
    """
    if kind == "below":
        low, high = -high, -low
    held = {
        "within": -limit <= low and high <= limit, "gain": low > 0 and high >= limit,
        "most": high <= limit, "least": low >= limit,
    }.get(kind, low > 0)  # fmt: skip
    broken = {
        "within": low > limit or high < -limit, "gain": high < limit, "most": low > limit, "least": high < limit,
    }.get(kind, high < 0)  # fmt: skip
    return "reproduced" if held else "contradicted" if broken else "not separable"


def word(group: str, verdict: str) -> str:
    """How a verdict is worded in a group of claims."""
    return WORDS.get(group, {}).get(verdict, verdict)


def split(verdicts: Iterable[tuple[Key, str]]) -> set[Key]:
    """The keys with more than one verdict, of those that ran."""
    found: dict[Key, set[str]] = {}
    for key, one in verdicts:
        if one != "not run":
            found.setdefault(key, set()).add(one)
    return {key for key, every in found.items() if len(every) > 1}
