"""Every estimate of a small study against numbers worked out by hand (tests/report/hand.py)."""

import pytest

from grace.report.planning.jobs import plan, variations
from tests.report.hand import HAND, HARDWARE, KEPT, job, rule, spec

NONE = dict.fromkeys(HAND["ablations"])


def test_grace_by_hand():
    one = job(plan(spec("hand"), KEPT), "grace")
    # 20 rollouts of passages, 10 queries and 10 negatives (78 tokens on average); 990 rows, twice, 10 at a time
    assert (one.texts, one.repeats, one.updates, one.gpus) == (40, 198, 198, 1)
    assert one.work.read == (20 * 122 + 10 * 34 + 10 * 122) * 198
    assert one.work.written == 40 * 50 * 198
    parts = {
        # 20 (2 x 616 x 122 + 16 x 122^2) + 1,600 x 20, and the same with 78
        "prefill": (7_800_960 + 3_900_800) / 5e11,
        # 60 steps of 2,832 bytes; 1,000 tokens x 16 bytes x contexts of 147 and 103
        "decode": (169_920 + 2_352_000 + 1_648_000) / 5e8,
        "step overhead": 0,
        # 3 x (20 (2 x 616 x 172 + 16 x 172^2) + 1,600 x 1,000)
        "update": 3 * 15_304_960 / 5e11,
    }
    assert one.parts == pytest.approx(parts)
    assert one.work.seconds == pytest.approx(198 * sum(parts.values())) and one.wall == one.work.seconds
    # The cache of 40 texts of 1,084 tokens is more than the activations of 2, 2,168 x 256 bytes; and a bfloat16 copy
    assert one.memory == {"state": 16 * 1416, "working": 16 * 40 * 1084 + 2 * 1416, "vLLM": 0}


def test_unsupervised_grace_has_one_anchor_and_no_negative():
    one = job(plan(spec("hand"), KEPT), "grace-unsup")
    assert one.texts == 30 and one.work.written == 30 * 50 * 198
    assert one.work.read == pytest.approx(30 * (22 + 106 / 5) * 198)


def test_grace_with_vllm_by_hand():
    grace = {"engine": "vllm", "processes": 2, "vllm_tensor_parallel": 2, "gradient_checkpointing": True}
    both = {"resources": {"train": {"gpu": 2}}, "adapter": {**HAND["adapter"], "processes": 2}}
    made = plan(spec("hand", grace=grace, **both), KEPT)
    one = job(made, "grace")
    assert one.parts["pooling"] == pytest.approx((13_704_960 + 8_396_800) / 5e11)
    assert one.parts["update"] == pytest.approx(4 * 15_304_960 / 5e11)
    # One engine on two GPUs holds all 40: as long as the longest rationale, 60 steps, as with transformers
    assert one.parts["decode"] == pytest.approx((169_920 + 2_352_000 + 1_648_000) / 5e8)
    assert one.gpus == 2 and one.wall == one.work.seconds / 2
    # Checkpointed activations: 2 x 1,084 tokens x 2 bytes x 8, and twice 2,168 x 256
    assert one.memory == {"state": 16 * 1416 / 2, "working": 2168 * (16 + 512), "vLLM": 0.5e9} and one.room
    # Two engines read the weights twice
    apart = job(plan(spec("hand", grace={**grace, "vllm_tensor_parallel": 1}, **both), KEPT), "grace")
    assert apart.parts["decode"] - one.parts["decode"] == pytest.approx(169_920 / 5e8)


def test_an_ablation_changes_what_a_training_takes():
    made = plan(spec("hand", wanted=True), KEPT)
    batch, rollouts, remax = (job(made, f"grace.{name}") for name in ("batch-20", "rollouts-4", "estimator-remax"))
    # 990 rows 20 at a time, twice; 40 rollouts and 20 anchors; a greedy rollout beside query and negative
    assert (batch.texts, batch.repeats) == (80, 98) and (rollouts.texts, rollouts.repeats) == (60, 198)
    assert remax.texts == 50 and remax.work.read == pytest.approx((20 * 122 + 10 * (34 + 122 + 122)) * 198)
    base = job(made, "grace")
    assert (
        rollouts.parts["update"] == pytest.approx(2 * base.parts["update"])
        and remax.parts["update"] == base.parts["update"]
    )
    assert {one.run for one in made.trainings if "." in one.run} == {batch.run, rollouts.run, remax.run}
    assert rule(made, "train").jobs == 8 + 3


