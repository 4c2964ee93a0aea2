"""Muon in float32, against a singular value decomposition in float64 and torch's own in bfloat16."""

import pytest
import torch

from grace.training.muon import Muon, orthogonalized

SHAPES = [(48, 48), (16, 48), (16, 48), (96, 48), (48, 96)]


@pytest.mark.parametrize("shape", [(24, 24), (16, 48), (48, 16)])
def test_singular_values_come_near_one_and_vectors_stay(shape):
    torch.manual_seed(0)
    given = torch.randn(3, *shape)
    for matrix, made in zip(given.double(), orthogonalized(given).double(), strict=True):
        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        core = u.mT @ made @ v.mT
        assert ((core.diagonal() > 0.65) & (core.diagonal() < 1.25))[s > 0.02 * s.norm()].all()
        assert (core - core.diagonal().diag()).abs().max() < 1e-4


def test_the_iteration_in_float64():
    """A matrix of one row has one singular value, which goes through the polynomial by itself."""
    x = 1.0
    for _ in range(5):
        x = 3.4445 * x - 4.7750 * x**3 + 2.0315 * x**5
    torch.testing.assert_close(orthogonalized(torch.tensor([[[2.5, 0.0, 0.0]]])), torch.tensor([[[x, 0.0, 0.0]]]))


def test_steps_equal_torchs_up_to_its_rounding():
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    begun = [p.detach().clone() for p in ours]
    settings = {"lr": 0.02, "momentum": 0.95, "weight_decay": 0.1}
    optimizers = Muon(ours, **settings), torch.optim.Muon(theirs, **settings)
    for _ in range(6):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for one, other, before in zip(ours, theirs, begun, strict=True):
        assert (one - other).norm() < 0.02 * (one - before).norm()


def test_a_matrix_without_a_gradient_stays():
    matrix = torch.nn.Parameter(torch.ones(2, 3))
    Muon([matrix], lr=0.1, momentum=0.9, weight_decay=0.1).step()
    assert (matrix == 1).all()
