"""Every check, on the paper's numbers and on altered ones."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from grace.config.schema import RewardConfig
from grace.method import advantages, rewards
from grace.paper import checks, numbers
from grace.paper.checks import check, grid, listed
from grace.paper.numbers import Missing
from tests.paper.altered import ORDER, frame, printed, straightened

VERDICTS = {
    "average-weights": "contradicted",
    "gain-supervised": "contradicted",
    "gain-unsupervised": "contradicted",
    "column-order": "contradicted",
    "negatives-cancel": "contradicted",
    "unsupervised-negatives": "contradicted",
    "table5-averages": "contradicted",
    "lambda-grid": "cannot be checked",
    "figure3-and-table4": "cannot be checked",
    "whole-answers": "cannot be checked",
    "general-capability": "confirmed",
    "table5-deltas": "confirmed",
    "table4-averages": "confirmed",
    "repeated-rows": "confirmed",
    "above-baselines": "confirmed",
    "reasoning-baseline": "cannot be checked",
}


def test_verdicts_on_the_papers_numbers():
    findings = checks.audit(numbers.load(), 0.2, 0.2)
    assert [(one.id, one.verdict) for one in findings] == list(VERDICTS.items())
    assert all(one.claim and one.found and one.arithmetic and one.where for one in findings)


def test_of_no_numbers_only_the_reward_code_can_be_checked():
    findings = checks.audit(frame(without=tuple(numbers.load()["table"].unique())), 0.2, 0.2)
    judged = {one.id for one in findings if one.verdict != "cannot be checked"}
    assert judged == {"negatives-cancel", "unsupervised-negatives"}


def test_importing_the_checks_does_not_import_torch():
    code = "import sys, grace.paper.checks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_missing_number_is_the_finding():
    @check("one", "One", "Table 1")
    def one(numbers):
        return "c", str(numbers.value("table1", "qwen3-4b", "base", "Speed")), "confirmed", ""

    finding = one(printed())
    assert (finding.id, finding.title, finding.where) == ("one", "One", "Table 1")
    assert finding.verdict == "cannot be checked" and "table1, qwen3-4b, base, Speed" in finding.found


def test_rows_come_in_the_papers_order():
    assert [row.name for row in printed().quoted()] == ["BERT", "RoBERTa", "LLM2Vec-LLaMA-3-8B", "Echo-Mistral-7B"]
    own = printed().own()
    assert len(own) == 28 and own[0].label == "table 1 qwen2.5-1.5b base" and own[-1].average == 51.03
    with pytest.raises(Missing):
        printed(without=("table2",)).quoted()


def test_text_of_tables_and_lists():
    assert grid(["row", "x"], [["a", 1.0], ["b", 2]]) == "| row | x |\n|---|---:|\n| a | 1.00 |\n| b | 2 |"
    assert listed(["a"]) == "a" and listed(["a", "b", "c"]) == "a, b and c" and listed([]) == "none"


# ---- checks on altered numbers ------------------------------------------------------------


def over_56(row) -> float:
    return round(sum(numbers.COUNTS[c] * score for c, score in zip(ORDER, row.scores, strict=True)) / 56, 2)


# Mean of the six columns of the rows of table 5 whose average is off, by hand.
MEANS = {
    ("qwen2.5-1.5b", "grace_sup"): 40.9167,
    ("qwen2.5-1.5b", "grace_unsup"): 40.7417,
    ("llama3.2-3b", "grace_sup"): 29.1150,
    ("qwen2.5-3b", "grace_sup"): 51.3500,
    ("qwen3-4b", "grace_sup"): 60.9633,
}
TRUE = {(row.table, row.backbone, row.name, "Avg"): over_56(row) for row in printed().own()}
ALTERED = {
    "": {},
    "true averages": TRUE,
    "one true average": dict(list(TRUE.items())[:1]),
    "RoBERTa put back": straightened("RoBERTa"),
    "Echo-Mistral-7B put back": straightened("Echo-Mistral-7B"),
    "both put back": straightened("RoBERTa", "Echo-Mistral-7B"),
    "corrected averages": {("table5", *place, "Avg"): round(mean, 2) for place, mean in MEANS.items()},
    "whole answers": {
        ("table5", *place, name): round(round(printed().value("table5", *place, name) * of / 100) * 100 / of, 2)
        for place in printed().names("table5")
        for name, of in checks.ITEMS.items()
    },
    "lower GRACE": {("table1", "llama3.2-3b", "grace", c): 40.0 for c in ORDER},
}
# The mean of the subset by hand: (3 x 44.72 + 2 x 65.71 + 3 x 38.99 + 70.87 + 3 x 64.35 + 3 x 72.53 + 30.09) / 16.
CASES = list(csv.reader(Path(__file__).with_name("checks.csv").open(encoding="utf-8")))[1:]


def run(name: str, numbers):
    """A check by its name; of a gain with its kind."""
    name, *kind = name.split()
    more = kind or ((0.1, 0.2) if name == "lambda_grid" else ())
    return getattr(checks, name)(numbers, *more)


def altered(given: str) -> dict:
    """A set of ALTERED, or cells as table/backbone/row/column=value."""
    if given in ALTERED:
        return ALTERED[given]
    cells = (cell.rsplit("=", 1) for cell in given.split("; "))
    return {tuple(place.split("/")): float(value) for place, value in cells}


@pytest.mark.parametrize(("check", "given", "verdict", "says"), CASES)
def test_a_check_of_the_papers_and_of_altered_numbers(check, given, verdict, says):
    """The cases of checks.csv; `says`: pieces of the finding."""
    finding = run(check, printed(altered(given)))
    assert finding.verdict == verdict
    text = "\n".join((finding.claim, finding.found, finding.arithmetic))
    assert [one for one in says.split(" ... ") if one not in text] == []


def test_only_rows_that_disagree_are_named():
    found = checks.general_averages(printed()).found
    assert found.count("grace_") == len(MEANS) and "qwen2.5-3b base" not in found


@pytest.mark.parametrize(
    ("check", "table"),
    [("gain supervised", "claims"), ("figure_and_table", "figure3"), ("lambda_grid", "figure3")],
)
def test_without_its_numbers_nothing_is_checked(check, table):
    finding = run(check, printed(without=(table,)))
    assert finding.verdict == "cannot be checked" and table in finding.found


def test_too_few_rows_cannot_be_checked():
    rows = [key for key in numbers.index(numbers.load()) if key[0] in ("table1", "table2") and key[1] != "open"]
    few = printed()
    few.numbers = {k: v for k, v in few.numbers.items() if k not in rows or k[:3] == ("table1", "qwen3-4b", "base")}
    few.numbers |= {("table2", "open", "BERT", c): few.numbers["table2", "open", "BERT", c] for c in (*ORDER, "Avg")}
    assert checks.average_weights(few).verdict == "cannot be checked"


def test_a_swap_of_two_columns_is_undone():
    row = printed().row("table2", "open", "BERT")
    swapped = row._replace(scores=[row.scores[1], row.scores[0], *row.scores[2:]])
    others = [one for one in printed().quoted() if one.name.startswith("LLM2Vec")]
    assert checks.choose_order([swapped], others)[0] == (1, 0, 2, 3, 4, 5, 6)


@pytest.mark.parametrize(("kind", "true"), [("supervised", 12.957), ("unsupervised", 7.601)])
def test_gains_are_those_of_a_loop(kind, true):
    total, paper = 0.0, printed()
    for backbone in numbers.BACKBONES:
        for c in ORDER:
            grace, base = (paper.value(checks.TABLES[kind], backbone, row, c) for row in ("grace", "base"))
            total += numbers.COUNTS[c] * (grace - base) / 56 / 4
    assert total == pytest.approx(true, abs=5e-4)
    assert f"gains {total:.2f}" in checks.gain(paper, kind).found


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
    assert checks.attainable(score, items, unit) == right


def test_attainable_is_what_printing_every_count_gives():
    items, printed_scores = 164, set()
    for right in range(items + 1):
        printed_scores |= {right * 10_000 // items, (right * 20_000 + items) // (2 * items)}
    for score in range(0, 10_001, 7):
        assert (checks.attainable(score / 100, items, 1) is not None) == (score in printed_scores)


def test_the_spread_is_that_of_the_rows():
    # Row means by hand: 248.3 / 5 and 278.3 / 5.
    assert checks.spread(printed(), "supervised") == "from 49.66 (lambda2 = 0) to 55.66 (lambda2 = 0.5)"


# ---- the reward code ------------------------------------------------------------------------


def lines(finding) -> dict[str, list[float]]:
    """First cell of each line of the finding's tables -> its numbers."""
    found = {}
    for line in finding.arithmetic.splitlines():
        name, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells and re.fullmatch(r"[\d.e+-]+", cells[0]) and re.search(r"\d", cells[0]):
            found[name] = [float(cell) for cell in cells]
    return found


