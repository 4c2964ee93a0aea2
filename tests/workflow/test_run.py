"""Whole runs: the tables come out, and kills, cut files and missing input are survived."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from grace.report.readme import BEGIN, END, FIGURE, block
from tests.config.test_schema import CONFIG
from tests.report.browser import browser, needs_chromium, opened
from tests.workflow.conftest import ENV, ROOT, command, snakemake

GRACE = "results/smoke/models/tiny-smoke/grace/seed0"


@pytest.fixture
def copy(smoke, tmp_path):
    """A copy of the finished smoke study, times of files kept."""
    return Path(shutil.copytree(smoke, tmp_path / "study", copy_function=shutil.copy2))


def test_tables(smoke):
    folder = smoke / "results/smoke/tables"
    for name in ("table1", "table2", "table3", "geometry", "table5"):
        with open(folder / f"{name}.csv") as handle:
            cells = list(csv.DictReader(handle))
        ours = [cell for cell in cells if cell["ours"]]
        assert ours and all(Path(smoke / path).exists() for cell in ours for path in cell["source"].split(";"))
        assert "tiny-smoke" in (folder / f"{name}.md").read_text()
        assert "<table" in (folder / f"{name}.html").read_text()
    runs = {cell["run"] for cell in cells if cell["backbone"] == "tiny-smoke"}
    assert {"base", "cl", "grace", "grace-unsup", "simcse"} <= runs


def test_each_cell_traces_to_a_manifest(smoke):
    with open(smoke / "results/smoke/tables/table1.csv") as handle:
        (cell,) = [
            c
            for c in csv.DictReader(handle)
            if (c["backbone"], c["run"], c["column"]) == ("tiny-smoke", "grace", "Retrieval")
        ]
    result = json.loads((smoke / cell["source"].split(";")[0]).read_text())
    task = result["tasks"]["DocstringRetrieval"]
    assert float(cell["ours"]) == pytest.approx(100 * task["main_score"], abs=1e-3)
    assert result["manifest"]["settings"]["run"] == "grace" and result["manifest"]["versions"]["mteb"]


def test_report(smoke):
    page = (smoke / "results/smoke/report.html").read_text()
    titles = [e["title"] for key in ("tables", "figures") for e in CONFIG["defaults"][key].values()]
    assert all(title.split(". ")[-1] in page for title in titles)
    assert page.count("<svg") >= 1 and "95 % interval" in page and "figure3" in page  # which was not asked for


@needs_chromium
@pytest.mark.parametrize("size", [(1280, 900), (390, 844)], ids=["desktop", "phone"])
def test_the_report_opens_in_a_browser(smoke, size):
    with browser() as found, opened(found, smoke / "results/smoke/report.html", *size) as (page, wrong):
        assert wrong == []
        drawings = page.locator("#figures figure svg")
        assert drawings.count() == 1 and drawings.first.bounding_box()["width"] > 200
        assert page.locator("#tables table").count() >= 7
        assert page.evaluate("document.documentElement.scrollWidth") == size[0]


def test_a_half_finished_study_is_shown_as_far_as_it_has_come(copy):
    shutil.rmtree(copy / "results/smoke/mteb/tiny-smoke/simcse")
    done = snakemake(copy, "--nolock", "--config", "study=smoke", "partial=true", "ablations=true")
    assert done.returncode == 0, done.stderr[-3000:]
    jobs = set(re.findall(r"^(?:local)?rule (\w+):", done.stdout + done.stderr, re.MULTILINE))
    assert jobs <= {"tables", "figures", "audit", "claims", "report", "all"}
    missing = json.loads((copy / "results/smoke/tables/table2.json").read_text())["missing"]
    assert missing == ["results/smoke/mteb/tiny-smoke/simcse/seed0/docstrings.json"]
    assert "<svg" in (copy / "results/smoke/figures/figure3.svg").read_text()  # of which there is no result


def test_audit_and_claims(smoke):
    assert "15/4/11/3/12/10/10 over 65" in (smoke / "results/smoke/audit.md").read_text()
    claims = json.loads((smoke / "results/smoke/claims.json").read_text())["claims"]
    assert {claim["verdict"] for claim in claims} <= {"reproduced", "contradicted", "not separable", "not run"}


def test_readme_shows_what_a_run_gives(smoke):
    """Its block of results has the shape of a block made now: the same columns and runs."""
    text = (ROOT / "README.md").read_text()
    shown = text.split(BEGIN)[1].split(END)[0].splitlines()
    made = block(smoke / "results/smoke").splitlines()

    def shape(lines):
        table = [line.split("|") for line in lines if line.startswith("|")]
        return table[0], [row[1] for row in table], [len(row) for row in table]

    # README's is of two backbones, each in a column of its own.
    head, *rows = [line for line in shown if line.startswith("|")]
    one = [f"| {line.split('|', 2)[2].strip()}" for line in (head, *rows) if line.startswith(("| backbone", "| tiny "))]
    rule = next(line for line in made if line.startswith("|---"))
    assert shape([one[0], rule, *one[1:]]) == shape(made)
    figure = (ROOT / FIGURE).read_text()
    assert all(f">{run}<" in figure for run in CONFIG["defaults"]["figures"]["figure1"]["rows"])
    assert str(FIGURE) in "".join(shown)


def test_models_are_ordinary_folders(smoke):
    for run in ("cl", "grace", "grace-random", "simcse", "grace-unsup"):
        names = {path.name for path in (smoke / f"results/smoke/models/tiny-smoke/{run}/seed0").iterdir()}
        assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "manifest.json"} <= names
        assert not list((smoke / f"results/smoke/models/tiny-smoke/{run}").glob("seed0-checkpoints/*"))


def test_every_job_left_log_and_benchmark(smoke):
    logs = list((smoke / "results/smoke/logs").rglob("*.log"))
    assert len(logs) == len(list((smoke / "results/smoke/benchmarks").rglob("*.tsv"))) == 50


def test_half_a_result_is_not_taken_for_whole(copy):
    path = copy / "results/smoke/mteb/tiny-smoke/grace/seed0/docstrings.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:5000])
    done = snakemake(copy, "--config", "study=smoke")
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads((copy / "results/smoke/tables/table1.json").read_text())
    assert [(p["kind"], p["path"]) for p in record["problems"]] == [("broken", str(path.relative_to(copy)))]
    with open(copy / "results/smoke/tables/table1.csv") as handle:
        ours = {(c["run"], c["column"]): c for c in csv.DictReader(handle) if c["backbone"] == "tiny-smoke"}
    assert not ours["grace", "Retrieval"]["ours"] and "--force" in ours["grace", "Retrieval"]["note"]
    assert ours["grace-rollout", "Retrieval"]["ours"]
    assert "docstrings.json" in (copy / "results/smoke/report.html").read_text()
    again = snakemake(copy, "--force", str(path.relative_to(copy)), "--config", "study=smoke")
    assert again.returncode == 0 and json.loads(path.read_text())["tasks"] == json.loads(whole)["tasks"]
    assert snakemake(copy, "--config", "study=smoke").returncode == 0
    assert json.loads((copy / "results/smoke/tables/table1.json").read_text())["problems"] == []


def start_training(copy):
    """Start snakemake on one training job; returns it and the job's process id, once a checkpoint is there."""
    shutil.rmtree(copy / GRACE)
    with open(copy / "out.txt", "w") as out:
        process = subprocess.Popen(
            command(copy, f"{GRACE}/manifest.json", "--config", "study=smoke"), env=ENV, stdout=out, stderr=out,
            start_new_session=True,
        )  # fmt: skip
    deadline = time.time() + 120
    while not list(copy.glob("results/smoke/models/tiny-smoke/grace/seed0-checkpoints/*/checkpoint-1/complete")):
        assert process.poll() is None and time.time() < deadline, (copy / "out.txt").read_text()
        time.sleep(0.002)
    below = psutil.Process(process.pid).children(recursive=True)
    return process, [child.pid for child in below if "grace.training.train" in child.cmdline()]