def test_several_updates_of_a_generation_need_the_old_log_probabilities():
    one, two = (plan(spec("hand", grace={**HAND["grace"], "updates_per_generation": n}), KEPT) for n in (1, 2))
    one, two = job(one, "grace"), job(two, "grace")
    assert two.parts == {**one.parts, "old log-probabilities": pytest.approx(15_304_960 / 5e11)}
    assert (two.repeats, two.updates) == (198, 396)
    short = spec("hand", grace={**HAND["grace"], "updates_per_generation": 2, "max_steps": 10}, ablations=NONE)
    few = job(plan(short, KEPT), "grace")
    assert (few.repeats, few.updates) == (5, 10)


def test_contrastive_by_hand():
    made = plan(spec("hand"), KEPT)
    cl, simcse = job(made, "cl"), job(made, "simcse")
    # 10 (2 x 616 x 34 + 16 x 34^2) and twice 10 (2 x 616 x 122 + 16 x 122^2); 990 rows, once
    assert cl.parts == pytest.approx({"forward and backward": 3 * (603_840 + 2 * 3_884_480) / 5e11})
    assert (cl.texts, cl.updates, cl.work.written) == (30, 99, 0)
    # 43.2 tokens, twice; mini batches of 5 need the gradient cache, a fourth pass
    # 10 rows of three texts wait for the loss: 30 x 1,024 tokens x 256 bytes; with the cache 5 of one
    assert cl.memory["working"] == 30 * 1024 * 256 + 2 * 1416 and simcse.memory["working"] == 5 * 1024 * 256 + 2 * 1416
    assert simcse.parts["forward and backward"] == pytest.approx(4 * 2 * 10 * (2 * 616 * 43.2 + 16 * 43.2**2) / 5e11)


def test_lora_saves_a_pass_and_most_of_the_memory():
    lora = {"rank": 2, "alpha": 4, "dropout": 0, "targets": "all-linear"}
    full, low = (job(plan(spec("hand", grace={**HAND["grace"], "lora": x}), KEPT), "grace") for x in (None, lora))
    assert low.parts["update"] / full.parts["update"] == pytest.approx(2 / 3)
    assert low.memory["state"] == 4 * 1416 + 16 * 256


def test_evaluation_by_hand():
    made = plan(spec("hand"), KEPT)
    reasons, direct = (made.evaluations["small", run, "sts"] for run in ("reasoning", "base"))
    # BIOSSES: 92 distinct first texts of 154.67 characters, 97 second ones of 158.46
    first, second = 22 + 154.67 / 5, 22 + 158.46 / 5
    assert reasons.read == direct.read == pytest.approx(92 * first + 97 * second)
    assert (reasons.written, direct.written) == (189 * 50, 0)
    prefill = [n * (2 * 616 * length + 16 * length**2) for n, length in ((92, first), (97, second))]
    assert direct.seconds == pytest.approx(sum(prefill) / 5e11)
    # 64 at a time, each in the place of a finished one: 92 x 50 / 64 and 97 x 50 / 64 steps of 2,832 bytes
    cache = 92 * 50 * (first + 25) * 16 + 97 * 50 * (second + 25) * 16
    written = (sum(prefill) + 1600 * 189) / 5e11 + (189 * 50 / 64 * 2832 + cache) / 5e8
    assert reasons.seconds == pytest.approx(written)


def test_a_drawn_part_of_a_task_by_hand():
    groups = {"sts": ["BIOSSES"], "more": ["SciFact", "AskUbuntuDupQuestions", "EmotionClassification", "SummEval"]}
    sample = {"BIOSSES": 50, "SciFact": 20, "AskUbuntuDupQuestions": 36, "EmotionClassification": 300, "SummEval": 10}
    whole, part = (
        plan(spec("hand", evaluation={**HAND["evaluation"], "groups": groups, "sample": given}), KEPT)
        for given in ({}, sample)
    )
    counts = [[round(n) for n, _ in part.estimates.encoded("small", "base", group)] for group in groups]
    # Of 361 queries with 7,220 candidates 36 with 720; 11 documents a query; all 917 training texts; of 100 documents a
    # tenth of the 1,100 and 1,600 summaries.
    assert sorted(counts[0]) == [50, 50]
    assert sorted(counts[1]) == sorted([20, 220, 36, 720, 300, 917, 110, 160])
    assert whole.disk["MTEB data sets"] == part.disk["MTEB data sets"] > 0  # fetched whole


def test_an_encoder_only_model_takes_jobs_and_next_to_nothing_else(monkeypatch):
    before = plan(spec("hand"), KEPT)
    monkeypatch.setitem(HAND, "encoder", "minilm")
    after = plan(spec("hand", runs={"encoder": {"method": "encoder"}}), KEPT)
    jobs = [rule(made, "evaluate").jobs for made in (before, after)]
    assert jobs[1] == jobs[0] + 1 and rule(after, "encoder").jobs == 1 and rule(after, "encoder").gpu_hours == 0
    assert before.gpu_hours == after.gpu_hours and before.disk == after.disk


