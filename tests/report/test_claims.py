"""Claims against cases worked out by hand: every verdict, both averages, what is missing, what the stage writes."""

import json
from pathlib import Path

import pytest

from grace.config import specs, tasks
from grace.jobs import manifest
from grace.paper import numbers
from grace.report import claims
from grace.report.report import summary
from grace.report.scoring import verdicts
from grace.report.scoring.scores import load
from tests.report import made, traded

MTEB = [name for group in tasks.MTEB.values() for name in group.split()]
BY_ID = {one.id: one for one in verdicts.CLAIMS}
RESAMPLES = 40


def test_a_printed_gain_is_computed_as_the_paper_does_and_over_its_56_data_sets():
    for name, row in (("grace-gain", "supervised"), ("grace-unsup-gain", "unsupervised")):
        said = numbers.printed("claims", row, "gain", "Avg")
        assert claims.printed(BY_ID[name], claims.MEAN, "Avg") == pytest.approx(said, abs=0.01)
    assert claims.printed(BY_ID["grace-gain"], claims.MEAN, "categories") == 12.96
    assert claims.printed(BY_ID["grace-unsup-gain"], claims.MEAN, "categories") == 7.60
    assert claims.printed(BY_ID["grace-above-base"], "qwen2.5-1.5b", "Avg") == pytest.approx(45.48 - 30.33)
    assert claims.printed(BY_ID["cl-general-below-base"], "qwen3-4b", "Avg") == pytest.approx(8.51 - 60.73)
    assert claims.printed(BY_ID["grace-above-random"], "tiny", "Avg") is None


def result(path: Path, scores: dict[str, list[float]], **more) -> str:
    """A result of the means of items; one of `evaluate` unless `rationale` and `limit` say otherwise."""
    kind = "score" if "rationale" in more else "main_score"
    category = {} if "rationale" in more else {"category": "STS"}
    found = {
        name: {
            kind: sum(values) / len(values),
            **category,
            "items": {"statistic": "mean", "parts": [{"values": values}]},
        }
        for name, values in scores.items()
    }
    limit = more.pop("limit", None)
    made = {"stage": "evaluate", "settings": {"general": {"limit": limit}}, "revision": str(path)}
    manifest.write_result(path, made, tasks=found, **more)
    return str(path)


class Study:
    """Results of some runs, and the claims on them."""

    def __init__(self, folder: Path, planned: list[str], seeds: int = 1) -> None:
        self.folder, self.planned, self.seeds = folder, planned, range(seeds)
        self.cells: dict[str, list[specs.Cell]] = {"cells": [], "general": []}
        self.baselines: list[str] = []

    def add(self, kind: str, backbone: str, run: str, scores: dict[str, list[float]] | None, **more) -> None:
        for seed in self.seeds:
            path = self.folder / kind / backbone / run / f"{seed}.json"
            if scores is not None:
                result(path, scores, **more)
            self.cells[kind].append(specs.Cell(backbone=backbone, run=run, seed=seed, results=[str(path)]))

    def embedding(self, backbone: str, **runs: float | list[float] | None) -> None:
        """Each run with one score, or the same items, in all tasks."""
        for run, value in runs.items():
            items = value if isinstance(value, list) else [value] * 4
            scores = None if value is None else dict.fromkeys(self.planned, items)
            self.add("cells", backbone, run.replace("_", "-"), scores)

    @property
    def spec(self) -> specs.ClaimsSpec:
        more = {"baselines": self.baselines, "subset": self.planned[:2]}
        return specs.ClaimsSpec(study="hand", bootstrap=RESAMPLES, tasks=self.planned, **more, **self.cells)

    def test(self) -> dict[tuple[str, str, str], dict]:
        spec = self.spec
        found = claims.every(spec, load(spec.cells, RESAMPLES), load(spec.general, RESAMPLES))
        return {(one["id"], one["backbone"], one["measure"]): one for one in found}


