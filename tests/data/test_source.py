import hashlib
import json
import shutil
import sys
import tarfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from grace.config.schema import Source
from grace.config.section import UserError
from grace.config.specs import SourceSpec
from grace.data.source import EARLY, departure, main, rows
from tests.data.commands import call, one_sentence, run, write
from tests.rows import save


def spec(path, form="pairs", **more):
    source = {"kind": "jsonl", "form": form, "path": str(path)}
    return json.dumps({"name": "mine", "source": source, "max_rows": None, **more})


def arguments(path, out, form="pairs", **more):
    return "--spec", spec(path, form, **more), "--out", out, "--lock", out.parent.parent / "sources.lock"


PAIR = {"query": "a query", "positive": "its passage"}


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b'{"query": "a", "positive": "b"}\n\n{"query": "a", \n', ("row 3", "not JSON")),
        (b'{"query": 1}\n\n{"query": "a", "positive": "b"}\n{"query": "a"}', ("row 1", "'query'", "in 2 of 3 rows")),
        (b'{"query": "a", "positive": 5}\n', ("row 1", "'positive'", "int", "sources.<name>.form")),
        (b"", ("holds no row",)),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path, content, parts):
    path, out = tmp_path / "rows.jsonl", tmp_path / "out" / "raw.jsonl"
    path.write_bytes(content)
    one_sentence(call(main, *arguments(path, out)), *parts)
    assert list(out.parent.iterdir()) == []


def test_rows_that_lack_a_field_pass_to_be_counted(tmp_path, caplog):
    """`pairs` drops them; here they are no reason to stop, unless most of a file is of another form."""
    out = tmp_path / "out" / "raw.jsonl"
    some = [PAIR, {}, PAIR, {"query": "a"}]
    assert call(main, *arguments(write(tmp_path / "rows.jsonl", some), out)).returncode == 0
    assert [json.loads(line) for line in out.read_text().splitlines()] == some
    assert "row 2: the field 'query' or 'anchor' or 'question' or 'sentence1' is missing" in caplog.text
    assert "2 of 4 rows" in caplog.text
    # One file of a folder: the others do not make up for it.
    folder = tmp_path / "folder"
    folder.mkdir()
    write(folder / "a.jsonl", [PAIR] * 50)
    write(folder / "b.jsonl", [{"question": "q"}] * 21 + [PAIR] * 20)
    for most in (None, 1):
        one_sentence(call(main, *arguments(folder, out, max_rows=most)), "b.jsonl, row 1", "the row has 'question'")


