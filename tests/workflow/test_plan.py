"""What snakemake plans, without running it."""

import re
import subprocess
import sys
import time
from collections import Counter

import pytest

from tests.workflow.conftest import ENV, ROOT, snakemake


def planned(directory, *arguments):
    """Jobs by rule, and the whole output."""
    done = snakemake(directory, "-n", *arguments)
    text = done.stdout + done.stderr
    assert done.returncode == 0, text[-3000:]
    return Counter(re.findall(r"^(?:local)?rule (evaluate(?=_)|\w+)", text, re.MULTILINE)), text


def test_demo(tmp_path):
    started = time.time()
    jobs, _ = planned(tmp_path)
    assert time.time() - started < 10  # 2 s on an idle machine
    assert jobs == {
        "source": 1, "pairs": 1, "split": 1, "triples": 1, "lengths": 2, "tasks": 1, "backbone": 1, "download": 1,
        # Ten runs of the trained backbone, two of the other one; of both the baselines without and with rationales.
        "train": 8, "evaluate": 10 + 2 + 2 * 2, "general": 9 + 1, "cases": 2, "tables": 8, "figures": 1, "audit": 1,
        "claims": 1, "report": 1, "all": 1,
    }  # fmt: skip


def test_ablations(tmp_path):
    jobs, _ = planned(tmp_path, "--config", "ablations=true")
    # 2 x 9 weights, 3 more algorithms, 2 more batch sizes, 2 more numbers of rollouts.
    assert jobs["train"] == 8 + 18 + 3 + 2 + 2
    # And, without a training, 2 x 3 poolings, 3 x 2 shorter rationales, 3 x 3 checkpoints; the layers
    # of base and text are a job for each backbone.
    assert jobs["evaluate"] == 16 + 25 + 6 + (2 + 2) + 9 + 3
    assert (jobs["tables"], jobs["figures"], jobs["latency"], jobs["general"]) == (9, 8, 1, 10)
    items, _ = planned(tmp_path, "paper_items")
    assert items == {
        **{k: v for k, v in jobs.items() if k not in ("all", "report", "audit", "claims")},
        "paper_items": 1,
    }


def test_one_figure_asks_for_its_own_runs(tmp_path):
    jobs, _ = planned(tmp_path, "figure6")
    assert jobs["train"] == 2 and jobs["evaluate"] == 2 * 4 + 2 and jobs["figures"] == 1  # and reasoning


TRADE = {
    "source": 1, "pairs": 1, "split": 1, "triples": 1, "lengths": 1, "tasks": 1, "backbone": 1, "rationales": 1,
    # Thirteen models and the backbone, greedy and sampled, of three seeds; each model in both modes, but for the two
    # that are sampled only.
    "train": 13 * 3, "general": 15 * 3, "evaluate": 27 * 3, "tables": 2, "figures": 1, "tradeoff": 1,
}  # fmt: skip


def test_the_trade_off_and_only_what_it_needs(tmp_path):
    jobs, text = planned(tmp_path, "tradeoff", "--config", "study=smoke")
    assert jobs == TRADE
    made = set(re.findall(r"[\w/]+\.csv", text))
    assert {f"results/smoke/tables/{name}.csv" for name in ("tradeoff", "effects")} <= made
    lab, text = planned(tmp_path, "tradeoff", "--config", "study=lab", "backbones=lab-20m", "seeds=[0]")
    assert (lab["train"], lab["general"], lab["evaluate"], lab["backbone"]) == (13, 15, 27, 1)
    assert "results/lab/models/lab-20m/adapter-grace-random/seed0/manifest.json" in text


def test_the_demos_comparisons_on_seven_backbones(tmp_path):
    jobs, text = planned(tmp_path, "effects", "--config", "study=replicate")
    assert (jobs["backbone"], jobs["train"], jobs["evaluate"], jobs["general"]) == (7, 7 * 5, 7 * 7, 7 * 6)
    assert "results/replicate/models/tiny-6/grace-apart-random/seed0/manifest.json" in text


def test_the_report_brings_the_trade_off_when_it_is_asked_for(tmp_path):
    jobs, _ = planned(tmp_path, "--config", "tradeoff=true")
    # Of the first seed four trainings, six evaluations and five general results are those of `test_demo`
    assert jobs["train"] == 8 + 13 * 3 - 4 and jobs["evaluate"] == 16 + 27 * 3 - 6
    assert jobs["general"] == 10 + 15 * 3 - 5 and (jobs["tables"], jobs["figures"], jobs["claims"]) == (10, 2, 1)


def test_partial_runs_nothing_but_the_report(tmp_path):
    jobs, _ = planned(tmp_path, "--config", "partial=true")
    assert jobs == {"tables": 8, "figures": 1, "audit": 1, "claims": 1, "report": 1, "all": 1}


def test_paper(tmp_path):
    started = time.time()
    jobs, text = planned(tmp_path, "--config", "study=paper")
    assert time.time() - started < 20  # 5.4 s on a slow machine
    assert jobs["download"] == 4 and jobs["source"] == 2 and jobs["train"] == 4 * 8
    assert jobs["evaluate"] == 4 * (11 * 20 + 2 * 6) and jobs["general"] == 4 * 9  # the baselines on the subset
    for backbone in ("qwen2.5-1.5b", "llama3.2-3b", "qwen2.5-3b", "qwen3-4b"):
        assert f"results/paper/models/{backbone}/grace/seed0/manifest.json" in text


