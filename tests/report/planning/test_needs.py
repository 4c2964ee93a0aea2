"""What a study needs against what the rules will ask for (grace.study), and a few cases by hand."""

import pytest

from grace.report.planning.needs import Needs
from tests.report.hand import HAND, configured, spec


@pytest.mark.parametrize("wanted", [False, True])
@pytest.mark.parametrize("study", ["demo", "paper", "single-gpu"])
def test_runs_are_those_of_the_rules(study, wanted):
    rules, needs = configured(study, wanted), Needs(spec(study, wanted))
    for run in rules.study.runs:
        assert needs.rationales_of(run) == rules.rationales_of(run), run
        assert needs.kept_steps(run) == rules.keep_steps(run)
        assert needs.backbones_of(run) == rules.backbones_of_run(run)
        theirs, ours = rules.sections(run), needs.sections[run]
        assert all(getattr(ours, key) == getattr(theirs, key) for key in ("grace", "reward", "pooling", "evaluation"))
        groups = list(rules.study.evaluation.groups)
        assert [bool(rules.pair_rows(run, group)) for group in groups] == [
            needs.pairs(run, group) is not None for group in groups
        ]
    modes = set(needs.points.pop("modes"))
    others = {*rules.study.tables["baselines"].rows, "grace-offline", "grace-offline-random"}
    named = {run for run, at in rules.study.runs.items() if at.extra} - others  # by the trade-off
    assert modes == named | {run for run, at in rules.study.runs.items() if at.mode}
    ablation_runs = {run for runs in needs.points.values() for run in runs}
    assert ablation_runs == {run for run, at in rules.study.runs.items() if at.ablation} - modes
    assert ablation_runs <= set(needs.used) if wanted else not ablation_runs & set(needs.used)
    assert not modes & set(needs.used)


def test_a_checkpoint_and_a_pooling_need_the_training_of_their_run():
    whole = spec("hand", wanted=True)
    for run, trained in (("grace.step-100", "grace"), ("grace.pooling-max", "grace"), ("cl", "cl")):
        only = {"evaluated": {"small": {run: ["sts"]}}, "general": {}, "shown": []}
        assert Needs(whole.model_copy(update={**only, "timed": []})).trained == {("small", trained): 1}
    untrained = {
        "evaluated": {"small": {"reasoning.max_new_tokens-30": ["sts"]}},
        "general": {},
        "shown": [],
        "timed": [],
    }
    assert Needs(whole.model_copy(update=untrained)).trained == {}


def test_pooling_anew_needs_the_evaluation_that_writes_the_rationales():
    only = {"evaluated": {"small": {"grace.pooling-max": ["sts"], "grace.max_new_tokens-90": ["sts"]}}}
    found = Needs(spec("hand", wanted=True).model_copy(update=only)).evaluated
    assert found == {"small": {**only["evaluated"]["small"], "grace": ["sts"]}}


def test_rationales_and_times_need_the_first_seed_alone():
    empty = {"evaluated": {}, "general": {}, "shown": [], "timed": []}
    seeds = spec("hand", seeds=[3, 4])
    shown = Needs(seeds.model_copy(update={**empty, "shown": ["small"]}))
    assert shown.trained == dict.fromkeys([("small", run) for run in ("grace", "grace-rollout", "grace-random")], 1)
    timed = Needs(seeds.model_copy(update={**empty, "timed": ["small"], "general": {"small": ["cl"]}}))
    assert timed.trained == {("small", "cl"): 2, ("small", "grace"): 1}


def test_other_sampling_or_a_larger_budget_writes_its_own_rationales():
    points = {
        "cold": {"evaluation": {"sampling_temperature": 0.0}},
        "long": {"evaluation": {"max_new_tokens": 61}},
        "short": {"evaluation": {"max_new_tokens": 59}, "pooling": {"method": "eos"}},
        "wide": {"prompt": {"max_prompt_tokens": 2000}},
    }
    pooling = {"runs": ["grace", "cl"], "train": False, "points": points}
    needs = Needs(spec("hand", ablations={**dict.fromkeys(HAND["ablations"]), "pooling": pooling}))
    found = {run: needs.rationales_of(run) for run in needs.points["pooling"]}
    assert found == {
        **{f"{run}.pooling-{name}": None for run in ("grace", "cl") for name in points},
        "grace.pooling-short": "grace",
    }


def test_sources_are_those_of_trainings_and_of_held_out_text():
    whole = spec("paper")
    only = {"evaluated": {"qwen3-4b": {"simcse": ["sts"]}}, "general": {}, "shown": []}
    assert Needs(whole.model_copy(update=only)).sources == ["wiki1m"]
    for more in (
        {"shown": ["qwen3-4b"]}, {"timed": ["qwen3-4b"]}, {"general": {"qwen3-4b": ["simcse"]}},
        {"evaluated": {"qwen3-4b": {"simcse": ["subset-retrieval"]}}},
    ):  # fmt: skip
        assert Needs(whole.model_copy(update={**only, **more})).sources == ["e5", "wiki1m"]


def test_texts_of_another_task_count_where_that_is_not_evaluated():
    needs = Needs(spec("paper"))
    alone, after = (needs.fields("classification", groups) for groups in (
        ["classification"], ["classification", "subset-classification"],
    ))  # fmt: skip
    assert {(field.task, field.distinct) for field in {*alone} - {*after}} == {("MassiveScenarioClassification", 2970)}
