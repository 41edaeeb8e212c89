"""Trust regions, divergences and step weights: values, gradients, and agreement with REINFORCE."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from unipic2_dit import sde
from unipic2_train.rl import policy
from unipic2_train.rl.config import KERNELS

SIGMAS = torch.tensor([1.0, 0.7, 0.3, 0.0])
ADVANTAGE = torch.tensor([1.5, -0.5, 0.25])


def column(value, rows=3):
    return torch.full((rows, 1, 1, 1), float(value))


class TwoSteps:
    """A two-step policy: v = W x + b, sampled once."""

    def __init__(self, kernel, level, seed=0):
        self.kernel, self.level = KERNELS[kernel], level
        generator = torch.Generator().manual_seed(seed)
        self.weight = torch.randn(8, 8, generator=generator).mul(0.3).requires_grad_()
        self.path = [torch.randn(3, 2, 2, 2, generator=generator)]
        with torch.no_grad():
            for step in range(2):
                drawn = self.transition(step)
                noise = torch.randn(3, 2, 2, 2, generator=generator)
                self.path.append(drawn.mean + drawn.std * noise)
            self.old = [sde.log_prob(self.transition(step), self.path[step + 1]) for step in range(2)]

    def transition(self, step):
        latents = self.path[step]
        velocity = (latents.flatten(1) @ self.weight).view_as(latents)
        return self.kernel(latents, velocity, column(SIGMAS[step]), column(SIGMAS[step + 1]), self.level)

    def gradient(self, loss_of):
        self.weight.grad = None
        sum(loss_of(self.transition(step), step).mean() for step in range(2)).backward()
        return self.weight.grad.clone()


def region(name, transition, old_mean, log_ratio, advantage, width):
    shift = policy.mean_shift(transition, old_mean)
    if name == "ppo_clip":
        return policy.ppo_clip(log_ratio, advantage, width)
    if name == "ratio_norm":
        return policy.ratio_norm(log_ratio, advantage, width, shift, transition.std.flatten())
    return policy.dppo_mask(log_ratio, advantage, width, shift)


@pytest.mark.parametrize("kernel", list(KERNELS))
@pytest.mark.parametrize("name", ["ppo_clip", "dppo_mask", "ratio_norm"])
def test_the_first_gradient_is_reinforce_s(kernel, name):
    toy = TwoSteps(kernel, 0.7)

    def reinforce(transition, step):
        log_prob = Normal(transition.mean, transition.std).log_prob(toy.path[step + 1]).mean((1, 2, 3))
        return -ADVANTAGE * log_prob * (transition.std.flatten() if name == "ratio_norm" else 1)

    def trained(transition, step):
        log_ratio = sde.log_prob(transition, toy.path[step + 1]) - toy.old[step]
        assert log_ratio.abs().max() < 1e-6
        result = region(name, transition, transition.mean.detach(), log_ratio, ADVANTAGE, 1e-4)
        assert not result.held.any()
        return result.loss

    expected, found = toy.gradient(reinforce), toy.gradient(trained)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("advantage", "log_ratio", "held"),
    [(1.0, 0.2, True), (1.0, -0.2, False), (-1.0, -0.2, True), (-1.0, 0.2, False), (1.0, 0.05, False)],
)
def test_clipping_stops_what_goes_too_far_and_nothing_else(advantage, log_ratio, held):
    ratio = torch.tensor([log_ratio], requires_grad=True)
    result = policy.ppo_clip(ratio, torch.tensor([advantage]), 0.1)
    result.loss.sum().backward()
    assert result.held.item() is held
    assert (ratio.grad.item() == 0) is held


@pytest.mark.parametrize(
    ("advantage", "log_ratio", "shift", "held"),
    [
        (1.0, 0.2, 0.5, True),
        (1.0, 0.2, 0.05, False),
        (1.0, -0.2, 0.5, False),
        (-1.0, -0.2, 0.5, True),
        (-1.0, 0.2, 0.5, False),
    ],
)
def test_the_mask_needs_distance_and_direction(advantage, log_ratio, shift, held):
    ratio = torch.tensor([log_ratio], requires_grad=True)
    result = policy.dppo_mask(ratio, torch.tensor([advantage]), 0.1, torch.tensor([shift]))
    result.loss.sum().backward()
    assert result.held.item() is held
    assert (ratio.grad.item() == 0) is held


def test_the_normalised_ratio_has_mean_one():
    """The plain log-ratio's mean is minus the divergence; without it, up and down are clipped alike."""
    generator = torch.Generator().manual_seed(0)
    rows = 20_000
    old = sde.Transition(torch.zeros(rows, 1, 1, 2), column(0.5, rows), column(1.0, rows))
    new = old._replace(mean=old.mean + 0.4)
    drawn = 0.5 * torch.randn(rows, 1, 1, 2, generator=generator)
    log_ratio = sde.log_prob(new, drawn) - sde.log_prob(old, drawn)
    shift = policy.mean_shift(new, old.mean)
    assert log_ratio.mean().item() == pytest.approx(-shift[0].item(), abs=0.02)
    assert (log_ratio + shift).mean().item() == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("kernel", list(KERNELS))
def test_divergences(kernel):
    toy = TwoSteps(kernel, 0.6)
    ours = toy.transition(0)
    reference = ours._replace(mean=ours.mean.detach() + 0.1)
    velocities = (ours.mean, ours.mean.detach() + 0.1)
    true = kl_divergence(Normal(ours.mean, ours.std), Normal(reference.mean, ours.std)).mean((1, 2, 3))
    found = {name: policy.divergence(name, ours, reference, velocities) for name in ("mu", "mu_dt", "velocity")}
    torch.testing.assert_close(found["mu_dt"], true)
    torch.testing.assert_close(found["mu"], true * (SIGMAS[0] - SIGMAS[1]))
    torch.testing.assert_close(found["velocity"], torch.full((3,), 0.01))
    for name, value in found.items():
        (gradient,) = torch.autograd.grad(value.sum(), toy.weight, retain_graph=True)
        assert gradient.abs().max() > 0, f"{name} has no gradient: it would do nothing and look fine"


def test_step_weights():
    sigmas = torch.tensor([1.0, 0.9, 0.6, 0.2, 0.0])
    assert policy.step_weights("none", sigmas, "cps", 0.5).tolist() == [1, 1, 1]
    inverse = policy.step_weights("inverse_dt", sigmas, "flow_sde", 0.7)
    torch.testing.assert_close(inverse / inverse[0], torch.tensor([1.0, 1 / 3, 1 / 4]))
    eta = policy.step_weights("tempflow", sigmas, "constant_eta", 0.5)
    torch.testing.assert_close(eta / eta[0], torch.tensor([1.0, 3**0.5, 2.0]))
    cps = policy.step_weights("tempflow", sigmas, "cps", 0.5)
    torch.testing.assert_close(cps / cps[0], torch.tensor([1.0, 6 / 9, 2 / 9]))
    assert all(weights.mean().item() == pytest.approx(1) for weights in (inverse, eta, cps))