def test_rationales_that_are_there_are_pooled_in_one_pass():
    made = plan(spec("hand", wanted=True), KEPT)
    first, second = 22 + 154.67 / 5, 22 + 158.46 / 5
    whole = made.evaluations["small", "grace", "sts"]
    for run, rationale in (
        ("grace.pooling-max", 50),
        ("grace.max_new_tokens-30", 30),
        ("reasoning.max_new_tokens-30", 30),
    ):
        lengths = ((92, first + rationale), (97, second + rationale))
        work = made.evaluations["small", run, "sts"]
        assert work.seconds == pytest.approx(sum(n * (2 * 616 * at + 16 * at**2) for n, at in lengths) / 5e11)
        assert (work.read, work.written) == (whole.read, 0)
    larger = made.evaluations["small", "grace.max_new_tokens-90", "sts"]  # 50 tokens too
    assert larger.written == whole.written
    # But a longest one of 90: more steps than 92 x 50 / 64 and 97 x 50 / 64
    assert larger.seconds - whole.seconds == pytest.approx((2 * 90 - 189 * 50 / 64) * 2832 / 5e8)
    assert made.evaluations["small", "grace.step-100", "sts"] == whole


def test_general_by_hand():
    made = plan(spec("hand"), KEPT)
    # humaneval: 164 problems of 200 tokens, answers of 250, in 6 batches of 32; 9 models
    prefill = (164 * (2 * 616 * 200 + 16 * 200**2) + 1600 * 164) / 5e11
    decode = (6 * 250 * 2832 + 164 * 250 * 325 * 16) / 5e8
    assert rule(made, "general").gpu_hours == pytest.approx(9 * (prefill + decode) / 3600)
    few = plan(spec("hand", general={"limit": 32, "tasks": ["humaneval"], "rationales": 0}), KEPT)
    assert rule(few, "general").work.written == 9 * 32 * 250
    own = plan(spec("hand", general={"limits": {"humaneval": 16}, "tasks": ["humaneval"], "rationales": 0}), KEPT)
    assert rule(own, "general").work.written == 9 * 16 * 250


def test_disk_by_hand():
    disk = plan(spec("hand"), KEPT).disk
    # Rows of a query, a passage and a negative, and 80 bytes around them; texts of 106 characters
    assert disk["raw text"] == disk["pairs"] == 1000 * (60 + 2 * 500 + 80) + 1000 * (106 + 80)
    assert disk["rows"] == 990 * 1140 + 990 * 186 and disk["triples"] == 990 * 1140
    # Eight trainings, and of one a checkpoint before its end
    assert disk["backbones"] == 2 * 1416 and disk["models"] == 8 * 4 * 1416 and disk["kept checkpoints"] == 4 * 1416
    # Ten runs of 189 vectors of 8 halves; seven of them with rationales of 50 tokens
    assert disk["store"] == 10 * 189 * 16 + 7 * 189 * 200
    assert plan(spec("hand"), KEPT).checkpoints == 2 * 12 * 1416


def test_pairs_for_the_geometry_are_encoded_with_the_first_group():
    at = {**HAND["evaluation"], "groups": {"a": ["SICK-R"], "sts": ["BIOSSES"]}, "pairs": 4}
    with_pairs, without = (plan(spec("hand", evaluation={**at, "pairs": n}), KEPT) for n in (4, 0))
    # 4 queries of 34 tokens and 4 passages of 122
    more = {key: work.read - without.evaluations[key].read for key, work in with_pairs.evaluations.items()}
    assert more["small", "cl", "sts"] == more["small", "grace", "sts"] == pytest.approx(4 * (34 + 122))
    assert more["small", "grace", "a"] == 0
    assert with_pairs.disk["store"] - without.disk["store"] == 10 * 8 * 16 + 7 * 8 * 200
    few = plan(spec("hand", evaluation={**at, "pairs": 50}), KEPT)  # 10 are held out
    assert few.disk["store"] - without.disk["store"] == 10 * 20 * 16 + 7 * 20 * 200


