"""Which settings of a study differ from the paper's."""

import copy

import pytest

from grace.config.section import UserError
from grace.report.page import deviations
from tests.config.test_schema import CONFIG


def found(study: str, **over) -> dict[str, tuple[str, str]]:
    config = {**copy.deepcopy(CONFIG), "study": study, **over}
    return {one.key: (one.paper, one.here) for one in deviations.deviations(config, study)}


def test_the_papers_study_differs_in_nothing():
    assert found("paper") == {}


def test_the_demo_names_each_setting_that_it_changes():
    at = found("demo")
    assert at["backbones"][1] == "tiny, smollm2-135m" and at["reward.lambda1"] == ("0.2", "0.1")
    assert at["grace.max_steps"] == ("none", "80") and at["grace.engine"] == ("vllm", "transformers")
    assert at["evaluation.tasks"][0].endswith("and 50 more") and "DocstringSTS" in at["evaluation.tasks"][1]
    assert not any(key.startswith(("resources", "hardware", "tables", "figures", "title")) for key in at)
    assert "reward.lambda2" not in at  # the same in both


def test_the_preset_and_the_command_line_count():
    at = found("paper", preset="as_released", seeds=["0", "1"])
    assert at["grace.loss"] == ("sequence_sum", "token_mean") and at["seeds"] == ("0", "0, 1")
    assert at["runs.grace-unsup.settings.reward.negatives"] == (deviations.ABSENT, "rollout")


def test_numbers_given_as_text_are_the_same_numbers():
    assert found("paper", seeds=["0"]) == {}


def test_lists_that_differ_behind_what_is_shown_are_told_apart():
    config = copy.deepcopy(CONFIG)
    config["studies"]["mine"] = {"extends": "paper", "general": {"tasks": ["gsm8k"]}, "seeds": list(range(9))}
    config["studies"]["paper"]["seeds"] = list(range(8))
    one = next(one for one in deviations.deviations(config, "mine") if one.key == "seeds")
    assert (one.paper, one.here) == ("0, 1, 2, 3, 4, 5 and 2 more", "0, 1, 2, 3, 4, 5 and 3 more")


def test_sections_follow_the_configuration():
    sections = [one.section for one in deviations.deviations({**CONFIG, "study": "demo"}, "demo")]
    names = list(dict.fromkeys(sections))
    assert names[:5] == ["backbones", "encoder", "runs", "prompt", "generation"]
    assert sections == sorted(sections, key=names.index)


def test_without_the_papers_study_there_is_a_sentence():
    config = {**CONFIG, "studies": {"demo": CONFIG["studies"]["demo"]}}
    with pytest.raises(UserError, match=r"studies\.paper"):
        deviations.deviations(config, "demo")
