"""The plans of the configured studies: their jobs, totals, warnings and files."""

import json
import re
import shlex
import subprocess
import sys
from collections import Counter

import pytest

from grace.config.schema import Hardware
from grace.config.section import UserError
from grace.report.plan import kept_rows, line, main, plan, render, task_sizes, variations
from tests.report.hand import CONFIG, HAND, ROOT, job, rule, study
from tests.workflow.conftest import snakemake


@pytest.mark.parametrize(
    ("faster", "values"),
    [
        (True, {"tflops": 2000}), (True, {"bandwidth_tb": 6.7}), (True, {"compute_share": 0.8}),
        (True, {"decode_share": 0.8}), (True, {"decode_batch": 512}), (True, {"memory_gb": 160, "decode_batch": 1024}),
        (True, {"vllm_step_overhead_ms": 1}), (False, {"step_overhead_ms": 30}), (False, {"rationale_tokens": 800}),
        (False, {"characters_per_token": 3.0}), (False, {"memory_gb": 24}),
    ],
)  # fmt: skip
def test_better_hardware_is_not_slower(faster, values):
    base, other = plan(study()), plan(study(hardware=values))
    for mine, theirs in zip(base.rules, other.rules, strict=True):
        assert theirs.gpu_hours <= mine.gpu_hours if faster else theirs.gpu_hours >= mine.gpu_hours
    assert other.gpu_hours != base.gpu_hours


def test_a_processor_takes_what_one_gpu_of_its_speed_would():
    rules = ("rationales", "train", "evaluate", "general", "latency", "cases")
    none = {"hardware": {"gpus": 0, "gpu": "two cores"}, "resources": {name: {"gpu": 0} for name in rules}}
    one, other = plan(study("hand", hardware={"gpus": 1})), plan(study("hand", **none))
    assert other.gpu_hours == one.gpu_hours > 0 and other.wall_hours == one.wall_hours == one.gpu_hours
    assert other.chain == one.chain and other.additions == one.additions
    text = render(other, [("hardware.tflops: 2", 1.0)])
    assert "GPU" not in text and f"- wall time: {one.wall_hours:,.1f} hours on two cores, all of it busy" in text
    assert "hours (" in line(other) and "on two cores)" in line(other)


@pytest.mark.workflow
@pytest.mark.parametrize(
    ("name", "backbones", "wanted", "at_once"),
    [
        *(("paper", ["qwen2.5-3b", "qwen3-4b"], wanted, wanted) for wanted in (False, True)),
        *(("demo", ["tiny"], wanted, not wanted) for wanted in (False, True)),
    ],
)
def test_jobs_are_those_of_snakemake(name, backbones, wanted, at_once, tmp_path):
    made = plan(study(name, wanted, backbones=backbones, tradeoff=at_once))
    asked = (f"ablations={wanted}", f"tradeoff={at_once}")
    found = planned(tmp_path, f"study={name}", *asked, f"backbones=[{','.join(backbones)}]")
    assert found == {rule.name: rule.jobs for rule in made.rules}


@pytest.mark.workflow
def test_the_page_says_how_to_drop_an_ablation(tmp_path):
    text = render(plan(study("demo", wanted=True)), [])
    command = next(line for line in text.split("\n") if "null" in line)
    assert command.split()[:4] == ["snakemake", "--cores", "1", "plan"]
    found = planned(tmp_path, *shlex.split(command)[5:])
    # 18 trainings of nine points; that of 0 and 1, for example, is in no other ablation
    assert found["train"] == rule(plan(study("demo", wanted=True)), "train").jobs - 18


def planned(directory, *config):
    done = snakemake(directory, "-n", "--config", *config)
    assert done.returncode == 0, done.stderr[-2000:]
    found = Counter(re.findall(r"^(?:local)?rule (evaluate(?=_)|\w+)", done.stdout + done.stderr, re.MULTILINE))
    del found["all"], found["plan"]
    return found


def test_texts_of_the_tasks_are_those_of_the_benchmark():
    # Totals that were found by loading the tasks with mteb itself.
    huge = {"MSMARCO", "FEVER", "ClimateFEVER", "DBPedia", "HotpotQA", "NQ"}
    subset = {name for names in CONFIG["studies"]["single-gpu"]["evaluation"]["groups"].values() for name in names}
    sizes = task_sizes()

    def totals(chosen):
        fields = [f for f in sizes if chosen(f.task)]
        return sum(f.texts for f in fields), sum(f.distinct for f in fields), sum(f.texts * f.mean for f in fields)

    assert len({f.task for f in sizes}) == 56 and len(subset) == 16
    assert totals(lambda task: True) == pytest.approx((40.4e6, 36.9e6, 16.4e9), rel=0.002)
    assert totals(lambda task: task not in huge)[:2] == pytest.approx((8.2e6, 4.7e6), rel=0.011)
    assert totals(lambda task: task in subset)[:2] == pytest.approx((651e3, 295e3), rel=0.002)


