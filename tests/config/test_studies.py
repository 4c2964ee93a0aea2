"""The folder of studies below config.yaml, and runs that are like another."""

import re
from pathlib import Path

import pytest
import yaml

from grace.config.plan import Plan
from grace.config.section import UserError
from grace.config.studies import SHARED, STUDIES, likened, read_config, with_studies

ROOT = Path(__file__).parents[2]
CONFIG = read_config(ROOT / "config.yaml")
RUNS = {"grace": {"method": "grace", "settings": {"reward": {"gamma": 1.0}}}}


def test_a_run_like_another_has_its_keys_below_its_own():
    control = {"like": "grace", "settings": {"reward": {"reward": "random"}}}
    found = likened({**RUNS, "random": control, "more": {"like": "random", "extra": True}}, {})
    both = {"gamma": 1.0, "reward": "random"}
    assert found["random"] == {"method": "grace", "settings": {"reward": both}}
    assert found["more"] == {**found["random"], "extra": True} and found["grace"] == RUNS["grace"]


def test_a_study_that_changes_a_run_changes_those_like_it():
    runs = {"grace-apart": {"settings": {"rounds": {"policy_steps": 7}}}}
    plan = Plan({**CONFIG, "study": "paper", "defaults": {**CONFIG["defaults"], "runs": merged(runs)}})
    assert [plan.runs.sections(run).rounds.policy_steps for run in ("grace-apart", "grace-apart-random")] == [7, 7]


def merged(runs):
    return with_studies({"defaults": {"runs": runs}})["defaults"]["runs"]


def test_a_run_like_a_dropped_one_stays():
    assert likened({"grace": None, "random": {"like": "grace"}}, RUNS) == {"grace": None, "random": RUNS["grace"]}


@pytest.mark.parametrize(
    "runs, said",
    [
        ({"a": {"like": "b"}}, "config: runs.a.like: unknown run 'b' (known: a)."),
        ({"a": {"like": "b"}, "b": {"like": "a"}}, "config: runs.a.like: the runs are like each other in a circle."),
    ],
)
def test_a_run_like_none(runs, said):
    with pytest.raises(UserError, match=re.escape(said)):
        likened(runs, {})


def test_what_a_user_gives_stands_on_top():
    own = {"studies": {"paper": {"seeds": [3]}, "mine": {"extends": "paper"}}, "sources": {"e5": {"path": "/data"}}}
    found = with_studies(own)
    assert found["studies"]["paper"]["seeds"] == [3] and found["studies"]["paper"]["title"] == "The paper"
    assert found["studies"]["mine"] == {"extends": "paper"} and "demo" in found["studies"]
    assert found["sources"]["e5"] == {**CONFIG["sources"]["e5"], "path": "/data"}


def test_wrong_files(tmp_path):
    with pytest.raises(UserError, match=r"^config: sources: it is \['e5'\]; give keys with their values\.$"):
        with_studies({"sources": ["e5"]})
    for number, text in enumerate(("- a list", "a: [", "\x00")):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text)
        with pytest.raises(UserError, match=rf"^{path}: not a YAML file of settings; correct it"):
            read_config(path)


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_person_can_read_it(path):
    text = path.read_text()
    assert max(map(len, text.split("\n"))) <= 120
    assert not any(isinstance(one, yaml.AliasEvent) or getattr(one, "anchor", None) for one in yaml.parse(text))
    if path.stem not in SHARED:
        assert Plan({**CONFIG, "study": path.stem}).study.title
