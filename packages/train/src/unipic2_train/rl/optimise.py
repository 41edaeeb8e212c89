"""The third verb: the optimiser steps of an iteration.

With K the images of an update that are trained on, over all processes, and J passes::

    loss = 1 / (K J) sum over images and passes of their loss  +  sft_weight * flow-matching loss of the rows' targets

Gradients are accumulated over micro-batches and passes, averaged over processes once, clipped and applied. Every
process takes as many forwards, whatever it has kept: where it has fewer images, rows of weight 0 stand in. An update
without any image is left out by all processes alike.

Legend: B images of this process, N of all.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from unipic2_train.rl.collective import largest, summed, synchronise_gradients
from unipic2_train.training_checkpoint import trainable_parameters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch.optim import Optimizer

    from unipic2_train.rl.advantages import Advantages
    from unipic2_train.rl.config import RLConfig
    from unipic2_train.rl.layout import Layout
    from unipic2_train.rl.objectives import Objective
    from unipic2_train.rl.rollout import Rollout

__all__ = ["micro_batches", "optimise"]


def optimise(
    transformer: nn.Module,
    optimizer: Optimizer,
    objective: Objective,
    rollout: Rollout,
    advantages: Advantages,
    update_of: Tensor,
    layout: Layout,
    config: RLConfig,
    supervised: Callable[[], Tensor] | None = None,
) -> dict[str, float]:
    """Take the optimiser steps of an iteration.

    Args:
        transformer: The policy in training.
        optimizer: Its optimiser.
        objective: The loss.
        rollout: This process's images.
        advantages: Of all images.
        update_of: The update that takes each image, (N,).
        layout: Which images are this process's.
        config: Number of updates, micro-batches, clipping.
        supervised: Gives the supervised loss of this process's rows, already weighted.

    Returns:
        What to log: means over images and passes, ``first_update_abs_log_ratio`` and ``optimiser_steps``.
    """
    record = _Record(rollout.latents.device)
    parameters = list(trainable_parameters(transformer).values())
    steps = 0
    for update in range(config.updates):
        chosen = advantages.kept & (update_of == update)
        count = int(chosen.sum())
        if not count:
            continue
        _accumulate(transformer, objective, rollout, advantages, chosen, layout, config, supervised, record)
        synchronise_gradients([parameter for parameter in parameters if not isinstance(parameter, DTensor)])
        norm = torch.nn.utils.clip_grad_norm_(parameters, config.max_gradient_norm)
        record.norms.append(float(norm.full_tensor() if isinstance(norm, DTensor) else norm))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        steps += 1
        record.first = False
    if not steps:  # Nothing was learnt, but whether ratios start at 1 is still worth knowing.
        with torch.no_grad():
            rows = rollout.take(torch.arange(min(len(rollout), config.rollout.micro_batch)))
            weight = torch.ones(len(rows), device=rollout.latents.device)
            for number in range(objective.num_passes):
                record.add(objective(rows, torch.zeros_like(weight), number)[1], weight)
    return record.metrics() | {"optimiser_steps": float(steps)}


def micro_batches(chosen: Tensor, layout: Layout, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield places among this process's images, int64 (B',), and their weights (B',): as many on every process.

    Every batch is as large as those that were sampled: the last bits of a forward depend on its number of rows, and
    ratios would not start at 1. What is missing is filled up with the first image at weight 0.

    Args:
        chosen: Images to train on, over all processes, bool (N,).
        layout: Which images are this process's.
        size: Images at once.
    """
    size = min(size, layout.images // layout.world_size)
    per_process = chosen.view(layout.world_size, -1).sum(1)
    own = chosen[layout.own].nonzero().squeeze(1)
    for number in range(-(-int(per_process.max()) // size)):
        places = own[number * size : (number + 1) * size]
        filler = places.new_zeros(size - len(places))
        yield torch.cat((places, filler)), torch.cat((torch.ones(len(places)), torch.zeros(len(filler))))


def _accumulate(
    transformer: nn.Module,
    objective: Objective,
    rollout: Rollout,
    advantages: Advantages,
    chosen: Tensor,
    layout: Layout,
    config: RLConfig,
    supervised: Callable[[], Tensor] | None,
    record: _Record,
) -> None:
    """Add up the gradients of one update; the last backward pass averages them over FSDP's processes."""
    own = advantages.values[layout.own].to(rollout.latents.device, torch.float32)
    scale = layout.world_size / (int(chosen.sum()) * objective.num_passes)
    batches = list(micro_batches(chosen, layout, config.rollout.micro_batch))
    for index, (places, weights) in enumerate(batches):
        rows, weight = rollout.take(places), weights.to(own.device)
        advantage = own[places.to(own.device)]
        for number in range(objective.num_passes):
            last = supervised is None and index == len(batches) - 1 and number == objective.num_passes - 1
            _synchronise_in_backward(transformer, last)
            loss, terms = objective(rows, advantage, number)
            ((loss * weight).sum() * scale).backward()
            record.add(terms, weight)
    if supervised is not None:
        _synchronise_in_backward(transformer, True)
        loss = supervised()
        loss.backward()
        record.add({"sft_loss": loss.detach().view(1)}, torch.ones(1, device=own.device))


def _synchronise_in_backward(transformer: Any, flag: bool) -> None:
    if isinstance(transformer, FSDPModule):
        transformer.set_requires_gradient_sync(flag)


class _Record:
    """Sums of what is logged, over this process's rows."""

    def __init__(self, device: torch.device) -> None:
        self.sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros(2, dtype=torch.float64, device=device))
        self.largest = torch.zeros((), dtype=torch.float64, device=device)
        self.norms: list[float] = []
        self.first = True

    def add(self, terms: dict[str, Tensor], weight: Tensor) -> None:
        for name, values in terms.items():
            self.sums[name] += torch.stack(((values * weight).sum(), weight.sum())).double()
        if self.first and "abs_log_ratio" in terms:
            self.largest = torch.maximum(self.largest, (terms["abs_log_ratio"] * weight).max().double())

    def metrics(self) -> dict[str, float]:
        """Return means over all processes; every process has the same names, since it took the same passes."""
        found = {}
        for name in sorted(self.sums):
            total, count = summed(self.sums[name]).tolist()
            found[name] = total / count if count else 0.0
        if "abs_log_ratio" in found:
            found["first_update_abs_log_ratio"] = float(largest(self.largest))
        if self.norms:
            found["gradient_norm"] = sum(self.norms) / len(self.norms)
        return found