def test_differences_on_a_backbone_of_our_own(tmp_path):
    study = Study(tmp_path, ["DocstringSTS", "DocstringPairs"])
    wide = [0.0, 1.0, 0.0, 1.0, 0.5, 0.5, 0.5, 1.0]
    study.embedding("tiny", base=[0.5] * 8, reasoning=[0.6] * 8, cl=[0.4] * 8, grace=wide, simcse=None)
    found = study.test()
    at = {name: found[name, "tiny", "mean of 2 tasks"] for name in BY_ID if (name, "tiny", "mean of 2 tasks") in found}
    up, down, open_ = at["reasoning-above-base"], at["cl-above-base"], at["grace-above-base"]
    assert (up["ours"], up["low"], up["high"], up["verdict"]) == (10.0, 10.0, 10.0, "reproduced")
    assert (down["ours"], down["verdict"]) == (-10.0, "contradicted")
    assert open_["ours"] == 6.25 and open_["low"] < 0 < open_["high"] and open_["verdict"] == "not separable"
    assert up["levels"] == [60.0, 50.0] and up["seeds"] == 1 and up["runs"] == ["reasoning", "base"]
    assert at["simcse-above-base"]["verdict"] == at["grace-unsup-above-base"]["verdict"] == "not run"
    assert at["simcse-above-base"]["ours"] is None
    # A backbone that the paper does not have is set beside the mean over its four, and never comparable.
    assert up["printed"] == 2.16 and not any(one["comparable"] for one in found.values())


def test_reasoning_is_set_beside_the_best_baseline_of_each_backbone(tmp_path):
    """By the subset's tasks, on which alone the baselines are evaluated."""
    study = Study(tmp_path, ["DocstringSTS", "DocstringPairs", "DocstringRetrieval"])
    assert not [id for id, *_ in study.test() if id.endswith("-baselines") and id != "grace-above-baselines"]
    study.baselines = ["base", "text", "echo", "one-word"]
    for backbone, best in (("tiny", 0.7), ("tiny-1", 0.3)):
        study.embedding(backbone, base=[0.5] * 8, reasoning=[0.6] * 8, echo=None)
        for run, value in (("text", 0.4), ("one-word", best)):
            study.add("cells", backbone, run, dict.fromkeys(study.planned[:2], [value] * 8))
    found = study.test()
    ours = found["reasoning-above-baselines", "tiny", "mean of 2 tasks"]
    assert (ours["ours"], ours["verdict"], ours["runs"]) == (-10.0, "contradicted", ["reasoning", "one-word"])
    assert ours["text"].endswith("(`one-word`)") and ours["word"] == "the opposite holds"
    other = found["reasoning-above-baselines", "tiny-1", "mean of 2 tasks"]
    assert (other["ours"], other["verdict"], other["runs"]) == (10.0, "reproduced", ["reasoning", "base"])
    assert found["grace-above-baselines", "tiny", "mean of 2 tasks"]["verdict"] == "not run"


@pytest.mark.parametrize(("no_answer", "verdict"), [(2, "reproduced"), (3, "not separable")])
def test_two_models_that_answer_nothing_are_not_within_the_bound(tmp_path, no_answer, verdict):
    study = Study(tmp_path, ["DocstringSTS"])
    for run in ("base", "grace", "cl"):
        study.add("general", "tiny", run, dict.fromkeys(numbers.GENERAL.values(), [0.0] * 4), rationale=None)
        path = Path(study.cells["general"][-1].results[0])
        made = json.loads(path.read_text())
        made["tasks"]["gsm8k"]["no_answer"] = no_answer
        manifest.write_result(path, made.pop("manifest"), **made)
    found = study.test()
    within = found["grace-general-within", "tiny", "mean of the six tasks"]
    assert within["verdict"] == verdict and within["ours"] == 0.0
    said = [text for text in within["problems"] if "3 of 4 replies to gsm8k hold no answer" in text]
    assert len(said) == 2 * (no_answer == 3)
    assert found["grace-general-above-cl", "tiny", "mean of the six tasks"]["verdict"] == "not separable"


def test_summarization_counts_ten_times_in_the_papers_average_and_once_in_the_plain_one(tmp_path):
    study = Study(tmp_path, MTEB)
    study.embedding("qwen2.5-3b", base=0.2)
    scores = {name: [0.85 if name == "SummEval" else 0.2] * 4 for name in MTEB}
    study.add("cells", "qwen2.5-3b", "grace", scores)
    found = study.test()
    weighed = found["grace-above-base", "qwen2.5-3b", "average as the paper weighs it"]
    plain = found["grace-above-base", "qwen2.5-3b", "mean of 56 tasks"]
    assert weighed["ours"] == pytest.approx(10 * 65 / 65) and plain["ours"] == pytest.approx(65 / 56, abs=1e-4)
    assert weighed["comparable"] and plain["comparable"] and plain["recomputed"] and not weighed["recomputed"]
    assert weighed["printed"] == pytest.approx(54.74 - 44.12)
    assert weighed["headline"] and not plain["headline"]


