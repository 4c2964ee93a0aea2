"""Every estimate of a small study against numbers worked out by hand (tests/report/hand.py)."""

from dataclasses import replace

import pytest

from grace.config.schema import Backbone, Hardware, Lora
from grace.report import plan as plan_
from grace.report.plan import ALL, Estimates, plan, variations
from tests.report.hand import CONFIG, HAND, HARDWARE, KEPT, SMALL, WHOLE, job, rule, study


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("qwen2.5-0.5b", 0.494),
        ("qwen2.5-1.5b", 1.544),
        ("llama3.2-3b", 3.213),
        ("qwen2.5-3b", 3.086),
        ("qwen3-4b", 4.022),
        ("smollm2-135m", 0.1345),
    ],
)
def test_parameters_are_those_of_the_model(name, billions):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    b = Backbone(**CONFIG["available_backbones"][name])
    shape = AutoConfig.for_model(
        b.architecture, vocab_size=b.vocab_size, hidden_size=b.width, intermediate_size=b.feed_forward,
        num_hidden_layers=b.layers, num_attention_heads=b.heads, num_key_value_heads=b.kv_heads,
        tie_word_embeddings=True, **({"head_dim": b.head_width} if b.head_width else {}),
    )  # fmt: skip
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape)
    assert plan_.parameters(b) == sum(p.numel() for p in model.parameters())
    assert plan_.parameters(b) / 1e9 == pytest.approx(billions, abs=0.001)  # as published


def test_adapters_by_hand():
    b = Backbone(**SMALL)
    # rank 2 x (16 + 12 + 12 + 16 + 24 + 24 + 24)
    assert plan_.adapter_parameters(b, Lora(rank=2, alpha=4, dropout=0, targets="all-linear")) == 256
    assert plan_.adapter_parameters(b, Lora(rank=2, alpha=4, dropout=0, targets=["q_proj", "v_proj"])) == 56


def test_costs_by_hand():
    b, h = Backbone(**SMALL), Hardware(gpu="x", decode_batch=4, **HARDWARE)
    assert (plan_.parameters(b), plan_.layer_parameters(b), plan_.cache_bytes(b)) == (1416, 616, 16)
    # 3 texts x (2 x 616 x 10 + 2 x 8 x 10^2) + 2 x 800 x 6
    assert plan_.forward_flops(b, 3, 10, 6) == 51_360
    assert plan_.compute_seconds(h, 51_360) == pytest.approx(51_360 / 5e11)
    # Mean context 20: 30 steps x 2,832 bytes of weights + 80 tokens x 20 x 16 bytes of cache = 110,560 bytes
    assert plan_.decode_seconds(b, h, 10, 20, 4, 30) == pytest.approx(110_560 / 5e8)
    # 80 tokens x (2,832 + 4 x 8 x 20) operations decide once bandwidth is plenty
    fast = h.model_copy(update={"bandwidth_tb": 1e6})
    assert plan_.decode_seconds(b, fast, 10, 20, 4, 30) == pytest.approx(277_760 / 5e11)
    slow = h.model_copy(update={"step_overhead_ms": 15, "vllm_step_overhead_ms": 2})
    assert (plan_.overhead_seconds(slow, False, 30), plan_.overhead_seconds(slow, True, 30)) == (0.45, 0.06)
    # 2,832 bytes of weights and 5.5 texts of 30 tokens x 16 bytes
    assert plan_.slots(b, h.model_copy(update={"decode_batch": 9}), 2832 + 2640, 30) == 5
    assert plan_.slots(b, h, 2832 + 2640, 30) == 4 and plan_.slots(b, h, 100, 30) == 1
    lora = Lora(rank=2, alpha=4, dropout=0, targets="all-linear")
    assert plan_.state_bytes(b, None, 4) == 16 * 1416 / 4
    assert plan_.state_bytes(b, lora, 2) == (4 * 1416 + 16 * 256) / 2
    # 10 tokens x 2 bytes x (8 x 8 + 4 x 16) = 2,560; checkpointed: inputs 160 and twice a layer
    assert plan_.activation_bytes(b, 10, False) == 2560 and plan_.activation_bytes(b, 10, True) == 5280