def test_methods_beyond_the_paper_as_rows_of_its_table(tmp_path):
    """As README has it."""
    rows = "defaults={tables: {table1: {rows: {adapter: null, fence-direct: null}}}}"
    jobs, text = planned(tmp_path, "table1", "--config", "study=paper", "backbones=qwen2.5-1.5b", rows)
    assert jobs["train"] == 4 + 2 and jobs["evaluate"] == 20 * (7 + 2) and jobs["rationales"] == 1
    for run in ("adapter", "fence-direct"):
        assert f"results/paper/models/qwen2.5-1.5b/{run}/seed0/manifest.json" in text


def test_single_gpu(tmp_path):
    jobs, _ = planned(tmp_path, "--config", "study=single-gpu")
    assert jobs["download"] == 1 and jobs["train"] == 8 and jobs["evaluate"] == (11 + 2) * 6


def test_one_backbone(tmp_path):
    jobs, text = planned(tmp_path, "--config", "study=paper", "backbones=qwen2.5-1.5b")
    assert jobs["train"] == 8 and "llama" not in text


DATA = {"source": 2, "pairs": 2, "split": 2, "triples": 1, "lengths": 2, "download": 1}
ONE = ("--config", "study=paper", "backbones=qwen2.5-1.5b")


@pytest.mark.parametrize(
    ("target", "jobs"),
    [
        (("--until", "train"), {**DATA, "train": 8}),
        (("evaluations",), {**DATA, "train": 8, "encoder": 1, "evaluate": 11 * 20 + 2 * 6, "evaluations": 1}),
        (("--until", "general"), {**DATA, "train": 8, "general": 9}),
        (("table5",), {**DATA, "train": 8, "general": 9, "tables": 1, "table5": 1}),
        (
            ("table2",),
            {
                **{"source": 2, "pairs": 2, "split": 2, "lengths": 1, "download": 1},  # one for the held-out pairs
                **{"train": 4, "evaluate": 6 * 20, "tables": 1, "table2": 1},
            },
        ),
        (
            ("results/paper/models/qwen2.5-1.5b/grace/seed0/manifest.json",),
            {"source": 1, "pairs": 1, "split": 1, "triples": 1, "lengths": 1, "download": 1, "train": 1},
        ),
        (
            ("results/paper/mteb/qwen2.5-1.5b/reasoning/seed0/retrieval-fever.json",),
            {"download": 1, "evaluate": 1},
        ),
    ],
    ids=lambda value: value[-1].split("/")[-1] if isinstance(value, tuple) else "",
)
def test_a_part_of_the_paper(tmp_path, target, jobs):
    found, _ = planned(tmp_path, *target, *ONE)
    assert found == jobs


def test_the_slurm_profile_needs_no_cores(tmp_path):
    arguments = ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(tmp_path), "--unlock"]
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--profile", str(ROOT / "profiles/slurm"), *arguments],
        capture_output=True, text=True, env=ENV,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_jobs_on_gpus_may_not_be_grouped(tmp_path):
    # Not a dry run, which lets it pass; of a target that reads and runs nothing, were it not refused.
    done = snakemake(tmp_path, "plan", "--groups", "train=x", "--config", "study=paper")
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "error: --groups: train asks for GPUs, which a group would add up; leave it out." in done.stderr
    assert not (tmp_path / "results/paper/plan.md").exists()


def test_three_seeds(tmp_path):
    jobs, _ = planned(tmp_path, "--config", "seeds=[0,1,2]")
    assert jobs["train"] == 24 and jobs["evaluate"] == 3 * 16 and jobs["backbone"] == 1


def test_nothing_to_do_after_a_run(smoke):
    _, text = planned(smoke, "--config", "study=smoke")
    assert "Nothing to be done" in text


def test_one_runs_setting_replans_that_run(smoke):
    edit = "defaults={runs: {grace-rollout: {settings: {reward: {lambda2: 0.5}}}}}"
    jobs, text = planned(smoke, "--config", "study=smoke", edit)
    assert jobs == {
        "train": 1, "evaluate": 1, "general": 1, "cases": 1, "tables": 6, "figures": 1, "claims": 1, "report": 1,
        "all": 1,
    }  # fmt: skip
    made = set(re.findall(r"output: (results/smoke/(?:models|mteb|general)/\S+?),?$", text, re.MULTILINE))
    assert len(made) == 3 and all("/grace-rollout/" in path for path in made)


def test_a_table_setting_replans_the_tables(smoke):
    jobs, _ = planned(smoke, "--config", "study=smoke", "studies={smoke: {bootstrap: 60}}")
    assert jobs == {"tables": 8, "figures": 1, "claims": 1, "report": 1, "all": 1}


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("study=papre", "config: study: unknown study 'papre' (did you mean 'paper'?)."),
        ("studies={demo: {grace: {rolouts: 4}}}", "config: grace.rolouts: unknown key (did you mean 'rollouts'?)."),
        (
            "studies={demo: {grace: {rollouts: 1}}}",
            "config: grace.rollouts: Input should be greater than or equal to 2",
        ),
        ("backbones=gpt5", "config: backbones: unknown backbone 'gpt5'"),
    ],
)
def test_a_wrong_setting_is_one_sentence(tmp_path, setting, said):
    done = snakemake(tmp_path, "-n", "--config", setting)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert next(line for line in done.stderr.split("\n") if line.startswith("error: ")).startswith(f"error: {said}")
