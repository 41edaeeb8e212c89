"""DiffusionNFT's loss against its formula in plain numpy, and what its gradient does."""

import numpy as np
import pytest
import torch

from unipic2_train.rl.nft import nft_loss


def drawn(seed=0, rows=4):
    generator = torch.Generator().manual_seed(seed)
    latents, noise, velocity, old = (torch.randn(rows, 2, 2, 2, generator=generator) for _ in range(4))
    sigma = torch.tensor([0.9, 0.6, 0.3, 0.1])[:rows]
    level = sigma.view(-1, 1, 1, 1)
    return latents, (1 - level) * latents + level * noise, sigma, velocity, old


@pytest.mark.parametrize("beta", [1.0, 0.1])
def test_the_formula(beta):
    latents, noisy, sigma, velocity, old = drawn()
    advantage = torch.tensor([5.0, -5.0, 1.0, 0.0])
    found = nft_loss(latents, noisy, sigma, (velocity, old), advantage, beta=beta, clip=5.0)
    for row in range(4):
        x0, xt, t = latents[row].numpy(), noisy[row].numpy(), sigma[row].item()
        v, o, r = velocity[row].numpy(), old[row].numpy(), [1.0, 0.0, 0.6, 0.5][row]
        plus, minus = xt - t * ((1 - beta) * o + beta * v), xt - t * ((1 + beta) * o - beta * v)
        parts = [((x - x0) ** 2).mean() / np.abs(x - x0).mean() for x in (plus, minus)]
        assert found.loss[row].item() == pytest.approx(5 / beta * (r * parts[0] + (1 - r) * parts[1]), rel=1e-4)
    torch.testing.assert_close(found.deviation, ((velocity - old) ** 2).mean((1, 2, 3)))


def test_a_good_image_attracts_the_model_and_a_bad_one_repels_it():
    latents, noisy, sigma, _, old = drawn(rows=2)
    velocity = old.clone().requires_grad_()
    loss = nft_loss(latents, noisy, sigma, (velocity, old), torch.tensor([5.0, -5.0]), beta=1.0, clip=5.0).loss
    loss.sum().backward()
    towards = (noisy - latents) / sigma.view(-1, 1, 1, 1) - old  # what would reach the image from the old velocity
    along = (-velocity.grad * towards).sum((1, 2, 3))
    assert along[0] > 0 > along[1]


def test_an_average_image_at_the_old_policy_teaches_nothing():
    latents, noisy, sigma, _, old = drawn()
    velocity = old.clone().requires_grad_()
    nft_loss(latents, noisy, sigma, (velocity, old), torch.zeros(4), beta=1.0, clip=5.0).loss.sum().backward()
    assert velocity.grad.abs().max() < 1e-6
