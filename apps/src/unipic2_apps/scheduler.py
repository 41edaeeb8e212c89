"""Continuous batching: requests join and leave between denoising steps.

::

    scheduler = Scheduler(model, max_rows=8)
    scheduler.add("a", Request("a red circle"))
    while scheduler:
        for event in scheduler.step():  # requests may be added and cancelled between steps
            ...

Requests are admitted in the order in which they came, whatever their shape, as soon as a row is free: none overtakes
another. Rows of one group (size of the result, size of the reference) are one batch; groups take turns, step by step,
so that none waits for another to end. A row carries its own steps, position, guidance and generator: what comes out
does not depend on who runs beside it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from PIL import Image

from unipic2_dit import sampling
from unipic2_dit.sampling import DenoisingState
from unipic2_unified import Job, Request
from unipic2_unified.engine import Engine

__all__ = ["Done", "Event", "Failed", "Preview", "Scheduler", "Stepped"]

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Done(Generic[Key]):
    """A request's picture; the request has left."""

    key: Key
    picture: Image.Image


@dataclass(frozen=True)
class Preview(Generic[Key]):
    """What a request would become if it stopped here."""

    key: Key
    index: int
    """How many previews of the request there were before."""
    picture: Image.Image


@dataclass(frozen=True)
class Failed(Generic[Key]):
    """A request that could not be carried out; it has left."""

    key: Key
    error: Exception


@dataclass(frozen=True)
class Stepped:
    """A batch was taken one step further."""

    rows: int


Event = Done[Key] | Preview[Key] | Failed[Key] | Stepped


@dataclass(frozen=True)
class _Row(Generic[Key]):
    key: Key
    job: Job
    previews: tuple[int, ...]
    """Positions at which a preview is wanted."""


@dataclass
class _Batch(Generic[Key]):
    rows: list[_Row[Key]]
    state: DenoisingState


class Scheduler(Generic[Key]):
    """Takes requests to their pictures, a step of one batch at a time. One thread uses it.

    Args:
        model: What makes pictures.
        max_rows: The most requests that are under way at a time, over all groups; the others wait.

    Raises:
        ValueError: If there is no row at all.
    """

    def __init__(self, model: Engine, *, max_rows: int = 8) -> None:
        if max_rows < 1:
            msg = f"max_rows is {max_rows}: nothing would ever run. Allow at least 1."
            raise ValueError(msg)
        self.model = model
        self.max_rows = max_rows
        self._waiting: deque[_Row[Key]] = deque()
        self._batches: dict[object, _Batch[Key]] = {}  # in the order of their turns

    @property
    def running(self) -> int:
        """How many requests are under way."""
        return sum(len(batch.rows) for batch in self._batches.values())

    @property
    def waiting(self) -> int:
        """How many requests wait for a row."""
        return len(self._waiting)

    def __len__(self) -> int:
        return self.running + self.waiting

    def add(self, key: Key, request: Request, *, previews: int = 0) -> None:
        """Let a request wait for its turn.

        Args:
            key: What events call it.
            request: What to make.
            previews: How many previews are wanted on the way; each costs a step. There are fewer steps than that, so
                there may be fewer.

        Raises:
            NotCapableError: If the model can't do it.
            ValueError: If the request does not fit the checkpoint.
        """
        self.add_job(key, self.model.prepare(request), previews=previews)

    def add_job(self, key: Key, job: Job, *, previews: int = 0) -> None:
        """Let a prepared request wait for its turn; see ``add``."""
        self._waiting.append(_Row(key, job, _positions(job.request.steps, previews)))

    def cancel(self, key: Key) -> None:
        """Forget a request; its row is free before the next step. One that is over, or unknown, is no error."""
        self._waiting = deque(row for row in self._waiting if row.key != key)
        for group, batch in list(self._batches.items()):
            if any(row.key == key for row in batch.rows):
                self._keep(group, [index for index, row in enumerate(batch.rows) if row.key != key])

    def step(self) -> list[Event[Key]]:
        """Admit who fits, and take the batch whose turn it is one step further.

        Returns:
            What happened, in order. A request that fails costs the others nothing.
        """
        events = self._admit()
        if not self._batches:
            return events
        group = next(iter(self._batches))
        batch = self._batches.pop(group)
        self._batches[group] = batch  # the next turn is another's
        try:
            batch.state = self.model.step(batch.state)
        except Exception as error:  # such as too little memory: the scheduler goes on with the other batches
            del self._batches[group]
            return [*events, *(Failed(row.key, error) for row in batch.rows)]
        events.append(Stepped(len(batch.rows)))
        return [*events, *self._preview(batch), *self._finish(group, batch)]

    def _admit(self) -> list[Event[Key]]:
        arriving: dict[object, list[_Row[Key]]] = {}
        for _ in range(min(self.max_rows - self.running, self.waiting)):
            row = self._waiting.popleft()
            arriving.setdefault(row.job.group, []).append(row)
        return [event for group, rows in arriving.items() for event in self._start(group, rows)]

    def _start(self, group: object, rows: list[_Row[Key]]) -> list[Event[Key]]:
        try:
            state = self.model.start([row.job for row in rows])
        except Exception as error:  # whose fault it is shows when each is alone
            if len(rows) == 1:
                return [Failed(rows[0].key, error)]
            return [event for row in rows for event in self._start(group, [row])]
        if group in self._batches:
            batch = self._batches[group]
            batch.rows, batch.state = batch.rows + rows, sampling.cat([batch.state, state])
        else:
            self._batches[group] = _Batch(rows, state)
        return []

    def _preview(self, batch: _Batch[Key]) -> list[Event[Key]]:
        positions = batch.state.index.tolist()
        wanted = [index for index, row in enumerate(batch.rows) if positions[index] in row.previews]
        if not wanted:
            return []
        try:
            pictures = self.model.preview(sampling.select(batch.state, torch.tensor(wanted)))
        except Exception:  # a preview is a courtesy: what makes the picture itself fail will say so
            return []
        return [
            Preview(batch.rows[index].key, batch.rows[index].previews.index(positions[index]), picture)
            for index, picture in zip(wanted, pictures, strict=True)
        ]

    def _finish(self, group: object, batch: _Batch[Key]) -> list[Event[Key]]:
        done = batch.state.done
        if not bool(done.any()):
            return []
        ended = [batch.rows[index] for index in done.nonzero().squeeze(1).tolist()]
        latents = batch.state.latents[done.to(batch.state.latents.device)]
        self._keep(group, (~done).nonzero().squeeze(1).tolist())
        try:
            pictures = self.model.decode(latents)
        except Exception as error:
            return [Failed(row.key, error) for row in ended]
        return [Done(row.key, picture) for row, picture in zip(ended, pictures, strict=True)]

    def _keep(self, group: object, indices: Sequence[int]) -> None:
        """Let go of all other rows of a batch."""
        batch = self._batches[group]
        if not indices:
            del self._batches[group]
            return
        batch.rows = [batch.rows[index] for index in indices]
        batch.state = sampling.select(batch.state, torch.tensor(indices))


def _positions(steps: int, previews: int) -> tuple[int, ...]:
    """Return the positions, evenly spaced between the ends, at which previews are made."""
    wanted = {round(steps * (index + 1) / (previews + 1)) for index in range(previews)}
    return tuple(sorted(wanted & set(range(1, steps))))
