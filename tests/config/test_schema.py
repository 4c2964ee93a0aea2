"""Wrong settings stop before planning with one sentence that names the key."""

import copy
from itertools import accumulate
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest

from grace.config.plan import Plan
from grace.config.schema import Study
from grace.config.section import Section, UserError, merge
from grace.config.studies import read_config

CONFIG = read_config(Path(__file__).parents[2] / "config.yaml")


def changed(path: str, value):
    config = copy.deepcopy(CONFIG)
    *parents, last = path.split("/")
    at = config
    for key in parents:
        at = at[key]
    at[last] = value
    return config


@pytest.mark.parametrize("study", list(CONFIG["studies"]))
def test_every_study_is_valid(study):
    plan = Plan({**CONFIG, "study": study})
    assert all(plan.table_inputs(table) for table in plan.study.tables)
    assert all(plan.figure_inputs(figure) for figure in plan.study.figures)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("study", "dmo", "study: unknown study 'dmo' (did you mean 'demo'?)"),
        ("sead", 1, "sead: unknown key"),
        ("backbones", "tny", "backbones: unknown backbone 'tny' (did you mean 'tiny'?)"),
        ("seeds", "one", "seeds.0:"),
        ("seeds", [], "seeds:"),
        ("seeds", [0, 1, 0], "seeds: 0 stands twice"),
        ("backbones", ["tiny", "tiny"], "backbones: tiny stands twice"),
        ("defaults/reward", "x", "reward: it is 'x' in one place and has keys in another"),
        ("sources/docstrings/path", "", "sources.docstrings.path: "),
        ("defaults/evaluation/local", {"SciFact": ""}, "evaluation.local.SciFact: "),
        (
            "defaults/evaluation/sample",
            {"SciFcat": 9},
            "evaluation.sample: unknown task 'SciFcat' (did you mean 'SciFact'?)",
        ),
        (
            "defaults/evaluation/sample",
            {"SciFact": 0},
            "evaluation.sample.SciFact: Input should be greater than or equal",
        ),
        (
            "defaults/evaluation/sample",
            {"DocstringSTS": 9},
            "evaluation.sample: DocstringSTS is the demo's own task, of",
        ),
        ("defaults/general/limits", {"mmmlu": 9}, "general.limits: unknown task 'mmmlu' (did you mean 'mmlu'?)"),
        ("sources", {5: {}}, "data.supervised: unknown source"),
        ("defaults/grace/rollouts", 1, "grace.rollouts:"),
        ("defaults/offline/rollouts", 1, "offline.rollouts: Input should be greater than or equal to 2"),
        ("defaults/offline/rounds", 3, "offline.rounds: Input should be less than or equal to 2"),
        ("defaults/offline/objective", "ppo", "offline.objective: Input should be 'sft' or 'dpo'"),
        (
            "studies/demo/offline/batch_size",
            24,
            "offline.batch_size: 24 must be a multiple of processes x rows_per_for",
        ),
        ("defaults/offline/engine", "vllm", "offline.engine: unknown key"),
        ("defaults/grace/rolouts", 8, "grace.rolouts: unknown key (did you mean 'rollouts'?)"),
        ("studies/demo/grace/learning_rate", "fast", "grace.learning_rate:"),
        ("studies/demo/grace/learning_rate", 0, "grace.learning_rate:"),
        ("studies/demo/grace/learning_rate", float("nan"), "grace.learning_rate: Input should be a finite number"),
        ("studies/demo/grace/learning_rate", "inf", "grace.learning_rate: Input should be a finite number"),
        ("studies/demo/grace/learning_rate", 1e30, "grace.learning_rate: Input should be less than or equal to 1"),
        ("defaults/reward/scale", 1e39, "reward.scale:"),
        ("defaults/reward/gamma", "NaN", "reward.gamma: Input should be a finite number"),
        ("defaults/reward/lambda2", float("-inf"), "reward.lambda2: Input should be a finite number"),
        ("studies/demo/reward/lambda1", "1e9", "reward.lambda1:"),
        ("defaults/generation/sampling_temperature", 0, "generation.sampling_temperature:"),
        ("defaults/generation/anchor_sampling_temperature", float("inf"), "generation.anchor_sampling_temperature:"),
        ("defaults/runs/grace/settings", {"generation": {"sampling_temperature": "0"}}, "generation.sampling_temper"),
        ("studies/demo/grace/adam_betas", [0.9, 1], "grace.adam_betas.1:"),
        ("studies/demo/grace/adam_betas", [float("nan"), 0.99], "grace.adam_betas.0:"),
        ("defaults/kl_fence/weight_decay", 1e30, "kl_fence.weight_decay:"),
        ("defaults/simcse/dropout", 1.0, "simcse.dropout:"),
        ("defaults/cl/warmup_ratio", 1.0, "cl.warmup_ratio:"),
        ("defaults/data/mining/max_score", float("nan"), "data.mining.max_score: Input should be a finite number"),
        ("defaults/hardware/tflops", float("inf"), "hardware.tflops:"),
        ("seeds", [10**30], "seeds.0:"),
        ("available_backbones/tiny/learning_rate", float("nan"), "available_backbones.tiny.learning_rate:"),
        ("available_backbones/tiny/heads", 3, "available_backbones.tiny.width: 128 must be a multiple of twice heads"),
        ("available_backbones/tiny/kv_heads", 3, "available_backbones.tiny.kv_heads: 3 must divide heads (4)"),
        ("available_backbones/tiny/vocab_size", 200, "available_backbones.tiny.vocab_size: 200 is less than"),
        ("defaults/grace/estimator", "ppo", "grace.estimator:"),
        ("defaults/grace/updates_per_generation", 7, "grace.instances: 16 instances x 8 rollouts"),
        (
            "studies/demo/grace/rollouts_per_forward",
            12,
            "grace.instances: 16 instances x 8 rollouts must be a multiple",
        ),
        ("studies/demo/grace/save_steps", 0, "grace.save_steps:"),
        ("defaults/pooling/method", "median", "pooling.method:"),
        (
            "defaults/pooling/tokens",
            "rationale",
            "runs.base: pooling.tokens: rationale, but texts are embedded without",
        ),
        ("defaults/pooling/tokens", "text", "runs.reasoning: pooling.tokens: text, so the rationale has no part in"),
        ("defaults/pooling/closing", "It means", "pooling.closing: its last token is what is pooled; set method: eos"),
        ("defaults/pooling/layer", "first", "pooling.layer"),
        (
            "defaults/evaluation/direct_prompt",
            "none",
            "evaluation.direct_prompt: give chat, plain, or a prompt with {text}",
        ),
        ("defaults/evaluation/standardize", 0, "evaluation.standardize:"),
        ("studies/demo/evaluation/rows", {"smollm2-135m": 0}, "evaluation.rows.smollm2-135m:"),
        ("studies/demo/reward/lambda1", None, "reward.lambda1:"),
        ("defaults/reward/negatives", "all", "reward.negatives:"),
        ("defaults/runs/grace/method", "sft", "runs.grace.method:"),
        ("defaults/runs/grace/data", None, "runs.grace.data: method 'grace' trains"),
        ("defaults/runs/backbone", {"method": "base"}, "runs.backbone: this name is taken"),
        ("defaults/runs/a b", {"method": "base"}, "runs.a b"),
        (
            "defaults/runs/grace-rollout/settings",
            {"reward": {"negative": "rollout"}},
            "settings.reward.negative: unknown",
        ),
        ("defaults/runs/grace-rollout/settings", {"rewards": {}}, "settings.rewards: unknown key"),
        (
            "studies/demo/evaluation/groups",
            {"a": ["DocstringRetreival"]},
            "groups.a: unknown task 'DocstringRetreival'",
        ),
        ("studies/demo/evaluation/groups", {"a": ["SICK-R"], "b": ["SICK-R"]}, "task 'SICK-R' is listed twice"),
        ("studies/demo/general/tasks", ["gsm9k"], "general.tasks: unknown task 'gsm9k' (did you mean 'gsm8k'?)"),
        ("studies/demo/data/supervised", "e6", "data.supervised: unknown source 'e6'"),
        ("studies/demo/data/supervised", "wiki1m", "data.supervised: a source of texts has no positives"),
        ("studies/demo/data/mining", {"rank_min": 3, "rank_max": 3}, "data.mining.rank_max: the window [3, 3)"),
        ("sources/docstrings/packages", [], "sources.docstrings.packages:"),
        ("sources/docstrings/mirror", "http://x/y", "mirror: a source of kind 'docstrings' is not"),
        ("sources/docstrings/sha256", "f" * 63, "sources.docstrings.sha256:"),
        ("available_backbones/tiny/kind", "hub", "available_backbones.tiny.id:"),
        (
            "available_backbones/tiny/kind",
            "gguf",
            "available_backbones.tiny.path: a backbone of kind 'gguf' needs path",
        ),
        ("available_backbones/tiny", {"kind": "gguf", "package": "x", "file": "y"}, "or package, version and file"),
        ("studies/demo/extends", "smoke", "extend each other in a circle"),
        ("studies/demo/prompt", None, "prompt:"),
        ("ablations", "yes", "ablations: it is 'yes'; give true or false"),
        (
            "defaults/ablations/lambda/runs",
            ["grase"],
            "ablations.lambda.runs: unknown run 'grase'",
        ),
        (
            "defaults/ablations/progression/runs",
            ["cl"],
            "ablations.progression.runs: run 'cl' is not",
        ),
        (
            "studies/demo/ablations/progression/steps",
            [81],
            "ablations.progression.steps: 81 is over",
        ),
        (
            "defaults/cases/also",
            ["grace-rolout"],
            "cases.also: unknown run 'grace-rolout'",
        ),
        ("defaults/tables/report", {"title": "", "caption": "", "kind": "mteb"}, "tables.report: a rule is called"),
        ("defaults/ablations/algorithm/grid", {"grace.estimater": ["grpo"]}, "settings.grace.estimater: unknown key"),
        ("defaults/ablations/algorithm/grid", {"estimator": ["grpo"]}, "name a setting as section.key"),
        ("defaults/ablations/algorithm/grid", {"grace.estimator": ["ppo"]}, "settings.grace.estimator: "),
        ("defaults/ablations/algorithm/steps", [3], "ablations.algorithm.grid: give exactly one of grid, points"),
        ("defaults/figures/figure3/ablations", ["lamda"], "figures.figure3.ablations: unknown ablation 'lamda'"),
        ("defaults/figures/figure1/rows", {"gracee": None}, "figures.figure1.rows: unknown run 'gracee'"),
        (
            "defaults/figures/table1",
            {"title": "", "caption": "", "kind": "bars"},
            "figures.table1: a table has this name",
        ),
        ("studies/demo/latency/budgets", [], "latency.budgets: "),
        ("defaults/latency/top", 100000000, "latency.top: 100000000 of 10000 embeddings"),
        ("defaults/encoder", "minlm", "encoder: unknown encoder 'minlm' (did you mean 'minilm'?)"),
        ("studies/demo/runs/encoder", {"method": "encoder"}, "runs.encoder.method: 'encoder' is the study's encoder"),
        ("defaults/latency/run", "gracee", "latency.run: unknown run 'gracee' (did you mean 'grace'?)"),
        ("studies/demo/evaluation/subset", ["x"], "evaluation.subset: unknown group 'x'"),
    ],
)
def test_wrong_settings(path, value, said):
    config = changed(path, value)
    with pytest.raises(UserError) as error:
        Plan(config)
    text = str(error.value)
    assert said in text and text.startswith("config: ") and "\n" not in text and text.endswith(".")


