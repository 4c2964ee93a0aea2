"""Table 5's averages, differences and whole answers, also with altered numbers."""

import pytest

from grace.paper import numbers
from grace.paper.check_general import attainable, averages, deltas, near_base, whole
from tests.paper.altered import printed

# Mean of the six columns, by hand.
WRONG = {
    ("qwen2.5-1.5b", "grace_sup"): 40.9167,
    ("qwen2.5-1.5b", "grace_unsup"): 40.7417,
    ("llama3.2-3b", "grace_sup"): 29.1150,
    ("qwen2.5-3b", "grace_sup"): 51.3500,
    ("qwen3-4b", "grace_sup"): 60.9633,
}


def test_the_rows_whose_average_is_off_are_named():
    finding = averages(printed())
    assert finding.verdict == "contradicted" and "11 of 16 rows agree" in finding.found
    for (backbone, row), mean in WRONG.items():
        gap = numbers.printed("table5", backbone, row, "Avg") - mean
        assert f"{backbone} {row} {gap:+.2f}" in finding.found
    assert finding.found.count("grace_") == len(WRONG)


def test_deltas_of_the_means_are_shown():
    assert "| qwen2.5-1.5b grace_sup | 41.08 | 40.917 | +0.163 | +0.34 | +0.17 | no |" in averages(printed()).arithmetic


def test_corrected_averages_are_confirmed():
    changes = {("table5", *place, "Avg"): round(mean, 2) for place, mean in WRONG.items()}
    assert averages(printed(changes)).verdict == "confirmed"
    assert deltas(printed(changes)).verdict == "contradicted"  # the printed Deltas go with the wrong averages


def test_an_altered_score_is_named():
    finding = averages(printed({("table5", "qwen3-4b", "base", "BBH"): 36.01}))
    assert "10 of 16" in finding.found and "qwen3-4b base -0.17" in finding.found


def test_one_decimal_allows_more():
    # Qwen2.5-3B is printed with one decimal: its base is off by 0.03 only because of that.
    assert "qwen2.5-3b base" not in averages(printed()).found
    finer = {("table5", "qwen2.5-3b", "base", "BBH"): 35.01}
    assert "qwen2.5-3b base -0.04" in averages(printed(finer)).found


def test_printed_deltas_are_differences_of_printed_averages():
    assert deltas(printed()).verdict == "confirmed"
    finding = deltas(printed({("table5", "llama3.2-3b", "cl", "Delta"): -20.59}))
    assert finding.verdict == "contradicted" and "11 of 12" in finding.found and "llama3.2-3b cl" in finding.found


def test_grace_stays_near_its_base():
    finding = near_base(printed())
    assert finding.verdict == "confirmed" and "0.40" in finding.found and "0.32" in finding.found
    assert near_base(printed({("claims", "general", "difference", "Delta"): 0.3})).verdict == "contradicted"


@pytest.mark.parametrize(
    ("score", "items", "unit", "right"),
    [
        (46.95, 164, 1, 77),  # 77 / 164 = 46.9512
        (32.06, 1319, 1, 423),  # 32.0697, cut off
        (32.07, 1319, 1, 423),  # the same, rounded
        (47.30, 164, 1, None),
        (52.8, 164, 10, None),  # 86 give 52.44, 87 give 53.05
        (53.0, 164, 10, 87),
        (0.0, 164, 1, 0),
        (100.0, 164, 1, 164),
    ],
)
def test_scores_of_whole_answers_are_told_from_others(score, items, unit, right):
    assert attainable(score, items, unit) == right


def test_attainable_is_what_printing_every_count_gives():
    items, printed_scores = 164, set()
    for right in range(items + 1):
        printed_scores |= {right * 10_000 // items, (right * 20_000 + items) // (2 * items)}
    for score in range(0, 10_001, 7):
        assert (attainable(score / 100, items, 1) is not None) == (score in printed_scores)


def test_humaneval_of_grace_is_no_whole_number_of_problems():
    finding = whole(printed())
    assert finding.verdict == "cannot be checked"
    assert "HumanEval, base: 3 of 4" in finding.found and "HumanEval, GRACE: 0 of 8" in finding.found
    assert "GSM8K, base: 4 of 4" in finding.found and "GSM8K, GRACE: 3 of 8" in finding.found


def test_whole_numbers_everywhere_are_confirmed():
    changes = {}
    for backbone, row in printed().names("table5"):
        for name, items in (("GSM8K", 1319), ("HumanEval", 164)):
            right = round(numbers.printed("table5", backbone, row, name) * items / 100)
            changes["table5", backbone, row, name] = round(right * 100 / items, 2)
    assert whole(printed(changes)).verdict == "confirmed"