def test_a_long_file_of_another_form_is_given_up_early(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text((json.dumps({"text": "t"}) + "\n") * EARLY + "not JSON, and never read")
    one_sentence(call(main, *arguments(path, tmp_path / "out/raw.jsonl")), "row 1", "in 1000 of 1000 rows")


def test_a_missing_file_and_a_full_disk_leave_nothing(tmp_path):
    path, out = tmp_path / "rows.jsonl", tmp_path / "out" / "raw.jsonl"
    one_sentence(call(main, *arguments(path, out)), "rows.jsonl", "no such file")
    path.write_text("".join(json.dumps({**PAIR, "id": at}) + "\n" for at in range(5000)))
    one_sentence(run("source", *arguments(path, out), limit=20000), "nothing half-written")
    assert list(out.parent.iterdir()) == []
    assert call(main, *arguments(path, out)).returncode == 0
    assert out.read_text() == path.read_text()


def stream(source, tmp, max_rows=None):
    return list(rows(SourceSpec(name="mine", source=source, max_rows=max_rows), 1, tmp, tmp / "sources.lock"))


def read(path, form="pairs", max_rows=None, tmp=None, kind="jsonl"):
    return stream(Source(kind=kind, form=form, path=str(path), id="x", file="y"), tmp or path.parent, max_rows)


def test_text_files_and_a_sample(tmp_path):
    path = tmp_path / "wiki.txt"
    path.write_text("\ufefffirst line\n\nsecond line\nthird\n")
    for kind in ("jsonl", "gdrive", "hub"):  # a local path goes before any download
        every = read(path, "texts", kind=kind)
        assert every == [{"text": text} for text in ("first line", "", "second line", "third")]
        some = read(path, "texts", 2, kind=kind)
        assert some == read(path, "texts", 2, kind=kind) and [row for row in every if row in some] == some
    with pytest.raises(UserError, match="form to texts"):
        read(path, "pairs")


def test_one_score_of_another_scale_stops_a_source(tmp_path):
    """Else the most alike pairs would be dropped, and the least alike kept."""
    scores = [0.2, 0.5, 1, 1, 4.5]
    rows = [{"sentence1": f"a {i}", "sentence2": f"b {i}", "score": score} for i, score in enumerate(scores)]
    with pytest.raises(UserError, match=r"row 5: the field 'score' is 4\.5, and a score lies between 0 and 1; correct"):
        read(write(tmp_path / "rows.jsonl", rows))


def test_a_pointer_of_git_lfs_and_a_download_without_a_name(tmp_path):
    (tmp_path / "rows.txt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    with pytest.raises(UserError, match="only the pointer of a file that git-lfs keeps"):
        read(tmp_path / "rows.txt", "texts")
    write(tmp_path / "download", [PAIR])
    assert read(tmp_path / "download") == [PAIR]


SAFE = pytest.mark.skipif(not hasattr(tarfile, "data_filter"), reason="needs Python 3.11.4")


@pytest.mark.parametrize("kind", ["folder", "zip", pytest.param("tar.gz", marks=SAFE)])
def test_several_files_name_their_source(tmp_path, kind):
    folder = tmp_path / "echo-data"
    folder.mkdir()
    (folder / "b.jsonl").write_text(json.dumps({**PAIR, "negative": "n"}) + "\n")
    (folder / "a.jsonl").write_text(json.dumps({**PAIR, "negatives": ["m", "n"], "source": "own"}) + "\n")
    (folder / "readme.txt").write_text("not rows")
    path = folder
    if kind != "folder":
        path = Path(shutil.make_archive(tmp_path / "all", kind.replace("tar.gz", "gztar"), tmp_path, "echo-data"))
    assert [row["source"] for row in read(path, "triples", tmp=tmp_path)] == ["own", "b"]
    assert not (tmp_path / "unpacked").exists()


def test_a_sample_is_of_all_files_in_their_order(tmp_path):
    for name in "ab":
        write(tmp_path / f"{name}.jsonl", [{**PAIR, "id": at} for at in range(500)])
    found = [(row["source"], row["id"]) for row in read(tmp_path, max_rows=100)]
    assert len(found) == 100 and found == sorted(found) and 30 < sum(name == "a" for name, _ in found) < 70
    assert len(read(tmp_path, max_rows=5000)) == 1000


def test_a_python_that_cannot_unpack_safely_does_not(tmp_path, monkeypatch):
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    with tarfile.open(tmp_path / "all.tar.gz", "w:gz"):
        pass
    with pytest.raises(UserError, match=r"all\.tar\.gz: unpack it by hand, or take Python 3\.11\.4 or newer"):
        read(tmp_path / "all.tar.gz", "triples", tmp=tmp_path)


@pytest.mark.parametrize("what", ["no archive", "an encrypted member", "a compression that Python does not know"])
def test_an_archive_that_cannot_be_unpacked(tmp_path, what):
    path = tmp_path / "all.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.jsonl", json.dumps(PAIR))
    content = bytearray(path.read_bytes())
    for start, flags in ((content.index(b"PK\x03\x04"), 6), (content.index(b"PK\x01\x02"), 8)):
        if what == "an encrypted member":
            content[start + flags] |= 1
        elif what != "no archive":
            content[start + flags + 2] = 9
    path.write_bytes(b"PK but not really" if what == "no archive" else content)
    with pytest.raises(
        UserError, match=r"all\.zip: the archive cannot be unpacked.*fetch it again, or unpack it by hand"
    ):
        read(path, "triples")


def test_kinds_of_files_in_a_folder(tmp_path):
    """Settings are JSON too: a .json file holds rows where there is nothing else."""
    rows = [{"query": f"q {i}", "positive": f"p {i}"} for i in range(3)]
    for name in ("a.parquet", "b.csv.gz", "c.tsv"):
        save(tmp_path / name, rows)
    (tmp_path / "dataset_info.json").write_text('{"splits": {}}')
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache/d.jsonl").write_text("not rows")
    (tmp_path / "LICENSE.txt").write_text("not rows")
    assert read(tmp_path) == [{"source": name, **row} for name in "abc" for row in rows]
    (tmp_path / "only").mkdir()
    save(tmp_path / "only/rows.json", rows)
    (tmp_path / "only/README.txt").write_text("not rows")
    (tmp_path / "only/dataset_info.json").write_text('{"splits": {}}')
    assert read(tmp_path / "only") == rows
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=r"none: holds no \.jsonl or .* or \.parquet file"):
        read(tmp_path / "none")


def test_docstrings_are_sampled_over_all_packages(tmp_path):
    source = Source(kind="docstrings", form="pairs", packages=["email", "json", "logging"])
    every, some = stream(source, tmp_path), stream(source, tmp_path, 60)
    assert len(some) == 60 and some == stream(source, tmp_path, 60)
    assert {row["label"] for row in some} == {"email", "json", "logging"}
    assert [row for row in every if row in some] == some


@pytest.mark.parametrize("recorded", ["these rows", "other rows", "of a sample"])
def test_rows_of_docstrings_that_are_not_the_recorded_ones(tmp_path, caplog, monkeypatch, recorded):
    monkeypatch.setattr("grace.data.source.PINS", tmp_path / "requirements.lock")
    (tmp_path / "requirements.lock").write_text("nltk==0.1\nbeautifulsoup4==0.1\n")
    out, card = tmp_path / "out/raw.jsonl", tmp_path / "out/raw.card.json"
    source = {"kind": "docstrings", "form": "pairs", "packages": ["bs4"], "sha256": "0" * 64}
    if recorded == "these rows":
        every = stream(Source(**source), tmp_path)
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in every)
        source["sha256"] = hashlib.sha256(lines.encode()).hexdigest()
    given = {"name": "mine", "source": source, "max_rows": 60 if recorded == "of a sample" else None}
    assert call(main, "--spec", json.dumps(given), "--threads", 1, "--out", out, "--card", card).returncode == 0
    found = json.loads(card.read_text())
    assert found["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert found["rows"] == len(out.read_text().splitlines())
    if recorded == "other rows":
        assert found["manifest"]["warning"] == (
            "mine: not the rows of sources.mine.sha256, so scores may differ from published ones; "
            f"installed (and pinned in requirements.lock): beautifulsoup4 {version('beautifulsoup4')} (0.1)"
        )
        assert found["manifest"]["warning"] in caplog.text
        (tmp_path / "requirements.lock").write_text(f"beautifulsoup4=={version('beautifulsoup4')}\n")
        assert departure(SourceSpec(**given), "1" * 64).endswith("; all versions are those of requirements.lock")
    else:
        assert found["manifest"]["warning"] is None and "sha256" not in caplog.text


def test_without_gdown(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gdown", None)
    source = Source(kind="gdrive", form="texts", id="some-id")
    with pytest.raises(UserError, match=r"some-id.*gdown is not installed.*by hand and set sources\.mine\.path"):
        stream(source, tmp_path)
