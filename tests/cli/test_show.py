"""What people see of an explanation, and what machines get."""

from __future__ import annotations

import json
from typing import Any

import pytest
from rich.console import Console

from grace.cli import show
from grace.cli.search import Answer, Hit
from grace.encoder.encoder import Rationale
from grace.encoder.explain import Explained, Explanation, Part

PARTS = [
    Part("text", "Invert [bold]it[/bold].", 0.061),
    Part("text", "Or not.", -0.02),
    Part("rationale", "Why.", 0.003),
]
SIDE = Explained("Invert [bold]it[/bold]. Or not.", Rationale("<think>Why.</think>", [1], False, True), PARTS)
MADE = Explanation(0.8125, SIDE, Explained("x\x1b[2J\ny", None, []))


def printed(what, *values, colours=False) -> str:
    system: Any = "standard" if colours else None
    out = Console(width=100, force_terminal=colours, markup=False, highlight=False, color_system=system)
    with out.capture() as captured:
        what(out, *values)
    return captured.get()


def test_a_line_cannot_steer_the_terminal():
    assert show.clean("a\x1b[31m\n\tb\x07 \u202e") == "a\ufffd[31m b\ufffd \ufffd"
    assert show.clean("größer ☃ 漢") == "größer ☃ 漢"
    assert show.clean("abcdef", 4) == "abc…" and show.clean("abcd", 4) == "abcd"


@pytest.mark.parametrize(("effect", "colour"), [(0.2, "bold green"), (0.01, "green"), (-0.01, "red"), (0.001, "dim")])
def test_colours(effect, colour):
    assert show.colour(effect) == colour


def test_an_explanation_is_a_table_of_all_parts():
    text = printed(show.explanation, MADE)
    assert "similarity 0.812" in text and "rationale of a: <think>Why.</think>" in text and "rationale of b" not in text
    rows = [line.split(maxsplit=3) for line in text.splitlines() if line.startswith(" a")]
    assert [(row[1], row[2], row[3].strip()) for row in rows] == [
        (part.kind, f"{part.effect:+.3f}", part.text) for part in PARTS
    ]
    assert "\x1b" not in text


def test_a_terminal_gets_colours():
    text = printed(show.explanation, MADE, colours=True)
    assert "\x1b[1;32m+0.061\x1b[0m" in text and "\x1b[31m-0.020\x1b[0m" in text


def test_json_of_an_explanation_has_it_all():
    found = json.loads(show.explanation_json(MADE))
    assert found["similarity"] == 0.8125 and found["b"] == {"text": "x\x1b[2J\ny", "rationale": None, "parts": []}
    assert found["a"]["parts"][1] == {"kind": "text", "text": "Or not.", "effect": -0.02}


def test_a_hit_is_shown_with_what_carries_it():
    hit = Hit(0.9, 4, "id4", SIDE.text, Explanation(0.9, MADE.b, SIDE))
    text = printed(show.answer, Answer("query\x1b", None, [hit]), True)
    assert (
        "query\ufffd" in text and "0.900" in text and "id4" in text and "+0.061 text: Invert [bold]it[/bold]." in text
    )
    assert "Or not." not in text.split("rationale:")[1] and "\x1b" not in text
