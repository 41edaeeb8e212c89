"""An iteration's images in parts, so that the pictures of one part are scored while the next is sampled.

All parts are of the same iteration: every image comes from the same policy, and none depends on how they are divided.

Legend: B images of this process.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from unipic2_dit import sampling
from unipic2_train.rl.rollout import Rollout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unipic2_train.rl.layout import Layout

__all__ = ["joined", "parts_of"]


def parts_of(layout: Layout, micro_batch: int, *, whole_groups: bool) -> list[Layout]:
    """Return this process's images as the images of so many smaller processes, in their order.

    Args:
        layout: The images of all processes.
        micro_batch: Images sampled at once; a part is one or more of these.
        whole_groups: No part may hold a piece of a group; then there may be one part alone.
    """
    own = layout.images // layout.world_size
    size = math.lcm(micro_batch, layout.group_size) if whole_groups else micro_batch
    count = own // size if own % size == 0 else 1
    world_size, first = layout.world_size * count, layout.rank * count
    return [replace(layout, world_size=world_size, rank=first + number) for number in range(count)]


def joined(parts: Sequence[Rollout]) -> Rollout:
    """Return the images of all parts as if they had been sampled together."""
    if len(parts) == 1:
        return parts[0]
    return Rollout(
        index=torch.arange(sum(map(len, parts))),
        state=sampling.cat([part.state for part in parts]),
        window=parts[0].window,
        path=torch.cat([part.path for part in parts], 1),
        log_probs=torch.cat([part.log_probs for part in parts], 1),
        means=torch.cat([part.means for part in parts], 1),
        latents=torch.cat([part.latents for part in parts]),
        speed=torch.cat([part.speed for part in parts]),
    )
