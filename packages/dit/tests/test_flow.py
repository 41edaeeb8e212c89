import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from unipic2_dit import flow


def test_path_ends_at_data_and_noise_and_the_velocity_is_its_slope():
    latents, noise = torch.randn(2, 3, 4, 4, 4).unbind()
    zero, one = torch.zeros(3), torch.ones(3)
    assert torch.equal(flow.interpolate(latents, noise, zero), latents)
    assert torch.equal(flow.interpolate(latents, noise, one), noise)
    slope = (flow.interpolate(latents, noise, one * 0.7) - flow.interpolate(latents, noise, one * 0.2)) / 0.5
    torch.testing.assert_close(slope, flow.velocity_target(latents, noise), atol=1e-5, rtol=1e-5)


def test_velocity_points_back_at_the_data_row_by_row():
    latents, noise = torch.randn(2, 3, 4, 4, 4).unbind()
    sigma = torch.tensor([0.1, 0.5, 1.0])
    noisy = flow.interpolate(latents, noise, sigma)
    denoised = flow.denoised_from_velocity(noisy, noise - latents, sigma)
    torch.testing.assert_close(denoised, latents, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("num_steps", "config"),
    [
        *((steps, {"shift": shift}) for steps in (1, 2, 7, 50) for shift in (1.0, 3.0)),
        (7, {"shift": 3.0, "shift_terminal": 0.1}),
    ],
)
def test_sampling_sigmas_are_the_schedulers(num_steps, config):
    reference = FlowMatchEulerDiscreteScheduler(**config)
    reference.set_timesteps(num_steps)
    scheduler = FlowMatchEulerDiscreteScheduler(**config)
    before = scheduler.sigmas
    sigmas = flow.sampling_sigmas(num_steps, scheduler)
    assert torch.equal(sigmas, reference.sigmas)
    assert scheduler.sigmas is before, "a shared scheduler must not be changed"
    assert sigmas[-1] == 0


def test_dynamic_shift_needs_the_image_size():
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    with pytest.raises(ValueError, match="pass num_tokens"):
        flow.sampling_sigmas(4, scheduler)
    assert (
        flow.sampling_sigmas(4, scheduler, num_tokens=4096)[1] > flow.sampling_sigmas(4, scheduler, num_tokens=256)[1]
    )


def test_no_steps_is_refused():
    with pytest.raises(ValueError, match="at least 1 step"):
        flow.sampling_sigmas(0, FlowMatchEulerDiscreteScheduler())


def test_training_sigmas_have_their_distribution():
    uniform = (torch.arange(100_000) + 0.5) / 100_000
    normal = flow.training_sigmas(uniform, "logit_normal", shift=1.0)
    logits = normal.logit()
    assert abs(logits.mean()) < 1e-3
    assert abs(logits.std() - 1) < 1e-2
    torch.testing.assert_close(flow.training_sigmas(uniform, "uniform", shift=1.0), uniform)
    shifted = flow.training_sigmas(uniform, "uniform", shift=3.0)
    torch.testing.assert_close(shifted, flow.shift_sigma(uniform, 3.0))
    assert abs(shifted.median() - 0.75) < 1e-3  # 3 * .5 / (1 + 2 * .5)
    assert (normal.diff() >= 0).all()


def test_unknown_weighting_is_refused():
    with pytest.raises(ValueError, match="'logit_normal' or 'uniform'"):
        flow.training_sigmas(torch.rand(2), "cosmap", 1.0)
