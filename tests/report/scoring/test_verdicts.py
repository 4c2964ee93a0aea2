"""Claims about embeddings and generation at once, on results that confirm or contradict them by design."""

import json
from pathlib import Path

import pytest

from grace.report.scoring import verdicts
from grace.report.scoring.tradeoff import trade
from grace.report.scoring.verdicts import CLAIMS, TRADED, judge_trade, trade_entry, verdict
from tests.config.test_schema import CONFIG
from tests.report import traded


def every(made):
    return [judge_trade(claim, made, backbone) for backbone in made.backbones for claim in TRADED]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """By id."""
    runs = {run.split(".")[0] for claim in TRADED for run in claim.runs}
    made = traded.spec(tmp_path_factory.mktemp("all"), only=tuple(runs)).traded
    traded.fill(made)
    return {one.claim.id: one for one in every(trade(made, 50))}


# Kind, interval and limit.
VERDICTS = {
    "reproduced": "above .1 2 0; below -2 -.1 0; within -.4 .3 .4; gain 9 12 11.52; gain 12 14 11.52; "
    "most -.01 .03 .03; least .03 .04 .03",
    "contradicted": "above -2 -.1 0; below .1 2 0; within .5 .9 .4; within -.9 -.5 .4; gain 9 11 11.52; "
    "gain -1 1 11.52; most .031 .05 .03; least .01 .02 .03",
    "not separable": "above -.1 2 0; below -2 .1 0; within -.5 .3 .4; within -.9 .9 .4; gain -1 12 11.52; "
    "most .02 .04 .03; least .02 .04 .03",
}


@pytest.mark.parametrize(
    ("case", "expected"), [(case, name) for name, cases in VERDICTS.items() for case in cases.split("; ")]
)
def test_an_interval_gives_its_verdict(case, expected):
    kind, *numbers = case.split()
    assert verdict(kind, *map(float, numbers)) == expected


def test_every_claim_is_judged(found):
    apart = {
        "adapter-half-within-cl": "not separable",  # 0.38 against 0.40, at the bound up to rounding
        "fence-perplexity": "contradicted",  # 5 %
        "grace-apart-above-random": "not separable",
    }
    expected = {claim.id: "reproduced" for claim in TRADED} | apart
    assert {name: one.verdict for name, one in found.items()} == expected
    one = found["adapter-within-cl"]
    assert one.value == pytest.approx(-0.01) and one.levels == pytest.approx([0.40, 0.41]) and one.seeds == 3
    assert one.compute == pytest.approx(1.0) and found["adapter-half-within-cl"].compute == pytest.approx(1.3)


def test_entries_of_the_page_are_in_percent_and_around_the_bound(found):
    entries = {name: trade_entry(one) for name, one in found.items()}
    near = entries["adapter-within-cl"]
    assert (near["ours"], near["bound"], near["word"]) == (pytest.approx(-1.0), 2.0, "holds")
    assert near["levels"] == pytest.approx([40.0, 41.0])
    drift = entries["fence-perplexity"]
    assert (drift["ours"], drift["word"], drift["bound"]) == (pytest.approx(-2.0), "does not hold", None)
    assert drift["low"] <= drift["ours"] <= drift["high"] and drift["low"] == pytest.approx(-2.0)
    assert entries["fence-well-formed"]["ours"] == pytest.approx(1.0)
    assert {entry["group"] for entry in entries.values()} == {verdicts.TOGETHER}


def test_other_rationales_than_the_backbones_contradict(tmp_path):
    made = traded.spec(tmp_path, only=("adapter",)).traded
    traded.fill(made)
    path = next(Path(cell.results[0]) for cell in made.general if (cell.run, cell.seed) == ("adapter", 2))
    value = json.loads(path.read_text())
    value["rationale"]["digest"] = "another"
    path.write_text(json.dumps(value))
    found = {one.claim.id: one for one in every(trade(made, 10))}
    one = found["adapter-writes-the-same"]
    assert one.verdict == "contradicted" and one.value == pytest.approx(2 / 3) and one.seeds == 3
    assert found["adapter-within-cl"].verdict == "not run" and found["adapter-within-cl"].value is None
    empty = trade_entry(found["fence-perplexity"])
    assert (empty["ours"], empty["low"], empty["verdict"]) == (None, None, "not run")


def test_claims_name_runs_of_the_studies_and_ids_are_their_own():
    defaults = CONFIG["defaults"]
    compared = {*defaults["ablations"]["modes"]["runs"], *defaults["tables"]["tradeoff"]["rows"]}
    assert {run.split(".")[0] for claim in TRADED for run in claim.runs} <= compared
    others = {run for claim in CLAIMS if claim not in TRADED for run in claim.runs}
    assert others - {verdicts.BEST} <= set(defaults["runs"])
    assert len({claim.id for claim in CLAIMS}) == len(CLAIMS)
