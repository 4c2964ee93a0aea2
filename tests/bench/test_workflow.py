"""The account of a workflow, on a small study whose sums are written down by hand."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import workflow
from grace.config.section import UserError

HEAD = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time"
JOBS = [  # rule, name, threads, wall seconds, CPU seconds, largest memory
    ("backbone", "b", 2, 10.0, 16.0, 500),
    ("train", "t", 1, 20.0, 17.0, 900),
    ("evaluate", "x", 1, 6.0, 5.0, 300),
    ("evaluate", "y", 1, 8.0, 7.25, 200),
]


def block(number: int, rule: str, name: str, threads: int) -> str:
    return (
        f"[Sat Nov 21 18:33:57 2026]\nlocalrule {rule}:\n    input: results/demo/in\n"
        f"    output: results/demo/{rule}/{name}\n    log: results/demo/logs/{rule}/{name}.log\n    jobid: {number}\n"
        f"    benchmark: results/demo/benchmarks/{rule}/{name}.tsv\n"
        + (f"    threads: {threads}\n" if threads > 1 else "")
        + "    resources: tmpdir=/tmp\nSelect jobs to execute...\n"
    )


def write_log(top: Path, name: str, jobs: list[tuple], elapsed: str, unfinished: int = -1) -> None:
    blocks = "".join(block(i, *job[:3]) for i, job in enumerate(jobs))
    done = "".join(f"Finished jobid: {i} (Rule: {job[0]})\n" for i, job in enumerate(jobs) if i != unfinished)
    path = top / f".snakemake/log/{name}.snakemake.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"Provided cores: 2\n{blocks}{done}Elapsed time: {elapsed}\n")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    for rule, name, _, wall, cpu, memory in JOBS:
        path = tmp_path / f"results/demo/benchmarks/{rule}/{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{HEAD}\n{wall:.4f}\t0:00:0{wall:.0f}\t{memory}\t1\t1\t1\t0\t0\t90\t{cpu}\n")
    write_log(tmp_path, "2026-11-21T183357", JOBS, "0:00:40.000000")
    return tmp_path / "results/demo"


def cells(report: str) -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in report.splitlines() if line[:1] == "|"]
    return {row[0]: row[1:] for row in rows[2:]}


def test_the_sums_are_those_written_down_here(study):
    report = workflow.report(workflow.read(study))
    rows = cells(report)
    assert list(rows) == ["train", "evaluate", "backbone", "total"]
    assert rows["train"] == ["1", "20.0", "17.0", "900"]
    assert rows["evaluate"] == ["2", "14.0", "12.2", "300"]
    assert rows["backbone"] == ["1", "10.0", "16.0", "500"]
    assert rows["total"] == ["4", "44.0", "45.2", "900"]
    assert "40.0 s on 2 cores, 80.0 core-seconds" in report
    assert "reserved by jobs (threads x wall): 54.0 core-seconds (68 %)" in report  # 2 x 10 + 20 + 6 + 8
    assert "CPU of jobs: 45.2 core-seconds (57 %)" in report
    assert "reserved and not computing: 8.8 core-seconds (11 %)" in report
    assert "no job could run): 26.0 core-seconds (32 %)" in report


@pytest.mark.parametrize("missing", ["NA", "-"])
def test_what_snakemake_did_not_measure_is_missing_and_not_zero(study, missing):
    path = study / "benchmarks/evaluate/x.tsv"
    path.write_text(f"{HEAD}\n6.0\t0:00:06" + 8 * f"\t{missing}" + "\n")
    report = workflow.report(workflow.read(study))
    assert cells(report)["evaluate"] == ["2", "14.0", "-", "-"]
    assert cells(report)["total"] == ["4", "44.0", "-", "-"]
    assert "of 1 jobs Snakemake has no CPU time" in report and "CPU of jobs: -" in report


def test_a_study_made_in_two_goes_counts_both(study):
    top = study.parents[1]
    write_log(top, "2026-11-21T183357", JOBS[:3], "0:00:30.000000", unfinished=2)
    write_log(top, "2026-11-22T000000", JOBS[2:], "1 day, 0:00:10.500000")
    other = [("evaluate", "z", 1)]
    write_log(top, "2026-11-23T000000", other, "0:01:00.000000")
    path = top / ".snakemake/log/2026-11-23T000000.snakemake.log"
    path.write_text(path.read_text().replace("results/demo", "results/smoke"))
    run = workflow.read(study)
    assert (run.wall, run.again, len(run.jobs)) == (30 + 86410.5, 0, 4)
    write_log(top, "2026-11-24T000000", JOBS[:1], "0:00:05.000000")
    run = workflow.read(study)
    assert (run.again, len(run.jobs)) == (1, 4)
    assert "1 jobs were run again later" in workflow.report(run)


def test_a_folder_without_a_finished_run_is_one_sentence(study, tmp_path):
    (study / "benchmarks/train/t.tsv").unlink()
    with pytest.raises(UserError, match=r"t\.tsv: missing or no benchmark file"):
        workflow.read(study)
    with pytest.raises(UserError, match="no log of a finished run"):
        workflow.read(tmp_path / "results/paper")
    with pytest.raises(SystemExit, match=r"error: .* no log of a finished run"):
        workflow.main([str(tmp_path / "results/paper")])


def test_the_copy_has_what_git_has_as_it_is_now(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    for name in ("kept", "changed", "deleted"):
        (source / name).write_text("old")
    (source / ".gitignore").write_text("ignored\n")
    for words in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", *words], cwd=source, check=True)
    (source / "changed").write_text("now")
    (source / "deleted").unlink()
    (source / "ignored").write_text("result")
    (source / "a").mkdir()
    (source / "a/new").write_text("new")
    workflow.copy(source, target)
    found = {str(path.relative_to(target)): path.read_text() for path in target.rglob("*") if path.is_file()}
    assert found == {".gitignore": "ignored\n", "kept": "old", "changed": "now", "a/new": "new"}


def test_a_run_is_set_against_the_limit(study, tmp_path, monkeypatch, capsys):
    top = study.parents[1]
    made = "import os, shutil, time; time.sleep(.3); assert os.environ['PYTHONPATH'] == os.getcwd(); "
    made += f"[shutil.copytree(f'{top}/{{name}}', name) for name in ('results', '.snakemake')]"
    monkeypatch.setattr(workflow, "snakemake", lambda study, cores: [sys.executable, "-c", made])
    monkeypatch.setattr(workflow, "copy", lambda *_: None)
    monkeypatch.setattr(workflow, "LIMIT", 0.5)
    out = tmp_path / "bench.json"
    workflow.main(["--run", "--repeats", "2", "--keep", str(tmp_path / "kept"), "--json", str(out)])
    (entry,) = json.loads(out.read_text())
    assert entry["name"] == "demo_seconds"
    assert 0.6 < entry["low"] <= entry["ratio"] <= entry["high"] < 20
    assert sorted(2 * value for value in entry["seconds"]) == pytest.approx([entry["low"], entry["high"]], abs=0.2)
    assert (entry["limit"], entry["cores"]) == (0.5, 2)
    assert len(entry["gflops"]) == len(entry["seconds"]) + 1
    assert cells(capsys.readouterr().out)["total"] == ["4", "44.0", "45.2", "900"]


def test_a_failed_run_says_what_it_said_last(tmp_path, monkeypatch):
    said = "print('x\\n' * 50 + 'no space left'); raise SystemExit(1)"
    monkeypatch.setattr(workflow, "snakemake", lambda study, cores: [sys.executable, "-c", said])
    with pytest.raises(UserError, match=r"the workflow failed; the end of what it said:\n(x\n)+no space left$"):
        workflow.timed(tmp_path, "demo", 2)
