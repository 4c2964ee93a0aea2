"""Files appear whole or not at all."""

import errno
import hashlib
import os

import pytest

from grace.config.section import UserError
from grace.jobs import files, reader


def test_a_failing_writer_leaves_nothing(tmp_path):
    def rows():
        yield {"a": 1}
        raise RuntimeError

    (tmp_path / "out.jsonl").write_text("old\n")
    with pytest.raises(RuntimeError):
        files.write_jsonl(tmp_path / "out.jsonl", rows())
    assert (tmp_path / "out.jsonl").read_text() == "old\n"
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "out.json").write_text("{}")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_json(tmp_path / "out.json", {"a": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"] and (tmp_path / "out.json").read_text() == "{}"


def test_nan_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "out.json", {"score": float("nan")})


def test_round_trip(tmp_path):
    rows = [{"text": "naïve\n\u2028", "n": 1}, {"text": "", "n": 2}]
    assert files.write_jsonl(tmp_path / "a.jsonl", rows) == 2
    assert list(reader.read_jsonl(tmp_path / "a.jsonl")) == rows
    files.write_json(tmp_path / "a.json", rows)
    assert files.read_json(tmp_path / "a.json", list) == rows
    assert files.sha256(tmp_path / "a.json") == hashlib.sha256((tmp_path / "a.json").read_bytes()).hexdigest()


def test_half_a_json_file(tmp_path):
    files.write_json(tmp_path / "a.json", {"score": list(range(100))})
    whole = (tmp_path / "a.json").read_bytes()
    (tmp_path / "a.json").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="not whole"):
        files.read_json(tmp_path / "a.json")


def test_json_of_another_kind(tmp_path):
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(UserError, match=r"a\.json: holds a list and no dict"):
        files.read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="not whole"):
        files.read_json(tmp_path / "a.json")


def test_rows_by_number(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": "\u00e4"}\n\n{"a": 2}\n{"a": 3}', encoding="utf-8")
    rows = files.JsonLines(path)
    assert len(rows) == 3 and [rows[2], rows[0], rows[1]] == [{"a": 3}, {"a": "\u00e4"}, {"a": 2}]
    assert list(rows) == list(reader.read_jsonl(path))


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), files.making(tmp_path / "made") as folder:
        (folder / "half").touch()
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with files.making(tmp_path / "made") as folder:
        (folder / "whole").touch()
        assert not (tmp_path / "made").exists()
    assert [path.name for path in tmp_path.rglob("*")] == ["made", "whole"]
    with files.making(tmp_path / "made") as folder:
        (folder / "too late").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["made", "whole"]
