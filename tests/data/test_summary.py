import numpy as np
import pytest

from grace.data.summary import bin_names, histogram, quantiles


def test_quantiles():
    found = quantiles(list(range(101)))
    assert found["mean"] == found["median"] == 50 and (found["p05"], found["max"]) == (5, 100)
    assert quantiles([]) == {} and quantiles(np.array([0.5], dtype=np.float32))["p95"] == 0.5


@pytest.mark.parametrize("values", [[0, 7, 8, 15, 16, 1000], []])
def test_histogram(values):
    assert bin_names((8, 16)) == ["0-7", "8-15", "16-"]
    assert list(histogram(values, (8, 16)).values()) == ([2, 2, 2] if values else [0, 0, 0])
