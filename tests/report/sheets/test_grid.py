import json

import pytest

from grace.report.scoring.results import Problem
from grace.report.sheets import formats
from grace.report.sheets.grid import Footnotes, Grid, Piece, Sheet, cut, marked, text, visible
from tests.report.nasty import SEEN, TEXT


def test_a_marked_sentence_becomes_pieces():
    parts = [("Bold", "bold"), (": of ", ""), ("a_b", "code"), (", ", ""), ("c", "italic"), (" and", ""), (" ", "")]
    assert marked("**Bold**: of `a_b`, *c* and\nd_e_f") == [*(Piece(*part) for part in parts), Piece("d_e_f")]


def test_what_is_not_seen_is_spelled_out():
    assert visible(TEXT) == SEEN
    assert visible("a\r\nb\rc\ud800\u200b") == "a\nb\nc\\ud800\\u200b"


def test_a_long_text_is_cut_with_a_mark():
    assert cut("a" * 600) == "a" * 600
    assert cut("a" * 601) == "a" * 600 + "…"
    assert cut("a " * 300 + "b") == "a " * 299 + "a…"


def test_a_record_holds_the_whole_table():
    grid = Grid(["run", "text"], [[text("a", "code"), text(TEXT, "prose")]], 1, True, "H", [[Piece("b")]], [("", [])])
    sheet = Sheet("t", "A <b> table", marked("Of *this*."), "Study demo.", [marked("**Not** so.")], [grid])
    assert formats.html(Sheet.of_json(json.loads(json.dumps(sheet.as_json())))) == formats.html(sheet)
    for wrong in ({}, {**sheet.as_json(), "grids": [{}]}, {**sheet.as_json(), "caption": 3}):
        with pytest.raises(ValueError):
            Sheet.of_json(wrong)


def problem(kind: str, path: str, task: str | None = None) -> Problem:
    return Problem(path, task, kind, f"{path}: {kind} of {task}.")


def sentence(footnotes: Footnotes, letter: str) -> str:
    return next(note[0].text for sign, note in footnotes.notes() if sign == letter)


def test_two_files_have_a_letter_each_and_the_tasks_of_one_share_it():
    problems = [problem("score", "a", "A"), problem("score", "a", "B"), problem("score", "b", "A")]
    footnotes = Footnotes(problems)
    assert [footnotes.of([one]) for one in problems] == ["a", "a", "b"] and footnotes.of(problems) == "ab"
    assert sentence(footnotes, "a") == "a: score of A. The same holds for B." and footnotes.of([]) == ""


def test_more_files_share_a_letter_and_not_all_are_listed():
    problems = [problem("edited", f"f{i}") for i in range(9)] + [problem("broken", "f0")]
    footnotes = Footnotes(problems)
    assert {footnotes.of([one]) for one in problems[:9]} == {"a"} and footnotes.of(problems) == "ab"
    assert sentence(footnotes, "a") == "f0: edited of None. The same holds for f1, f2, f3, f4, f5 and 3 more."


def test_there_are_letters_for_all_kinds():
    kinds = ["broken", "score", "duplicated", "absent", "version", "edited", "unhashed", "weights", "items"]
    problems = [problem(kind, path) for kind in kinds for path in "xy"]
    assert len(Footnotes(problems).of(problems)) == 18
