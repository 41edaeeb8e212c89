"""Denoising as a state and a step. Every sampler of the project is a for-loop over these.

::

    state = initial_state(...)
    while not finished(state):
        state = advance(state, velocity(transformer, state))

Rows of a state are independent: each has its own noise levels, position, guidance, references and generator, and its
result doesn't depend on its neighbours. Scheduler maths is float32. ``sigmas``, ``index`` and ``guidance`` live on the
CPU, so that asking where a row stands never waits for an accelerator.

Legend: B rows, C latent channels, h/w latent height/width, T the most steps of any row, G rows under guidance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unipic2_dit.conditioning import Conditioning
from unipic2_dit.flow import MAX_TIMESTEP

if TYPE_CHECKING:
    from diffusers import FlowMatchEulerDiscreteScheduler
    from torch import nn

__all__ = [
    "DenoisingState",
    "Dynamics",
    "advance",
    "cat",
    "denoise",
    "draw_noise",
    "dynamics_of",
    "euler",
    "finished",
    "initial_state",
    "renoise",
    "renoise_with",
    "select",
    "step",
    "velocity",
]

Generators = tuple["torch.Generator | None", ...]
Dynamics = Callable[[Tensor, Tensor, Tensor, Tensor, Generators], Tensor]
"""(latents, velocity, sigma, next sigma, generators) -> next latents; sigmas of shape (B, 1, 1, 1)."""


@dataclass(frozen=True)
class DenoisingState:
    """Where each row of a batch stands between noise and data."""

    latents: Tensor
    """Noisy latents, float32, shape (B, C, h, w)."""
    sigmas: Tensor
    """Falling noise levels, float32, on the CPU, shape (B, T + 1). A row with fewer steps is padded with zeros."""
    index: Tensor
    """Each row's position in ``sigmas``, int64, on the CPU, shape (B,)."""
    conditioning: Conditioning
    """The prompts, B rows."""
    guidance: Tensor
    """Scale of classifier-free guidance, float32, on the CPU, shape (B,). Rows at 1 or less use the prompt alone."""
    negative: Conditioning | None = None
    """What guidance leads away from, B rows; needed when any row's guidance is above 1."""
    references: Tensor | None = None
    """Clean reference latents, shape (B, C, h', w'), or ``None`` (text-to-image)."""
    generators: Generators = ()
    """One generator a row for dynamics that draw noise, or empty."""

    @property
    def sigma(self) -> Tensor:
        """The current noise level of each row, shape (B,)."""
        return self._level(self.index)

    @property
    def next_sigma(self) -> Tensor:
        """The noise level of each row after the next step, shape (B,)."""
        return self._level(self.index + 1)

    @property
    def done(self) -> Tensor:
        """Which rows have no step left, shape (B,)."""
        return self.sigma == 0

    def _level(self, index: Tensor) -> Tensor:
        index = index.clamp(max=self.sigmas.shape[1] - 1)
        return self.sigmas.gather(1, index[:, None]).squeeze(1)


def initial_state(
    noise: Tensor,
    sigmas: Tensor | Sequence[Tensor],
    conditioning: Conditioning,
    *,
    guidance: float | Tensor = 1.0,
    negative: Conditioning | None = None,
    references: Tensor | None = None,
    generators: Sequence[torch.Generator | None] = (),
) -> DenoisingState:
    """Return the state at the start of denoising.

    Args:
        noise: Standard normal, shape (B, C, h, w).
        sigmas: Noise levels of ``flow.sampling_sigmas``: one schedule (T + 1,) for all rows, or one for each row, of
            any lengths.
        conditioning: The prompts, B rows.
        guidance: Scale of classifier-free guidance, a number or (B,).
        negative: Negative prompts, B rows or 1.
        references: Clean reference latents, shape (B, C, h', w').
        generators: One a row, for dynamics that draw noise.

    Returns:
        The state, every row at index 0.

    Raises:
        ValueError: If the parts have different numbers of rows, or guidance has no negative prompt.
    """
    num_rows = len(noise)
    schedules = [sigmas] * num_rows if isinstance(sigmas, Tensor) else list(sigmas)
    scales = torch.as_tensor(guidance, dtype=torch.float32).cpu().expand(num_rows)
    if negative is None and bool((scales > 1).any()):
        msg = "guidance above 1 needs a negative prompt; the empty prompt's embedding is the usual one."
        raise ValueError(msg)
    if negative is not None and len(negative.prompt_embeds) == 1:
        negative = negative.repeat(num_rows)
    counts = {
        "sigmas": len(schedules),
        "conditioning": len(conditioning.prompt_embeds),
        "negative": num_rows if negative is None else len(negative.prompt_embeds),
        "references": num_rows if references is None else len(references),
        "generators": len(generators) or num_rows,
    }
    wrong = {name: count for name, count in counts.items() if count != num_rows}
    if wrong:
        msg = f"noise has {num_rows} rows, but {wrong}: every part needs the same number of rows."
        raise ValueError(msg)
    return DenoisingState(
        latents=noise.float(),
        sigmas=torch.nn.utils.rnn.pad_sequence([row.float().cpu() for row in schedules], batch_first=True),
        index=torch.zeros(num_rows, dtype=torch.int64),
        conditioning=conditioning,
        guidance=scales,
        negative=negative,
        references=references,
        generators=tuple(generators),
    )


