import torch
import torch.nn.functional as F

from unipic2_dit.norm import EPS, RmsNorm, layer_norm


def test_rms_norm_has_the_value_and_gradient_of_torch():
    torch.manual_seed(0)
    norm = RmsNorm(8)
    torch.nn.init.normal_(norm.weight)
    values = torch.randn(3, 5, 2, 8, requires_grad=True)
    ours = norm(values)
    theirs = F.rms_norm(values, (8,), norm.weight, EPS)
    torch.testing.assert_close(ours, theirs)
    grad = torch.randn_like(values)
    for a, b in zip(*(torch.autograd.grad(y, (values, norm.weight), grad) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_rms_norm_gradient_is_the_numerical_one():
    torch.manual_seed(0)
    values = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, dtype=torch.float64, requires_grad=True)
    from unipic2_dit.norm import _RmsNormFunction

    assert torch.autograd.gradcheck(_RmsNormFunction.apply, (values, weight))


def test_norms_keep_the_dtype():
    values = torch.randn(2, 3, 8, dtype=torch.bfloat16)
    assert RmsNorm(8)(values).dtype == torch.bfloat16
    assert layer_norm(values).dtype == torch.bfloat16
