"""Stochastic steps, on data whose velocity is known in closed form.

Data is N(MEAN, data_std^2) in each element, so at noise level t the path has mean (1 - t) MEAN and variance
V_t = (1 - t)^2 data_std^2 + t^2, and the velocity is affine: with y = x - (1 - t) MEAN,
E[noise - data | x] = (t - (1 - t) data_std^2) / V_t y - MEAN. Every step is then affine with normal noise.

What a step of finite length makes of the path's moments: the mean is exact in all three dynamics, because the path's
mean is linear in t and the score's mean is 0. The variance follows a recursion of its own (``chain_variances``), which
differs from V_t: for ``cps`` not at all on point data (data_std 0), else by an amount that shrinks with the step.
"""

import math
from itertools import pairwise

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch.distributions import Normal

from unipic2_dit import sampling
from unipic2_dit.conditioning import Conditioning
from unipic2_dit.flow import sampling_sigmas
from unipic2_dit.sde import constant_eta, cps, dynamics, flow_sde, log_prob, log_prob_sum

KERNELS = [(flow_sde, 0.7), (constant_eta, 0.3), (cps, 0.8)]
each_kernel = pytest.mark.parametrize(("kernel", "level"), KERNELS, ids=lambda value: getattr(value, "__name__", None))
MEAN = 1.5
ROWS, SHAPE = 10, (4, 50, 50)
NUM_SAMPLES = ROWS * math.prod(SHAPE)
STANDARD_ERRORS = 3


@pytest.fixture
def ten_steps(parity_folder):
    """The schedule of SD3.5: shift 3, from exactly 1 to exactly 0."""
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(parity_folder / "checkpoint" / "scheduler")
    return sampling_sigmas(10, scheduler)


def column(*levels):
    return torch.tensor(levels).view(-1, 1, 1, 1)


def path_variance(t, data_std):
    return (1 - t) ** 2 * data_std**2 + t**2


def velocity_slope(t, data_std):
    return (t - (1 - t) * data_std**2) / path_variance(t, data_std)


def chain_variances(kernel, level, sigmas, data_std):
    """Variance at every level of the discrete chain, from y' = A y + std z; formulas of the papers, in Python floats.

    The score of the path is -y / V, so a step of the reverse SDE has A = 1 + (s - t) (slope + sigma_t^2 / (2 V)).
    """
    sigmas = [float(sigma) for sigma in sigmas]
    variances = [path_variance(sigmas[0], data_std)]
    for t, s in pairwise(sigmas):
        variance, slope = path_variance(t, data_std), velocity_slope(t, data_std)
        if kernel is cps:
            share = level * math.pi / 2
            factor = (1 - s) * (1 - t * slope) + s * math.cos(share) * (1 + (1 - t) * slope)
            std = s * math.sin(share)
        elif s == 0:
            factor, std = 1 - t * slope, 0.0
        else:
            rate = level if kernel is constant_eta else level * math.sqrt(t / (1 - (s if t == 1 else t)))
            factor = 1 + (s - t) * (slope + rate**2 / (2 * variance))
            std = rate * math.sqrt(t - s)
        variances.append(factor**2 * variances[-1] + std**2)
    return variances


def sampled_moments(kernel, level, sigmas, data_std):
    """Mean and variance of 1e5 samples at every level after the first, which is drawn from the path."""
    generators = [torch.Generator().manual_seed(row) for row in range(ROWS)]
    start = float(sigmas[0])
    state = sampling.initial_state(
        (1 - start) * MEAN + math.sqrt(path_variance(start, data_std)) * sampling.draw_noise(SHAPE, generators),
        torch.as_tensor(sigmas),
        Conditioning(torch.zeros(ROWS, 1, 1), torch.zeros(ROWS, 1)),
        generators=generators,
    )
    step, moments = dynamics(kernel, level), []
    for t in sigmas[:-1].tolist():
        velocity = velocity_slope(t, data_std) * (state.latents - (1 - t) * MEAN) - MEAN
        state = sampling.advance(state, velocity, step)
        samples = state.latents.double()
        moments.append((samples.mean().item(), samples.var().item()))
    return moments


