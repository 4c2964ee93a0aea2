"""The printed numbers: complete, unaltered, and found by their place."""

import hashlib
from collections import Counter

import pytest

from grace.config import tasks
from grace.paper import numbers
from grace.paper.averages import orders, search, smallest
from tests.paper.altered import printed

# Per table, the number of cells and a digest, both made from a second transcription of the paper.
RECORD = {
    "table1": (128, "cb6f1e41a691c449"),
    "table2": (128, "8d8907821a840acb"),
    "table4": (32, "a0ae62fa627add50"),
    "table5": (124, "7259cd7815071736"),
    "figure3": (45, "538f8ad7cff698ba"),
}


@pytest.mark.parametrize("table", RECORD)
def test_every_number_of_a_table_is_there(table):
    cells = [f"{'/'.join(key)}={value:.2f}" for key, value in numbers._index().items() if key[0] == table]
    digest = hashlib.sha256("\n".join(sorted(cells)).encode()).hexdigest()[:16]
    assert (len(cells), digest) == RECORD[table]


def test_the_claims_are_those_of_the_text():
    claims = {key[1:]: value for key, value in numbers._index().items() if key[0] == "claims"}
    assert claims == {
        ("supervised", "gain", "Avg"): 11.52,
        ("unsupervised", "gain", "Avg"): 6.85,
        ("general", "difference", "Delta"): 0.4,
        ("training", "weight", "lambda1"): 0.2,
        ("training", "weight", "lambda2"): 0.2,
    }
    assert {key[0] for key in numbers._index()} == {*RECORD, "claims"}


def test_columns_are_our_categories_and_tasks():
    columns = {(key[0], key[3]) for key in numbers._index()}
    for table in ("table1", "table2", "table4"):
        assert {column for t, column in columns if t == table} == {*tasks.CATEGORIES, "Avg"}
    assert {column for t, column in columns if t == "table5"} == {*numbers.GENERAL, "Avg", "Delta"}
    assert list(numbers.COUNTS.values()) == [15, 4, 11, 3, 12, 10, 1]


def test_the_subset_is_sixteen_of_the_tasks():
    assert list(tasks.SUBSET) == list(tasks.CATEGORIES)
    for category, names in tasks.SUBSET.items():
        assert set(names.split()) <= set(tasks.MTEB[category].split())
    assert list(numbers.SUBSET_COUNTS.values()) == [3, 2, 3, 1, 3, 3, 1]


def test_a_number_is_found_by_its_place():
    assert numbers.printed("table1", "qwen3-4b", "grace", "Avg") == 56.64
    assert numbers.printed("table5", "qwen3-4b", "base", "Delta") is None
    assert numbers.printed("table1", "tiny", "base", "Avg") is None
    assert numbers.rows("table2", "qwen2.5-3b") == ["base", "simcse", "grace"]


def test_a_number_entered_twice_is_refused():
    frame = numbers.load()
    assert Counter(frame.itertuples(index=False, name=None)).most_common(1)[0][1] == 1
    with pytest.raises(ValueError, match="figure3"):
        numbers.index(frame.iloc[[*range(len(frame)), list(frame["table"]).index("figure3")]])


def test_the_papers_weights_are_what_the_search_finds():
    rows = printed().own()
    found = search([row.scores for row in rows], [row.average for row in rows], 65)
    assert smallest(found) == [tuple(numbers.PAPER_WEIGHTS[category] for category in tasks.CATEGORIES)]


def test_the_shuffled_rows_are_what_the_search_finds():
    counts = [numbers.COUNTS[category] for category in tasks.CATEGORIES]
    found = {row.name: orders(row.scores, row.average, counts) for row in printed().quoted()}
    straight = tuple(range(7))
    odd = {name: set(fitting) for name, fitting in found.items() if straight not in fitting}
    (order,) = set.intersection(*odd.values())
    assert {name: tuple(tasks.CATEGORIES[n] for n in order) for name in odd} == numbers.SHUFFLED
