"""What a reinforcement-learning run is told, and which combinations are refused.

Names and values are those of UniPic 2.0 (section 4.1) where it states them, else of Flow-GRPO's preset that it equals.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from unipic2_dit import sde

__all__ = ["CLIPS", "KERNELS", "AdvantageConfig", "GRPOConfig", "KLConfig", "NFTConfig", "RLConfig", "RolloutConfig",
           "WindowConfig"]  # fmt: skip

Dynamics = Literal["flow_sde", "cps", "constant_eta"]
KERNELS: dict[str, sde.Kernel] = {"flow_sde": sde.flow_sde, "cps": sde.cps, "constant_eta": sde.constant_eta}

CLIPS = {
    ("flow_sde", "ppo_clip"): 1e-4,
    ("cps", "ppo_clip"): 1e-5,
    ("constant_eta", "ppo_clip"): 1e-4,
    ("flow_sde", "ratio_norm"): 2e-6,
    ("flow_sde", "dppo_mask"): 1e-5,
    ("cps", "dppo_mask"): 1e-5,
    ("constant_eta", "dppo_mask"): 1e-5,
}
"""Published trust-region widths: Flow-GRPO, Flow-GRPO-Fast, DanceGRPO, GRPO-Guard, Flow-DPPO. A mean over latent
elements shrinks log-ratios, so these belong to 512 px; smaller latents bear wider ones. That of cps was published for
log-ratios times 2 std^2, which is about 1 in the steps that Flow-GRPO-Fast trains."""


@dataclass
class WindowConfig:
    """Which sampling steps draw the dynamics' noise and are trained; the others are those of the model's scheduler."""

    kind: Literal["all", "sliding", "random", "none"] = "all"
    """``all`` but the last step; ``sliding`` moves from noise to data (MixGRPO); ``random`` (Flow-GRPO-Fast); ``none``
    trains no step and samples as the model is sampled (DiffusionNFT)."""
    size: int = 3
    """Steps of a sliding or random window."""
    stop: int | None = None
    """Step (from 0) before which a sliding or random window ends; ``null``: the last step, which is never trained."""
    every: int = 25
    """Iterations between moves of a sliding window, by one step each."""


@dataclass
class RolloutConfig:
    """How the images of an iteration are sampled."""

    steps: int = 10
    """Sampling steps T."""
    guidance: float = 4.5
    """Scale of classifier-free guidance, in sampling and training alike; 1 switches it off."""
    dynamics: Dynamics = "flow_sde"
    """The stochastic step: Flow-GRPO's, coefficients-preserving sampling, or DanceGRPO's."""
    level: float = 0.7
    """Its noise level: a of flow_sde (0.7), a of cps (0.8), eta of constant_eta (0.3)."""
    window: WindowConfig = field(default_factory=WindowConfig)
    """Which steps are stochastic."""
    micro_batch: int = 8
    """Images that one process samples, and trains on, at once."""


@dataclass
class AdvantageConfig:
    """How rewards become advantages."""

    combine: Literal["sum", "gdpo"] = "sum"
    """Several rewards: their weighted ``sum``, or each normalised first (``gdpo``)."""
    std: Literal["group", "global"] = "group"
    """Whose standard deviation divides: the group's (the paper) or that of all images of the iteration (Flow-GRPO's
    SD3 presets)."""
    clip: float = 5.0
    """Advantages are clipped to +- this."""
    max_failures: float = 0.1
    """Share of failed scores (NaN) in an iteration beyond which the run stops."""


@dataclass
class KLConfig:
    """The pull towards the reference policy, which is the model without its adapter."""

    kind: Literal["mu", "mu_dt", "velocity"] = "mu"
    """Distance of the means over 2 sigma_t^2 (``mu``, Flow-GRPO since July 2025) or over 2 std^2 (``mu_dt``, the true
    divergence), or of the velocities (``velocity``)."""
    weight: float = 0.04
    """Its weight; it belongs to the kind (0.04 of ``mu`` is about 0.004 of ``mu_dt`` at ten steps). 0: none."""


@dataclass
class GRPOConfig:
    """The policy gradient."""

    trust_region: Literal["ppo_clip", "ratio_norm", "dppo_mask"] = "ppo_clip"
    """PPO's clipped ratio, GRPO-Guard's normalised ratio, or Flow-DPPO's mask."""
    clip: float | None = None
    """Width of the trust region; ``null``: the published one of dynamics and trust region."""
    step_weights: Literal["none", "tempflow", "inverse_dt"] = "none"
    """Weight of each step's policy loss, of mean 1: even, by its std (TempFlow-GRPO), or 1 / dt (GRPO-Guard)."""


@dataclass
class NFTConfig:
    """DiffusionNFT's forward-process objective."""

    beta: float = 1.0
    """How far the positive and negative policies lie from the old one."""
    levels: int = 2
    """Noise levels at which each image is trained."""
    old_decay: float = 0.5
    """After each iteration ``old <- decay old + (1 - decay) model``: the policy that samples."""