NONE = dict.fromkeys(HAND["ablations"])


def test_grace_by_hand():
    one = job(plan(study("hand"), KEPT), "grace")
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
    one = job(plan(study("hand"), KEPT), "grace-unsup")
    assert one.texts == 30 and one.work.written == 30 * 50 * 198
    assert one.work.read == pytest.approx(30 * (22 + 106 / 5) * 198)


def test_grace_with_vllm_by_hand():
    grace = {"engine": "vllm", "processes": 2, "vllm_tensor_parallel": 2, "gradient_checkpointing": True}
    both = {"resources": {"train": {"gpu": 2}}, "adapter": {**HAND["adapter"], "processes": 2}}
    made = plan(study("hand", grace=grace, **both), KEPT)
    one = job(made, "grace")
    assert one.parts["pooling"] == pytest.approx((13_704_960 + 8_396_800) / 5e11)
    assert one.parts["update"] == pytest.approx(4 * 15_304_960 / 5e11)
    # One engine on two GPUs holds all 40: as long as the longest rationale, 60 steps, as with transformers
    assert one.parts["decode"] == pytest.approx((169_920 + 2_352_000 + 1_648_000) / 5e8)
    assert one.gpus == 2 and one.wall == one.work.seconds / 2
    # Checkpointed activations: 2 x 1,084 tokens x 2 bytes x 8, and twice 2,168 x 256
    assert one.memory == {"state": 16 * 1416 / 2, "working": 2168 * (16 + 512), "vLLM": 0.5e9} and one.room
    # Two engines read the weights twice
    apart = job(plan(study("hand", grace={**grace, "vllm_tensor_parallel": 1}, **both), KEPT), "grace")
    assert apart.parts["decode"] - one.parts["decode"] == pytest.approx(169_920 / 5e8)


def test_an_ablation_changes_what_a_training_takes():
    made = plan(study("hand", wanted=True), KEPT)
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
    one, two = (plan(study("hand", grace={**HAND["grace"], "updates_per_generation": n}), KEPT) for n in (1, 2))
    one, two = job(one, "grace"), job(two, "grace")
    assert two.parts == {**one.parts, "old log-probabilities": pytest.approx(15_304_960 / 5e11)}
    assert (two.repeats, two.updates) == (198, 396)
    short = study("hand", grace={**HAND["grace"], "updates_per_generation": 2, "max_steps": 10}, ablations=NONE)
    few = job(plan(short, KEPT), "grace")
    assert (few.repeats, few.updates) == (5, 10)


def test_contrastive_by_hand():
    made = plan(study("hand"), KEPT)
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
    full, low = (job(plan(study("hand", grace={**HAND["grace"], "lora": x}), KEPT), "grace") for x in (None, lora))
    assert low.parts["update"] / full.parts["update"] == pytest.approx(2 / 3)
    assert low.memory["state"] == 4 * 1416 + 16 * 256


def test_evaluation_by_hand():
    made = plan(study("hand"), KEPT)
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
        plan(study("hand", evaluation={**HAND["evaluation"], "groups": groups, "sample": given}), KEPT)
        for given in ({}, sample)
    )
    counts = [[round(n) for n, _ in part.estimates.encoded("small", "base", group)] for group in groups]
    # Of 361 queries with 7,220 candidates 36 with 720; 11 documents a query; all 917 training texts; of 100 documents a
    # tenth of the 1,100 and 1,600 summaries.
    assert sorted(counts[0]) == [50, 50]
    assert sorted(counts[1]) == sorted([20, 220, 36, 720, 300, 917, 110, 160])
    assert whole.disk["MTEB data sets"] == part.disk["MTEB data sets"] > 0  # fetched whole


def test_an_encoder_only_model_takes_jobs_and_next_to_nothing_else(monkeypatch):
    before = plan(study("hand"), KEPT)
    monkeypatch.setitem(HAND, "encoder", "minilm")
    after = plan(study("hand", runs={"encoder": {"method": "encoder"}}), KEPT)
    jobs = [rule(made, "evaluate").jobs for made in (before, after)]
    assert jobs[1] == jobs[0] + 1 and rule(after, "encoder").jobs == 1 and rule(after, "encoder").gpu_hours == 0
    assert before.gpu_hours == after.gpu_hours and before.disk == after.disk


