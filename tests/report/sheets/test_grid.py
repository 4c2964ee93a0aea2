from grace.report.sheets.grid import Piece, cut, marked, visible
from tests.report.nasty import SEEN, TEXT


def test_a_marked_sentence_becomes_pieces():
    assert marked("**Bold**: of `a_b`, *c* and\nd_e_f") == [
        Piece("Bold", "bold"),
        Piece(": of "),
        Piece("a_b", "code"),
        Piece(", "),
        Piece("c", "italic"),
        Piece(" and"),
        Piece(" "),
        Piece("d_e_f"),
    ]


def test_what_is_not_seen_is_spelled_out():
    assert visible(TEXT) == SEEN
    assert visible("a\r\nb\rc\ud800\u200b") == "a\nb\nc\\ud800\\u200b"


def test_a_long_text_is_cut_with_a_mark():
    assert cut("a" * 600) == "a" * 600
    assert cut("a" * 601) == "a" * 600 + "…"
    assert cut("ab cd", 3) == "ab…"