def same_weights(smoke, copy):
    one, two = load_file(smoke / GRACE / "model.safetensors"), load_file(copy / GRACE / "model.safetensors")
    return all((one[name] == two[name]).all() for name in one)


def test_kill_9_of_a_training_job(smoke, copy):
    process, jobs = start_training(copy)
    for pid in jobs:
        os.kill(pid, signal.SIGKILL)
    assert process.wait(timeout=60) != 0
    assert not (copy / GRACE / "manifest.json").exists()
    done = snakemake(copy, f"{GRACE}/manifest.json", "--config", "study=smoke")
    assert done.returncode == 0, done.stderr[-3000:]
    assert same_weights(smoke, copy)


def test_kill_9_of_snakemake(smoke, copy):
    process, _ = start_training(copy)
    os.killpg(process.pid, signal.SIGKILL)  # snakemake and its jobs, as when a machine goes down
    process.wait(timeout=60)
    locked = snakemake(copy, f"{GRACE}/manifest.json", "--config", "study=smoke")
    if locked.returncode != 0:
        assert "--unlock" in locked.stderr
        assert snakemake(copy, "--unlock", "--config", "study=smoke").returncode == 0
        done = snakemake(copy, f"{GRACE}/manifest.json", "--config", "study=smoke")
        assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((copy / GRACE / "manifest.json").read_text())["resumed_from"]
    assert same_weights(smoke, copy)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file"),
        ('{"query": "a", "positive": "b"}\n{"query": \n', "row 2"),
        ("", "no rows|empty|holds no"),
    ],
)
def test_a_users_own_file_of_pairs(tmp_path, content, said):
    if content is not None:
        (tmp_path / "mine.jsonl").write_text(content)
    source = "sources={docstrings: {kind: jsonl, form: pairs, path: mine.jsonl}}"
    done = snakemake(tmp_path, "results/smoke/data/pairs/docstrings.jsonl", "--config", "study=smoke", source)
    text = done.stdout + done.stderr
    errors = [line for line in text.split("\n") if line.startswith("error: ")]
    assert done.returncode != 0 and len(errors) == 1 and re.search(said, errors[0]) and "Traceback" not in text
    assert not list(tmp_path.glob("results/smoke/data/*/docstrings.jsonl"))