def velocity(
    transformer: nn.Module, state: DenoisingState, joint_attention_kwargs: dict[str, Any] | None = None
) -> Tensor:
    """Predict each row's velocity, under classifier-free guidance where its scale is above 1.

    ``v = v_negative + guidance * (v_prompt - v_negative)``. The reference is in both branches, only the text differs
    (UniPic 2.0's released sampler). Both branches are one forward of B + G rows.

    Args:
        transformer: The Kontext DiT.
        state: Where the rows stand.
        joint_attention_kwargs: Passed on to the transformer.

    Returns:
        The velocity, float32, shape (B, C, h, w).
    """
    num_rows = len(state.latents)
    latents, references, conditioning = state.latents, state.references, state.conditioning
    timestep = MAX_TIMESTEP * state.sigma
    guided = (state.guidance > 1).nonzero().squeeze(1)
    if len(guided):
        assert state.negative is not None  # ``initial_state`` checks it.
        # A slice where it can be: indexing with a list of all rows would copy them.
        rows: Tensor | slice = slice(None) if len(guided) == num_rows else guided.to(latents.device)
        latents = torch.cat((latents, latents[rows]))
        references = None if references is None else torch.cat((references, references[rows]))
        timestep = torch.cat((timestep, timestep[guided]))
        conditioning = Conditioning.cat((conditioning, state.negative.rows(rows)))
    predicted = transformer(
        hidden_states=latents,
        ref_hidden_states=references,
        encoder_hidden_states=conditioning.prompt_embeds,
        pooled_projections=conditioning.pooled_projections,
        timestep=timestep.to(latents.device),
        joint_attention_kwargs=joint_attention_kwargs,
        return_dict=False,
    )[0].float()
    if not len(guided):
        return predicted
    prompted, negative = predicted[:num_rows], predicted[num_rows:]
    scale = _column(state.guidance[guided], latents)
    if len(guided) == num_rows:
        return negative + scale * (prompted - negative)
    return prompted.index_copy(0, rows, negative + scale * (prompted[rows] - negative))


def euler(latents: Tensor, velocity: Tensor, sigma: Tensor, next_sigma: Tensor, _generators: Generators = ()) -> Tensor:
    """Take one step of the probability-flow ODE, ``x + (next_sigma - sigma) * velocity``, deterministic."""
    return latents + (next_sigma - sigma) * velocity


def renoise(latents: Tensor, velocity: Tensor, sigma: Tensor, next_sigma: Tensor, generators: Generators) -> Tensor:
    """Go to the clean latents that the velocity points at and add fresh noise of the next level to them.

    The step of a scheduler with ``stochastic_sampling``: errors of earlier steps are forgotten, so a model that is
    still coarse gets sharper pictures from more steps. The last step adds nothing.

    Raises:
        ValueError: If the rows have no generators.
    """
    if len(generators) != len(latents):
        msg = f"{len(generators)} generators for {len(latents)} rows: dynamics that draw noise need one a row."
        raise ValueError(msg)
    noise = draw_noise(latents.shape[1:], generators, latents.device)
    return renoise_with(noise, latents, velocity, sigma, next_sigma)


def renoise_with(noise: Tensor, latents: Tensor, velocity: Tensor, sigma: Tensor, next_sigma: Tensor) -> Tensor:
    """Take the step of ``renoise`` with given noise, shape (B, C, h, w): ``(1 - t) (x - s v) + t noise``."""
    clean = latents - sigma * velocity
    return (1 - next_sigma) * clean + next_sigma * noise


def dynamics_of(scheduler: FlowMatchEulerDiscreteScheduler) -> Dynamics:
    """Return how a checkpoint's scheduler steps: ``renoise`` under ``stochastic_sampling``, else ``euler``."""
    return renoise if scheduler.config.stochastic_sampling else euler


def advance(state: DenoisingState, velocity: Tensor, dynamics: Dynamics = euler) -> DenoisingState:
    """Return the state one step later. Rows that are done stay as they are.

    Args:
        state: Where the rows stand.
        velocity: Their velocity, shape (B, C, h, w).
        dynamics: How a velocity moves the latents.

    Returns:
        A new state; tensors that don't change are shared.
    """
    moved = dynamics(
        state.latents,
        velocity.float(),
        _column(state.sigma, state.latents),
        _column(state.next_sigma, state.latents),
        state.generators,
    )
    done = state.done
    if bool(done.any()):
        moved = torch.where(_column(done, state.latents), state.latents, moved)
    return replace(state, latents=moved, index=state.index + (~done).long())


