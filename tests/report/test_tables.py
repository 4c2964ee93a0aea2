"""The stage that makes a table: arithmetic, pairing, the paper's numbers, what is missing, and the written files."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from grace.config import tasks as names
from grace.config.schema import Table
from grace.paper import numbers
from grace.report.scoring import bootstrap
from grace.report.sheets.score_tables import AVG_PAPER, AVG_TASKS, FIELDS
from tests.report import made
from tests.report.made import SIZE, Files, cells_of, spec_of


@pytest.fixture
def study(tmp_path) -> list[Files]:
    return made.study(tmp_path)


def raw(files: list[Files], run: str, seed: int) -> dict:
    return json.loads(next(one.mteb for one in files if (one.run, one.seed) == (run, seed)).read_text())


def full(folder, level: dict[str, float], subset: bool = False) -> Files:
    """A model with one known score for each category's tasks, over all 56 or the 16."""
    table = names.SUBSET if subset else names.MTEB
    tasks = {name: category for category, members in table.items() for name in members.split()}
    content = made.result(tasks, np.random.default_rng(0), 0.2)
    for entry in content["tasks"].values():
        score = level[entry["category"]]
        entry |= {"main_score": score, "items": made.mean_items([score] * 5)}
    path = made.write(folder / "full.json", content)
    return Files("grace", 0, path, path)


LEVEL = {category: 0.1 * (i + 1) for i, category in enumerate(names.CATEGORIES)}


def test_a_cell_is_the_mean_over_seeds_in_percent(study):
    cell = cells_of(spec_of(study))["tiny", "cl", "Retrieval"]
    points = [100 * raw(study, "cl", seed)["tasks"]["DocstringRetrieval"]["main_score"] for seed in (0, 1)]
    assert cell["ours"] == pytest.approx(np.mean(points), abs=1e-3)
    assert cell["seed_sd"] == pytest.approx(np.std(points, ddof=1), abs=1e-3)
    assert cell["seeds"] == 2 and cell["source"].count(";") == 1
    assert cell["low"] < cell["ours"] < cell["high"]
    assert cell["paper"] is None and cell["difference"] is None and cell["note"] is None


def test_the_average_is_over_tasks_and_needs_all_of_them(study):
    found = cells_of(spec_of(study))
    six = [found["tiny", "cl", category]["ours"] for category in names.DEMO]
    assert found["tiny", "cl", AVG_TASKS]["ours"] == pytest.approx(np.mean(six), abs=1e-3)
    assert found["tiny", "cl", AVG_PAPER]["ours"] is None  # no Summarization in the demo
    assert found["tiny", "cl", "Summarization"]["ours"] is None
    assert "does not have the tasks" in found["tiny", "cl", "Summarization"]["note"]


def test_intervals_are_those_of_a_slow_loop_over_items_and_seeds(study):
    """Resamples items with plain indices, jointly for both runs and both seeds."""
    drawn = np.concatenate(list(bootstrap.counts(SIZE, 200, 0, "DocstringSTS/0"))).astype(int)
    values = {
        run: [raw(study, run, seed)["tasks"]["DocstringSTS"]["items"]["parts"][0]["values"] for seed in (0, 1)]
        for run in ("cl", "reasoning")
    }
    ours, gap = [], []
    for counts in drawn:
        index = [i for i in range(SIZE) for _ in range(counts[i])]
        mean = {run: sum(sum(one[i] for i in index) / SIZE for one in seeds) / 2 * 100 for run, seeds in values.items()}
        ours.append(mean["cl"])
        gap.append(mean["cl"] - mean["reasoning"])
    cell = cells_of(spec_of(study))["tiny", "cl", "STS"]
    assert (cell["low"], cell["high"]) == pytest.approx(tuple(np.percentile(ours, [2.5, 97.5])), abs=1e-3)
    assert (cell["delta_low"], cell["delta_high"]) == pytest.approx(tuple(np.percentile(gap, [2.5, 97.5])), abs=1e-3)
    assert cell["delta_high"] - cell["delta_low"] < (cell["high"] - cell["low"]) / 3  # pairing narrows it


def test_every_row_of_the_table_stays_also_without_result(study):
    found = cells_of(spec_of(study))
    runs = list(dict.fromkeys(run for backbone, run, _ in found if backbone == "tiny"))
    assert runs == ["base", "reasoning", "cl", "grace", "grace-rollout", "grace-random", "my-ablation"]
    control = found["tiny", "grace-random", "Retrieval"]
    assert (control["ours"], control["note"]) == (None, "Not planned in this study.")
    assert cells_of(spec_of(study, "table2"))["tiny", "simcse", "Retrieval"]["ours"] is None


