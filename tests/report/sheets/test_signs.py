from grace.report.scoring.results import Problem
from grace.report.sheets.signs import Signs


def problem(kind: str, path: str, task: str | None = None) -> Problem:
    return Problem(path, task, kind, f"{path}: {kind} of {task}.")


def sentence(signs: Signs, letter: str) -> str:
    return next(note[0].text for sign, note in signs.notes() if sign == letter)


def test_two_files_have_a_letter_each_and_the_tasks_of_one_share_it():
    problems = [problem("score", "a", "A"), problem("score", "a", "B"), problem("score", "b", "A")]
    signs = Signs(problems)
    assert [signs.of([one]) for one in problems] == ["a", "a", "b"] and signs.of(problems) == "ab"
    assert sentence(signs, "a") == "a: score of A. The same holds for B."
    assert signs.of([]) == ""


def test_more_files_share_a_letter_and_not_all_are_listed():
    problems = [problem("edited", f"f{i}") for i in range(9)] + [problem("broken", "f0")]
    signs = Signs(problems)
    assert {signs.of([one]) for one in problems[:9]} == {"a"} and signs.of(problems) == "ab"
    assert sentence(signs, "a") == "f0: edited of None. The same holds for f1, f2, f3, f4, f5 and 3 more."


def test_there_are_letters_for_all_kinds():
    kinds = ["broken", "score", "duplicated", "absent", "version", "edited", "unhashed", "weights", "items"]
    problems = [problem(kind, path) for kind in kinds for path in "xy"]
    assert len(Signs(problems).of(problems)) == 18