def assert_moments(moments, means, variances):
    """Within 3 standard errors of normal samples: those of the mean and of the variance."""
    for (mean, variance), expected_mean, expected in zip(moments, means, variances, strict=True):
        assert abs(mean - expected_mean) <= STANDARD_ERRORS * math.sqrt(expected / NUM_SAMPLES)
        assert abs(variance - expected) <= STANDARD_ERRORS * expected * math.sqrt(2 / (NUM_SAMPLES - 1))


@each_kernel
@pytest.mark.parametrize("data_std", [0.5, 1.0])
def test_ten_steps_have_the_paths_mean_and_the_chains_variance(ten_steps, kernel, level, data_std):
    """The schedule and levels of RL, from pure noise to data. The bias of the variance is the recursion's, no more."""
    moments = sampled_moments(kernel, level, ten_steps, data_std)
    means = [(1 - float(sigma)) * MEAN for sigma in ten_steps[1:]]
    assert_moments(moments, means, chain_variances(kernel, level, ten_steps, data_std)[1:])


def test_ten_steps_of_cps_have_the_paths_moments_on_point_data(ten_steps):
    """The ends that the velocity points at are then the data and a standard normal, and the coefficients exact."""
    moments = sampled_moments(cps, 0.8, ten_steps[:-1], data_std=0.0)
    levels = ten_steps[1:-1].tolist()
    assert_moments(moments, [(1 - t) * MEAN for t in levels], [path_variance(t, 0.0) for t in levels])


def fine_schedule(num_steps):
    """Away from pure noise, where flow_sde has a bias of its own (below), and data, where the path bends most."""
    return torch.linspace(0.8, 0.2, num_steps + 1)


def fine_level(kernel, num_steps):
    """Level 0.7; for cps, whose noise doesn't shrink with the step, the level that gives a fixed noise rate."""
    return 0.8 * math.sqrt(0.6 / num_steps) if kernel is cps else 0.7


def largest_bias(kernel, num_steps):
    """Largest relative error of the chain's variance on the fine schedule."""
    sigmas = fine_schedule(num_steps)
    variances = chain_variances(kernel, fine_level(kernel, num_steps), sigmas, 0.5)
    return max(abs(got / path_variance(t, 0.5) - 1) for got, t in zip(variances, sigmas.tolist(), strict=True))


@pytest.mark.parametrize("kernel", [flow_sde, constant_eta, cps])
def test_short_steps_have_the_paths_moments(kernel):
    """400 steps: the chain's own bias is below one standard error, and the tolerance is not widened by it."""
    num_steps = 400
    assert largest_bias(kernel, num_steps) < math.sqrt(2 / (NUM_SAMPLES - 1))
    sigmas = fine_schedule(num_steps)
    moments = sampled_moments(kernel, fine_level(kernel, num_steps), sigmas, 0.5)
    levels = sigmas[1:].tolist()
    assert_moments(moments, [(1 - t) * MEAN for t in levels], [path_variance(t, 0.5) for t in levels])


@pytest.mark.parametrize("kernel", [flow_sde, constant_eta, cps])
def test_bias_is_of_first_order_in_the_step(kernel):
    assert largest_bias(kernel, 1000) / largest_bias(kernel, 2000) == pytest.approx(2, abs=0.05)


def test_the_first_step_of_flow_sde_from_pure_noise_has_a_bias_that_does_not_shrink():
    """Its rate there is a stand-in for infinity: level^4 / 4 too much variance, which later steps forget."""
    sigmas = torch.linspace(1.0, 0.2, 8001)
    variances = chain_variances(flow_sde, 0.7, sigmas, 0.5)
    assert variances[1] / path_variance(sigmas[1].item(), 0.5) - 1 == pytest.approx(0.7**4 / 4, rel=0.01)
    assert abs(variances[-1] / path_variance(sigmas[-1].item(), 0.5) - 1) < 0.05 * 0.7**4 / 4


def random_step(sigmas, next_sigmas, seed=0):
    """Latents, velocity and noise levels of len(sigmas) rows."""
    generator = torch.Generator().manual_seed(seed)
    latents, velocity = torch.randn(2, len(sigmas), 4, 6, 8, generator=generator)
    return latents, velocity, column(*sigmas), column(*next_sigmas)