ENCODED = {"encoder": "minilm", "runs": {"encoder": {"method": "encoder"}}}


@pytest.mark.parametrize(
    ("given", "entry", "said"),
    [
        (
            {"runs": {"encoder": {"method": "encoder", "mode": "reasoning"}}},
            {},
            "runs.encoder.mode: an encoder-only model",
        ),
        ({}, {}, None),
        (
            {"runs": {"encoder": {"method": "encoder", "settings": {"x": {"y": 1}}}}},
            {},
            "runs.encoder.settings: an enc",
        ),
        ({"runs": {"encoder": {"method": "encoder", "data": "supervised"}}}, {}, "runs.encoder.data: an encoder-only"),
        (
            {"ablations": {"budget": {"runs": ["encoder"]}}},
            {},
            "ablations.budget.runs: run 'encoder' is an encoder-only",
        ),
        (
            {"tables": {"table5": {"rows": {"encoder": None}}}},
            {},
            "tables.table5.rows: run 'encoder' is an encoder-only",
        ),
        ({"figures": {"pareto": {"rows": {"encoder": None}}}}, {}, "figures.pareto.rows: run 'encoder' is an encoder-"),
        (
            {"cases": {"also": ["encoder"]}},
            {},
            "cases.also: run 'encoder' is an encoder-only model, which writes nothing",
        ),
        ({}, {"id": "x/y"}, "available_encoders.minilm.package: give exactly one of package, id and path"),
        ({}, {"package": None}, "available_encoders.minilm.package: give exactly one of package, id and path"),
        ({}, {"folder": None}, "available_encoders.minilm.folder: an encoder of a package needs this key"),
        ({}, {"file": "x"}, "available_encoders.minilm.file: unknown key (did you mean 'folder'"),
    ],
)
def test_an_encoder_only_model_is_a_row_and_nothing_else(given, entry, said):
    config = copy.deepcopy(CONFIG)
    config["defaults"] = merge(config["defaults"], merge(ENCODED, given))
    config["available_encoders"]["minilm"] |= entry
    for name, value in given.items():  # what the demo has of its own
        config["studies"]["demo"][name] = merge(config["studies"]["demo"].get(name, {}), value)
    if said is None:
        Plan(config)
        return
    with pytest.raises(UserError) as error:
        Plan(config)
    assert str(error.value).startswith(f"config: {said}") and str(error.value).endswith(".")


