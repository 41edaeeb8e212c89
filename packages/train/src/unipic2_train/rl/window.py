"""Which sampling steps of an iteration draw noise, have log-probabilities and are trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unipic2_data.randomness import keyed_rng

if TYPE_CHECKING:
    from unipic2_train.rl.config import WindowConfig

__all__ = ["sde_window"]


def sde_window(config: WindowConfig, steps: int, iteration: int, seed: int) -> range:
    """Return the stochastic steps of an iteration, the same for every process: a function of its number and the seed.

    With T steps, a window of w steps and its end ``stop`` (T - 1 by default: the last step is never stochastic)::

        all       0 .. T - 2
        sliding   starts at (iteration / every) mod (stop - w + 1): from noise to data, again and again
        random    starts anywhere in 0 .. stop - w
        none      empty

    Args:
        config: Kind and size.
        steps: Sampling steps T.
        iteration: Number of the iteration, from 0.
        seed: Seed of the run.
    """
    if config.kind == "none":
        return range(0)
    if config.kind == "all":
        return range(steps - 1)
    places = (steps - 1 if config.stop is None else config.stop) - config.size + 1
    if config.kind == "sliding":
        start = iteration // config.every % places
    else:
        start = int(keyed_rng(seed, "sde-window", iteration, "start").integers(places))
    return range(start, start + config.size)