def test_rationales_that_are_there_are_pooled_in_one_pass():
    made = plan(study("hand", wanted=True), KEPT)
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
    made = plan(study("hand"), KEPT)
    # humaneval: 164 problems of 200 tokens, answers of 250, in 6 batches of 32; 9 models
    prefill = (164 * (2 * 616 * 200 + 16 * 200**2) + 1600 * 164) / 5e11
    decode = (6 * 250 * 2832 + 164 * 250 * 325 * 16) / 5e8
    assert rule(made, "general").gpu_hours == pytest.approx(9 * (prefill + decode) / 3600)
    few = plan(study("hand", general={"limit": 32, "tasks": ["humaneval"], "rationales": 0}), KEPT)
    assert rule(few, "general").work.written == 9 * 32 * 250
    own = plan(study("hand", general={"limits": {"humaneval": 16}, "tasks": ["humaneval"], "rationales": 0}), KEPT)
    assert rule(own, "general").work.written == 9 * 16 * 250


def test_disk_by_hand():
    disk = plan(study("hand"), KEPT).disk
    # Rows of a query, a passage and a negative, and 80 bytes around them; texts of 106 characters
    assert disk["raw text"] == disk["pairs"] == 1000 * (60 + 2 * 500 + 80) + 1000 * (106 + 80)
    assert disk["rows"] == 990 * 1140 + 990 * 186 and disk["triples"] == 990 * 1140
    # Eight trainings, and of one a checkpoint before its end
    assert disk["backbones"] == 2 * 1416 and disk["models"] == 8 * 4 * 1416 and disk["kept checkpoints"] == 4 * 1416
    # Ten runs of 189 vectors of 8 halves; seven of them with rationales of 50 tokens
    assert disk["store"] == 10 * 189 * 16 + 7 * 189 * 200
    assert plan(study("hand"), KEPT).checkpoints == 2 * 12 * 1416


def test_pairs_for_the_geometry_are_encoded_with_the_first_group():
    at = {**HAND["evaluation"], "groups": {"a": ["SICK-R"], "sts": ["BIOSSES"]}, "pairs": 4}
    with_pairs, without = (plan(study("hand", evaluation={**at, "pairs": n}), KEPT) for n in (4, 0))
    # 4 queries of 34 tokens and 4 passages of 122
    more = {key: work.read - without.evaluations[key].read for key, work in with_pairs.evaluations.items()}
    assert more["small", "cl", "sts"] == more["small", "grace", "sts"] == pytest.approx(4 * (34 + 122))
    assert more["small", "grace", "a"] == 0
    assert with_pairs.disk["store"] - without.disk["store"] == 10 * 8 * 16 + 7 * 8 * 200
    few = plan(study("hand", evaluation={**at, "pairs": 50}), KEPT)  # 10 are held out
    assert few.disk["store"] - without.disk["store"] == 10 * 20 * 16 + 7 * 20 * 200


def test_every_decoding_step_costs_its_overhead():
    grace = {**HAND["grace"], "processes": 2}
    over = {"resources": {"train": {"gpu": 2}}, "cl": {**HAND["cl"], "processes": 2}, "wanted": True}
    over["adapter"] = {**HAND["adapter"], "processes": 2}
    slow = {**HARDWARE, "step_overhead_ms": 10, "vllm_step_overhead_ms": 2}
    before, after = (plan(study("hand", grace=grace, hardware=h, **over), KEPT) for h in (HARDWARE, slow))
    # 60 steps of each of two processes, 198 times; the update and CL decode nothing
    assert job(after, "grace").parts == {**job(before, "grace").parts, "step overhead": pytest.approx(2 * 60 * 0.01)}
    assert job(after, "grace").work.seconds - job(before, "grace").work.seconds == pytest.approx(198 * 1.2)
    assert job(after, "cl") == job(before, "cl")
    # An engine of vLLM on both: 60 steps of 2 ms in which two GPUs wait
    one = plan(study("hand", grace={**grace, "engine": "vllm", "vllm_tensor_parallel": 2}, hardware=slow, **over), KEPT)
    assert job(one, "grace").parts["step overhead"] == pytest.approx(2 * 60 * 0.002)

    def added(run):
        return after.evaluations["small", run, "sts"].seconds - before.evaluations["small", run, "sts"].seconds

    # 92 x 50 / 64 and 97 x 50 / 64 steps; nothing where nothing is written
    assert added("reasoning") == pytest.approx(189 * 50 / 64 * 0.01)
    assert added("base") == added("grace.pooling-max") == 0
    more = {n: rule(after, n).work.seconds - rule(before, n).work.seconds for n in ("general", "latency", "cases")}
    # humaneval's 6 batches of 250 by 9 models; 6 times 70 tokens by two; 6 models, two batches of 60 steps
    assert more == pytest.approx({"general": 9 * 15, "latency": 6 * 70 * 2 * 0.01, "cases": 6 * 2 * 60 * 0.01})
    changed = dict(variations(study("hand", hardware=slow), KEPT))
    assert changed["hardware.step_overhead_ms: 20"] > plan(study("hand", hardware=slow), KEPT).gpu_hours