@pytest.mark.parametrize(("gains", "expected"), [((10, 11, 12, 13.2), "reproduced"), ((1, 2, 3, 4), "contradicted")])
def test_a_gain_is_of_the_mean_over_the_papers_four(tmp_path, gains, expected):
    study = Study(tmp_path, MTEB)
    for backbone, gain in zip(numbers.BACKBONES, gains, strict=True):
        study.embedding(backbone, base=0.3, grace=0.3 + gain / 100)
    one = study.test()["grace-gain", claims.MEAN, "average as the paper weighs it"]
    assert one["ours"] == pytest.approx(sum(gains) / 4) and one["verdict"] == expected and one["comparable"]


def gains(study: Study) -> dict[str, tuple[str, bool]]:
    """Measure -> verdict and whether it counts, of GRACE's printed gain."""
    found = {key: one for key, one in study.test().items() if key[0] == "grace-gain"}
    assert {backbone for _, backbone, _ in found} <= {claims.MEAN}
    return {measure: (one["verdict"], one["headline"]) for (_, _, measure), one in found.items()}


def test_a_gain_is_not_run_where_a_result_is_missing_and_left_out_where_the_study_has_none(tmp_path):
    whole, three, own = (Study(tmp_path / name, MTEB) for name in ("whole", "three", "own"))
    own.planned = ["DocstringSTS"]
    for backbone in numbers.BACKBONES:
        whole.embedding(backbone, base=0.3, grace=None if backbone == "qwen3-4b" else 0.4)
        own.embedding(backbone, base=0.3, grace=0.4)
        if backbone != "qwen3-4b":
            three.embedding(backbone, base=0.3, grace=0.4)
    assert gains(whole) == {
        "average as the paper weighs it": ("not run", True),
        "mean of 56 tasks": ("not run", False),
    }
    assert gains(three) == gains(own) == {}
    said = {study: " ".join(claims.notes(list(study.test().values()), RESAMPLES)) for study in (whole, three, own)}
    assert "A printed gain is reproduced when" in said[whole] and "cannot test them" not in said[whole]
    for study in (three, own):
        assert "A printed gain is" not in said[study] and said[study].count("so it cannot test them") == 1
    embedding = [one for one in three.test().values() if one["group"] != "General capability"]
    assert claims.totals(embedding).startswith("24 claims of the paper, counted once per backbone: 3 reproduced")


def general(study: Study, run: str, choice: float, perplexity: float, formed: float) -> None:
    """The demo's general tasks: 10 questions, 10 rationales, 10 texts of one token each."""
    from math import exp, log

    path = study.folder / "general" / "tiny" / run / "0.json"
    ask = [1.0] * round(choice * 10) + [0.0] * round(10 - choice * 10)
    kept = [1.0] * round(formed * 10) + [0.0] * round(10 - formed * 10)
    result(path, {"docstring_choice": ask}, rationale=None)
    body = json.loads(path.read_text())
    likelihood = {"statistic": "perplexity", "parts": [{"values": [-log(perplexity)] * 10, "gold": [1] * 10}]}
    body["tasks"]["docstring_perplexity"] = {"score": exp(log(perplexity)), "items": likelihood}
    items = {"statistic": "mean", "parts": [{"values": kept}]}
    body["rationale"] = {"well_formed_share": formed, "items": items, "mean_tokens": 3, "texts": 10}
    made = body.pop("manifest")
    manifest.write_result(path, made, **body)
    study.cells["general"].append(specs.Cell(backbone="tiny", run=run, seed=0, results=[str(path)]))


def test_the_demos_general_tasks_stand_in_and_a_lower_perplexity_is_better(tmp_path):
    study = Study(tmp_path, ["DocstringSTS"])
    general(study, "base", 1.0, 50, 1.0)
    general(study, "cl", 0.0, 100, 0.0)
    general(study, "grace", 1.0, 50, 1.0)
    general(study, "grace-unsup", 0.5, 50, 1.0)
    found = study.test()
    worse = found["cl-general-below-base", "tiny", "perplexity, lower is better"]
    assert (worse["ours"], worse["verdict"], worse["printed"]) == (50.0, "reproduced", None)
    assert found["cl-general-below-base", "tiny", "well-formed rationales"]["ours"] == -100
    # The paper measures none of these, so no number of its table 5 stands beside them.
    assert {one["printed"] for one in found.values() if one["group"] == "General capability"} == {None}
    better = found["grace-general-above-cl", "tiny", "perplexity, lower is better"]
    assert (better["ours"], better["verdict"]) == (-50.0, "reproduced")
    # Only what is measured in points can lie within the bound.
    assert [key[2] for key in found if key[0] == "grace-general-within"] == ["multiple choice"]
    same = found["grace-general-within", "tiny", "multiple choice"]
    assert (same["verdict"], same["bound"]) == ("reproduced", 0.4)
    assert found["grace-unsup-general-within", "tiny", "multiple choice"]["verdict"] == "contradicted"


