"""What ablations add to the study by hand, and that the totals hold what was asked for and no more."""

from dataclasses import replace

import pytest

from grace.report.planning.additions import ALL
from grace.report.planning.jobs import plan
from tests.report.hand import HAND, KEPT, WHOLE, job, rule, spec

STORED = 189 * (16 + 200)  # bytes of BIOSSES' embeddings and rationales


def added(made):
    return {one.ablation: one for one in made.additions}


def test_ablations_by_hand():
    made = plan(spec("hand", wanted=True), KEPT)
    found = added(made)
    counts = {name: (one.runs, one.trainings, one.evaluations) for name, one in found.items()}
    assert counts == {
        "algorithm": (1, 1, 1), "pooling": (1, 0, 1), "batch": (1, 1, 1), "rollouts": (1, 1, 1),
        "budget": (4, 0, 4), "progression": (2, 0, 2), ALL: (10, 3, 10),
    }  # fmt: skip
    batch = job(made, "grace.batch-20").work.seconds + made.evaluations["small", "grace.batch-20", "sts"].seconds
    assert found["batch"].gpu_hours == pytest.approx(batch / 3600)
    assert found["batch"].disk == 4 * 1416 + STORED and found["pooling"].disk == STORED
    # A rationale of 30 tokens and one of 50, of two models; the second checkpoint is never reached
    assert found["budget"].disk == 2 * (189 * (16 + 4 * 30) + STORED)
    assert found["progression"].disk == 4 * 1416 + 2 * STORED
    assert found["algorithm"].shown_in == ["table4"] and found["budget"].shown_in == ["figure4", "budget"]


def test_the_totals_hold_what_was_asked_for():
    without, whole = (plan(spec("hand", wanted=wanted), KEPT) for wanted in (False, True))
    latency = rule(whole, "latency").gpu_hours  # of figure 4
    assert whole.gpu_hours - without.gpu_hours - latency == pytest.approx(added(whole)[ALL].gpu_hours)
    # Checkpoints are kept in any case
    assert sum(whole.disk.values()) - sum(without.disk.values()) == added(whole)[ALL].disk - 4 * 1416
    assert all(one.counted for one in whole.additions) and not any(one.counted for one in without.additions)
    assert [replace(one, counted=True) for one in without.additions] == whole.additions


def test_a_dropped_ablation_takes_its_jobs_along():
    rest = {name: None if name == "batch" else entry for name, entry in HAND["ablations"].items()}
    less = plan(spec("hand", wanted=True, ablations=rest), KEPT)
    whole = plan(spec("hand", wanted=True), KEPT)
    assert whole.gpu_hours - less.gpu_hours == pytest.approx(added(whole)["batch"].gpu_hours)
    assert "batch" not in added(less)


def test_every_seed_and_backbone_counts():
    one, three = (added(plan(spec("hand", wanted=True, seeds=seeds), KEPT)) for seeds in ([0], [0, 1, 2]))
    assert three["batch"].gpu_hours == pytest.approx(3 * one["batch"].gpu_hours)
    assert three["batch"].trainings == 3 and three["batch"].disk == 3 * one["batch"].disk
    paper = added(plan(spec("paper")))
    # 25 points of two runs on one backbone, 6 groups of tasks; poolings on all four
    assert (paper["lambda"].trainings, paper["lambda"].evaluations) == (50, 300)
    assert (paper["pooling"].runs, paper["pooling"].evaluations) == (6, 6 * 4 * 6)


def test_a_run_of_two_ablations_counts_once_in_all():
    again = {"runs": ["grace"], "backbones": ["qwen2.5-3b"], "grid": {"grace.rollouts": [4]}, **WHOLE}
    twice = {**HAND["ablations"], "again": again}
    found = added(plan(spec("hand", ablations=twice), KEPT))
    assert found["again"].gpu_hours == found["rollouts"].gpu_hours and found[ALL].trainings == 3


def test_the_trade_off_adds_its_models_in_both_modes_with_their_seeds():
    at = {"ablations": {**HAND["ablations"], "modes": {}}}
    without, whole = (plan(spec("hand", tradeoff=asked, **at), KEPT) for asked in (False, True))
    one = added(without)["modes"]
    # Nine models more, of three seeds, and two seeds more of four others; base and reasoning are no trainings, nor is
    # reasoning-sampled, of three seeds too. Eleven of the models in a second mode
    assert (one.runs, one.trainings, one.evaluations) == (27, 9 * 3 + 4 * 2, (9 + 1 + 11) * 3 + 6 * 2)
    assert one.shown_in == ["tradeoff", "effects", "pareto"] and one.at_once
    assert whole.gpu_hours - without.gpu_hours == pytest.approx(one.gpu_hours)
    assert sum(whole.disk.values()) - sum(without.disk.values()) == pytest.approx(one.disk)
    assert (added(without)[ALL].runs, one.counted) == (10, False) and added(whole)["modes"].counted
    assert rule(whole, "train").jobs == rule(without, "train").jobs + 35


def test_sizes_that_are_not_known_are_not_zero():
    found = added(plan(spec("demo")))
    assert not any(one.sized for one in found.values()) and all(
        one.sized for one in added(plan(spec("paper"))).values()
    )