@each_kernel
def test_mean_and_std_are_the_papers(kernel, level):
    """Formulas as the papers print them, in float64; for flow_sde its short form, for DanceGRPO by x_0."""
    step = random_step([1.0, 0.96, 0.6, 0.1], [0.95, 0.5, 0.55, 0.01])
    x, v, t, s = (value.double() for value in step)
    change, clean = s - t, x - t * v
    if kernel is flow_sde:
        rate = torch.where(t == 1, level / (1 - s).sqrt(), level * (t / (1 - t)).sqrt())
        short = x * (1 + level**2 * change / (2 * (1 - t))) + (1 + level**2 / 2) * v * change
        first = x * (1 + level**2 * change / (2 * (1 - s))) + v * change
        mean, std = torch.where(t == 1, first, short), rate * (-change).sqrt()
    elif kernel is constant_eta:
        mean = x + (v + level**2 / 2 * (x - (1 - t) * clean) / t**2) * change
        std = level * (-change).sqrt()
    else:
        std = s * math.sin(level * math.pi / 2)
        mean = (1 - s) * clean + (s**2 - std**2).sqrt() * (x + (1 - t) * v)
    transition = kernel(*step, level)
    torch.testing.assert_close(transition.mean.double(), mean, atol=2e-6, rtol=1e-6)
    torch.testing.assert_close(transition.std.double(), std, atol=0, rtol=1e-6)
    torch.testing.assert_close(transition.diffusion.double() * (-change).sqrt(), std, atol=0, rtol=2e-6)


def test_flow_sde_on_the_schedule_of_sd35(ten_steps):
    """Worked by hand at level 0.7: std of the next latents, not sigma_t, and the sensitivity of the mean."""
    t, s = column(*ten_steps[:-2].tolist()), column(*ten_steps[1:-1].tolist())
    zeros, ones = torch.zeros(9, 1, 1, 1), torch.ones(9, 1, 1, 1)
    still, moved = flow_sde(zeros, zeros, t, s, 0.7), flow_sde(zeros, ones, t, s, 0.7)
    std = torch.tensor([0.700, 0.743, 0.536, 0.446, 0.392, 0.353, 0.319, 0.282, 0.225])
    sensitivity = torch.tensor([0.06, 0.08, 0.13, 0.19, 0.26, 0.37, 0.54, 0.82, 1.49])
    assert t[0].item() == 1.0
    torch.testing.assert_close(still.std.flatten(), std, atol=6e-4, rtol=0)
    torch.testing.assert_close((moved.mean / moved.std).abs().flatten(), sensitivity, atol=6e-3, rtol=0)
    torch.testing.assert_close(still.diffusion[3].item(), 0.7 * math.sqrt(0.8577 / 0.1423), atol=1e-3, rtol=0)


@each_kernel
def test_log_prob_is_that_of_the_normal_distribution(kernel, level):
    step = random_step([1.0, 0.9, 0.5], [0.96, 0.8, 0.3])
    transition = kernel(*step, level)
    drawn = dynamics(kernel, level)(*step, tuple(torch.Generator().manual_seed(row) for row in range(3)))
    expected = Normal(transition.mean.double(), transition.std.double()).log_prob(drawn.double())
    torch.testing.assert_close(log_prob(transition, drawn).double(), expected.mean(dim=(1, 2, 3)), atol=1e-5, rtol=0)
    total = log_prob_sum(transition, drawn)
    torch.testing.assert_close(total.double(), expected.sum(dim=(1, 2, 3)), atol=1e-3, rtol=0)
    assert total.shape == (3,)
    assert total.dtype == torch.float32