def test_latency_and_cases_by_hand():
    made = plan(study("hand", wanted=True), KEPT)
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
    assert rule(plan(study("hand"), KEPT), "cases") == rule(made, "cases")
    assert "latency" not in {one.name for one in plan(study("hand"), KEPT).rules}


def test_totals_add_up_over_seeds():
    one, three = plan(study("hand"), KEPT), plan(study("hand", seeds=[0, 1, 2]), KEPT)
    assert one.gpu_hours == pytest.approx(sum(r.work.seconds for r in one.rules) / 3600)
    # base is one model that samples nothing: its texts are in the store after the first seed
    base = one.evaluations["small", "base", "sts"].seconds / 3600
    cases = rule(one, "cases").gpu_hours  # of the first seed
    assert three.gpu_hours == pytest.approx(3 * one.gpu_hours - 2 * base - 2 * cases)
    assert three.disk["models"] == 3 * one.disk["models"] and three.disk["raw text"] == one.disk["raw text"]


def test_wall_time_is_never_shorter_than_a_training_and_its_evaluation():
    made = plan(study("hand"), KEPT)
    longest = max(
        job(made, run).wall + made.evaluations["small", run, "sts"].seconds for run in ("grace", "grace-unsup")
    )
    assert made.chain == pytest.approx(longest)
    crowd = plan(study("hand", hardware={**HARDWARE, "gpus": 1000}), KEPT)
    assert crowd.wall_hours == pytest.approx(longest / 3600) and crowd.gpu_hours == made.gpu_hours


def test_pooling_anew_waits_for_the_rationales():
    longer = {"pooling": {"runs": ["grace"], "points": {"max": {"pooling": {"method": "max"}}}}}
    made = plan(study("hand", wanted=True, ablations=NONE | longer), KEPT)
    waits = (made.evaluations["small", run, "sts"].seconds for run in ("grace", "grace.pooling-max"))
    assert made.chain == pytest.approx(job(made, "grace").wall + sum(waits))


BATCH = {34: 603_840, 122: 3_884_480, 84: 2_163_840, 172: 6_852_480}  # of ten texts: 10 (2 x 616 L + 16 L^2)