def test_every_decoding_step_costs_its_overhead():
    grace = {**HAND["grace"], "processes": 2}
    over = {"resources": {"train": {"gpu": 2}}, "cl": {**HAND["cl"], "processes": 2}, "wanted": True}
    over["adapter"] = {**HAND["adapter"], "processes": 2}
    slow = {**HARDWARE, "step_overhead_ms": 10, "vllm_step_overhead_ms": 2}
    before, after = (plan(spec("hand", grace=grace, hardware=h, **over), KEPT) for h in (HARDWARE, slow))
    # 60 steps of each of two processes, 198 times; the update and CL decode nothing
    assert job(after, "grace").parts == {**job(before, "grace").parts, "step overhead": pytest.approx(2 * 60 * 0.01)}
    assert job(after, "grace").work.seconds - job(before, "grace").work.seconds == pytest.approx(198 * 1.2)
    assert job(after, "cl") == job(before, "cl")
    # An engine of vLLM on both: 60 steps of 2 ms in which two GPUs wait
    one = plan(spec("hand", grace={**grace, "engine": "vllm", "vllm_tensor_parallel": 2}, hardware=slow, **over), KEPT)
    assert job(one, "grace").parts["step overhead"] == pytest.approx(2 * 60 * 0.002)

    def added(run):
        return after.evaluations["small", run, "sts"].seconds - before.evaluations["small", run, "sts"].seconds

    # 92 x 50 / 64 and 97 x 50 / 64 steps; nothing where nothing is written
    assert added("reasoning") == pytest.approx(189 * 50 / 64 * 0.01)
    assert added("base") == added("grace.pooling-max") == 0
    more = {n: rule(after, n).work.seconds - rule(before, n).work.seconds for n in ("general", "latency", "cases")}
    # humaneval's 6 batches of 250 by 9 models; 6 times 70 tokens by two; 6 models, two batches of 60 steps
    assert more == pytest.approx({"general": 9 * 15, "latency": 6 * 70 * 2 * 0.01, "cases": 6 * 2 * 60 * 0.01})
    changed = dict(variations(spec("hand", hardware=slow), KEPT))
    assert changed["hardware.step_overhead_ms: 20"] > plan(spec("hand", hardware=slow), KEPT).gpu_hours


def test_latency_and_cases_by_hand():
    made = plan(spec("hand", wanted=True), KEPT)
    # 3 texts, twice: directly, and by backbone and grace with 20 and with 50 of 60 tokens, a step of 2,832 bytes each
    prefill = 6 * 5 * (2 * 616 * 122 + 16 * 122**2) / 5e11
    decode = 2 * 6 * (20 * (2832 + 132 * 16) + 50 * (2832 + 147 * 16)) / 5e8
    one = rule(made, "latency")
    assert (one.jobs, one.work.written) == (1, 6 * 2 * 70) and one.work.read == 6 * 5 * 122
    assert one.work.seconds == pytest.approx(prefill + decode)
    # The backbone, two checkpoints, grace, grace-rollout and grace-random; 2 documents and a query, a batch each
    each = (2 * (2 * 616 * 122 + 16 * 122**2) + 2 * 616 * 34 + 16 * 34**2 + 3 * 1600) / 5e11
    each += (2 * 60 * 2832 + (100 * 147 + 50 * 59) * 16) / 5e8
    assert rule(made, "cases").jobs == 1 and rule(made, "cases").work.seconds == pytest.approx(6 * each)
    assert rule(plan(spec("hand"), KEPT), "cases") == rule(made, "cases")
    assert "latency" not in {one.name for one in plan(spec("hand"), KEPT).rules}


def test_totals_add_up_over_seeds():
    one, three = plan(spec("hand"), KEPT), plan(spec("hand", seeds=[0, 1, 2]), KEPT)
    assert one.gpu_hours == pytest.approx(sum(r.work.seconds for r in one.rules) / 3600)
    # base is one model that samples nothing: its texts are in the store after the first seed
    base = one.evaluations["small", "base", "sts"].seconds / 3600
    cases = rule(one, "cases").gpu_hours  # of the first seed
    assert three.gpu_hours == pytest.approx(3 * one.gpu_hours - 2 * base - 2 * cases)
    assert three.disk["models"] == 3 * one.disk["models"] and three.disk["raw text"] == one.disk["raw text"]


def test_wall_time_is_never_shorter_than_a_training_and_its_evaluation():
    made = plan(spec("hand"), KEPT)
    longest = max(
        job(made, run).wall + made.evaluations["small", run, "sts"].seconds for run in ("grace", "grace-unsup")
    )
    assert made.chain == pytest.approx(longest)
    crowd = plan(spec("hand", hardware={**HARDWARE, "gpus": 1000}), KEPT)
    assert crowd.wall_hours == pytest.approx(longest / 3600) and crowd.gpu_hours == made.gpu_hours


def test_pooling_anew_waits_for_the_rationales():
    longer = {"pooling": {"runs": ["grace"], "points": {"max": {"pooling": {"method": "max"}}}}}
    made = plan(spec("hand", wanted=True, ablations=NONE | longer), KEPT)
    waits = (made.evaluations["small", run, "sts"].seconds for run in ("grace", "grace.pooling-max"))
    assert made.chain == pytest.approx(job(made, "grace").wall + sum(waits))