@each_kernel
def test_log_ratio_is_zero_for_the_velocity_of_the_rollout(kernel, level):
    """A row of a rollout in bfloat16, scored again alone and with gradients."""
    latents, velocity, t, s = random_step([1.0, 0.9, 0.5], [0.96, 0.8, 0.3])
    velocity = velocity.bfloat16()
    with torch.no_grad():
        generators = tuple(torch.Generator().manual_seed(row) for row in range(3))
        drawn = dynamics(kernel, level)(latents, velocity, t, s, generators)
        stored = log_prob(kernel(latents, velocity, t, s, level), drawn)
    for row in range(3):
        row = slice(row, row + 1)
        again = velocity[row].float().requires_grad_()
        scored = log_prob(kernel(latents[row], again, t[row], s[row], level), drawn[row])
        assert (scored - stored[row]).item() == 0
        # What another batch size does to a velocity in float32.
        nearly = again.detach() * (1 + 2e-7)
        assert (log_prob(kernel(latents[row], nearly, t[row], s[row], level), drawn[row]) - stored[row]).abs() < 1e-6


@each_kernel
def test_gradient_is_that_of_the_distribution_also_within_the_rollouts_graph(kernel, level):
    latents, velocity, t, s = random_step([1.0, 0.9, 0.5], [0.96, 0.8, 0.3])
    velocity.requires_grad_()
    drawn = dynamics(kernel, level)(latents, velocity, t, s, tuple(torch.Generator().manual_seed(i) for i in range(3)))
    assert drawn.requires_grad
    transition = kernel(latents, velocity, t, s, level)
    (got,) = torch.autograd.grad(log_prob(transition, drawn).sum(), velocity, retain_graph=True)
    density = Normal(transition.mean, transition.std).log_prob(drawn.detach())
    (expected,) = torch.autograd.grad(density.mean(dim=(1, 2, 3)).sum(), velocity, retain_graph=True)
    torch.testing.assert_close(got, expected, atol=1e-7, rtol=1e-5)
    # By hand: (x' - mean) / std^2 times d mean / d velocity, which is the same number in every element of a row.
    slope = kernel(latents, velocity + 1, t, s, level).mean - transition.mean
    by_hand = (drawn - transition.mean) / transition.std**2 * slope / latents[0].numel()
    torch.testing.assert_close(got, by_hand.detach(), atol=1e-6, rtol=1e-3)
    assert got.abs().amin(dim=(1, 2, 3)).gt(0).all()


@each_kernel
def test_a_row_does_not_depend_on_its_neighbours(kernel, level):
    """First, middle and last steps and a row that is done, together and alone."""
    step = random_step([1.0, 0.6, 0.0089, 0.0], [0.96, 0.5, 0.0, 0.0])

    def draw(rows):
        generators = tuple(torch.Generator().manual_seed(row) for row in rows)
        return dynamics(kernel, level)(*(value[list(rows)] for value in step), generators)

    together = draw(range(4))
    for row in range(4):
        assert torch.equal(together[row : row + 1], draw([row]))
    assert not torch.equal(draw([1]), sampling.euler(*(value[1:2] for value in step)))


@each_kernel
def test_the_last_step_is_the_odes_and_has_no_log_prob(kernel, level):
    """As is the step of a row that is done, which goes nowhere."""
    step = random_step([0.5, 0.0089, 0.0], [0.4, 0.0, 0.0])
    transition = kernel(*step, level)
    torch.testing.assert_close(transition.mean[1:], sampling.euler(*step)[1:], atol=1e-7, rtol=1e-7)
    assert torch.equal(transition.mean[2], step[0][2])
    assert transition.std.flatten()[1:].tolist() == [0, 0]
    assert transition.diffusion.flatten()[1:].tolist() == [0, 0]
    with pytest.raises(ValueError, match=r"rows \[1, 2\] took a step without noise"):
        log_prob(transition, transition.mean)


@each_kernel
def test_noise_levels_that_do_not_fall_have_no_log_prob(kernel, level):
    transition = kernel(*random_step([0.5, 0.5], [0.4, 0.6]), 0.0)
    with pytest.raises(ValueError, match=r"rows \[0, 1\]"):
        log_prob(transition, transition.mean)
    if kernel is not cps:
        transition = kernel(*random_step([0.5, 0.5], [0.4, 0.6]), level)
        with pytest.raises(ValueError, match=r"rows \[1\]"):
            log_prob(transition, transition.mean)


@each_kernel
def test_level_zero_is_euler(kernel, level):
    step = random_step([1.0, 0.6, 0.0089], [0.96, 0.5, 0.0])
    torch.testing.assert_close(kernel(*step, 0.0).mean, sampling.euler(*step), atol=1e-6, rtol=1e-6)