def test_the_papers_values():
    """spec: section 3, table of hyperparameters."""
    study = Plan({**CONFIG, "study": "paper"}).study
    assert study.grace.learning_rate == 1e-6 and study.grace.epochs == 2
    assert (study.grace.instances, study.grace.rollouts, study.grace.processes) == (64, 8, 4)
    assert (study.prompt.max_prompt_tokens, study.generation.max_new_tokens) == (1024, 2048)
    assert (study.reward.lambda1, study.reward.lambda2, study.reward.scale, study.reward.gamma) == (0.2, 0.2, 10, 1)
    assert study.backbones == ["qwen2.5-1.5b", "llama3.2-3b", "qwen2.5-3b", "qwen3-4b"]
    assert sum(len(names) for names in study.evaluation.groups.values()) == 56


def test_reward_defaults_are_the_configs():
    from grace.config.schema import RewardConfig

    assert Plan({**CONFIG, "study": "paper"}).study.reward == RewardConfig()


def test_command_line_narrows():
    plan = Plan({**CONFIG, "study": "paper", "backbones": "qwen2.5-1.5b", "seeds": [0, 1]})
    assert {(cell.backbone, cell.seed) for cell in plan.cells("table1")} == {("qwen2.5-1.5b", 0), ("qwen2.5-1.5b", 1)}


