"""From an ablation to its runs."""

import copy

import pytest

from grace.config.plan import Plan
from grace.config.runs import points_of
from grace.config.schema import Ablation
from grace.config.section import UserError
from tests.config.test_schema import CONFIG


def plan(**ablations):
    config = copy.deepcopy(CONFIG)
    config["defaults"]["ablations"] = ablations
    config["studies"]["demo"]["ablations"] = {}
    for exhibits in ("tables", "figures"):
        config["defaults"][exhibits] = {}
    return Plan(config)


def test_a_grid_is_crossed():
    entry = Ablation(runs=["grace"], grid={"reward.lambda1": [0.0, 0.5], "grace.estimator": ["grpo", "dapo", "remax"]})
    found = list(points_of("x", entry))
    assert [suffix for suffix, *_ in found][:2] == [".lambda1-0.estimator-grpo", ".lambda1-0.estimator-dapo"]
    assert len(found) == 6
    assert found[-1][1:] == (
        {"lambda1": 0.5, "estimator": "remax"},
        {"reward": {"lambda1": 0.5}, "grace": {"estimator": "remax"}},
    )


def test_a_point_that_changes_nothing_is_the_run_itself():
    made = plan(a={"runs": ["grace"], "grid": {"grace.estimator": ["grpo", "dapo"]}})
    assert [point.run for point in made.runs.points["a"]] == ["grace", "grace.estimator-dapo"]
    # What concerns memory alone changes nothing either.
    made = plan(a={"runs": ["grace"], "points": {"x": {"grace": {"instances": 16, "rollouts_per_forward": 8}}}})
    assert [point.run for point in made.runs.points["a"]] == ["grace"]
    # With settings of its own, an ablation trains even its default point.
    made = plan(a={"runs": ["grace"], "grid": {"grace.estimator": ["grpo"]}, "settings": {"grace": {"max_steps": 9}}})
    assert made.runs.sections("grace.estimator-grpo").grace.max_steps == 9


def test_a_run_keeps_what_its_run_changed():
    made = plan(a={"runs": ["grace-rollout"], "grid": {"reward.lambda2": [0.5]}})
    reward = made.runs.sections("grace-rollout.lambda2-0.5").reward
    assert (reward.negatives, reward.lambda2, reward.lambda1) == ("rollout", 0.5, 0.1)


def test_only_trainings_of_their_own_are_trained():
    made = plan(
        trained={"runs": ["grace"], "grid": {"reward.lambda2": [0.5]}},
        again={"runs": ["grace", "reasoning"], "grid": {"evaluation.max_new_tokens": [10]}, "train": False},
        steps={"runs": ["grace"], "steps": [5]},
    )
    trained = [run for run in made.runs.trained_runs() if made.runs.run(run).ablation]
    assert trained == ["grace.lambda2-0.5"]
    assert made.runs.model("tiny", "grace.max_new_tokens-10", 0) == "results/demo/models/tiny/grace/seed0"
    assert made.runs.model("tiny", "reasoning.max_new_tokens-10", 0) == "results/demo/models/tiny/backbone/seed0"


def test_a_dropped_run_takes_its_points_along():
    config = copy.deepcopy(CONFIG)
    config["studies"]["demo"]["runs"] = {"grace-unsup": None}
    made = Plan(config)
    assert {point.of for point in made.runs.points["lambda"]} == {"grace"}
    assert not any(run.startswith("grace-unsup.") for run in made.study.runs)


def test_a_dropped_ablation_leaves_its_exhibit_without_points():
    config = copy.deepcopy(CONFIG)
    config["studies"]["demo"]["ablations"]["lambda"] = None
    made = Plan(config)
    assert made.figure_points(made.study.figures["figure3"]) == []


def test_two_ablations_may_not_share_a_name():
    grid = {"reward.lambda2": [0.5]}
    with pytest.raises(UserError, match=r"another run is called 'grace\.lambda2-0\.5'"):
        plan(a={"runs": ["grace"], "grid": grid},
             b={"runs": ["grace"], "grid": grid, "settings": {"grace": {"max_steps": 9}}})  # fmt: skip
    made = plan(a={"runs": ["grace"], "grid": grid}, b={"runs": ["grace"], "grid": grid})  # the same run twice
    assert made.runs.points["a"][0].run == made.runs.points["b"][0].run == "grace.lambda2-0.5"


def test_two_points_that_are_the_same_model_are_one_run():
    longer = {"grace": {"max_steps": 99}}
    made = plan(
        a={"runs": ["grace"], "grid": {"grace.rollouts": [4, 8]}, "settings": longer},
        b={"runs": ["grace"], "grid": {"grace.instances": [8, 16]}, "settings": longer},
    )
    assert [point.run for point in made.runs.points["b"]] == ["grace.instances-8", "grace.rollouts-8"]


def test_the_last_step_is_the_run_itself():
    made = plan(steps={"runs": ["grace"], "steps": [40, 80]})
    assert [point.run for point in made.runs.points["steps"]] == ["grace.step-40", "grace"]
    assert made.runs.keep_steps("grace") == [40]
