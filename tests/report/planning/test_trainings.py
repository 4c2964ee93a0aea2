"""Estimates of the trade-off's trainings against numbers worked out by hand (tests/report/hand.py)."""

import pytest

from grace.report.planning.jobs import plan
from tests.report.hand import HAND, KEPT, job, rule, spec

BATCH = {34: 603_840, 122: 3_884_480, 84: 2_163_840, 172: 6_852_480}  # of ten texts: 10 (2 x 616 L + 16 L^2)


@pytest.fixture(scope="module")
def made():
    return plan(spec("hand", tradeoff=True, ablations={**HAND["ablations"], "modes": {}}), KEPT)


def test_an_adapter_by_hand(made):
    direct, half = job(made, "adapter-direct"), job(made, "adapter")
    # Two passes, since no gradient of weights is computed; a query and two passages, five times
    assert direct.parts == pytest.approx({"forward and backward": 2 * (BATCH[34] + 2 * BATCH[122]) / 5e11})
    assert (direct.updates, direct.texts, direct.work.written) == (5, 30, 0)
    # With a rationale of 50 tokens behind each
    assert half.parts == pytest.approx({"forward and backward": 2 * (BATCH[84] + 2 * BATCH[172]) / 5e11})
    # Rank 2: 2 x (16 + 12 + 12 + 16 + 24 + 24 + 24), and 2 x (100 + 8) of the token table
    assert direct.memory["state"] == 4 * 1416 + 16 * (256 + 216)
    assert half.memory["working"] == 30 * (1024 + 60) * 256 + 2 * 1416


def test_a_fence_by_hand(made):
    one = job(made, "fence-direct")
    # 8 rows of 172 tokens of which 50 are scored, 8 of 100: two passes of the model and one of the backbone
    rationale = 8 * (2 * 616 * 172 + 16 * 172**2) + 1600 * 8 * 50
    text = 8 * (2 * 616 * 100 + 16 * 100**2) + 1600 * 8 * 100
    assert one.parts["fence"] == pytest.approx(3 * (rationale + text) / 5e11)
    whole = plan(spec("hand", tradeoff=True, ablations={**HAND["ablations"], "modes": {}},
                      kl_fence={**HAND["kl_fence"], "lora": None}), KEPT)  # fmt: skip
    full = job(whole, "fence-direct")
    assert full.parts["fence"] == pytest.approx(4 / 3 * one.parts["fence"])
    assert full.memory["state"] == 16 * 1416 + 2 * 1416  # and the frozen copy


def test_rounds_by_hand(made):
    one, half = job(made, "adapter-grace"), job(made, "adapter")
    assert (one.repeats, one.updates) == (2, 2 * (3 + 4))
    # Of a round: 3 x 10 rows of three texts, and 4 x 40 texts of the policy's, 50 tokens each
    assert one.work.written == 2 * (3 * 30 + 4 * 40) * 50
    assert one.parts["adapter: forward and backward"] == pytest.approx(3 * half.parts["forward and backward"])
    # Two passes over 20 rollouts of 172 tokens
    assert one.parts["policy: update"] == pytest.approx(4 * 2 * 15_304_960 / 5e11)
    assert one.parts["writing for the adapter"] > 0
    assert one.memory["state"] == 4 * 1416 + 16 * (32 * 128) + 16 * (256 + 216)
    alone = plan(spec("hand", tradeoff=True, ablations={**HAND["ablations"], "modes": {}},
                      rounds={**HAND["rounds"], "adapter_steps": 0}), KEPT)  # fmt: skip
    policy = job(alone, "adapter-grace")
    assert (policy.updates, policy.work.written) == (2 * 4, 2 * 4 * 40 * 50)
    assert policy.parts["update"] == pytest.approx(2 * 15_304_960 / 5e11)


def test_the_best_of_k_by_hand():
    """Made for a table that names it."""

    def planned(**offline):
        rows = {"rows": {"grace-offline": None}}
        return job(
            plan(spec("hand", tables={"table1": rows}, offline={**HAND["offline"], **offline}), KEPT), "grace-offline"
        )

    one = planned()
    # 50 of the 55 rows fill batches of 10: three rollouts and a negative of 122 tokens, a query of 34, 50 tokens each
    assert (one.texts, one.repeats, one.updates) == (250, 2, 2 * 2 * 3)
    assert (one.work.read, one.work.written) == (2 * 50 * (4 * 122 + 34), 2 * 250 * 50)
    # 50 sequences of 172 tokens, of which 50 are scored; three passes and one of checkpointing, twice
    taught = 5 * BATCH[172] + 1600 * 50 * 50
    assert one.parts["update"] == pytest.approx(2 * 4 * taught / 5e11)
    assert one.memory["state"] == 16 * 1416
    pairs = planned(objective="dpo")
    assert pairs.parts["update"] == pytest.approx(2 * 5 * 2 * taught / 5e11)
    assert pairs.parts["writing"] == one.parts["writing"] and pairs.memory["state"] == 20 * 1416
    both = planned(credit="all")
    assert both.work.written == 2 * one.work.written and both.updates == 2 * 2 * 5
    assert both.work.read - one.work.read == 2 * 50 * (3 * 34 + 2 * 122)


def test_rationales_are_written_once_for_all_that_read_them(made):
    found = rule(made, "rationales")
    # Five steps of ten rows, three texts each; a query of 34 and two passages of 122
    assert (found.jobs, found.work.written, found.work.read) == (1, 50 * 3 * 50, 50 * (34 + 2 * 122))
    assert made.disk["rationales"] == 50 * 3 * (8 * 2 + 4 * 50)
    longer = plan(spec("hand", tradeoff=True, ablations={**HAND["ablations"], "modes": {}},
                       adapter={**HAND["adapter"], "max_steps": None}), KEPT)  # fmt: skip
    assert rule(longer, "rationales").work.written == 990 * 3 * 50  # all rows
    assert "rationales" not in {one.name for one in plan(spec("hand"), KEPT).rules}


def test_a_backbone_of_ones_own_by_hand():
    e = plan(spec("lab", backbones=["lab-20m"])).estimates
    b, work = e.spec.backbones["lab-20m"], e.backbone("lab-20m")
    # 600 x 64 rows of 256 tokens; 800 x 64 prompts of 128 tokens at most, and 0.3 x as many rows of 256
    assert work.read == 38_400 * 256 + 51_200 * 128 + 15_360 * 256 and work.written == 0
    layers, head = 17_209_728 + 6_784, 8192 * 384  # matrices; biases and norms
    flops = 2 * layers * work.read + 2 * head * (38_400 * 256 + 51_200 * 20 + 15_360 * 256)
    flops += 2 * 10 * 384 * (38_400 * 256**2 + 51_200 * 128**2 + 15_360 * 256**2)
    assert work.seconds == pytest.approx(3 * flops / (989e12 * 0.4), rel=0.01) and 1 < work.seconds < 60
    assert b.pretrain_steps == 600 and rule(plan(spec("demo")), "backbone").gpu_hours == 0


def test_what_a_model_takes_on_disk(made):
    e = made.estimates
    assert e.saved("small", "adapter") == 4 * (256 + 216) and e.saved("small", "fence-direct") == 4 * 1416
    assert e.saved("small", "adapter-grace") == 4 * (256 + 216 + 32 * 128)


def test_an_adapter_after_reasoning_writes_nothing(made):
    assert made.evaluations["small", "adapter.reasoning", "sts"].written == 0
    assert made.evaluations["small", "fence-direct.reasoning", "sts"].written == 189 * 50
