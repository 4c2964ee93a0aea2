"""Every kind of file gives the same rows; what cannot be read is one sentence that names the row."""

from __future__ import annotations

import json
import os
import random
import threading

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from grace.config.section import UserError
from grace.jobs import reader
from tests.rows import compressed, save

ROWS = [
    {"id": "a", "text": 'one\ntwo, "three"\t'},
    {"id": "007", "text": "2024-01-01"},
    {"id": "null", "text": "größer ☃"},
    {"id": "nan", "text": "1e5"},
]
LINES = [{"text": "NA"}, {"text": ""}, {"text": " 3.0 "}, {"text": "größer ☃"}]


@pytest.mark.parametrize("ending", ["", ".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("kind", [".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt"])
def test_every_kind_gives_the_same_rows_and_guesses_no_type(tmp_path, kind, ending):
    expected = LINES if kind == ".txt" else ROWS[1:] if kind == ".tsv" else ROWS
    path = save(tmp_path / f"t{kind}{ending}", expected)
    assert [row for _, row in reader.read(path)] == expected
    numbers = [number for number, _ in reader.read(path)]
    assert numbers == [*range(1, len(expected) + 1)]
    assert reader.kind(path) == kind and reader.stem(path) == "t" and reader.find(tmp_path, "t") == path


@pytest.mark.parametrize("name", ["t.jsonl", "t.csv", "t.txt", "t.json", "t.jsonl.gz"])
def test_a_byte_order_mark_is_no_text(tmp_path, name):
    kind = f".{name.split('.')[1]}"
    content = b"\xef\xbb\xbf" + save(tmp_path / f"plain{kind}", LINES[:1]).read_bytes()
    (tmp_path / name).write_bytes(compressed(content, ".gz") if name.endswith(".gz") else content)
    assert [row for _, row in reader.read(tmp_path / name)] == LINES[:1]


def test_files_that_were_put_together(tmp_path):
    marked = b'\xef\xbb\xbf{"text": "a"}\r\n\n'
    (tmp_path / "t.jsonl").write_bytes(marked * 2)
    (tmp_path / "t.jsonl.gz").write_bytes(compressed(marked, ".gz") * 2)
    for name in ("t.jsonl", "t.jsonl.gz"):
        assert list(reader.read(tmp_path / name)) == [(1, {"text": "a"}), (3, {"text": "a"})]


def test_a_compressed_file_that_does_not_say_so(tmp_path):
    (tmp_path / "t.jsonl").write_bytes(compressed(b'{"text": "a"}\n', ".xz"))
    assert list(reader.read(tmp_path / "t.jsonl")) == [(1, {"text": "a"})]


def test_a_header_with_blanks_and_names_as_the_hub_has_them(tmp_path):
    (tmp_path / "test-00000-of-00001.csv").write_text("\nid, text\n1,a\n")
    assert list(reader.read(reader.find(tmp_path, "test"))) == [(1, {"id": "1", "text": "a"})]


def test_json_that_is_lines(tmp_path):
    (tmp_path / "t.json").write_text('\n{"text": "a"}\n{"text": "b"}')
    assert list(reader.read(tmp_path / "t.json")) == [(2, {"text": "a"}), (3, {"text": "b"})]


def test_tables_of_pandas(tmp_path):
    """A dictionary column is text, and an id beside a missing one, which pandas makes a float, is itself."""
    table = pd.DataFrame({"id": [7, None], "text": pd.Categorical(["a", "b"])})
    table.to_parquet(tmp_path / "t.parquet")
    (_, first), (_, second) = reader.read(tmp_path / "t.parquet", ("text", "id"))
    assert reader.text(first, "text", "") == "a" and reader.identifier(first, "id", "") == "7"
    with pytest.raises(UserError, match="the field 'id' is"):
        reader.identifier(second, "id", "row 2")
    assert next(reader.read(tmp_path / "t.parquet", ("text",)))[1] == {"text": "a"}
    assert "id" in next(reader.read(tmp_path / "t.parquet", ("body",)))[1]  # a message names what is there


def test_half_a_surrogate_pair_becomes_what_can_be_written(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"text": "a\\ud83d", "more": ["\\uD83D\\uDE00"]}')
    ((_, row),) = reader.read(tmp_path / "t.jsonl")
    assert row == {"text": "a?", "more": ["😀"]}


def test_a_pipe_is_read_once_and_to_its_end(tmp_path):
    os.mkfifo(tmp_path / "t.jsonl")
    writer = threading.Thread(target=(tmp_path / "t.jsonl").write_bytes, args=(b'{"text": "a"}\n' * 3,))
    writer.start()
    assert len(list(reader.read(tmp_path / "t.jsonl"))) == 3
    writer.join()


GZIP = compressed(b'{"text": "a"}\n' * 1000, ".gz")
ZSTD = compressed(random.Random(0).randbytes(3000).hex().encode(), ".zst")  # the same for every worker


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("t.jsonl", b'{"text": "a"}\n\n{"text": "b"\n', "t.jsonl, row 3: not JSON"),
        ("t.jsonl", b'{"text": "a"}\n' + b"[" * 100_000, "t.jsonl, row 2: not JSON (nested too deep)"),
        ("t.jsonl", b'{"text": "a"}\n{"n": ' + b"1" * 5000 + b"}", "t.jsonl, row 2: not JSON (Exceeds the limit"),
        ("t.jsonl", b'{"text": "a", "text": "b"}', "t.jsonl, row 1: not JSON (the field 'text' stands twice)"),
        ("t.jsonl", b'{"text": "a"}\n"b"\n', "t.jsonl, row 2: not a JSON object"),
        ("t.jsonl", b'[{"text": "a"}]\n', "t.jsonl, row 1: a JSON array and not an object; put each row on a line"),
        ("t.json", b'[{"text": "a"}, 3]', "t.json, row 2: not a JSON object"),
        ("t.json", b'[{"text": "a"},', "t.json: not JSON"),
        ("t.json", b"[" * 100_000, "t.json: not JSON (nested too deep)"),
        ("t.json", b'{\n "text": ["a"]\n}', "t.json, row 1: not JSON"),
        ("t.txt", b"a\nb\nc\xffd\n", "t.txt, row 3: not UTF-8 text (byte 0xff)"),
        ("t.jsonl", '{"text": "ä"}\n'.encode("utf-16"), "t.jsonl, row 1: not UTF-8 text (byte 0xff)"),
        ("t.csv", b"id,text\n1,a\n2,b,c\n", "t.csv, row 2: has not the header's 2 cells but 3; quote a text"),
        ("t.csv", b"id,text\n\n1,a\n2\n", "t.csv, row 2: has not the header's 2 cells but 1"),
        ("t.csv", b"text,text\na,b\n", "t.csv: its header names the column 'text' twice"),
        ("t.csv", b'a,text\n1,"2\n', "t.csv, line 2: not CSV"),
        ("t.csv", b'a,"te"xt\n1,2\n', "t.csv, line 1: not CSV"),
        ("t.tsv", b"id\ttext\n1\ta\tb\n", "t.tsv, row 1: has not the header's 2 cells but 3; quote a text"),
        ("t.tsv", b'id\ttext\n"1\ta\n2"\tb\n', "t.tsv, row 1: a cell in quotation marks holds a tab or a line end"),
        ("t.parquet", b"PAR1 nothing", "t.parquet: no whole Parquet file"),
        ("t.parquet", b"", "t.parquet: no whole Parquet file"),
        ("t.jsonl.gz", GZIP[:-20], "t.jsonl.gz: cut off or broken"),
        ("t.jsonl.gz", GZIP[:-6] + b"xxxxxx", "t.jsonl.gz: cut off or broken"),
        ("t.jsonl.bz2", compressed(b"x" * 999, ".bz2")[:-9], "t.jsonl.bz2: cut off or broken"),
        ("t.jsonl.xz", compressed(b"x" * 999, ".xz")[:-9], "t.jsonl.xz: cut off or broken"),
        ("t.txt.zst", ZSTD[:-9], "t.txt.zst: cannot be read (Truncated"),
        ("t.pdf", b"x", "t.pdf: cannot tell what kind of file it is"),
        ("t", b"x", "t: cannot tell what kind of file it is"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_one_sentence(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as raised:
        list(reader.read(tmp_path / name))
    said = str(raised.value).replace(f"{tmp_path}/", "")
    assert said.startswith(expected) and said.endswith(".") and "\n" not in said


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(UserError, match=r"none\.txt: cannot be read \(No such file"):
        list(reader.read(tmp_path / "none.txt"))
    with pytest.raises(UserError, match=r"none\.jsonl: no such file"):
        list(reader.read_jsonl(tmp_path / "none.jsonl"))
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(UserError, match=r"folder\.txt: cannot be read \(Is a directory"):
        list(reader.read(tmp_path / "folder.txt"))


def test_a_line_without_end_is_no_text(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "LONGEST", 1 << 20)
    (tmp_path / "t.txt").write_bytes(b"a\n" + b"x" * (1 << 21))
    with pytest.raises(UserError, match="row 2: longer than 1 MB"):
        list(reader.read(tmp_path / "t.txt"))


def test_parquet_whose_text_is_not_utf8(tmp_path):
    pq.write_table(pa.table({"text": pa.array([b"a", b"c\xffd"]).view(pa.string())}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"not UTF-8 text \(byte 0xff\)"):
        list(reader.read(tmp_path / "t.parquet"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [(7, "7"), (7.0, "7"), ("7", "7"), (0, "0"), ("", ""), ("null", "null"), ("nan", "nan"), ("007", "007"), (-1, "-1"),
     (10**25, str(10**25)), (7.5, None), (True, None), (None, None), (float("nan"), None), ([7], None)],
)  # fmt: skip
def test_ids(value, expected):
    if expected is None:
        with pytest.raises(UserError, match=r"^x\.jsonl, row 3: the field 'id' is .*; correct or remove the row\.$"):
            reader.identifier({"id": value}, "id", "x.jsonl, row 3")
    else:
        assert reader.identifier({"id": value}, "id", "") == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(4.5, 4.5), ("4.5", 4.5), (3, 3.0), ("1e-3", 0.001), (float("nan"), None), ("nan", None),
     ("inf", None), (True, None),     ("", None), ("high", None), (None, None), (10**400, None), ([1], None)],
)  # fmt: skip
def test_numbers(value, expected):
    if expected is None:
        with pytest.raises(UserError, match="the field 'score' is"):
            reader.number({"score": value}, "score", "")
    else:
        assert reader.number({"score": value}, "score", "") == expected


@pytest.mark.parametrize(
    ("row", "said"),
    [({"b": 1}, "the field 'a' is missing"), ({"a": ""}, "the field 'a' is empty"), ({"a": " \n"}, "'a' is empty"),
     ({"a": 5}, "the field 'a' is 5 and no text"), ({"a": None}, r"'a' is empty \(null\)"),
     ({"a": "x", "id": None}, r"the field 'id' is empty \(null\)")],
)  # fmt: skip
def test_needed_fields(tmp_path, row, said):
    good = {"a": "x", "id": 0}
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(one) + "\n" for one in (good, {"id": 1} | row)))
    with pytest.raises(UserError, match=rf"row 2: .*{said}"):
        list(reader.read_jsonl(tmp_path / "t.jsonl", need=("a", "id")))
