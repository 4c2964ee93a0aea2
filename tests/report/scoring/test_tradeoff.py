"""Measures of the trade-off on results that were made up to be worked out by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from grace.config.specs import Cell
from grace.report.scoring import bootstrap
from grace.report.scoring.tradeoff import (
    COSINE,
    EMBEDDING,
    GENERAL_CHANGE,
    NDCG,
    PERPLEXITY_CHANGE,
    WRITING,
    Compute,
    compute,
    trade,
)
from tests.report import traded
from tests.report.plots.made import general


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    return some(tmp_path_factory.mktemp("all"), "base", "cl", "cl-long", "adapter", "fence-direct", "fence-rationale")


def some(root, *runs):
    """Results of a few runs."""
    made = traded.spec(root, only=runs).traded
    traded.fill(made)
    return made


def test_each_measure_by_hand(spec):
    found = trade(spec, 50)
    assert found.backbones == ["tiny"] and found.planned("tiny", "adapter.reasoning") == [0, 1, 2]
    values = {
        name: found.value(name, "tiny", "fence-rationale.reasoning")
        for name in (NDCG, EMBEDDING, WRITING, PERPLEXITY_CHANGE, GENERAL_CHANGE, COSINE)
    }
    # Seeds 0.33, 0.34, 0.35 in retrieval, 0.5 in the five other tasks
    expected = {
        NDCG: 0.34,
        EMBEDDING: (0.34 + 5 * 0.5) / 6,
        WRITING: 0.99,
        PERPLEXITY_CHANGE: 0.05,
        GENERAL_CHANGE: 0.0,
    }
    assert {name: values[name].point for name in expected} == pytest.approx(expected)
    assert values[COSINE].point == pytest.approx(0.3) and values[NDCG].deviation == pytest.approx(0.01)
    assert found.value(NDCG, "tiny", "fence-rationale", [1]).point == pytest.approx(0.28)


def test_a_mode_changes_embeddings_and_no_generation(spec):
    found = trade(spec, 50)
    direct, reasoning = ("cl", "cl.reasoning")
    assert found.mode(direct) == "direct" and found.mode(reasoning) == "reasoning" and found.of(reasoning) == "cl"
    assert found.value(NDCG, "tiny", direct).point > found.value(NDCG, "tiny", reasoning).point
    for name in (WRITING, PERPLEXITY_CHANGE):
        assert found.value(name, "tiny", direct).point == found.value(name, "tiny", reasoning).point


def test_the_perplexity_is_paired_with_the_backbones_text_by_text(spec):
    # Every text is worse by the same factor, so that a resample of texts changes the perplexity and not its ratio.
    own = trade(spec, 50).value(PERPLEXITY_CHANGE, "tiny", "cl")
    assert own.interval == pytest.approx((0.5, 0.5))
    cell = next(cell for cell in spec.general if (cell.run, cell.seed) == ("cl", 0))
    values = json.loads(Path(cell.results[0]).read_text())["tasks"]["docstring_perplexity"]["items"]["parts"][0][
        "values"
    ]
    assert np.std(values) > 1


def test_an_effect_is_over_the_seeds_that_both_runs_have(tmp_path):
    spec = some(tmp_path, "adapter", "cl-long")
    lost = next(cell for cell in spec.cells if (cell.run, cell.seed) == ("adapter", 2))
    Path(lost.results[0]).unlink()
    found = trade(spec, 50)
    effect = found.effect(NDCG, "tiny", "adapter", "cl-long")
    assert [one.seeds for one in effect.pairs[0]] == [2, 2]
    # not that of three seeds' mean
    assert effect.gap == pytest.approx(-0.02) and effect.interval == pytest.approx((-0.02, -0.02))
    assert effect.deviation == pytest.approx(0.0, abs=1e-12)
    assert found.missing == [lost.results[0]]


def test_an_effects_interval_is_that_of_a_slow_loop_over_items(tmp_path):
    spec = some(tmp_path, "grace", "grace-random")
    for place, run in enumerate(("grace", "grace-random")):
        for cell in (one for one in spec.cells if one.run == run):
            value = json.loads(Path(cell.results[0]).read_text())
            kept = value["tasks"]["DocstringRetrieval"]
            noise = np.random.default_rng([place, cell.seed]).normal(size=60) * 0.05
            kept["items"]["parts"][0]["values"] = (kept["main_score"] + noise - noise.mean()).tolist()
            Path(cell.results[0]).write_text(json.dumps(value))
    found = trade(spec, 40)
    interval = found.effect(NDCG, "tiny", "grace", "grace-random").interval
    drawn = np.concatenate(list(bootstrap.counts(60, 40, 0, "DocstringRetrieval/0")))
    gaps = []
    for counts in drawn:
        each = []
        for run in ("grace", "grace-random"):
            cells = [json.loads(Path(c.results[0]).read_text()) for c in spec.cells if c.run == run]
            parts = [one["tasks"]["DocstringRetrieval"]["items"]["parts"][0]["values"] for one in cells]
            each.append(np.mean([sum(n * v for n, v in zip(counts, values, strict=True)) / 60 for values in parts]))
        gaps.append(each[0] - each[1])
    assert interval == pytest.approx(tuple(np.percentile(gaps, [2.5, 97.5])))
    assert interval[1] - interval[0] > 0.005


def test_rationales_are_the_backbones_where_their_hash_is(tmp_path):
    spec = some(tmp_path, "adapter", "fence-direct")
    found = trade(spec, 10)
    assert found.identical("tiny", "adapter", 0) is True and found.identical("tiny", "fence-direct", 0) is False
    cell = next(cell for cell in spec.general if (cell.run, cell.seed) == ("adapter", 1))
    value = json.loads(Path(cell.results[0]).read_text())
    del value["rationale"]["digest"]
    Path(cell.results[0]).write_text(json.dumps(value))
    assert trade(spec, 10).identical("tiny", "adapter", 1) is None  # of an earlier version: not known, not "no"


def test_compute_is_a_mean_over_seeds_and_a_share(spec):
    found = trade(spec, 10)
    assert found.compute("tiny", "cl-long") == 100 and found.compute("tiny", "base") == 0
    # 60 seconds for 10,000 rows, of which it read 5,000
    assert found.compute_share("tiny", "adapter", "cl-long") == pytest.approx(1.3)
    assert found.compute_share("tiny", "adapter", "base") is None


def test_without_a_perplexity_task_the_general_average_is_what_there_is(tmp_path):
    made = traded.spec(tmp_path, study="single-gpu", only=("cl",)).traded
    for cell in made.general:
        score = 0.5 - 0.1 * (cell.run != "reasoning")
        general(cell, dict.fromkeys(("gsm8k", "mmlu", "triviaqa", "fever", "bbh", "humaneval"), score), 1.0)
    found = trade(made, 10)
    assert not found.has_perplexity and len(found.accuracies) == 6
    assert found.value(PERPLEXITY_CHANGE, "qwen2.5-0.5b", "cl") is None
    assert found.value(GENERAL_CHANGE, "qwen2.5-0.5b", "cl").point == pytest.approx(-0.1)


# ---- compute --------------------------------------------------------------------------------


def cell(root: Path, names: tuple[str, ...] = ("model.json",), **more) -> Cell:
    made = Cell(backbone="tiny", run="cl", seed=0, results=[str(root / name) for name in names])
    traded.trained(made, **more)
    return made


def test_cpu_seconds_and_tokens(tmp_path):
    assert compute(cell(tmp_path)) == Compute(100.0, None, 1000, 50, "cpu")


def test_on_gpus_seconds_times_processes(tmp_path):
    settings = {"grace": {"processes": 4}, "contrastive": None}
    found = compute(cell(tmp_path, hardware={"gpus": ["H100"] * 4}, settings=settings))
    assert (found.seconds, found.device) == (4 * 55.0, "gpu")


def test_its_share_of_the_rationales_is_in_it_and_apart(tmp_path):
    found = compute(cell(tmp_path, ("model.json", "rationales.json")))
    assert (found.rationales, found.seconds) == (30.0, 130.0)  # 5,000 of 10,000 rows in 60 seconds


def test_what_is_not_known_is_missing_and_said(tmp_path):
    assert compute(Cell(backbone="tiny", run="base", seed=0, results=[])) == Compute(seconds=0.0)
    gone = compute(Cell(backbone="tiny", run="cl", seed=0, results=[str(tmp_path / "none.json")]))
    assert gone.seconds is None and "none.json" in gone.problems[0]
    older = cell(tmp_path, tokens=None, cpu_seconds=None)
    assert compute(older) == Compute(None, None, None, None, "cpu")
    without = cell(tmp_path, ("model.json", "rationales.json"))
    Path(without.results[1]).unlink()
    assert compute(without).seconds is None  # not that of the training alone
    Path(without.results[0]).write_text("{")
    assert "cannot be read" in compute(without).problems[0]


@pytest.mark.parametrize("resumed", [None, "checkpoint-20"])
def test_a_resumed_training_says_that_its_time_is_not_all(tmp_path, resumed):
    assert bool(compute(cell(tmp_path, resumed_from=resumed)).problems) is bool(resumed)


def test_rationales_of_an_earlier_job_are_said(tmp_path):
    made = cell(tmp_path, ("model.json", "rationales.json"))
    record = json.loads(Path(made.results[1]).read_text())
    Path(made.results[1]).write_text(json.dumps({**record, "texts": 30, "written": 10}))
    assert "20 of 30 rationales" in compute(made).problems[0]
