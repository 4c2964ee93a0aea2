"""The statements about embeddings and generation at once, on results that confirm or contradict them by design."""

import json
from pathlib import Path

import pytest

from grace.report.scoring import judged, statements
from grace.report.scoring.statements import STATEMENTS, verdict
from grace.report.scoring.tradeoff import trade
from tests.report import traded
from tests.test_config import CONFIG


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """By id."""
    runs = {run.split(".")[0] for one in STATEMENTS for run in (one.run, one.other) if run}
    made = traded.spec(tmp_path_factory.mktemp("all"), only=tuple(runs)).traded
    traded.fill(made)
    return {one.statement.id: one for one in judged.every(trade(made, 50))}


@pytest.mark.parametrize(
    ("kind", "low", "high", "expected"),
    [
        ("most", -0.01, 0.03, "reproduced"), ("most", 0.031, 0.05, "contradicted"),
        ("most", 0.02, 0.04, "not separable"), ("least", 0.02, 0.04, "not separable"),
        ("least", 0.03, 0.04, "reproduced"), ("least", 0.01, 0.02, "contradicted"),
        ("within", -0.03, 0.03, "reproduced"), ("within", -0.05, -0.04, "contradicted"),
    ],
)  # fmt: skip
def test_verdicts_by_a_bound(kind, low, high, expected):
    assert verdict(kind, low, high, 0.03) == expected


def test_every_statement_is_judged(found):
    verdicts = {name: one.verdict for name, one in found.items()}
    assert verdicts == {
        "adapter-within-cl": "reproduced",  # 0.39 against 0.40
        "adapter-half-within-cl": "not separable",  # 0.38, at the bound up to rounding
        "adapter-direct-writes-the-same": "reproduced", "adapter-writes-the-same": "reproduced",
        "fence-direct-perplexity": "reproduced", "fence-perplexity": "contradicted",  # 2 % and 5 %
        "fence-direct-well-formed": "reproduced", "fence-well-formed": "reproduced",
        "adapter-grace-above-random": "reproduced", "grace-apart-above-random": "not separable",
        "grace-above-random-retrieval": "reproduced", "grace-rollout-above-random-retrieval": "reproduced",
    }  # fmt: skip
    one = found["adapter-within-cl"]
    assert one.value == pytest.approx(-0.01) and one.levels == pytest.approx([0.40, 0.41]) and one.seeds == 3
    assert one.compute == pytest.approx(1.0) and found["adapter-half-within-cl"].compute == pytest.approx(1.3)


def test_entries_of_the_page_are_in_percent_and_around_the_bound(found):
    entries = {name: judged.entry(one) for name, one in found.items()}
    near = entries["adapter-within-cl"]
    assert (near["ours"], near["bound"], near["word"]) == (pytest.approx(-1.0), 2.0, "holds")
    assert near["levels"] == pytest.approx([40.0, 41.0])
    drift = entries["fence-perplexity"]
    assert (drift["ours"], drift["word"], drift["bound"]) == (pytest.approx(-2.0), "does not hold", None)
    assert drift["low"] <= drift["ours"] <= drift["high"] and drift["low"] == pytest.approx(-2.0)
    assert entries["fence-well-formed"]["ours"] == pytest.approx(1.0)
    assert {entry["group"] for entry in entries.values()} == {statements.AT_ONCE}


def test_other_rationales_than_the_backbones_contradict(tmp_path):
    made = traded.spec(tmp_path, only=("adapter",)).traded
    traded.fill(made)
    path = next(Path(cell.results[0]) for cell in made.general if (cell.run, cell.seed) == ("adapter", 2))
    value = json.loads(path.read_text())
    value["rationale"]["digest"] = "another"
    path.write_text(json.dumps(value))
    found = {one.statement.id: one for one in judged.every(trade(made, 10))}
    one = found["adapter-writes-the-same"]
    assert one.verdict == "contradicted" and one.value == pytest.approx(2 / 3) and one.seeds == 3
    assert found["adapter-within-cl"].verdict == "not run" and found["adapter-within-cl"].value is None
    empty = judged.entry(found["fence-perplexity"])
    assert (empty["ours"], empty["low"], empty["verdict"]) == (None, None, "not run")


def test_statements_name_runs_of_the_studies_and_ids_are_their_own():
    named = {run.split(".")[0] for one in STATEMENTS for run in (one.run, one.other) if run}
    compared = {*CONFIG["defaults"]["ablations"]["modes"]["runs"], *CONFIG["defaults"]["tables"]["tradeoff"]["rows"]}
    assert named <= compared
    ids = [one.id for one in (*STATEMENTS, *statements.CLAIMS)]
    assert len(set(ids)) == len(ids)
