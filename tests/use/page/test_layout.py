import numpy as np
import pytest

from grace.use.page import layout


def clouds(seed=0):
    """Three groups of 50 points in 10 dimensions."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(size=(50, 10)) * 0.1 + 3 * np.eye(10)[k] for k in range(3)])


@pytest.fixture(scope="module")
def drawn():
    return layout.layout(clouds())


def test_components_are_those_of_a_singular_value_decomposition(drawn):
    rows = clouds() - clouds().mean(axis=0)
    left, values, _ = np.linalg.svd(rows, full_matrices=False)
    assert np.allclose(np.abs(drawn.components), np.abs(left[:, :2] * values[:2]), atol=1e-8)
    assert drawn.share == pytest.approx((values[:2] ** 2).sum() / (values**2).sum())


def test_neighbours_stay_together_on_the_map(drawn):
    points = drawn.neighbourhoods
    distance = np.linalg.norm(points[:, None] - points[None], axis=2) + 1e9 * np.eye(150)
    assert (distance.argmin(axis=1) // 50 == np.arange(150) // 50).all()


def test_another_model_is_turned_to_lie_alike(drawn):
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(10, 10)))[0]
    other = layout.layout(clouds() @ rotation, drawn)
    assert np.allclose(other.components, drawn.components, atol=1e-6)
    centres = [points.reshape(3, 50, 2).mean(axis=1) for points in (drawn.neighbourhoods, other.neighbourhoods)]
    assert np.linalg.norm(centres[0][:, None] - centres[1][None], axis=2).argmin(axis=1).tolist() == [0, 1, 2]


def test_turning_finds_the_turn_and_the_mirror():
    points = np.random.default_rng(2).normal(size=(20, 2))
    turned = layout.turned(points @ np.array([[0, 1], [1, 0]]) + 5, points)
    assert np.allclose(turned, points - points.mean(axis=0))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 20])
def test_few_or_equal_texts_have_a_map_too(count):
    drawn = layout.layout(np.ones((count, 4), dtype=np.float32))
    assert drawn.components.shape == (count, 2) and np.isfinite(drawn.components).all()
    assert drawn.neighbourhoods is None and drawn.share == 0


def test_whole_coordinates_keep_the_shape():
    made = layout.whole(np.array([[0.0, 0.0], [10.0, 0.0], [10.0, 5.0]]))
    assert made == [0, 1024, 4095, 1024, 4095, 3071]
    assert layout.whole(np.zeros((0, 2))) == []