def finished(state: DenoisingState) -> bool:
    """Tell whether no row has a step left."""
    return bool(state.done.all())


def select(state: DenoisingState, rows: Tensor) -> DenoisingState:
    """Return the rows of a state that ``rows`` names (int64, on the CPU)."""
    device_rows = rows.to(state.latents.device)
    return DenoisingState(
        latents=state.latents[device_rows],
        sigmas=state.sigmas[rows],
        index=state.index[rows],
        conditioning=state.conditioning.rows(device_rows),
        guidance=state.guidance[rows],
        negative=None if state.negative is None else state.negative.rows(device_rows),
        references=None if state.references is None else state.references[device_rows],
        generators=tuple(state.generators[row] for row in rows.tolist()) if state.generators else (),
    )


def cat(states: Sequence[DenoisingState]) -> DenoisingState:
    """Join the rows of several states, each of which goes on from where it stands.

    Rows may have other steps, guidance and positions. Rows without a negative prompt join those with one as they are:
    at guidance 1 or less nothing looks at it.

    Args:
        states: At least one.

    Raises:
        ValueError: If latents or references differ in shape, or only some rows have references.
    """
    shapes = {_row_shapes(state) for state in states}
    if len(shapes) != 1:
        found = ", ".join(sorted(f"{latents} with references {references}" for latents, references in shapes))
        msg = f"Rows of one state have latents of one shape, and all or none have references; these are: {found}."
        raise ValueError(msg)
    num_levels = max(state.sigmas.shape[1] for state in states)
    has_negative = any(state.negative is not None for state in states)
    has_generators = any(state.generators for state in states)
    references = [state.references for state in states if state.references is not None]
    return DenoisingState(
        latents=torch.cat([state.latents for state in states]),
        sigmas=torch.cat([F.pad(state.sigmas, (0, num_levels - state.sigmas.shape[1])) for state in states]),
        index=torch.cat([state.index for state in states]),
        conditioning=Conditioning.cat([state.conditioning for state in states]),
        guidance=torch.cat([state.guidance for state in states]),
        negative=Conditioning.cat([state.negative or state.conditioning for state in states]) if has_negative else None,
        references=torch.cat(references) if references else None,
        generators=tuple(each for state in states for each in state.generators or (None,) * len(state.latents))
        if has_generators
        else (),
    )


def step(transformer: nn.Module, state: DenoisingState, dynamics: Dynamics = euler) -> DenoisingState:
    """Take a step of the rows that have one left; the others stay as they are and cost nothing.

    Args:
        transformer: The Kontext DiT.
        state: Where the rows stand.
        dynamics: How a velocity moves the latents.

    Returns:
        A new state.
    """
    done = state.done
    if not bool(done.any()):
        return advance(state, velocity(transformer, state), dynamics)
    rows = (~done).nonzero().squeeze(1)
    if not len(rows):
        return state
    active = select(state, rows)
    active = advance(active, velocity(transformer, active), dynamics)
    return replace(
        state,
        latents=state.latents.index_copy(0, rows.to(state.latents.device), active.latents),
        index=state.index.index_copy(0, rows, active.index),
    )


@torch.no_grad()
def denoise(
    transformer: nn.Module,
    state: DenoisingState,
    *,
    dynamics: Dynamics = euler,
    callback: Callable[[DenoisingState], DenoisingState | None] | None = None,
) -> Tensor:
    """Take every row to its end.

    Args:
        transformer: The Kontext DiT.
        state: The start.
        dynamics: How a velocity moves the latents.
        callback: Called with the state after each step; a state that it returns is used instead.

    Returns:
        Clean latents, float32, shape (B, C, h, w).
    """
    while not finished(state):
        state = step(transformer, state, dynamics)
        if callback is not None:
            state = callback(state) or state
    return state.latents


def draw_noise(
    shape: Sequence[int], generators: Sequence[torch.Generator | None], device: torch.device | str | None = None
) -> Tensor:
    """Draw standard normal latents, each row from its own generator.

    Args:
        shape: (C, h, w) of one row.
        generators: One a row; ``None`` draws from the global generator.
        device: Where the noise goes. It is drawn on each generator's own device, so a CPU generator gives the same
            noise on every machine.

    Returns:
        Noise, float32, shape (B, C, h, w).
    """
    draws = [
        torch.randn(tuple(shape), generator=generator, device=device if generator is None else generator.device).to(
            device
        )
        for generator in generators
    ]
    return torch.stack(draws)


def _row_shapes(state: DenoisingState) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Return the shapes of one row's latents and references."""
    return tuple(state.latents.shape[1:]), None if state.references is None else tuple(state.references.shape[1:])


def _column(values: Tensor, like: Tensor) -> Tensor:
    """(B,) on the CPU -> (B, 1, 1, 1) on the device of ``like``."""
    return values.to(like.device).view(-1, 1, 1, 1)
