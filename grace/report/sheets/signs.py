"""A letter for each problem, at the cells that it bears on and before the sentence that says what to do."""

from __future__ import annotations

from collections import Counter

from grace.report.scoring.results import Problem
from grace.report.sheets.grid import LETTERS, Line, Piece

APART = 2  # files with one kind of problem that get a letter each; where there are more, they share one
LISTED = 5  # of the tasks or files that share a note


class Signs:
    """Letters for problems: one for each kind and file, or one for a kind of many files."""

    def __init__(self, problems: list[Problem]) -> None:
        files = Counter(kind for kind, _ in {(one.kind, one.path) for one in problems})
        self._shared = {kind for kind, count in files.items() if count > APART}
        self._groups: dict[tuple[str, str], list[Problem]] = {}
        for one in problems:
            self._groups.setdefault(self._key(one), []).append(one)
        self._letters = dict(zip(self._groups, LETTERS, strict=False))  # ten kinds, so there are enough

    def _key(self, problem: Problem) -> tuple[str, str]:
        return problem.kind, "" if problem.kind in self._shared else problem.path

    def of(self, problems: list[Problem]) -> str:
        """The letters of these problems, in their order in the alphabet."""
        return "".join(sorted({self._letters[self._key(one)] for one in problems}))

    def notes(self) -> list[tuple[str, Line]]:
        """Letter and sentence of each group."""
        return [(self._letters[key], [Piece(_sentence(group))]) for key, group in self._groups.items()]


def _sentence(group: list[Problem]) -> str:
    first, *others = group
    if not others:
        return first.text
    names = [one.task if one.task and one.path == first.path else one.path for one in others]
    names = list(dict.fromkeys(name for name in names if name))
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{first.text} The same holds for {', '.join(names[:LISTED])}{more}."