def test_cps_at_level_one_is_renoise():
    step = random_step([1.0, 0.6, 0.0089], [0.96, 0.5, 0.0])
    ours, theirs = (tuple(torch.Generator().manual_seed(row) for row in range(3)) for _ in range(2))
    expected = sampling.renoise(*step, theirs)
    torch.testing.assert_close(dynamics(cps, 1.0)(*step, ours), expected, atol=1e-6, rtol=1e-6)


@each_kernel
def test_maths_is_float32_whatever_comes_in(kernel, level):
    """The last step but one is the most sensitive: bfloat16 levels or sums would be off by percents."""
    latents, velocity, t, s = random_step([1.0, 0.278], [0.96, 0.0089])
    latents, velocity = latents.bfloat16(), velocity.bfloat16()
    expected = kernel(latents.float(), velocity.float(), t, s, level)
    with torch.autocast("cpu", torch.bfloat16):
        got = kernel(latents, velocity, t.double(), s.double(), level)
        scored = log_prob(got, expected.mean)
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, theirs)
    assert torch.equal(scored, log_prob(expected, expected.mean))


def test_latents_that_were_rounded_are_refused():
    """What storing bfloat16 would do: the log-ratio of the same velocity leaves 0 by more than a clip range of 1e-5."""
    step = random_step([0.9], [0.8])
    transition = flow_sde(*step, 0.7)
    drawn = dynamics(flow_sde, 0.7)(*step, (torch.Generator().manual_seed(0),))
    rounded = drawn.bfloat16()
    assert (log_prob(transition, rounded.float()) - log_prob(transition, drawn)).abs() > 1e-5
    with pytest.raises(ValueError, match=r"torch\.bfloat16 .* expected torch\.float32"):
        log_prob(transition, rounded)


@each_kernel
def test_wrong_input_is_refused(kernel, level):
    latents, velocity, t, s = random_step([0.9, 0.5], [0.8, 0.4])
    for wrong in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="level is"):
            kernel(latents, velocity, t, s, wrong)
    # Both would broadcast.
    with pytest.raises(ValueError, match=r"\(B, 1, 1, 1\) for the noise levels"):
        kernel(latents, velocity, t.flatten()[0], s, level)
    with pytest.raises(ValueError, match=r"\(1, 4, 6, 8\)"):
        kernel(latents, velocity[:1], t, s, level)
    with pytest.raises(ValueError, match=r"expected \(B, C, h, w\)"):
        kernel(latents[0], velocity[0], t, s, level)
    with pytest.raises(ValueError, match=r"shape \(1, 4, 6, 8\)"):
        log_prob(kernel(latents, velocity, t, s, level), latents[:1])
    with pytest.raises(ValueError, match="1 generators for 2 rows"):
        dynamics(kernel, level)(latents, velocity, t, s, (torch.Generator(),))


def test_cps_takes_a_share():
    with pytest.raises(ValueError, match=r"level is 1.2: .* in \[0, 1\]"):
        cps(*random_step([0.9], [0.8]), 1.2)


def test_denoising_a_batch_of_other_lengths(transformer, parity_tensors, ten_steps):
    """Dynamics fit the loop: rows of other lengths end as alone, and differ from the ODE's end."""
    conditioning = Conditioning(
        parity_tensors["conditioner.prompt_embeds"], parity_tensors["conditioner.pooled_prompt_embeds"]
    )
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    schedules = [ten_steps[[0, 3, 6, 10]], ten_steps[[0, 5, 10]]]

    def end(rows, step):
        state = sampling.initial_state(
            noise[rows],
            [schedules[row] for row in rows],
            conditioning.rows(torch.tensor(rows)),
            generators=[torch.Generator().manual_seed(row) for row in rows],
        )
        return sampling.denoise(transformer, state, dynamics=step)

    together = end([0, 1], dynamics(flow_sde, 0.7))
    for row in range(2):
        alone = end([row], dynamics(flow_sde, 0.7))
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-5)
        assert (alone - end([row], sampling.euler)).abs().max() > 0.1
