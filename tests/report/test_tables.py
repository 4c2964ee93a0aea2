"""From result files to cells: arithmetic, pairing, what is missing, what is broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

from grace import specs
from grace import tasks as names
from grace.config import Table
from grace.paper import numbers
from grace.report import scores, tables
from grace.section import UserError
from tests.test_config import CONFIG

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


class Files(NamedTuple):
    """The results of one model: of `evaluate` and of `general`."""

    run: str
    seed: int
    mteb: Path
    general: Path


@pytest.fixture
def study(tmp_path) -> list[Files]:
    """Five runs x two seeds on the tiny backbone, written as the stages write them."""
    found = []
    for run, shift in RUNS.items():
        for seed in (0, 1):
            rng = np.random.default_rng([seed, len(run)])
            mteb, other = tmp_path / f"{run}-{seed}.json", tmp_path / f"{run}-{seed}-general.json"
            mteb.write_text(json.dumps(result(DEMO, rng, shift + 0.01 * seed, rationale=run != "base")))
            other.write_text(json.dumps(general(rng)))
            found.append(Files(run, seed, mteb, other))
    return found


def entry(name: str, *more: str) -> Table:
    """The configuration's entry, with more runs that the paper does not have."""
    table = Table(**CONFIG["defaults"]["tables"][name])
    return table.model_copy(update={"rows": {**table.rows, **dict.fromkeys(more)}})


def spec_of(files: list[Files], name: str = "table1", backbone: str = "tiny", tasks=tuple(DEMO)) -> specs.TablesSpec:
    kind = entry(name).kind
    cells = [
        specs.Cell(backbone=backbone, run=one.run, seed=one.seed, results=[str(getattr(one, kind))]) for one in files
    ]
    table = entry(name, "my-ablation") if name == "table1" and backbone == "tiny" else entry(name)
    return specs.TablesSpec(study="demo", bootstrap=200, name=name, table=table, tasks=list(tasks), cells=cells)


def cells_of(files: list[Files], name: str = "table1", **settings) -> dict:
    spec = spec_of(files, name, **settings)
    built = tables.build(name, spec.table, scores.load(spec.cells, spec.bootstrap), spec.tasks)
    return {(cell["backbone"], cell["run"], cell["column"]): cell for cell in built}


def write(spec: specs.TablesSpec, folder: Path) -> None:
    paths = [f"--{form}={folder / f'{spec.name}.{form}'}" for form in ("csv", "md", "html")]
    tables.main(["--spec", spec.model_dump_json(), *paths, f"--record={folder / f'{spec.name}.json'}"])


def raw(files: list[Files], run: str, seed: int) -> dict:
    return json.loads(next(one.mteb for one in files if (one.run, one.seed) == (run, seed)).read_text())


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


def test_runs_come_in_the_tables_order_and_a_paper_row_without_run_stays(study):
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
    cells = cells_of([Files("grace", 0, path, path)], backbone="qwen2.5-3b", tasks=())
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
    found = cells_of([Files("grace", 0, path, path)], backbone="qwen2.5-3b", tasks=())["qwen2.5-3b", "grace", "STS"]
    assert found["ours"] is not None and found["paper"] == 74.65 and found["difference"] is None


def test_a_missing_result_is_a_missing_cell(study, tmp_path):
    for one in study:
        if one.run == "grace" or (one.run, one.seed) == ("cl", 1):
            one.mteb.unlink()
    cells = cells_of(study)
    assert cells["tiny", "grace", "Retrieval"]["ours"] is None
    assert cells["tiny", "cl", "Retrieval"]["seeds"] == 1 and cells["tiny", "cl", "Retrieval"]["seed_sd"] is None


def test_an_undefined_score_is_a_missing_cell(study):
    content = raw(study, "cl", 0)
    content["tasks"]["DocstringSTS"] |= {"main_score": None, "items": None}
    study[4].mteb.write_text(json.dumps(content))
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
        scores.load(spec_of(study).cells, 10)


def test_results_of_different_task_data_are_refused(study, tmp_path):
    path = tmp_path / "cl-0.json"
    content = json.loads(path.read_text())
    content["tasks"]["DocstringSTS"]["items"]["parts"][0]["values"].pop()
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"DocstringSTS.*other items"):
        scores.load(spec_of(study).cells, 10)


def test_results_of_other_weights_are_refused(study, tmp_path):
    """Two groups of one model, of which one was made before the model was trained again."""
    spec = spec_of(study)
    old = tmp_path / "cl-0-old.json"
    content = json.loads((tmp_path / "cl-0.json").read_text())
    content["manifest"]["revision"] = "0ld"
    content["tasks"] = {}
    old.write_text(json.dumps(content))
    spec.cells[4].results.append(str(old))
    with pytest.raises(UserError, match=r"cl-0-old.json: made with other weights.*cl-0.json"):
        scores.load(spec.cells, 10)


def test_general_columns(study):
    cells = cells_of(study, "table5")
    one = json.loads(study[0].general.read_text())["tasks"]["docstring_perplexity"]["score"]
    assert cells["tiny", "base", "Perplexity"]["ours"] == pytest.approx(one, rel=0.3)
    assert cells["tiny", "base", "Perplexity"]["ours"] < 100  # not in percent
    assert cells["tiny", "base", "Well-formed"]["ours"] == 90.0
    assert cells["tiny", "base", "GSM8K"]["ours"] is None and cells["tiny", "base", "Avg"]["ours"] is None
    assert cells["qwen3-4b", "grace_sup", "FEVER"]["paper"] == 84.02


def test_the_stage_writes_csv_and_markdown(study, tmp_path):
    for one in study:
        if one.run == "grace":
            one.mteb.unlink()
    write(spec_of(study), tmp_path / "tables")
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
    assert json.loads((tmp_path / "tables/table1.json").read_text())["manifest"]["stage"] == "tables"


def test_the_stage_repeats_byte_for_byte(study, tmp_path):
    for name in ("table1", "table2", "table5"):
        for folder in ("a", "b"):
            write(spec_of(study, name), tmp_path / folder)
    for kind in ("table1.csv", "table2.md", "table5.csv"):
        assert (tmp_path / "a" / kind).read_bytes() == (tmp_path / "b" / kind).read_bytes()
