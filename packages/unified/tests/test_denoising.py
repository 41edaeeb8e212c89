import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from unipic2_dit import flow
from unipic2_unified.denoising import Conditions, begin, latent_shape
from unipic2_unified.variants import sees


@pytest.fixture
def start(kontext):
    """Return a function that begins rows of noise of some latent size (h, w)."""

    def make(rows, size, scheduler=kontext.parts.scheduler, guided=True, **options):
        conditioning = kontext.condition(["red", *["blue"] * (rows - 1)])
        negative = kontext.condition([""]) if guided else None
        noise = torch.randn(rows, kontext.parts.transformer.config.in_channels, *size)
        return begin(kontext.parts.transformer, scheduler, noise, Conditions(conditioning, negative, None), **options)

    return make


def test_rows_may_have_steps_and_guidance_of_their_own(start, kontext):
    state = start(3, (8, 12), steps=[2, 4, 2], guidance=[1.0, 3.5, 6.0])
    scheduler = kontext.parts.scheduler
    assert torch.equal(state.sigmas[1], flow.sampling_sigmas(4, scheduler))
    assert torch.equal(state.sigmas[0, :3], flow.sampling_sigmas(2, scheduler))
    assert state.sigmas[0, 3:].tolist() == [0, 0]
    assert state.guidance.tolist() == [1.0, 3.5, 6.0]
    assert len(state.negative.prompt_embeds) == 3
    one = start(2, (8, 12), steps=3, guidance=1.0, guided=False)
    assert one.sigmas.shape == (2, 4)
    assert one.negative is None


def test_noise_levels_follow_the_number_of_tokens(start, kontext):
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    patch = kontext.parts.transformer.config.patch_size
    for size in ((8, 12), (16, 16)):
        state = start(1, size, scheduler, steps=3, guidance=1.0)
        tokens = size[0] // patch * size[1] // patch
        assert torch.equal(state.sigmas[0], flow.sampling_sigmas(3, scheduler, num_tokens=tokens))


def test_latents_of_a_size(kontext):
    channels = kontext.parts.transformer.config.in_channels
    factor = kontext.sizes.multiple // kontext.parts.transformer.config.patch_size
    assert latent_shape(kontext.parts.vae, (16, 24)) == (channels, 16 // factor, 24 // factor)


def test_who_sees_the_picture():
    found = {reference: [who for who in ("vlm", "dit") if sees(who, reference)] for reference in ("vlm", "dit", "both")}
    assert found == {"vlm": ["vlm"], "dit": ["dit"], "both": ["vlm", "dit"]}
