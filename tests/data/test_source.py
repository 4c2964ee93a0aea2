import json
import sys
import tarfile
import zipfile

import pytest

from grace.config import Source
from grace.data.source import rows
from grace.section import UserError
from tests.data.commands import ROOT, one_sentence, run

NLI = ROOT / "../shared/data/nli_triplets/train.jsonl"


def spec(path, form="pairs", **more):
    return json.dumps({"source": {"kind": "jsonl", "form": form, "path": str(path)}, "max_rows": None, **more})


PAIR = {"query": "a query", "positive": "its passage"}


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b'{"query": "a", "positive": "b"}\n\n{"query": "a", \n', ("row 3", "not JSON")),
        (b'{"query": "a", "positive": "b"}\n\n{"query": "a"}\n', ("row 3", "'positive'", "missing")),
        (b'{"query": "a", "positive": 5}\n', ("row 1", "'positive'", "int")),
        (b"[1]\n", ("row 1", "not a JSON object")),
        (b'{"query": "a", "positive": "caf\xe9"}\n', ("not UTF-8",)),
        (b"", ("holds no row",)),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path, content, parts):
    path, out = tmp_path / "rows.jsonl", tmp_path / "out" / "raw.jsonl"
    path.write_bytes(content)
    one_sentence(run("source", "--spec", spec(path), "--out", out), *parts)
    assert list(out.parent.iterdir()) == []


def test_a_missing_file_and_a_full_disk_leave_nothing(tmp_path):
    path, out = tmp_path / "rows.jsonl", tmp_path / "out" / "raw.jsonl"
    one_sentence(run("source", "--spec", spec(path), "--out", out), "rows.jsonl", "no such file")
    path.write_text("".join(json.dumps({**PAIR, "id": at}) + "\n" for at in range(5000)))
    one_sentence(run("source", "--spec", spec(path), "--out", out, limit=20000), "nothing half-written")
    assert list(out.parent.iterdir()) == []
    assert run("source", "--spec", spec(path), "--out", out).returncode == 0
    assert out.read_text() == path.read_text()


def test_a_megabyte_and_lone_surrogates_are_kept(tmp_path):
    path, out = tmp_path / "rows.jsonl", tmp_path / "raw.jsonl"
    path.write_text(json.dumps({"query": "x " * 500_000, "positive": "\ud800 half a character"}) + "\n")
    done = run("source", "--spec", spec(path), "--out", out)
    assert done.returncode == 0, done.stderr
    (row,) = map(json.loads, out.read_text().splitlines())
    assert len(row["query"]) == 1_000_000 and row["positive"] == "? half a character"


def read(path, form="pairs", max_rows=None, tmp=None, kind="jsonl"):
    return list(rows(Source(kind=kind, form=form, path=str(path), id="x", file="y"), max_rows, 1, tmp))


def test_text_files_and_first_rows(tmp_path):
    path = tmp_path / "wiki.txt"
    path.write_text("\ufefffirst line\n\nsecond line\nthird\n")
    for kind in ("jsonl", "gdrive", "hub"):  # a local path goes before any download
        assert read(path, "texts", 2, kind=kind) == [{"text": "first line"}, {"text": "second line"}]
    with pytest.raises(UserError, match="form to texts"):
        read(path, "pairs")
    path.write_bytes(b"fine\nbroken \xff\n")
    with pytest.raises(UserError, match="row 2: not UTF-8"):
        read(path, "texts")


@pytest.mark.parametrize("kind", ["folder", "zip", "tar.gz"])
def test_several_files_name_their_source(tmp_path, kind):
    folder = tmp_path / "echo-data"
    folder.mkdir()
    (folder / "b.jsonl").write_text(json.dumps({**PAIR, "negative": "n"}) + "\n")
    (folder / "a.jsonl").write_text(json.dumps({**PAIR, "negatives": ["m", "n"], "source": "own"}) + "\n")
    (folder / "readme.txt").write_text("not rows")
    path = folder
    if kind == "zip":
        path = tmp_path / "all.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file in folder.iterdir():
                archive.write(file, f"echo-data/{file.name}")
    elif kind == "tar.gz":
        path = tmp_path / "all.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            archive.add(folder, "echo-data")
    assert [row["source"] for row in read(path, "triples", tmp=tmp_path)] == ["own", "b"]


def test_broken_archive(tmp_path):
    path = tmp_path / "all.zip"
    path.write_bytes(b"PK but not really")
    with pytest.raises(UserError, match=r"all\.zip.*fetch it again"):
        read(path, "triples")


def test_docstrings_are_sampled_over_all_packages(tmp_path):
    source = Source(kind="docstrings", form="pairs", packages=["email", "json", "logging"])
    every = list(rows(source, None, 1, tmp_path))
    some = list(rows(source, 60, 1, tmp_path))
    assert len(some) == 60 and some == list(rows(source, 60, 1, tmp_path))
    assert {row["label"] for row in some} == {"email", "json", "logging"}
    assert [row for row in every if row in some] == some


@pytest.mark.parametrize("kind", ["gdrive", "hub"])
def test_a_failed_download_says_what_to_do(tmp_path, monkeypatch, kind):
    monkeypatch.setitem(sys.modules, "gdown", None)

    def refuse(*_, **__):
        raise ConnectionError("no network\nand a long trace")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    source = Source(kind=kind, form="texts", id="some/id", file="wiki.txt")
    with pytest.raises(UserError, match=r"some/id.*by hand and set sources\.<name>\.path") as caught:
        list(rows(source, None, 1, tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not NLI.exists(), reason="the shared data sets are not on this machine")
def test_real_triples():
    found = read(NLI, "triples", 100)
    assert len(found) == 100 and found[0]["anchor"] and found[0]["negative"]