def test_vllms_hottest_temperature():
    config = changed("defaults/generation/anchor_sampling_temperature", 2.5)
    Plan(config)  # the demo's engine has no such limit
    with pytest.raises(UserError, match=r"generation.anchor_sampling_temperature: 2.5 is over 2"):
        Plan({**config, "study": "paper"})


def nullable(kind, at=()):
    """Paths of the settings of a section that may be null."""
    for name, field in kind.model_fields.items():
        parts = get_args(field.annotation)
        if type(None) in parts and at:
            yield (*at, name)
        for part in () if get_origin(field.annotation) is dict else (field.annotation, *parts):
            if isinstance(part, type) and issubclass(part, Section):
                yield from nullable(part, (*at, name))


NEEDED = {("adapter", "lora"), ("kl_fence", "fence")}  # by the methods of these names


@pytest.mark.parametrize("path", sorted({*nullable(Study)} - NEEDED), ids=".".join)
def test_null_on_the_command_line(path):
    """Snakemake gives every nested value as text."""
    given: Any = "null"
    for key in reversed(path):
        given = {key: given}
    study = Plan({**CONFIG, "defaults": merge(CONFIG["defaults"], given), "seeds": "null", "backbones": "~"}).study
    assert study.seeds == [0] and study.backbones == ["tiny", "smollm2-135m"]
    sections = [*accumulate(path, lambda at, key: at and getattr(at, key), initial=study)]
    assert sections[-1] is None or path[-1] in CONFIG["studies"]["demo"].get(path[0], {})


@pytest.mark.parametrize("value", [None, 5, "x", [], [{"a": 1}]])
@pytest.mark.parametrize(
    "path", ["defaults", "studies", "presets", "sources", "available_backbones", "available_encoders",
             "studies/demo", "defaults/figures", "defaults/runs", "defaults/evaluation",
             "studies/demo/ablations", "presets/as_printed",
             "defaults/ablations/pooling/points/mean-penultimate/pooling"],
)  # fmt: skip
def test_what_should_hold_keys(path, value):
    """Null where nothing has to be given is nothing."""
    try:
        Plan(changed(path, value))
    except UserError as error:
        assert str(error).startswith("config: ") and "\n" not in str(error)


def test_greedy_anchors_and_evaluations_and_null_numbers_are_valid():
    config = changed("defaults/generation/anchor_sampling_temperature", 0)
    config["defaults"]["reward"]["gamma"] = None
    config["defaults"]["data"]["mining"]["margin"] = None
    study = Plan({**config, "study": "demo"}).study
    assert study.generation.anchor_sampling_temperature == study.evaluation.sampling_temperature == 0
    assert study.reward.gamma is None and study.data.mining.margin is None