def test_the_papers_rows_follow_in_the_demo_without_difference(study):
    found = cells_of(spec_of(study, "table2"))
    cell = found["qwen3-4b", "simcse", "STS"]
    assert (cell["paper"], cell["ours"], cell["difference"], cell["reference"]) == (72.48, None, None, True)
    assert found["open", "BERT", AVG_PAPER]["paper"] == 38.33


def test_a_paper_backbone_gets_the_printed_value_and_the_difference(tmp_path):
    """All 56 tasks at one known score: both averages and the difference follow by hand."""
    found = cells_of(spec_of([full(tmp_path, LEVEL)], backbone="qwen2.5-3b", tasks=()))
    ours = {column: found["qwen2.5-3b", "grace", column] for column in (*names.CATEGORIES, AVG_TASKS, AVG_PAPER)}
    assert (ours["STS"]["paper"], ours["STS"]["difference"]) == (74.65, pytest.approx(60 - 74.65))
    weights = [15, 4, 11, 3, 12, 10, 1]
    values = [10.0, 20, 30, 40, 50, 60, 70]
    assert ours[AVG_TASKS]["ours"] == pytest.approx(np.average(values, weights=weights), abs=1e-3)
    assert ours[AVG_TASKS]["paper"] is None
    assert ours[AVG_PAPER]["ours"] == pytest.approx(np.average(values, weights=[*weights[:6], 10]), abs=1e-3)
    assert ours[AVG_PAPER]["difference"] == pytest.approx(ours[AVG_PAPER]["ours"] - 54.74, abs=1e-3)
    assert found["qwen2.5-3b", "cl", "STS"]["ours"] is None and found["qwen2.5-3b", "cl", "STS"]["paper"] == 70.05
    assert found["qwen2.5-3b", "grace-rollout", "STS"]["ours"] is None


def test_table_4_stands_beside_the_papers_16_tasks(tmp_path):
    found = cells_of(spec_of([full(tmp_path, LEVEL, subset=True)], "table4", "qwen2.5-3b", tasks=()))
    ours = {column: cell for (_, run, column), cell in found.items() if run == "grace"}
    assert AVG_PAPER not in ours
    mean = np.average([10.0, 20, 30, 40, 50, 60, 70], weights=[3, 2, 3, 1, 3, 3, 1])
    assert ours[AVG_TASKS]["ours"] == pytest.approx(mean, abs=1e-3)
    assert (ours[AVG_TASKS]["paper"], ours[AVG_TASKS]["difference"]) == (55.89, pytest.approx(mean - 55.89, abs=1e-3))
    assert ours["STS"]["difference"] == pytest.approx(60 - 72.53)
    assert not any(cell["reference"] for cell in found.values())  # its rows stand beside ours already
    text = made.run(spec_of([full(tmp_path, LEVEL, subset=True)], "table4", "qwen2.5-3b", tasks=()), tmp_path).md
    assert "does not say which of its two 3B backbones" in text


def test_a_part_of_a_category_is_not_compared_with_the_paper(tmp_path):
    path = made.write(tmp_path / "part.json", made.result({"STS17": "STS"}, np.random.default_rng(0), 0.2))
    spec = spec_of([Files("grace", 0, path, path)], backbone="qwen2.5-3b", tasks=())
    found = cells_of(spec)["qwen2.5-3b", "grace", "STS"]
    assert found["ours"] is not None and found["paper"] == 74.65 and found["difference"] is None


def test_a_drawn_part_of_a_task_is_said_and_not_compared_with_the_paper(tmp_path):
    one = full(tmp_path, LEVEL)
    made.change(one.mteb, lambda value: value["tasks"]["SciFact"].update(sample={"queries": [100, 1300]}))
    spec = spec_of([one], backbone="qwen2.5-3b", tasks=())
    found = {key[2]: cell for key, cell in cells_of(spec).items() if key[:2] == ("qwen2.5-3b", "grace")}
    compared = {column for column, cell in found.items() if cell["difference"] is not None}
    assert compared == {*names.CATEGORIES} - {"Retrieval"} and found[AVG_PAPER]["ours"] is not None
    text = made.run(spec, tmp_path).md
    assert "SciFact: 100 of 1,300 queries. With fewer" in text
    general = made.run(spec_of([one], "geometry", tasks=()), tmp_path).md
    assert "SciFact" not in general