def cancelled(lambda1=0.2, lambda2=0.2):
    return [one(printed(), lambda1, lambda2) for one in (checks.negatives_cancel, checks.unsupervised_negatives)]


def test_the_published_advantage_depends_neither_on_negatives_nor_on_lambda2():
    for finding in cancelled():
        assert finding.verdict == "contradicted"
        table = lines(finding)
        changes = [name for name in table if name == "without d-" or name.startswith("lambda2")]
        assert len(changes) >= 2
        for none, group, others, rollout in (table[change] for change in changes):
            assert none < 1e-12 and others < 1e-12 and group > 0.1 and rollout > 0.1
    table = lines(cancelled()[0])
    assert max(table["GRPO (eq. 18)"]) < 1e-12 and max(table["DAPO"]) < 1e-12 and min(table["REINFORCE++"]) > 0.01


def test_in_a_group_with_a_truncated_rollout_the_change_is_the_removed_term():
    # A term c that K - 1 of K rollouts share, taken away, moves theirs by c / K and the truncated one by c (K - 1) / K.
    at, config = checks.batch(truncate=True), RewardConfig()
    cosine = torch.nn.functional.cosine_similarity(at.query[0], at.negatives[0, 0], dim=0)
    moved = checks.advantages(at, config, False) - checks.advantages(at, config, True)
    k = at.positives.shape[1]
    assert moved[0, 0].item() == pytest.approx(-10 * cosine.item() * (k - 1) / k)
    assert moved[0, 1:].tolist() == pytest.approx([10 * cosine.item() / k] * (k - 1))


def test_without_the_groups_mean_nothing_cancels(monkeypatch):
    monkeypatch.setattr(advantages, "group_advantages", lambda totals, estimator: totals)
    assert [one.verdict for one in cancelled()] == ["confirmed"] * 2


def test_with_a_reward_that_compares_each_rollout_nothing_cancels(monkeypatch):
    real = rewards.compute_rewards

    def each(query, positives, negatives, truncated, config):
        return real(query, positives, negatives, truncated, config.model_copy(update={"negatives": "rollout"}))

    monkeypatch.setattr(rewards, "compute_rewards", each)
    assert cancelled()[0].verdict == "confirmed"


def test_other_weights_of_a_study_are_used():
    table = lines(cancelled(0.1, 1.0)[0])
    assert "lambda2 = 0.2" in table and "lambda2 = 1" not in table


def test_the_figures_effect_is_named_where_it_is_printed():
    assert "from 49.66" in cancelled()[0].claim
    without = checks.negatives_cancel(printed(without=("figure3",)), 0.2, 0.2)
    assert without.verdict == "contradicted" and "Figure 3" not in without.claim
