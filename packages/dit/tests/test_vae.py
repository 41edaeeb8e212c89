import pytest
import torch
from diffusers import AutoencoderKL

from unipic2_dit import vae


@pytest.fixture
def autoencoder(parity_folder):
    return AutoencoderKL.from_pretrained(parity_folder / "checkpoint" / "vae").eval().requires_grad_(False)


def test_mode_is_the_default_and_a_generator_pins_a_sample(autoencoder):
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mode = vae.encode(autoencoder, pixels)
    assert torch.equal(mode, vae.encode(autoencoder, pixels))
    seeded = [vae.encode(autoencoder, pixels, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(seeded[0], seeded[1])
    assert not torch.equal(seeded[0], seeded[2])
    assert not torch.equal(seeded[0], mode)
    assert mode.shape == (2, 4, 8, 8)
    assert vae.spatial_factor(autoencoder) == 2


def test_latents_are_shifted_and_scaled(autoencoder):
    pixels = torch.rand(1, 3, 16, 16) * 2 - 1
    raw = autoencoder.encode(pixels).latent_dist.mode()
    config = autoencoder.config
    torch.testing.assert_close(vae.encode(autoencoder, pixels), (raw - config.shift_factor) * config.scaling_factor)
    torch.testing.assert_close(
        vae.decode(autoencoder, vae.encode(autoencoder, pixels)), autoencoder.decode(raw).sample, atol=1e-5, rtol=1e-5
    )


def test_result_is_float32_whatever_the_weights_are(autoencoder):
    latents = vae.encode(autoencoder.to(torch.bfloat16), torch.zeros(1, 3, 8, 8))
    assert latents.dtype == torch.float32
    assert vae.decode(autoencoder, latents).dtype == torch.float32