def test_a_missing_result_is_a_missing_cell(study):
    for one in study:
        if one.run == "grace" or (one.run, one.seed) == ("cl", 1):
            one.mteb.unlink()
    found = cells_of(spec_of(study))
    assert found["tiny", "grace", "Retrieval"]["ours"] is None
    assert "grace-0.json" in found["tiny", "grace", "Retrieval"]["note"]
    half = found["tiny", "cl", "Retrieval"]
    assert half["seeds"] == 1 and half["seed_sd"] is None and "1 of 2 seeds" in half["note"]


def test_general_columns(study):
    found = cells_of(spec_of(study, "table5"))
    one = json.loads(study[0].general.read_text())["tasks"]["docstring_perplexity"]["score"]
    assert found["tiny", "base", "Perplexity"]["ours"] == pytest.approx(one, rel=0.3)
    assert found["tiny", "base", "Perplexity"]["ours"] < 100  # not in percent
    assert found["tiny", "base", "Well-formed"]["ours"] == 90.0
    assert found["tiny", "base", "GSM8K"]["ours"] is None and found["tiny", "base", "Avg"]["ours"] is None
    assert found["qwen3-4b", "grace_sup", "FEVER"]["paper"] == 84.02


@pytest.mark.parametrize(("limit", "compared"), [(None, True), (20, False)])
def test_general_results_of_some_items_are_not_compared_with_the_paper(tmp_path, limit, compared):
    content = {"tasks": {"gsm8k": {"score": 0.5, "items": made.mean_items([0, 1])}}, "rationale": None}
    path = made.write(tmp_path / "g.json", content, "general", settings={"general": {"limit": limit}})
    spec = spec_of([Files("base", 0, path, path)], "table5", backbone="qwen3-4b")
    found = cells_of(spec)["qwen3-4b", "base", "GSM8K"]
    assert found["ours"] == 50.0 and found["paper"] == 75.96
    assert (found["difference"] is not None) is compared


def test_a_table_of_tasks_has_one_row_for_each(study, tmp_path):
    out = made.run(spec_of(study, "table3"), tmp_path / "t")
    lines = [line.split("|")[1:-1] for line in out.md.splitlines() if line.startswith("|")]
    assert [cell.strip() for cell in lines[0]][:4] == ["category", "task", "base", "reasoning"]
    assert [(line[0].strip(), line[1].strip()) for line in lines[2:]] == [
        *((category, name) for category, name in names.DEMO.items()),
        ("", AVG_TASKS),
    ]
    frame = pd.read_csv(out.csv).query("column == 'DocstringSTS' and run == 'cl'").iloc[0]
    points = [100 * raw(study, "cl", seed)["tasks"]["DocstringSTS"]["main_score"] for seed in (0, 1)]
    assert frame["ours"] == pytest.approx(np.mean(points), abs=1e-3) and frame["category"] == "STS"


def test_a_table_of_ones_own_is_one_entry(study, tmp_path):
    """Another name and other rows, none of them in the paper."""
    table = Table(title="Mine", caption="Of *mine*.", kind="mteb", rows={"cl": None, "my-ablation": None})
    spec = spec_of(study).model_copy(update={"name": "mine", "table": table})
    out = made.run(spec, tmp_path / "t")
    frame = pd.read_csv(out.csv)
    assert frame["run"].unique().tolist() == ["cl", "my-ablation"] and frame["paper"].isna().all()
    assert out.md.startswith("# Mine\n\nOf *mine*.") and "the paper prints" not in out.md
    assert r"\label{tab:demo-mine}" in out.tex


def test_the_geometry_is_shown_and_alignment_has_an_interval(study, tmp_path):
    for one in study:
        if one.run == "base":
            made.change(one.mteb, lambda value: value.update(geometry=None))
    spec = spec_of(study, "geometry")
    found = cells_of(spec)
    squared = [raw(study, "cl", seed)["geometry"]["items"]["alignment"] for seed in (0, 1)]
    alignment = found["tiny", "cl", "Alignment"]
    assert alignment["ours"] == pytest.approx(np.mean(squared), abs=1e-4)
    assert alignment["low"] < alignment["ours"] < alignment["high"]
    rank = found["tiny", "cl", "Effective rank"]
    assert (rank["ours"], rank["low"], found["tiny", "cl", "Width"]["ours"]) == (40.25, None, 128)
    none = found["tiny", "base", "Uniformity"]
    assert none["ours"] is None and "there is no geometry.uniformity of base" in none["note"]
    assert "| 40.2 ± 0.0 |" in " ".join(made.run(spec, tmp_path / "t").md.split())


