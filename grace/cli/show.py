"""Answers for people, on a terminal with colours, and for machines, as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from grace.cli.search import Answer, Hit
from grace.encoder.explain import Explained, Explanation

SHORT = 300  # characters of a text that are shown in a list
SENTENCES = 3  # that are shown of a hit
STRONG = 0.05  # an effect from which on it is shown in full colour


def console() -> Console:
    """Colours where standard output is a terminal."""
    return Console(highlight=False, markup=False, emoji=False)


def clean(text: str, limit: int | None = None) -> str:
    """One line without control characters, which could steer the terminal; cut to `limit` characters."""
    line = "".join(sign if sign.isprintable() else "\ufffd" for sign in " ".join(text.split()))
    return line if limit is None or len(line) <= limit else f"{line[: limit - 1]}\u2026"


def colour(effect: float) -> str:
    """Green for a sentence that carries the similarity, red for one against it; dim where it does little."""
    if abs(effect) < STRONG / 10:
        return "dim"
    return ("bold " if abs(effect) >= STRONG else "") + ("green" if effect > 0 else "red")


def answer(out: Console, found: Answer, why: bool) -> None:
    """A query's hits; with `why`, rationales and the sentences that carry each hit's score."""
    out.print(Text(clean(found.query, SHORT), style="bold"))
    if why and found.rationale:
        out.print(_labelled("rationale", found.rationale.text))
    grid = Table.grid(padding=(0, 2))
    grid.add_column(justify="right")
    grid.add_column(justify="right")
    grid.add_column(overflow="fold")
    for rank, hit in enumerate(found.hits, 1):
        grid.add_row(f"{rank}", Text(f"{hit.score:.3f}", style="cyan"), Text("\n").join(_hit_lines(hit)))
    out.print(grid)
    out.print()


def _hit_lines(hit: Hit) -> Iterator[Text]:
    if hit.id is not None:
        yield Text(clean(hit.id), style="dim")
    yield Text(clean(hit.text, SHORT))
    if hit.why is None:
        return
    if hit.why.b.rationale:
        yield _labelled("rationale", hit.why.b.rationale.text)
    carrying = sorted((part for part in hit.why.b.parts if part.effect > 0), key=lambda part: -part.effect)
    for part in carrying[:SENTENCES]:
        effect = Text(f"{part.effect:+.3f} ", style=colour(part.effect))
        yield effect.append(f"{part.kind}: ", style="dim").append(clean(part.text, SHORT), style="default")


def _labelled(label: str, text: str) -> Text:
    return Text(f"{label}: ", style="dim").append(clean(text), style="not dim italic")


def answer_json(found: Answer, why: bool) -> str:
    """The same on one line."""
    record: dict[str, Any] = {"query": found.query}
    if why and found.rationale:
        record["rationale"] = found.rationale.text
    record["hits"] = []
    for rank, hit in enumerate(found.hits, 1):
        entry = {"rank": rank, "score": round(hit.score, 6), "row": hit.row, "id": hit.id, "text": hit.text}
        if hit.why:
            of_hit = _side(hit.why.b)
            entry |= {"rationale": of_hit["rationale"], "parts": of_hit["parts"]}
            entry["query_parts"] = _side(hit.why.a)["parts"]
        record["hits"].append(entry)
    return json.dumps(record, ensure_ascii=False)


def explanation(out: Console, made: Explanation) -> None:
    """A table of the sentences of both texts and their rationales, with what each does to the similarity."""
    out.print(Text("similarity ").append(f"{made.similarity:.3f}", style="bold"))
    table = Table(box=box.SIMPLE, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    table.add_column("part", no_wrap=True)
    table.add_column("effect", justify="right", no_wrap=True)
    table.add_column("sentence", overflow="fold")
    sides = (("a", made.a), ("b", made.b))
    for name, side in sides:
        for part in side.parts:
            effect = Text(f"{part.effect:+.3f}", style=colour(part.effect))
            table.add_row(name, Text(part.kind, style="dim"), effect, Text(clean(part.text)))
        table.add_section()
    out.print(table)
    for name, side in sides:
        if side.rationale:
            out.print(_labelled(f"rationale of {name}", side.rationale.text))
    note = "effect: the similarity's change when the sentence is left out; + carries it, - weighs against it."
    out.print(Text(note, style="dim"))


def explanation_json(made: Explanation) -> str:
    """The same on one line."""
    record = {"similarity": round(made.similarity, 6), "a": _side(made.a), "b": _side(made.b)}
    return json.dumps(record, ensure_ascii=False)


def _side(side: Explained) -> dict[str, Any]:
    return {
        "text": side.text,
        "rationale": side.rationale.text if side.rationale else None,
        "parts": [{"kind": part.kind, "text": part.text, "effect": round(part.effect, 6)} for part in side.parts],
    }
