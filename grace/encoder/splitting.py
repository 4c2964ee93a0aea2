"""Sentences of a text or a rationale as ranges of characters, by punctuation, blank lines and list marks."""

from __future__ import annotations

import re
from collections.abc import Iterator

# No part of this starts inside a run that it has passed, so that a megabyte of dots takes no longer than one of words.
BORDER = re.compile(
    r"(?<![.!?…])(?P<stop>[.!?…]++[\"'”’)\]]*+)\s++(?P<next>\S)?"
    r"|[。！？]++[”’」』）]*+\s*+"
    r"|\n\s*\n\s*"
    r"|\n[^\S\n]*(?=(?:[-*•]|\d+[.)])\s)"
)
MARK = re.compile(r"</?think>")
SHORT = {
    "al", "approx", "cf", "dr", "e.g", "eq", "eqs", "etc", "fig", "figs", "i.e", "mr", "mrs", "ms", "no", "nos", "pp",
    "prof", "sec", "st", "tab", "vol", "vs",
}  # fmt: skip
WORD = re.compile(r"[\w.]+$")


def sentences(text: str) -> list[tuple[int, int]]:
    """(start, end) of each sentence in order; together they cover the text, so white space belongs to the one before.

    None of a text that has nothing but white space.
    """
    if not text.strip():
        return []
    ends = [*_borders(text), len(text)]
    found, start = [], 0
    for end in ends:
        if text[start:end].strip():
            found.append((start, end))
            start = end
    return found[:-1] + [(found[-1][0], len(text))]


def rationale_sentences(text: str) -> list[tuple[int, int]]:
    """The same of a rationale. Its thought and its statement are apart, and its marks belong to no sentence."""
    found, start = [], 0
    for mark in [*MARK.finditer(text), None]:
        end = mark.start() if mark else len(text)
        found += [(start + first, start + last) for first, last in sentences(text[start:end])]
        start = mark.end() if mark else end
    return found


def _borders(text: str) -> Iterator[int]:
    for match in BORDER.finditer(text):
        if not match["stop"]:
            yield match.end()
        elif _ends(text[max(0, match.start() - 20) : match.start()], match["stop"], match["next"] or ""):
            yield match.start("next") if match["next"] else match.end()


def _ends(before: str, stop: str, following: str) -> bool:
    """False after an initial or an abbreviation, and before a small letter."""
    if following.islower():
        return False
    word = WORD.search(before)
    if stop != "." or word is None:
        return True
    return not (word[0].lower() in SHORT or (len(word[0]) == 1 and word[0].isupper()))
