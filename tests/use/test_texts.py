"""Texts of every kind of file, and one sentence for each that cannot be read."""

from __future__ import annotations

import csv
import io
import json
import sys
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from grace.section import UserError
from grace.use import texts
from grace.use.texts import Row, blocks, read

ROWS = [Row("a", 'one\ntwo, "three"'), Row("7", "größer ☃"), Row(None, "last")]


def write(path, rows):
    """ROWS by other means than those that read them."""
    names = {"_id": [row.id for row in rows], "text": [row.text for row in rows]}
    if path.suffix == ".jsonl":
        path.write_text("\n\n".join(json.dumps({"_id": row.id, "text": row.text}) for row in rows))
    elif path.suffix == ".csv":
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows([list(names), *([row.id, row.text] for row in rows)])
    else:
        pq.write_table(pa.table({**names, "other": [[1]] * len(rows)}), path)
    return path


@pytest.fixture
def file(tmp_path):
    """Makes a file of bytes."""

    def make(name: str, content: bytes):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return make


def given(monkeypatch, content: bytes):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    return list(read("-"))


def sentence(path, field="text"):
    with pytest.raises(UserError) as raised:
        list(read(path, field))
    return str(raised.value).replace(f"{path}", path.name)


@pytest.mark.parametrize("name", ["t.jsonl", "t.parquet"])
def test_rows_with_their_ids(tmp_path, name):
    assert list(read(write(tmp_path / name, ROWS))) == ROWS


def test_rows_of_csv_over_several_lines(tmp_path):
    expected = [ROWS[0], ROWS[1], Row("", "last")]  # CSV knows no missing value
    assert list(read(write(tmp_path / "t.csv", ROWS))) == expected


def test_line_i_of_a_text_file_is_row_i(file):
    found = list(read(file("t.txt", "\ufeffone\r\n\n three \nfour".encode())))
    assert found == [Row(None, "one"), Row(None, ""), Row(None, " three "), Row(None, "four")]


def test_another_field(file):
    path = file("t.jsonl", b'{"id": 3, "body": "x", "text": "y"}\n')
    assert list(read(path, "body")) == [Row("3", "x")]


def test_standard_input_is_json_lines_or_lines(monkeypatch):
    assert given(monkeypatch, b'\n{"id": "a", "text": "x"}\n') == [Row("a", "x")]
    assert given(monkeypatch, b"{not json}\nx\n") == [Row(None, "{not json}"), Row(None, "x")]
    assert given(monkeypatch, b'"quoted"\n') == [Row(None, '"quoted"')]


def test_half_a_surrogate_pair_becomes_what_can_be_written(file):
    (row,) = read(file("t.jsonl", b'{"text": "a\\ud83d"}'))
    assert row.text.encode() == b"a?"


def test_a_text_of_ten_megabytes_is_read(file):
    (row,) = read(file("t.txt", b"word " * 2_000_000))
    assert len(row.text) == 10_000_000


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("t.jsonl", b'{"text": "a"}\n{"texts": "b", "id": 1}\n', "t.jsonl, row 2: has no field 'text' (it has: te"),
        ("t.jsonl", b'{"text": "a"}\n{"text": 3}\n', "t.jsonl, row 2: the field 'text' is a int and no text"),
        ("t.jsonl", b'{"text": "a"}\n{"text": null}\n', "t.jsonl, row 2: the field 'text' is empty"),
        ("t.jsonl", b'{"text": "a"}\n{"text": "b"\n', "t.jsonl, row 2: not JSON"),
        ("t.jsonl", b'{"text": "a"}\n' + b"[" * 100_000, "t.jsonl, row 2: not JSON"),
        ("t.jsonl", b'{"text": "a"}\n' + b'{"n":' + b"1" * 5000 + b"}", "t.jsonl, row 2: not JSON"),
        ("t.jsonl", b'{"text": "a"}\n"b"\n', "t.jsonl, row 2: not a JSON object"),
        ("t.txt", b"a\nb\nc\xffd\n", "t.txt, line 3: not UTF-8 text (byte 0xff)"),
        ("t.csv", b"a,b\n1,2\n", "t.csv: has no column 'text' (it has: a, b)"),
        ("t.csv", b"a,text\n1,2\n3\n", "t.csv, row 2: the field 'text' is empty"),
        ("t.csv", b'a,text\n1,"2\n', "t.csv, line 2: not CSV"),
        ("t.csv", b'a,"te"xt\n1,2\n', "t.csv, line 1: not CSV"),
        ("t.parquet", b"PAR1 nothing", "t.parquet: no whole Parquet file"),
        ("t.txt", b"", "t.txt: holds no text"),
        ("t.txt", b" \n\n", "t.txt: holds no text"),
        ("t.csv", b"text\n", "t.csv: holds no text"),
        ("t.pdf", b"x", "t.pdf: cannot tell what kind of file it is"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_one_sentence(file, name, content, expected):
    said = sentence(file(name, content))
    assert said.startswith(expected) and said.endswith(".") and "\n" not in said


def test_parquet_whose_text_is_not_utf8(tmp_path):
    bad = pa.array([b"a", b"c\xffd"]).view(pa.string())
    pq.write_table(pa.table({"text": bad}), tmp_path / "t.parquet")
    assert "not UTF-8 text (byte 0xff)" in sentence(tmp_path / "t.parquet")


def test_an_object_too_deep_on_standard_input(monkeypatch):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b'{"a":' * 100_000)))
    with pytest.raises(UserError, match="standard input, row 1: not JSON"):
        list(read("-"))


def test_an_argument_that_is_not_utf8():
    texts.check_argument("naïve 🙂")
    with pytest.raises(UserError, match=r"'caf\?': not UTF-8 text \(byte 0xe9\)"):
        texts.check_argument(b"caf\xe9".decode("utf-8", "surrogateescape"))


def test_a_missing_file_and_a_folder(tmp_path):
    assert "No such file" in sentence(tmp_path / "none.txt")
    (tmp_path / "folder.txt").mkdir()
    assert "Is a directory" in sentence(tmp_path / "folder.txt")


def test_a_line_without_end_is_no_text(file, monkeypatch):
    monkeypatch.setattr(texts, "LONGEST", 1 << 20)
    assert "line 2: longer than 1 MB" in sentence(file("t.txt", b"a\n" + b"x" * (1 << 21)))


def test_blocks_are_bounded_in_texts_and_in_characters(monkeypatch):
    monkeypatch.setattr(texts, "BLOCK", 4)
    monkeypatch.setattr(texts, "BLOCK_CHARACTERS", 10)
    rows = [Row(None, "x" * length) for length in (1, 1, 1, 1, 1, 9, 20, 1)]
    found = list(blocks(iter(rows)))
    assert [row for block in found for row in block] == rows
    assert [len(block) for block in found] == [4, 2, 1, 1]