@pytest.fixture(scope="module")
def made():
    return plan(study("hand", tradeoff=True, ablations={**HAND["ablations"], "modes": {}}), KEPT)


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
    whole = plan(study("hand", tradeoff=True, ablations={**HAND["ablations"], "modes": {}},
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
    alone = plan(study("hand", tradeoff=True, ablations={**HAND["ablations"], "modes": {}},
                      rounds={**HAND["rounds"], "adapter_steps": 0}), KEPT)  # fmt: skip
    policy = job(alone, "adapter-grace")
    assert (policy.updates, policy.work.written) == (2 * 4, 2 * 4 * 40 * 50)
    assert policy.parts["update"] == pytest.approx(2 * 15_304_960 / 5e11)


def test_the_best_of_k_by_hand():
    """Made for a table that names it."""

    def planned(**offline):
        rows = {"rows": {"grace-offline": None}}
        return job(
            plan(study("hand", tables={"table1": rows}, offline={**HAND["offline"], **offline}), KEPT), "grace-offline"
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
    longer = plan(study("hand", tradeoff=True, ablations={**HAND["ablations"], "modes": {}},
                       adapter={**HAND["adapter"], "max_steps": None}), KEPT)  # fmt: skip
    assert rule(longer, "rationales").work.written == 990 * 3 * 50  # all rows
    assert "rationales" not in {one.name for one in plan(study("hand"), KEPT).rules}


def test_a_backbone_of_ones_own_by_hand():
    e = plan(study("lab", backbones=["lab-20m"])).estimates
    b, work = e.backbones["lab-20m"], e.backbone("lab-20m")
    # 600 x 64 rows of 256 tokens; 800 x 64 prompts of 128 tokens at most, and 0.3 x as many rows of 256
    assert work.read == 38_400 * 256 + 51_200 * 128 + 15_360 * 256 and work.written == 0
    layers, head = 17_209_728 + 6_784, 8192 * 384  # matrices; biases and norms
    flops = 2 * layers * work.read + 2 * head * (38_400 * 256 + 51_200 * 20 + 15_360 * 256)
    flops += 2 * 10 * 384 * (38_400 * 256**2 + 51_200 * 128**2 + 15_360 * 256**2)
    assert work.seconds == pytest.approx(3 * flops / (989e12 * 0.4), rel=0.01) and 1 < work.seconds < 60
    assert b.pretrain_steps == 600 and rule(plan(study("demo")), "backbone").gpu_hours == 0


def test_what_a_model_takes_on_disk(made):
    e = made.estimates
    assert e.saved("small", "adapter") == 4 * (256 + 216) and e.saved("small", "fence-direct") == 4 * 1416
    assert e.saved("small", "adapter-grace") == 4 * (256 + 216 + 32 * 128)


def test_an_adapter_after_reasoning_writes_nothing(made):
    assert made.evaluations["small", "adapter.reasoning", "sts"].written == 0
    assert made.evaluations["small", "fence-direct.reasoning", "sts"].written == 189 * 50


STORED = 189 * (16 + 200)  # bytes of BIOSSES' embeddings and rationales


def added(made):
    return {one.ablation: one for one in made.additions}


def test_ablations_by_hand():
    made = plan(study("hand", wanted=True), KEPT)
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
    without, whole = (plan(study("hand", wanted=wanted), KEPT) for wanted in (False, True))
    latency = rule(whole, "latency").gpu_hours  # of figure 4
    assert whole.gpu_hours - without.gpu_hours - latency == pytest.approx(added(whole)[ALL].gpu_hours)
    # Checkpoints are kept in any case
    assert sum(whole.disk.values()) - sum(without.disk.values()) == added(whole)[ALL].disk - 4 * 1416
    assert all(one.counted for one in whole.additions) and not any(one.counted for one in without.additions)
    assert [replace(one, counted=True) for one in without.additions] == whole.additions


def test_a_dropped_ablation_takes_its_jobs_along():
    rest = {name: None if name == "batch" else entry for name, entry in HAND["ablations"].items()}
    less = plan(study("hand", wanted=True, ablations=rest), KEPT)
    whole = plan(study("hand", wanted=True), KEPT)
    assert whole.gpu_hours - less.gpu_hours == pytest.approx(added(whole)["batch"].gpu_hours)
    assert "batch" not in added(less)


def test_every_seed_and_backbone_counts():
    one, three = (added(plan(study("hand", wanted=True, seeds=seeds), KEPT)) for seeds in ([0], [0, 1, 2]))
    assert three["batch"].gpu_hours == pytest.approx(3 * one["batch"].gpu_hours)
    assert three["batch"].trainings == 3 and three["batch"].disk == 3 * one["batch"].disk
    paper = added(plan(study("paper")))
    # 25 points of two runs on one backbone, 6 groups of tasks; poolings on all four
    assert (paper["lambda"].trainings, paper["lambda"].evaluations) == (50, 300)
    assert (paper["pooling"].runs, paper["pooling"].evaluations) == (6, 6 * 4 * 6)


def test_a_run_of_two_ablations_counts_once_in_all():
    again = {"runs": ["grace"], "backbones": ["qwen2.5-3b"], "grid": {"grace.rollouts": [4]}, **WHOLE}
    twice = {**HAND["ablations"], "again": again}
    found = added(plan(study("hand", ablations=twice), KEPT))
    assert found["again"].gpu_hours == found["rollouts"].gpu_hours and found[ALL].trainings == 3


def test_the_trade_off_adds_its_models_in_both_modes_with_their_seeds():
    at = {"ablations": {**HAND["ablations"], "modes": {}}}
    without, whole = (plan(study("hand", tradeoff=asked, **at), KEPT) for asked in (False, True))
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
    found = added(plan(study("demo")))
    assert not any(one.sized for one in found.values()) and all(
        one.sized for one in added(plan(study("paper"))).values()
    )


def reading(configured, *paths):
    """Estimates of a study whose tables read these result files alone."""
    configured.results_wanted = lambda: [f"{configured.root}/{path}" for path in paths]
    return Estimates(configured)


def test_a_checkpoint_and_a_pooling_need_the_training_of_their_run():
    for run, trained in (("grace.step-100", "grace"), ("grace.pooling-max", "grace"), ("cl", "cl")):
        made = reading(study("hand", wanted=True), f"mteb/small/{run}/seed0/sts.json")
        assert made.trained == {("small", trained): {0}}
    untrained = reading(study("hand", wanted=True), "mteb/small/reasoning.max_new_tokens-30/seed0/sts.json")
    assert untrained.trained == {}


def test_pooling_anew_needs_the_evaluation_that_writes_the_rationales():
    paths = [f"mteb/small/grace.{point}/seed0/sts.json" for point in ("pooling-max", "max_new_tokens-90")]
    made = reading(study("hand", wanted=True), *paths)
    assert {run for _, run, _ in made.mteb} == {"grace.pooling-max", "grace.max_new_tokens-90", "grace"}
    assert all(seeds == {0} for seeds in made.mteb.values())


def test_rationales_and_times_need_the_first_seed_alone():
    shown = reading(study("hand", seeds=[3, 4]), "cases/small.json")
    assert shown.trained == {("small", run): {3} for run in ("grace", "grace-rollout", "grace-random")}
    timed = reading(
        study("hand", seeds=[3, 4]), "latency/small.json", *(f"general/small/cl/seed{n}.json" for n in (3, 4))
    )
    assert timed.trained == {("small", "cl"): {3, 4}, ("small", "grace"): {3}}


def test_other_sampling_or_a_larger_budget_writes_its_own_rationales():
    points = {
        "cold": {"evaluation": {"sampling_temperature": 0.0}},
        "long": {"evaluation": {"max_new_tokens": 61}},
        "short": {"evaluation": {"max_new_tokens": 59}, "pooling": {"method": "eos"}},
        "wide": {"prompt": {"max_prompt_tokens": 2000}},
    }
    pooling = {"runs": ["grace", "cl"], "train": False, "points": points}
    made = study("hand", ablations={**dict.fromkeys(HAND["ablations"]), "pooling": pooling})
    found = {at.run: made.rationales_of(at.run) for at in made.runs.points["pooling"]}
    assert found == {
        **{f"{run}.pooling-{name}": None for run in ("grace", "cl") for name in points},
        "grace.pooling-short": "grace",
    }


def test_sources_are_those_of_trainings_and_of_held_out_text():
    simcse = "mteb/qwen3-4b/simcse/seed0/sts.json"
    assert reading(study("paper"), simcse).sources == ["wiki1m"]
    for more in (
        "cases/qwen3-4b.json", "latency/qwen3-4b.json", "general/qwen3-4b/simcse/seed0.json",
        "mteb/qwen3-4b/simcse/seed0/subset-retrieval.json",
    ):  # fmt: skip
        assert reading(study("paper"), simcse, more).sources == ["e5", "wiki1m"]


def test_texts_of_another_task_count_where_that_is_not_evaluated():
    made = reading(study("paper"))
    groups = (["classification"], ["classification", "subset-classification"])
    alone, after = (made.fields("classification", some) for some in groups)
    assert {(field.task, field.distinct) for field in {*alone} - {*after}} == {("MassiveScenarioClassification", 2970)}
