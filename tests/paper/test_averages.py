"""The searches against brute force over everything there is."""

from fractions import Fraction
from itertools import permutations, product

import numpy as np
import pytest

from grace.paper import averages
from tests.paper.altered import printed

TRUE = (5, 2, 3)


def agree(weights, row, average) -> bool:
    """Whether rounding explains the difference, in exact fractions of the decimals."""
    exact = [Fraction(f"{score:.2f}") for score in row]
    mean = sum(w * score for w, score in zip(weights, exact, strict=True)) / sum(weights)
    return abs(mean - Fraction(f"{average:.2f}")) <= Fraction(1, 100)


def table(seed, rows=6):
    """Scores of three categories and their averages with TRUE, rounded as printed."""
    dice = np.random.default_rng(seed)
    exact = dice.uniform(10, 80, (rows, len(TRUE)))
    return np.round(exact, 2), np.round(exact @ TRUE / sum(TRUE), 2)


@pytest.mark.parametrize(("seed", "rows"), [(0, 6), (1, 6), (2, 2), (3, 2)])
def test_the_search_finds_what_brute_force_finds(seed, rows):
    scores, means = table(seed, rows)
    bound = 24
    every = [v for v in product(range(bound + 1), repeat=3) if 0 < sum(v) <= bound]
    expected = {v for v in every if all(agree(v, row, mean) for row, mean in zip(scores, means, strict=True))}
    found = averages.search(scores, means, bound)
    assert set(found) == expected and TRUE in found
    assert [sum(v) for v in found] == sorted(sum(v) for v in found)


def test_weights_of_zero_are_searched_too():
    scores = np.array([[10.0, 50.0, 90.0], [80.0, 20.0, 40.0], [33.0, 11.0, 70.0]])
    assert averages.search(scores, scores[:, [0, 2]].mean(1), 4) == [(1, 0, 1), (2, 0, 2)]


def test_nothing_is_found_where_nothing_fits():
    scores, means = table(0)
    means[0] = 99.0  # above every score
    assert averages.search(scores, means, 50) == []
    scores, means = table(0)
    means[0] += 0.05
    assert averages.search(scores, means, 50) == []


def test_rows_that_leave_too_much_room_are_refused():
    row = printed().own()[0]
    with pytest.raises(ValueError, match="do not narrow them down"):
        averages.search([row.scores], [row.average], 200)


def test_multiples_are_left_out():
    assert averages.smallest([(5, 2, 3), (10, 4, 6), (10, 4, 7)]) == [(5, 2, 3), (10, 4, 7)]


def test_a_fit_is_decided_at_the_edge_without_rounding():
    assert averages.fits((1, 1), [0.01, 0.03], 0.03)  # off by 0.01 exactly, which floats make 0.0100...02
    assert not averages.fits((1, 1), [0.01, 0.02], 0.03)
    assert averages.fits((1, 1), [50.1, 50.3], 50.3, step=10)
    assert not averages.fits((1, 1), [50.1, 50.2], 50.3, step=10)


def test_one_decimal_is_seen():
    assert averages.step([57.9, 62.6, 0.0, 51.4]) == 10
    assert averages.step([57.9, 62.6, 0.0, 51.41]) == 1


def test_the_last_weight_is_bounded_as_trying_says():
    scores, means = table(4)
    low, high = averages.remaining(scores, means, TRUE[:-1])
    assert low <= TRUE[-1] <= high
    for weight in np.linspace(TRUE[-1] - 0.2, TRUE[-1] + 0.2, 4001):
        gaps = np.abs(scores @ [*TRUE[:-1], weight] / (sum(TRUE[:-1]) + weight) - means)
        near_an_end = min(abs(weight - low), abs(weight - high)) < 1e-4
        assert near_an_end or (gaps <= 0.01).all() == (low <= weight <= high)
    means[0] += 1
    assert averages.remaining(scores, means, TRUE[:-1]) is None


def test_the_orders_are_those_that_trying_gives():
    row = printed().quoted()[1]
    weights = (15, 4, 11, 3, 12, 10, 1)
    expected = [
        order
        for order in permutations(range(7))
        if agree([weights[n] for n in order], row.scores, row.average)
    ]  # fmt: skip
    assert row.name == "RoBERTa" and len(expected) == 8
    assert averages.orders(row.scores, row.average, weights) == expected


def test_putting_back_undoes_an_order():
    scores = [3.0, 1.0, 2.0]  # printed under columns that hold categories 2, 0, 1
    assert averages.ordered(scores, (2, 0, 1)) == [1.0, 2.0, 3.0]
    assert averages.mean((5, 2, 1), averages.ordered(scores, (2, 0, 1))) == (5 * 1 + 2 * 2 + 1 * 3) / 8


def test_distance_is_to_the_nearest_row():
    assert averages.distance([1.0, 2.0], [[1.0, 4.0], [9.0, 9.0]]) == 1.0
    assert averages.distance([1.0, 2.0], []) == float("inf")