def test_the_stage_writes_every_form(study, tmp_path):
    for one in study:
        if one.run == "grace":
            one.mteb.unlink()
    out = made.run(spec_of(study), tmp_path / "tables")
    frame = pd.read_csv(out.csv)
    assert list(frame.columns) == FIELDS
    row = frame.query("run == 'grace' and backbone == 'tiny' and column == 'STS'").iloc[0]
    assert np.isnan(row["ours"]) and np.isnan(row["seeds"])
    every = frame.query("backbone == 'tiny'")
    assert len(every) == 7 * 11 and not every.duplicated(["run", "column"]).any()
    assert (every["ours"].isna() == every["source"].isna()).all()
    assert every[every["ours"].isna()]["note"].notna().all()

    line = {part.split("|")[2].strip(): part for part in out.md.splitlines() if part.startswith("| tiny")}
    assert line["grace"].count("—") == 11 and "±" in line["cl"]
    assert "**" in line["cl"] and "↑" in line["cl"] and "**" not in line["reasoning"]
    assert "not comparable" in out.md and "grace-0.json" in out.md
    assert numbers.BACKBONES["qwen3-4b"] in out.md and "56.64" in out.md
    said = out.record["line"]
    assert said == (
        "Study demo; backbone tiny; runs base, reasoning, cl, grace, grace-rollout, grace-random, my-ablation; "
        "2 seeds (0, 1); no result of grace, grace-rollout, grace-random."
    )
    assert said in out.md and said in out.html and said in out.tex
    assert out.record["manifest"]["stage"] == "tables" and out.record["manifest"]["content"]
    assert (out.record["seeds"], out.record["backbones"]) == ([0, 1], ["tiny"])
    assert out.record["runs"][-1] == "my-ablation" and len(out.record["missing"]) == 2
    assert out.record["title"].startswith("Table 1") and out.record["caption"] and out.record["problems"] == []


def test_a_difference_inside_its_interval_is_not_bold(study, tmp_path):
    """grace is reasoning's own file here, so that every difference is zero."""
    for seed in (0, 1):
        (tmp_path / f"grace-{seed}.json").write_text((tmp_path / f"reasoning-{seed}.json").read_text())
    line = [part for part in made.run(spec_of(study), tmp_path / "t").md.splitlines() if part.startswith("| tiny")]
    assert "**" not in line[3] and "grace" in line[3] and "**" in line[2]


def test_an_encoder_only_model_is_told_under_the_table(study, tmp_path):
    said = "*base* is an encoder-only model, evaluated as it is: no prompt, and pooling, normalisation"
    for runs in ([], ["base"]):
        out = made.run(spec_of(study).model_copy(update={"encoders": runs}), tmp_path / str(len(runs)))
        assert (said in out.md) == bool(runs)


def test_queries_that_equal_scores_decide_are_told_under_the_table(study, tmp_path):
    def table(share):
        made.change(tmp_path / "cl-0.json", lambda one: one["tasks"]["DocstringRetrieval"].update(tied=share))
        out = made.run(spec_of(study), tmp_path / str(share))
        return out, pd.read_csv(out.csv).query("run == 'cl' and column == 'Retrieval'").iloc[0]

    plain, cell = table(0.0)
    assert "equal scores of documents" not in plain.md and np.isnan(cell["note"])
    out, cell = table(0.125)
    said = "cl-0.json: equal scores of documents decide the score of 12.5 % of the queries of DocstringRetrieval"
    assert said in out.md and said in cell["note"]
    line = [next(part for part in one.md.splitlines() if "| cl" in part).split("|")[3] for one in (plain, out)]
    assert "**" in line[0] and "**" in line[1]  # the difference counts


def test_the_stage_repeats_byte_for_byte(study, tmp_path):
    for name in ("table1", "table2", "table5"):
        for folder in ("a", "b"):
            made.run(spec_of(study, name), tmp_path / folder)
    for kind in ("table1.csv", "table2.md", "table5.csv", "table1.tex", "table1.html"):
        assert (tmp_path / "a" / kind).read_bytes() == (tmp_path / "b" / kind).read_bytes()
