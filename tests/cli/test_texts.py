"""Texts of files and of standard input, and one sentence for each that cannot be read."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import pytest

from grace.cli import texts
from grace.cli.texts import Row, blocks, read
from grace.config.section import UserError
from tests.rows import save


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


@pytest.mark.parametrize("name", ["t.jsonl", "t.json", "t.parquet", "t.csv", "t.tsv", "t.jsonl.gz"])
def test_rows_with_their_ids(tmp_path, name):
    rows = [{"_id": "a", "text": "one"}, {"_id": "0", "text": "2024"}, {"_id": "null", "text": "None"}]
    assert list(read(save(tmp_path / name, rows))) == [Row("a", "one"), Row("0", "2024"), Row("null", "None")]


def test_an_id_of_zero_and_none(file):
    path = file("t.jsonl", b'{"id": 0, "text": "a"}\n{"id": null, "_id": 7, "text": "b"}\n{"text": "c"}\n')
    assert list(read(path)) == [Row("0", "a"), Row("7", "b"), Row(None, "c")]


def test_line_i_of_a_text_file_is_row_i(file):
    path = file("t.txt", "\ufeffone\r\n\n three \nfour".encode())
    found = [Row(None, "one"), Row(None, ""), Row(None, " three "), Row(None, "four")]
    assert list(read(path)) == list(read(path, "body")) == found


def test_another_field(file):
    path = file("t.jsonl", b'{"id": 3, "body": "x", "text": "y"}\n')
    assert list(read(path, "body")) == [Row("3", "x")]


def test_standard_input_is_json_lines_or_lines(monkeypatch):
    assert given(monkeypatch, b'\n{"id": "a", "text": "x"}\n') == [Row("a", "x")]
    assert given(monkeypatch, b"{not json}\nx\n") == [Row(None, "{not json}"), Row(None, "x")]
    assert given(monkeypatch, b'"quoted"\n') == [Row(None, '"quoted"')]


def test_a_text_of_ten_megabytes_is_read(file):
    (row,) = read(file("t.txt", b"word " * 2_000_000))
    assert len(row.text) == 10_000_000


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("t.jsonl", b'{"text": "a"}\n{"texts": "b", "id": 1}\n', "t.jsonl, row 2: has no field 'text' (it has: te"),
        ("t.jsonl", b'{"text": "a"}\n{"text": 3}\n', "t.jsonl, row 2: the field 'text' is 3 and no text"),
        ("t.jsonl", b'{"text": "a"}\n{"text": null}\n', "t.jsonl, row 2: the field 'text' is empty (null)"),
        ("t.jsonl", b'{"text": "a", "id": [1]}\n', "t.jsonl, row 1: the field 'id' is [1] and no id"),
        ("t.csv", b"a,b\n1,2\n", "t.csv, row 1: has no field 'text' (it has: a, b); name one with --field"),
        ("t.txt", b"", "t.txt: holds no text"),
        ("t.txt", b" \n\n", "t.txt: holds no text"),
        ("t.csv", b"text\n", "t.csv: holds no text"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_one_sentence(file, name, content, expected):
    said = sentence(file(name, content))
    assert said.startswith(expected) and said.endswith(".") and "\n" not in said


@pytest.mark.parametrize("content", [b'[{"text": "a"}]\n', b'[\n {"text": "a"}\n]\n', b"[" * 100_000])
def test_an_array_on_standard_input_is_not_embedded_as_prose(monkeypatch, content):
    with pytest.raises(UserError, match="standard input: a JSON array"):
        given(monkeypatch, content)
    assert given(monkeypatch, b"[1] A reference.\n") == [Row(None, "[1] A reference.")]


def test_an_object_too_deep_on_standard_input(monkeypatch):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b'{"a":' * 100_000)))
    with pytest.raises(UserError, match="standard input, row 1: not JSON"):
        list(read("-"))


def test_an_argument_that_is_not_utf8():
    texts.check_argument("naïve 🙂")
    with pytest.raises(UserError, match=r"'caf\?': not UTF-8 text \(byte 0xe9\)"):
        texts.check_argument(b"caf\xe9".decode("utf-8", "surrogateescape"))


def test_what_is_looked_at_before_anything_is_loaded(tmp_path):
    (tmp_path / "folder.txt").mkdir()
    for name, said in (("none.txt", "no such file"), ("folder.txt", "a folder"), ("t.pdf", "cannot tell what kind")):
        with pytest.raises(UserError, match=said):
            texts.check(tmp_path / name)


def test_blocks_are_bounded_in_texts_and_in_characters(monkeypatch):
    monkeypatch.setattr(texts, "BLOCK", 4)
    monkeypatch.setattr(texts, "BLOCK_CHARACTERS", 10)
    rows = [Row(None, "x" * length) for length in (1, 1, 1, 1, 1, 9, 20, 1)]
    found = list(blocks(iter(rows)))
    assert [row for block in found for row in block] == rows
    assert [len(block) for block in found] == [4, 2, 1, 1]
