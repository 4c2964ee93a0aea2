"""The order of held-out rows."""

import hashlib

import pytest

from grace.evaluation.held_out import by_hash
from grace.files import write_jsonl
from grace.section import UserError
from tests.evaluation.fakes import make_rows


def test_rows_come_by_the_digest_of_their_document(tmp_path):
    rows = make_rows(30)
    write_jsonl(tmp_path / "a.jsonl", rows)
    write_jsonl(tmp_path / "b.jsonl", rows[::-1])
    expected = sorted(rows, key=lambda row: hashlib.blake2b(row["positive"].encode()).hexdigest())
    assert by_hash(tmp_path / "a.jsonl") == by_hash(tmp_path / "b.jsonl") == expected != rows


def test_equal_documents_count_once(tmp_path):
    rows = make_rows(3)
    write_jsonl(tmp_path / "a.jsonl", [*rows, {**rows[0], "id": "again", "query": "another"}])
    assert {row["id"] for row in by_hash(tmp_path / "a.jsonl")} == {"row0", "row1", "row2"}


def test_what_cannot_be_read_is_one_sentence(tmp_path):
    (tmp_path / "none.jsonl").write_text("")
    with pytest.raises(UserError, match=r"none\.jsonl: holds no rows; raise data\.test"):
        by_hash(tmp_path / "none.jsonl")
    write_jsonl(tmp_path / "bare.jsonl", [*make_rows(1), {"id": "1", "positive": "a"}])
    with pytest.raises(UserError, match="row 2: the field 'query' is missing"):
        by_hash(tmp_path / "bare.jsonl")
