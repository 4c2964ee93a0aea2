"""From result files to cells: arithmetic, pairing, what is missing, what is broken."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from grace import specs
from grace import tasks as names
from grace.paper import numbers
from grace.report import scores, tables
from grace.section import UserError

SIZE = 200
DEMO = {name: category for category, name in names.DEMO.items()}


def mean_items(values) -> dict:
    return {"statistic": "mean", "parts": [{"values": [float(v) for v in values]}]}


def result(tasks: dict[str, str], rng, shift: float, rationale: bool = True) -> dict:
    """A result file of the stage `evaluate` whose tasks are all means of items."""
    found = {}
    for name, category in tasks.items():
        values = np.clip(
            np.random.default_rng(len(name)).random(SIZE) * 0.5 + shift + 0.02 * rng.normal(size=SIZE), 0, 1
        )
        found[name] = {
            "category": category,
            "main_score": float(values.mean()),
            "metric": "x",
            "items": mean_items(values),
        }
    return {
        "manifest": {"stage": "evaluate"},
        "tasks": found,
        "geometry": {"random_pair_cosine": 0.25 + shift, "pairs": 2000, "texts": 100},
        "rationale": {"mean_tokens": 30.0, "texts": 100} if rationale else None,
    }


def general(rng) -> dict:
    values, tokens = -rng.random(SIZE) * 100, [20] * SIZE
    choice = rng.random(SIZE) < 0.4
    perplexity = {"statistic": "perplexity", "parts": [{"values": values.tolist(), "gold": tokens}]}
    score = float(np.exp(-values.sum() / (20 * SIZE)))
    return {
        "manifest": {"stage": "general"},
        "tasks": {
            "docstring_perplexity": {"score": score, "metric": "token_perplexity", "items": perplexity},
            "docstring_choice": {"score": float(choice.mean()), "metric": "acc", "items": mean_items(choice)},
        },
        "rationale": {"well_formed_share": 0.9, "items": mean_items([1] * 9 + [0]), "mean_tokens": 30, "texts": 10},
    }


RUNS = {"base": 0.1, "reasoning": 0.2, "cl": 0.4, "grace": 0.2, "my-ablation": 0.3}


@pytest.fixture
def study(tmp_path):
    """Five runs x two seeds on the tiny backbone, written as the stages write them."""
    cells = []
    for run, shift in RUNS.items():
        for seed in (0, 1):
            rng = np.random.default_rng([seed, len(run)])
            mteb, other = tmp_path / f"{run}-{seed}.json", tmp_path / f"{run}-{seed}-general.json"
            mteb.write_text(json.dumps(result(DEMO, rng, shift + 0.01 * seed, rationale=run != "base")))
            other.write_text(json.dumps(general(rng)))
            cells.append(specs.Cell(backbone="tiny", run=run, seed=seed, mteb=[str(mteb)], general=str(other)))
    return specs.TablesSpec(study="demo", bootstrap=200, tasks=list(DEMO), cells=cells)


def table(name: str) -> tables.Table:
    return next(one for one in tables.TABLES if one.name == name)


def cells_of(spec, name="table1") -> dict:
    built = tables.build(table(name), scores.load(spec.cells, spec.bootstrap), spec.tasks)
    return {(cell["backbone"], cell["run"], cell["column"]): cell for cell in built}


def raw(spec, run: str, seed: int) -> dict:
    cell = next(cell for cell in spec.cells if (cell.run, cell.seed) == (run, seed))
    with open(cell.mteb[0]) as handle:
        return json.load(handle)


def test_a_cell_is_the_mean_over_seeds_in_percent(study):
    cell = cells_of(study)["tiny", "cl", "Retrieval"]
    points = [100 * raw(study, "cl", seed)["tasks"]["DocstringRetrieval"]["main_score"] for seed in (0, 1)]
    assert cell["ours"] == pytest.approx(np.mean(points), abs=1e-3)
    assert cell["seed_sd"] == pytest.approx(np.std(points, ddof=1), abs=1e-3)
    assert cell["seeds"] == 2 and cell["source"].count(";") == 1
    assert cell["low"] < cell["ours"] < cell["high"]
    assert cell["paper"] is None and cell["difference"] is None


def test_the_average_is_over_tasks_and_needs_all_of_them(study):
    cells = cells_of(study)
    six = [cells["tiny", "cl", category]["ours"] for category in names.DEMO]
    assert cells["tiny", "cl", tables.AVG_TASKS]["ours"] == pytest.approx(np.mean(six), abs=1e-3)
    assert cells["tiny", "cl", tables.AVG_PAPER]["ours"] is None  # no Summarization in the demo
    assert cells["tiny", "cl", "Summarization"]["ours"] is None


def test_intervals_are_those_of_a_slow_loop_over_items_and_seeds(study):
    """Resamples items with plain indices, jointly for both runs and both seeds."""
    from grace.report import bootstrap

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
    cell = cells_of(study)["tiny", "cl", "STS"]
    assert (cell["low"], cell["high"]) == pytest.approx(tuple(np.percentile(ours, [2.5, 97.5])), abs=1e-3)
    assert (cell["delta_low"], cell["delta_high"]) == pytest.approx(tuple(np.percentile(gap, [2.5, 97.5])), abs=1e-3)
    assert cell["delta_high"] - cell["delta_low"] < (cell["high"] - cell["low"]) / 3  # pairing narrows it


def test_a_run_that_no_table_names_is_listed_and_a_paper_row_without_run_stays(study):
    runs = list(dict.fromkeys(run for backbone, run, _ in cells_of(study) if backbone == "tiny"))
    assert runs == ["base", "reasoning", "cl", "grace", "my-ablation"]
    second = cells_of(study, "table2")
    assert second["tiny", "simcse", "Retrieval"]["ours"] is None


def test_the_papers_rows_follow_in_the_demo_without_difference(study):
    cells = cells_of(study, "table2")
    cell = cells["qwen3-4b", "simcse", "STS"]
    assert (cell["paper"], cell["ours"], cell["difference"], cell["reference"]) == (72.48, None, None, True)
    assert cells["open", "BERT", tables.AVG_PAPER]["paper"] == 38.33


def test_a_paper_backbone_gets_the_printed_value_and_the_difference(study, tmp_path):
    """All 56 tasks at one known score: both averages and the difference follow by hand."""
    path = tmp_path / "full.json"
    mteb = {name: category for name, category in names.CATEGORY.items() if name not in DEMO}
    content = result(mteb, np.random.default_rng(0), 0.2)
    level = {category: 0.1 * (i + 1) for i, category in enumerate(names.CATEGORIES)}
    for entry in content["tasks"].values():
        entry |= {"main_score": level[entry["category"]], "items": mean_items([level[entry["category"]]] * 5)}
    path.write_text(json.dumps(content))
    cell = specs.Cell(backbone="qwen2.5-3b", run="grace", seed=0, mteb=[str(path)], general=str(tmp_path / "none"))
    cells = cells_of(specs.TablesSpec(study="paper", bootstrap=20, tasks=[], cells=[cell]))
    found = {
        column: cells["qwen2.5-3b", "grace", column] for column in (*names.CATEGORIES, "Avg (tasks)", "Avg (paper)")
    }
    assert (found["STS"]["paper"], found["STS"]["difference"]) == (74.65, pytest.approx(60 - 74.65))
    weights = [15, 4, 11, 3, 12, 10, 1]
    values = [10.0, 20, 30, 40, 50, 60, 70]
    assert found["Avg (tasks)"]["ours"] == pytest.approx(np.average(values, weights=weights), abs=1e-3)
    assert found["Avg (paper)"]["ours"] == pytest.approx(np.average(values, weights=[*weights[:6], 10]), abs=1e-3)
    assert found["Avg (paper)"]["difference"] == pytest.approx(found["Avg (paper)"]["ours"] - 54.74, abs=1e-3)
    assert cells["qwen2.5-3b", "cl", "STS"]["ours"] is None and cells["qwen2.5-3b", "cl", "STS"]["paper"] == 70.05
    assert ("qwen2.5-3b", "grace-rollout", "STS") not in cells


def test_a_part_of_a_category_is_not_compared_with_the_paper(study, tmp_path):
    path = tmp_path / "subset.json"
    path.write_text(json.dumps(result({"STS17": "STS"}, np.random.default_rng(0), 0.2)))
    cell = specs.Cell(backbone="qwen2.5-3b", run="grace", seed=0, mteb=[str(path)], general=str(tmp_path / "none"))
    found = cells_of(specs.TablesSpec(study="paper", bootstrap=20, tasks=[], cells=[cell]))[
        "qwen2.5-3b", "grace", "STS"
    ]
    assert found["ours"] is not None and found["paper"] == 74.65 and found["difference"] is None


def test_a_missing_result_is_a_missing_cell(study, tmp_path):
    for cell in study.cells:
        if cell.run == "grace" or (cell.run, cell.seed) == ("cl", 1):
            (tmp_path / cell.mteb[0]).unlink()
    cells = cells_of(study)
    assert cells["tiny", "grace", "Retrieval"]["ours"] is None
    assert cells["tiny", "cl", "Retrieval"]["seeds"] == 1 and cells["tiny", "cl", "Retrieval"]["seed_sd"] is None


def test_an_undefined_score_is_a_missing_cell(study):
    path = study.cells[4].mteb[0]
    content = raw(study, study.cells[4].run, study.cells[4].seed)
    content["tasks"]["DocstringSTS"] |= {"main_score": None, "items": None}
    with open(path, "w") as handle:
        json.dump(content, handle)
    assert cells_of(study)["tiny", "cl", "STS"]["seeds"] == 1


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda text: text[: len(text) // 2], "not whole"),
        (lambda text: "{}", "no manifest"),
        (lambda text: '{"manifest": {}}', "not a whole result"),
        (lambda text: text.replace('"main_score"', '"score"'), "not a whole result"),
    ],
)
def test_a_broken_file_is_named_with_what_to_do(study, tmp_path, damage, says):
    path = tmp_path / "cl-0.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(UserError, match=f"cl-0.json: .*{says}.*delete it"):
        scores.load(study.cells, 10)


def test_results_of_different_task_data_are_refused(study, tmp_path):
    path = tmp_path / "cl-0.json"
    content = json.loads(path.read_text())
    content["tasks"]["DocstringSTS"]["items"]["parts"][0]["values"].pop()
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"DocstringSTS.*other items"):
        scores.load(study.cells, 10)


def test_general_columns(study):
    cells = cells_of(study, "table5")
    with open(study.cells[0].general) as handle:
        one = json.load(handle)["tasks"]["docstring_perplexity"]["score"]
    assert cells["tiny", "base", "Perplexity"]["ours"] == pytest.approx(one, rel=0.3)
    assert cells["tiny", "base", "Perplexity"]["ours"] < 100  # not in percent
    assert cells["tiny", "base", "Well-formed"]["ours"] == 90.0
    assert cells["tiny", "base", "GSM8K"]["ours"] is None and cells["tiny", "base", "Avg"]["ours"] is None
    assert cells["qwen3-4b", "grace_sup", "FEVER"]["paper"] == 84.02


def test_the_stage_writes_csv_and_markdown(study, tmp_path):
    for cell in study.cells:
        if cell.run == "grace":
            (tmp_path / cell.mteb[0]).unlink()
    tables.main(["--spec", study.model_dump_json(), "--folder", str(tmp_path / "tables")])
    frame = pd.read_csv(tmp_path / "tables/table1.csv")
    assert list(frame.columns) == tables.FIELDS
    row = frame.query("run == 'grace' and backbone == 'tiny' and column == 'STS'").iloc[0]
    assert np.isnan(row["ours"]) and np.isnan(row["seeds"])
    every = frame.query("backbone == 'tiny'")
    assert len(every) == 5 * 11 and not every.duplicated(["run", "column"]).any()
    assert (every["ours"].isna() == every["source"].isna()).all()

    text = (tmp_path / "tables/table1.md").read_text()
    line = {part.split("|")[2].strip(): part for part in text.splitlines() if part.startswith("| tiny")}
    assert line["grace"].count("—") == 11
    assert "**" in line["cl"] and "↑" in line["cl"] and "**" not in line["reasoning"]
    assert "not comparable" in text and "grace-0.json" in text and "study `demo`" in text.lower()
    assert numbers.BACKBONES["qwen3-4b"] in text and "56.64" in text
    assert json.loads((tmp_path / "tables/tables.json").read_text())["manifest"]["stage"] == "tables"


def test_the_stage_repeats_byte_for_byte(study, tmp_path):
    for name in ("a", "b"):
        tables.main(["--spec", study.model_dump_json(), "--folder", str(tmp_path / name)])
    for kind in ("table1.csv", "table2.md", "table5.csv"):
        assert (tmp_path / "a" / kind).read_bytes() == (tmp_path / "b" / kind).read_bytes()
