"""The Markdown is read back by a parser of GitHub's tables."""

from __future__ import annotations

from itertools import pairwise

import pytest
from markdown_it import MarkdownIt

from grace.report.sheets import markdown
from grace.report.sheets.grid import Grid, Piece, Sheet, Shown, marked, text
from tests.report.nasty import LINES, SEEN, TEXT

PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def sheet(cell: Shown, prose: bool = False, **more) -> Sheet:
    grid = Grid(["run", "text"], [[text("a"), cell], [text("b"), text("c")]], names=1, prose=prose, **more)
    return Sheet("t", "A table", marked("Of *this*."), "Study demo.", [], [grid])


def inline(source: str, kind: str) -> list[str]:
    """Text of each `kind` of element, with breaks as newlines; any other mark-up is an error."""
    found = []
    for before, token in pairwise(PARSER.parse(source)):
        if before.type == kind:
            kinds = {child.type for child in token.children or [] if child.content != "<br>"}
            assert kinds <= {"text", "text_special", "strong_open", "strong_close"}, kinds
            found.append("".join("\n" if one.content == "<br>" else one.content for one in token.children or []))
    return found


def test_prose_reads_back_as_it_was_and_stays_in_its_cell():
    source = markdown.render(sheet(text(TEXT, "prose"), prose=True))
    assert inline(source, "td_open") == ["a", LINES, "b", "c"]


def test_a_text_above_a_table_reads_back_too():
    before = [[Piece("Document", "bold"), Piece(": "), Piece("# one\n- two\n1. three\n> four", "prose")]]
    source = markdown.render(sheet(text("x"), prose=True, before=before))
    assert "Document: # one\n- two\n1. three\n> four" in inline(source.replace("*this*", "this"), "paragraph_open")


def test_names_and_sentences_read_back_on_one_line():
    source = markdown.render(sheet(text(TEXT)))
    seen = inline(source.replace("[f](g)", "f").replace("![h](i)", "h"), "td_open")[1]
    assert seen == SEEN.replace("\n\n", " ").replace("\n", " ").replace("[f](g)", "f").replace("![h](i)", "h")


@pytest.mark.parametrize("name", ["grace_sup", "a_b_c", "_x_", "a*b*c", "reinforce++", "lambda1-0.5"])
def test_names_of_runs_read_back(name):
    source = markdown.render(sheet(text(name)))
    assert inline(source, "td_open")[1] == name
    assert (name in source) is (name[0] != "_" and "*" not in name)  # and are readable in a terminal


def test_a_cell_shows_the_interval_behind_and_the_papers_number_below():
    main = [Piece("1.00", "bold"), Piece(" ↑"), Piece("ab", "sign")]
    cell = Shown(main, [Piece("[0.5, 1.5]")], [Piece("2.00 (-1.00)")])
    lines = markdown.render(sheet(cell)).splitlines()[6:]
    assert lines == [
        "| run   |                     text |",
        "|-------|-------------------------:|",
        "| a     | **1.00** ↑ ᵃᵇ [0.5, 1.5] |",
        "| paper |             2.00 (-1.00) |",
        "| b     |                        c |",
    ]


def test_notes_follow_their_table_with_their_letter():
    source = markdown.render(sheet(text("1"), notes=[("a", [Piece("why")]), ("", marked("of `x_y`"))]))
    assert source.endswith("|\n\n- ᵃ why\n- of `x_y`\n")


def test_columns_are_aligned_and_a_long_text_does_not_widen_its_column():
    short = markdown.render(sheet(text("1.00"))).splitlines()
    assert "| run |  text |" not in short and "| run | text |" in short and "| b   |    c |" in short
    assert "| b   | c    |" in markdown.render(sheet(text("x" * 100, "prose"), prose=True)).splitlines()
