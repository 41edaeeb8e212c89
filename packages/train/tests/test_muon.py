import pytest
import torch
from torch import nn

from unipic2_train.muon import Muon, orthogonal


def _groups(module, **muon):
    matrices = [p for p in module.parameters() if p.ndim == 2]
    return [{"params": [p for p in module.parameters() if p.ndim != 2]}, {"params": matrices, **muon}]


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 32, 16), (2, 16, 32)])
def test_all_directions_count_alike(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    result = orthogonal(matrices)
    shares = left.mT @ result @ right.mT  # diagonal: same directions, other lengths
    found = shares.diagonal(dim1=1, dim2=2)
    assert torch.allclose(shares, torch.diag_embed(found), atol=1e-4)
    far = values / torch.linalg.matrix_norm(matrices)[:, None] > 0.01
    assert found[far].min() > 0.4
    assert found.max() < 1.6


def test_a_step_is_the_formula():
    torch.manual_seed(0)
    layer = nn.Linear(4, 8)
    before = layer.weight.detach().clone()
    optimizer = Muon(_groups(layer, lr=0.1, momentum=0.9, weight_decay=0.5), lr=1e-3, weight_decay=0.0)
    first, second = torch.randn(8, 4), torch.randn(8, 4)
    momentum = torch.zeros(8, 4)
    expected = before
    for gradient in (first, second):
        layer.weight.grad = gradient.clone()
        optimizer.step()
        momentum = 0.9 * momentum + 0.1 * gradient
        moved = 0.9 * momentum + 0.1 * gradient
        expected = expected * (1 - 0.1 * 0.5) - 0.1 * 2**0.5 * orthogonal(moved[None])[0]
    torch.testing.assert_close(layer.weight.detach(), expected)


def test_what_is_no_matrix_moves_as_with_adamw():
    torch.manual_seed(0)
    ours, plain = nn.Linear(4, 4), nn.Linear(4, 4)
    plain.load_state_dict(ours.state_dict())
    optimizer = Muon(_groups(ours, lr=0.1, momentum=0.9, weight_decay=0.0), lr=0.01, weight_decay=0.1)
    reference = torch.optim.AdamW([plain.bias], lr=0.01, weight_decay=0.1)
    for seed in range(3):
        gradient = torch.randn(4, generator=torch.Generator().manual_seed(seed))
        ours.bias.grad, plain.bias.grad = gradient, gradient.clone()
        optimizer.step()
        reference.step()
    torch.testing.assert_close(ours.bias, plain.bias)


def test_momentum_is_for_matrices():
    with pytest.raises(ValueError, match=r"Muon takes matrices, but parameters of shape \[\(3,\)\]"):
        Muon([{"params": [nn.Parameter(torch.zeros(3))], "momentum": 0.9}], lr=0.1)