def test_a_claim_counts_once_by_its_first_measure_and_says_when_another_disagrees(tmp_path):
    study = Study(tmp_path, ["DocstringSTS"])
    general(study, "base", 1.0, 50, 1.0)
    general(study, "cl", 0.0, 25, 0.0)  # of which its perplexity says the opposite
    general(study, "grace", 1.0, 25, 1.0)
    assert verdicts.split([("a", "reproduced"), ("a", "not run"), ("b", "reproduced")]) == set()
    found = [one for one in study.test().values() if one["verdict"] != "not run"]
    by_measure = {(one["id"], one["measure"]): (one["headline"], one["verdict"]) for one in found}
    assert by_measure == {
        ("cl-general-below-base", "multiple choice"): (True, "reproduced"),
        ("cl-general-below-base", "well-formed rationales"): (False, "reproduced"),
        ("cl-general-below-base", "perplexity, lower is better"): (False, "contradicted"),
        ("grace-general-above-cl", "multiple choice"): (True, "reproduced"),
        ("grace-general-above-cl", "well-formed rationales"): (False, "reproduced"),
        ("grace-general-above-cl", "perplexity, lower is better"): (False, "not separable"),
        ("grace-general-within", "multiple choice"): (True, "reproduced"),
    }
    assert claims.totals(found) == "3 claims of the paper: 3 reproduced, 0 contradicted, 0 not separable, 0 not run"
    lines = [line for line in claims.render(study.spec, found).splitlines() if "reproduced; measures disagree" in line]
    assert [line.split(" | ")[2] for line in lines] == ["multiple choice"] * 2
    assert "The measures disagree in 2 claims, which say so." in claims.render(study.spec, found)


@pytest.mark.parametrize(
    ("backbones", "said", "unsaid"),
    [
        (["tiny"], "printed number is its mean over the paper's four backbones.", "same backbone"),
        (["qwen2.5-3b"], "printed number is the paper's for the same backbone.", "mean over the paper's four"),
        (["tiny", "qwen2.5-3b"], "or its mean over its four where the backbone is none of them.", "backbones."),
    ],
)
def test_a_printed_number_that_is_not_comparable_is_called_what_it_is(tmp_path, backbones, said, unsaid):
    study = Study(tmp_path, ["DocstringSTS"])
    for backbone in backbones:
        study.embedding(backbone, base=0.5, grace=0.6)
    found = list(study.test().values())
    note = next(text for text in claims.notes(found, RESAMPLES) if text.startswith("No test here"))
    assert note.endswith(said) and unsaid not in note.replace("paper's backbones", "")
    printed = {one["backbone"]: one["printed"] for one in found if one["id"] == "grace-above-base"}
    assert printed.items() <= {"tiny": 11.52, "qwen2.5-3b": 10.62}.items()


def test_claims_without_a_printed_number_say_nothing_of_one(tmp_path):
    study = Study(tmp_path, ["DocstringSTS"])
    general(study, "base", 1.0, 50, 1.0)
    general(study, "cl", 0.0, 100, 0.0)
    note = next(text for text in claims.notes(list(study.test().values()), RESAMPLES) if text.startswith("No test"))
    assert note.endswith("not its size.")


@pytest.mark.parametrize(("limit", "comparable"), [(None, True), (20, False)])
def test_general_tasks_cut_to_some_items_are_not_comparable(tmp_path, limit, comparable):
    study = Study(tmp_path, MTEB)
    for run in ("base", "cl"):
        scores = {name: [0.5, 0.4] for name in numbers.GENERAL.values()}
        study.add("general", "qwen3-4b", run, scores, rationale=None, limit=limit)
    one = study.test()["cl-general-below-base", "qwen3-4b", "mean of the six tasks"]
    assert one["comparable"] is comparable and one["ours"] == 0 and one["verdict"] == "not separable"


