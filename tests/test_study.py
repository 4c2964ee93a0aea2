"""An edit changes the specs of what it touches, and no other."""

import copy

from grace.specs import EvaluateSpec, GeneralSpec, TrainSpec
from grace.study import Plan
from tests.test_config import CONFIG


def all_specs(config):
    plan = Plan(config)
    found = {
        "source": plan.spec_source(plan.study.data.supervised),
        "pairs": plan.spec_pairs(plan.study.data.supervised),
        "split": plan.spec_split(),
        "triples": plan.spec_triples(),
        "backbone": plan.spec_backbone(plan.study.backbones[0]),
        "tables": plan.spec_tables(),
    }
    for run in plan.study.runs:
        if plan.run(run).trained:
            found[f"train {run}"] = plan.spec_train(run, 0)
        found[f"general {run}"] = plan.spec_general(run, 0)
        for group in plan.study.evaluation.groups:
            found[f"evaluate {run} {group}"] = plan.spec_evaluate(run, 0, group)
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
    assert touched(lambda c: c["defaults"].update(bootstrap=500)) == {"tables"}
    grace = touched(lambda c: c["studies"]["demo"]["grace"].update(max_steps=81))
    assert grace == {
        f"train {run}" for run in ("grace", "grace-rollout", "grace-random", "grace-unsup", "grace-unsup-rollout")
    }


def test_specs_survive_the_command_line():
    plan = Plan(CONFIG)
    assert TrainSpec.model_validate_json(plan.spec_train("grace", 3)).seed == 3
    assert EvaluateSpec.model_validate_json(plan.spec_evaluate("base", 0, "docstrings")).encode.rationales is False
    assert GeneralSpec.model_validate_json(plan.spec_general("reasoning", 0)).encode.rationales is True


def test_untrained_runs_use_the_backbones_folder():
    plan = Plan(CONFIG)
    assert plan.model("tiny", "reasoning", 2) == "results/demo/models/tiny/backbone/seed0"
    assert plan.model("tiny", "grace", 2) == "results/demo/models/tiny/grace/seed2"