@dataclass
class RLConfig:
    """One reinforcement-learning run."""

    seed: int = 0
    """Seed of noise, windows and the order of updates."""
    algorithm: Literal["grpo", "nft"] = "grpo"
    """Policy gradient over the sampled steps, or DiffusionNFT over the finished images."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """Sampling."""
    advantages: AdvantageConfig = field(default_factory=AdvantageConfig)
    """From rewards to advantages."""
    kl: KLConfig = field(default_factory=KLConfig)
    """The pull towards the reference."""
    grpo: GRPOConfig = field(default_factory=GRPOConfig)
    """Of ``algorithm: grpo``."""
    nft: NFTConfig = field(default_factory=NFTConfig)
    """Of ``algorithm: nft``."""
    updates: int = 1
    """Optimiser steps of an iteration; each takes an equal share of every group."""
    max_gradient_norm: float = 1.0
    """Gradients are clipped to this norm."""
    sft_weight: float = 0.0
    """Weight of the supervised flow-matching loss on the targets of the iteration's own rows."""

    def check(self, *, adapter: bool) -> None:
        """Refuse what is known to be wrong.

        Args:
            adapter: Whether an adapter is trained, which can be switched off to get the reference policy.

        Raises:
            ValueError: With the reason and the mend.
        """
        reasons = [*self._range_errors(), *self._kl_errors(adapter)]
        reasons += self._grpo_errors() if self.algorithm == "grpo" else self._nft_errors()
        if self.advantages.combine == "gdpo" and self.advantages.std == "global":
            reasons.append("advantages.combine gdpo normalises each reward within its group: set advantages.std group")
        if reasons:
            raise ValueError("model.rl: " + "; ".join(reasons))

    @property
    def clip(self) -> float:
        """The trust region's width."""
        published = CLIPS[self.rollout.dynamics, self.grpo.trust_region]
        return published if self.grpo.clip is None else self.grpo.clip

    def _range_errors(self) -> list[str]:
        positive = {
            "rollout.micro_batch": self.rollout.micro_batch, "rollout.window.size": self.rollout.window.size,
            "rollout.window.every": self.rollout.window.every, "updates": self.updates, "nft.levels": self.nft.levels,
            "nft.beta": self.nft.beta, "advantages.clip": self.advantages.clip,
            "max_gradient_norm": self.max_gradient_norm,
        }  # fmt: skip
        found = [f"{name} must be positive, not {value}" for name, value in positive.items() if value <= 0]
        if self.grpo.clip is not None and self.grpo.clip <= 0:
            found.append(f"grpo.clip must be positive, not {self.grpo.clip}")
        for name, value in (("kl.weight", self.kl.weight), ("sft_weight", self.sft_weight)):
            if value < 0:
                found.append(f"{name} must not be negative, got {value}")
        if not 0 <= self.nft.old_decay < 1:
            found.append(f"nft.old_decay must be in [0, 1), not {self.nft.old_decay}: at 1 the old policy never moves")
        return found

    def _kl_errors(self, adapter: bool) -> list[str]:
        if self.kl.weight and not adapter:
            return [
                "the reference policy is the model without its adapter, and this run trains all weights: set kl.weight "
                "0 or train an adapter (model.kontext.adapter)"
            ]
        return []

    def _grpo_errors(self) -> list[str]:
        rollout, window, found = self.rollout, self.rollout.window, []
        if rollout.steps < 2:
            found.append("rollout.steps must be 2 or more: the last step has no noise, so one step trains nothing")
        if rollout.level <= 0:
            found.append("rollout.level must be above 0: without noise a step has no log-probability")
        if rollout.dynamics == "cps" and rollout.level > 1:
            found.append(f"cps mixes a share of fresh noise: rollout.level must be in (0, 1], not {rollout.level}")
        if window.kind == "none":
            found.append("grpo needs stochastic steps: rollout.window.kind none is for algorithm nft")
        last = rollout.steps - 1 if window.stop is None else window.stop
        if window.kind in ("sliding", "random") and not window.size <= last <= rollout.steps - 1:
            found.append(
                f"a window of {window.size} steps before step {last} does not fit {rollout.steps} sampling steps, the "
                "last of which is never trained"
            )
        return found + self._trust_region_errors()

    def _trust_region_errors(self) -> list[str]:
        dynamics, found = self.rollout.dynamics, []
        if self.grpo.trust_region == "ratio_norm" and dynamics != "flow_sde":
            found.append(
                f"ratio_norm is derived for flow_sde; with {dynamics} its clip range has no meaning, and with cps it "
                "collapsed (flow_grpo#192): use ppo_clip or dppo_mask"
            )
        if self.grpo.step_weights == "inverse_dt" and dynamics == "cps":
            found.append(
                "step_weights inverse_dt undoes a factor sqrt(dt) of the std that cps does not have: use tempflow"
            )
        return found

    def _nft_errors(self) -> list[str]:
        found = []
        if self.rollout.window.kind != "none":
            found.append("nft trains on finished images and no step of theirs: set rollout.window.kind none")
        if self.rollout.guidance > 1:
            found.append(
                "nft regresses the velocity without guidance, and guided images are not samples of it: set "
                "rollout.guidance 1"
            )
        if self.kl.weight and self.kl.kind != "velocity":
            found.append("nft has no transition whose means could differ: set kl.kind velocity")
        return found
