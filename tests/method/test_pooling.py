"""Pooling by hand, and the same under left, right and no padding."""

import pytest
import torch

from grace.method.pooling import pool


def padded(rows, side, width):
    hidden = torch.full((len(rows), width, 2), 99.0)  # padding holds garbage
    mask = torch.zeros(len(rows), width)
    for i, row in enumerate(rows):
        at = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        hidden[i, at], mask[i, at] = torch.tensor(row), 1
    return hidden, mask


ROWS = [[[1.0, -4.0], [3.0, -2.0], [5.0, -9.0]], [[2.0, 2.0]]]
BY_HAND = {"mean": [[3.0, -5.0], [2.0, 2.0]], "max": [[5.0, -2.0], [2.0, 2.0]], "eos": [[5.0, -9.0], [2.0, 2.0]]}


@pytest.mark.parametrize("method", ["mean", "max", "eos"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("width", [3, 6])
def test_by_hand(method, side, width):
    assert torch.equal(pool(*padded(ROWS, side, width), method), torch.tensor(BY_HAND[method]))


@pytest.mark.parametrize("method", ["mean", "max", "eos"])
def test_nothing_to_pool_gives_zeros(method):
    assert torch.equal(pool(torch.randn(1, 3, 2), torch.zeros(1, 3), method), torch.zeros(1, 2))


def test_a_hole_in_the_mask():
    hidden, mask = torch.tensor([[[1.0], [50.0], [3.0]]]), torch.tensor([[1, 0, 1]])
    assert pool(hidden, mask, "mean").item() == 2 and pool(hidden, mask, "max").item() == 3


def test_bad_input():
    with pytest.raises(ValueError, match="unknown pooling"):
        pool(torch.zeros(1, 2, 2), torch.ones(1, 2), "median")
    with pytest.raises(ValueError, match="do not match"):
        pool(torch.zeros(1, 2, 2), torch.ones(1, 3))
