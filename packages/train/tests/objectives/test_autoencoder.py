"""The small autoencoder's loss against a derivation written out here by hand, and its weights of rows."""

from dataclasses import replace

import pytest
import torch

from unipic2_data.randomness import keyed_normal
from unipic2_train.objectives.autoencoder import AutoencoderConfig, AutoencoderObjective, autoencoder_loss

SEED = 7


@pytest.fixture(scope="module")
def vae():
    return AutoencoderConfig([8, 8], 4).build(0)


@pytest.mark.parametrize("seed", [None, SEED])
def test_loss_is_the_written_out_formula(vae, batch, seed):
    pictures, expected, errors = batch("edit", 3), [], []
    for row, pixels in enumerate(pictures.pixels):
        mean, log_variance = vae.encode(pixels[None]).latent_dist.parameters.chunk(2, dim=1)
        latents = mean
        if seed is not None:
            noise = keyed_normal(seed, [pictures.keys[row]], [0], "posterior", mean.shape[1:])
            latents = mean + (0.5 * log_variance).exp() * noise
        error = vae.decode(latents).sample - pixels
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum()
        errors.append(error.abs().mean() + (error**2).mean())
        expected.append(errors[-1] + 0.3 * divergence / pixels.numel())
    found = autoencoder_loss(vae, pictures, AutoencoderObjective(kl_weight=0.3), seed)
    torch.testing.assert_close(found.per_row, torch.stack(errors).detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.loss, torch.stack(expected).mean(), rtol=1e-4, atol=1e-5)


def test_a_quarantined_row_counts_nothing_and_still_divides(vae, batch):
    whole = batch("t2i", 4)
    bytes_ = whole.target_bytes.clone()
    bytes_[1] = 0
    bad = replace(whole, target_bytes=bytes_, weight=torch.tensor([1.0, 0.0, 1.0, 1.0]))
    objective = AutoencoderObjective(kl_weight=0.0)
    found = autoencoder_loss(vae, bad, objective, SEED)
    torch.testing.assert_close(found.loss.detach(), found.per_row[[0, 2, 3]].sum() / 4)
    (gradient,) = torch.autograd.grad(found.loss, [vae.decoder.conv_out.weight])
    other = replace(bad, target_bytes=whole.target_bytes)
    (same,) = torch.autograd.grad(autoencoder_loss(vae, other, objective, SEED).loss, [vae.decoder.conv_out.weight])
    torch.testing.assert_close(gradient, same, rtol=1e-5, atol=1e-7)
    sound = autoencoder_loss(vae, whole, objective, SEED)
    torch.testing.assert_close(sound.loss.detach(), sound.per_row.mean())
