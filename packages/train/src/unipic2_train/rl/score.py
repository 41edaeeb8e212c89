"""The second verb: turn finished latents into pictures, and pictures into scores of all processes.

A reward that runs here sees this process's images in one call. One that waits for a server (`Reward.waits`) is given
them part by part, in a thread, while the next part is sampled. Scores are then gathered, so that a group's mean and std
are over all of its images wherever they were made.

Legend: B images of this process, N of all, R rewards.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unipic2_train.rewards.base import RewardRequest, scores_of
from unipic2_train.rl.chunks import parts_of
from unipic2_train.rl.collective import gather_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from unipic2_data.batch import Batch
    from unipic2_train.pictures import FrozenPictures
    from unipic2_train.rewards.base import Reward, WeightedReward
    from unipic2_train.rl.layout import Layout
    from unipic2_train.rl.rollout import Rollout

__all__ = ["Scores", "Scoring", "request_of"]

HELD_OUT = "guards.held_out"


@dataclass
class Scores:
    """What the images of an iteration are worth."""

    names: list[str]
    """Of the rewards, R."""
    weights: Tensor
    """Of the rewards, float64 (R,)."""
    rewards: Tensor
    """Of all images, float64 (N, R); NaN where one failed."""
    held_out: Tensor | None
    """By the held-out judge, float64 (N,), if there is one for this kind."""
    request: RewardRequest
    """This process's pictures."""

    @property
    def failures(self) -> float:
        """Share of images with a failed score."""
        return float(self.rewards.isnan().any(1).double().mean())


class Scoring:
    """The scores of one iteration, as its images come; a context: if sampling fails, nothing more is asked.

    Args:
        frozen: The VAE.
        batch: The rows of the iteration.
        layout: Which images are this process's.
        rewards: Rewards by name; those that know the kind are asked.
        held_out: One more judge, whose scores are kept apart.
        micro_batch: Images sampled at once.

    Raises:
        ValueError: No reward scores this kind, or one compares the images of a group that lies across processes.
    """

    def __init__(
        self,
        frozen: FrozenPictures,
        batch: Batch,
        layout: Layout,
        rewards: Mapping[str, WeightedReward],
        held_out: Reward | None,
        micro_batch: int,
    ) -> None:
        self.frozen, self.batch = frozen, batch
        self.chosen = {name: entry for name, entry in rewards.items() if batch.kind in entry.reward.kinds}
        if not self.chosen:
            msg = f"no reward scores {batch.kind} pictures: model.rewards has {', '.join(rewards) or 'none'}"
            raise ValueError(msg)
        self.judges = {name: entry.reward for name, entry in self.chosen.items()}
        if held_out is not None and batch.kind in held_out.kinds:
            self.judges[HELD_OUT] = held_out
        _refuse_split_groups(self.judges, layout)
        remote = [judge for judge in self.judges.values() if judge.waits]
        whole_groups = any(judge.whole_groups for judge in remote)
        self.parts = parts_of(layout, micro_batch, whole_groups=whole_groups) if remote else [layout]
        self._threads = ThreadPoolExecutor(max(1, len(remote) * len(self.parts)))  # they wait, and bound their calls
        self._sampled: list[tuple[Layout, Rollout]] = []
        self._requests: list[RewardRequest] = []
        self._asked: dict[str, list[Future[Tensor]]] = {name: [] for name, judge in self.judges.items() if judge.waits}

    def __enter__(self) -> Scoring:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def add(self, part: Layout, rollout: Rollout) -> None:
        """Take the images of the next part; where someone waits for them, decode them and have them scored.

        Args:
            part: Which images they are: the next of ``parts``.
            rollout: Their finished latents.
        """
        if not self._asked:
            self._sampled.append((part, rollout))
            return
        request = request_of(self.batch, part, self.frozen, rollout)
        self._requests.append(request)
        for name, asked in self._asked.items():
            asked.append(self._threads.submit(scores_of, name, self.judges[name], request))

    def finish(self) -> Scores:
        """Score what is scored here, wait for the others, and gather the scores of all processes.

        Raises:
            ValueError: A reward returned nonsense, or can not score such pictures at all.
        """
        request = _joined(
            self._requests or [request_of(self.batch, part, self.frozen, rollout) for part, rollout in self._sampled]
        )
        columns = [
            torch.cat([future.result() for future in self._asked[name]])
            if name in self._asked
            else scores_of(name, judge, request)
            for name, judge in self.judges.items()
        ]
        values = gather_rows(torch.stack(columns, 1).to(self.frozen.device)).cpu()
        count = len(self.chosen)
        return Scores(
            names=list(self.chosen),
            weights=torch.tensor([entry.weight for entry in self.chosen.values()], dtype=torch.float64),
            rewards=values[:, :count],
            held_out=values[:, count] if HELD_OUT in self.judges else None,
            request=request,
        )


def request_of(batch: Batch, layout: Layout, frozen: FrozenPictures, rollout: Rollout) -> RewardRequest:
    """Return this process's pictures with the rows that they were made for."""
    chunk = 64  # pictures decoded at once
    pictures = torch.cat([frozen.decode(part) for part in rollout.latents.split(chunk)])
    groups = layout.group_of[layout.own]
    rows = groups.tolist()
    return RewardRequest(
        kind=batch.kind,
        pictures=pictures,
        prompts=[batch.prompts[row] for row in rows],
        groups=[batch.keys[row] for row in rows],
        meta=[batch.meta[row] for row in rows],
        sources=None if batch.references is None else _to_bytes(batch.references)[groups],
        targets=None if batch.pixels is None else _to_bytes(batch.pixels)[groups],
        readable=batch.weight.cpu()[groups] > 0,
    )


def _joined(requests: list[RewardRequest]) -> RewardRequest:
    """Return one request for the pictures of several."""
    parts: dict[str, Any] = {"kind": requests[0].kind}
    for name in (field.name for field in fields(RewardRequest) if field.name != "kind"):
        values = [getattr(request, name) for request in requests]
        if isinstance(values[0], Tensor):
            parts[name] = torch.cat(values)
        else:
            parts[name] = None if values[0] is None else [each for value in values for each in value]
    return RewardRequest(**parts)


def _refuse_split_groups(judges: Mapping[str, Reward], layout: Layout) -> None:
    own = layout.images // layout.world_size
    for name, judge in judges.items():
        if judge.whole_groups and own % layout.group_size:
            msg = (
                f"{name} compares the images of a group, but each of {layout.world_size} processes has {own} images, "
                f"no multiple of the {layout.group_size} of a group: change data.global_batch or data.group_size"
            )
            raise ValueError(msg)


def _to_bytes(pixels: Tensor) -> Tensor:
    """Pixels in [-1, 1] (B, 3, H, W) -> uint8 (B, H, W, 3) on the CPU."""
    return pixels.clamp(-1, 1).add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).cpu()