@pytest.mark.parametrize("sampled", [False, True])
def test_drawn_parts_of_the_papers_tasks_are_not_comparable(tmp_path, sampled):
    study = Study(tmp_path, MTEB)
    study.embedding("qwen3-4b", base=0.5, grace=0.6)
    if sampled:
        made.change(
            Path(study.cells["cells"][0].results[0]),
            lambda value: value["tasks"]["SciFact"].update(sample={"queries": [9, 300]}),
        )
    assert study.test()["grace-above-base", "qwen3-4b", "mean of 56 tasks"]["comparable"] is not sampled


def test_what_the_paper_does_not_claim_is_worded_and_counted_apart(tmp_path):
    study = Study(tmp_path, ["DocstringSTS"])
    study.embedding("tiny", base=0.5, grace=0.4, grace_random=0.6, grace_rollout=0.5)
    found = list(study.test().values())
    words = {one["id"]: (one["verdict"], one["word"]) for one in found}
    assert words["grace-above-random"] == ("contradicted", "the opposite holds")
    assert words["rollout-above-anchor"] == ("reproduced", "holds")
    assert words["grace-above-base"] == ("contradicted", "contradicted")
    claimed = [one for one in found if one["group"] != "General capability"]
    assert claims.totals(claimed).startswith("8 claims of the paper: 0 reproduced, 1 contradicted")
    assert claims.totals(claimed).endswith("; 4 comparisons beyond it")


@pytest.mark.parametrize(
    ("seeds", "said"), [(1, "One seed: the intervals say nothing about"), (2, "2 seeds, whose mean")]
)
def test_the_stage_writes_both_files_and_says_how_many_seeds_there_are(tmp_path, seeds, said):
    study = Study(tmp_path, ["DocstringSTS"], seeds)
    study.embedding("tiny", base=0.5, grace=0.6, cl=None)
    broken = Path(study.cells["cells"][0].results[0]).with_name("broken.json")
    broken.write_text("{")
    study.cells["cells"].append(specs.Cell(backbone="tiny", run="reasoning", seed=0, results=[str(broken)]))
    md, record = tmp_path / "claims.md", tmp_path / "claims.json"
    claims.main(["--spec", study.spec.model_dump_json(), "--md", str(md), "--json", str(record)])
    made = json.loads(record.read_text())
    assert not manifest.edited(made) and {"id", "text", "verdict", "seeds"} <= made["claims"][0].keys()
    assert len(made["missing"]) == seeds and any("broken.json is not whole" in text for text in made["problems"])
    text = md.read_text()
    assert said in text and "No test here is of the paper's backbones and tasks" in text
    assert "| GRACE embeds better than its base | tiny | mean of 1 task | +11.52 | +10.00 [+10.00, +10.00] |" in text
    assert "| — | not run |" in text


def test_the_trade_offs_statements_are_judged_where_it_was_asked_for(tmp_path):
    """Through the real stage: in a group of their own, in percent, and not counted as claims of the paper."""
    made = json.loads(traded.plan(tradeoff=True).spec_claims())
    traded.moved(made["traded"], tmp_path)
    spec = specs.ClaimsSpec.model_validate({**made, "bootstrap": RESAMPLES, "cells": [], "general": []})
    traded.fill(spec.traded, without=("fence-rationale", "fence-rationale.reasoning"))
    md, record = tmp_path / "claims.md", tmp_path / "claims.json"
    claims.main(["--spec", spec.model_dump_json(), "--md", str(md), "--json", str(record)])
    found = json.loads(record.read_text())
    entries = {one["id"]: one for one in found["claims"]}
    assert list(entries) == [one.id for one in verdicts.TRADED]
    assert (entries["fence-perplexity"]["verdict"], entries["fence-perplexity"]["ours"]) == ("not run", None)
    near = entries["adapter-within-cl"]
    assert (near["word"], near["bound"], near["ours"]) == ("holds", 2.0, -1.0) and near["seeds"] == 3
    assert any("fence-rationale" in path for path in found["manifest"]["inputs"]) is False and found["missing"]
    text = md.read_text()
    assert "0 claims of the paper" in text and f"; {len(entries)} comparisons beyond it" in text
    assert "| nDCG@10 | — (bound 2) | -1.00 [-1.00, -1.00] | holds |" in text
    counted = summary(found)
    assert sum(counted["counts"].values()) == 0 and [group for group, _ in counted["groups"]] == [verdicts.TOGETHER]