def test_fevers_documents_are_encoded_once():
    at = {**HAND["evaluation"], "subset": []}
    both = plan(study("hand", evaluation={**at, "groups": {"a": ["FEVER"], "b": ["ClimateFEVER"]}}))
    work = [both.evaluations["small", "base", group].read for group in "ab"]
    assert work[1] < work[0] / 1000  # its 1,535 queries
    alone = plan(study("hand", evaluation={**at, "groups": {"b": ["ClimateFEVER"]}}))
    assert alone.evaluations["small", "base", "b"].read == pytest.approx(work[0], rel=0.01)


def test_rows_follow_the_card_then_max_rows_then_the_paper():
    assert plan(study()).estimates.rows("supervised") == 1_485_000
    assert plan(study(data={"max_rows": 5000})).estimates.rows("supervised") == 4950
    assert plan(study(), {"e5": 200}).estimates.rows("supervised") == 198
    held = study(data={"test": 30, "validation": 10})
    assert plan(held, {"e5": 200}).estimates.rows("supervised") == 160


def test_the_paper_on_its_node():
    made = plan(study())
    text = render(made, variations(study(), {}))
    # 1,485,000 rows, 64 at a time, twice: floor(23,203.1) x 2
    assert job(made, "grace", "qwen3-4b").repeats == 46_406 and "46,406 batches" in text
    slowest = job(made, "grace", "qwen3-4b")
    assert rule(made, "train").longest == slowest.wall == slowest.work.seconds / 4
    assert f"- train: the longest job is estimated at {slowest.wall / 3600:,.0f} hours and is given 72;" in text
    fits = [line for line in text.split("\n") if line.startswith("|") and line.rstrip(" |").endswith(("yes", "NO"))]
    assert all(line.rstrip(" |").endswith("yes") for line in fits if "| grace" in line)
    small = render(plan(study(hardware={"memory_gb": 40, "gpus": 1})), [])
    assert "grace-unsup-random: the longest texts do not fit the 40 GB of a GPU (" in small
    assert "- train: a job takes 4 GPUs, hardware.gpus names 1." in small
    tight = render(plan(study(grace={"vllm_memory": 0.05})), [])
    assert re.search(r"- grace, .* on qwen3-4b: vLLM's share does not hold the weights", tight)
    for key in Hardware.model_fields:
        assert f"hardware.{key}" in text


def test_one_gpu_takes_a_day_as_config_says():
    text = (ROOT / "studies/single-gpu.yaml").read_text()
    said = re.search(r"the plan estimates (\d+) hours, or (\d+) if a decoding step's\s+# overhead is 30 ms", text)
    usual, slow = (plan(study("single-gpu", hardware={"step_overhead_ms": ms})) for ms in (15, 30))
    assert said and [f"{made.wall_hours:.0f}" for made in (usual, slow)] == list(said.groups())
    assert usual.wall_hours < 24 and study("single-gpu").study.hardware.step_overhead_ms == 15
    assert all(sum(job.memory.values()) < 24e9 for job in usual.trainings)


def test_a_backbone_without_a_shape_is_named(monkeypatch):
    monkeypatch.setitem(CONFIG["available_backbones"], "mine", {"kind": "hub", "id": "x/y"})
    text = render(plan(study(backbones=["mine"])), [])
    assert "- mine: no shape is given, so times and memory are those of 2 layers of width 128; add layers" in text
    assert "no shape is given" not in render(plan(study()), [])


def test_demo_has_no_gpu(tmp_path, capsys):
    made = plan(study("demo"))
    assert made.gpu_hours == made.wall_hours == 0 and rule(made, "train").work.written > 0
    main(["--spec", study("demo").spec_plan(), "--out", str(tmp_path / "plan.md")])
    text = (tmp_path / "plan.md").read_text()
    assert "docs/measurements.md" in text and "DocstringRetrieval" in text and "nan" not in text
    assert re.fullmatch(r"study demo: 57 jobs, no GPU, .* tokens written, .*\n", capsys.readouterr().out)


def test_command(tmp_path):
    root = tmp_path / "results/paper"
    (root / "data/pairs").mkdir(parents=True)
    (root / "data/pairs/e5.card.json").write_text('{"kept": 6400}')
    code = "import sys, grace.report.plan as p; p.main(); sys.exit('torch' in sys.modules or 'mteb' in sys.modules)"
    command = [sys.executable, "-c", code, "--spec", study().spec_plan(), "--threads", "1"]
    done = subprocess.run([*command, "--out", str(root / "plan.md")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.match(r"study paper: 1032 jobs, [\d,]+ GPU-hours", done.stdout) and done.stdout.count("\n") == 1
    found = json.loads((root / "plan.json").read_text())
    # 6,336 rows, 64 at a time, twice
    assert {t["repeats"] for t in found["trainings"] if t["run"] == "grace"} == {198}
    assert found["gpu_hours"] == pytest.approx(sum(r["gpu_hours"] for r in found["rules"]))
    assert found["manifest"]["inputs"] and f"{found['gpu_hours']:,.0f}" in (root / "plan.md").read_text()


def test_a_broken_card_is_one_sentence(tmp_path):
    card = tmp_path / "e5.card.json"
    card.write_text('{"kept": null}')
    with pytest.raises(UserError, match=r"e5.card.json: does not say how many rows were kept"):
        kept_rows({"e5": card})
    assert kept_rows({"e5": tmp_path / "none.json"}) == {}
