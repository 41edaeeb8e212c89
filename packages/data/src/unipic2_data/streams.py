"""Tars without a manifest, read from front to back by as many readers as a run has worker processes.

The shards of a stream have an endless order, epoch by epoch, keyed by (seed, epoch). Readers are dealt its shards in
turn. What has been read is a `StreamState`: which shards are still to be read, whoever reads them. A run goes on from
it with any number of readers. **The state is exact to the shard only**: a shard that was being read when the state was
taken is read again from its front, so up to one shard's samples for each reader are seen twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from unipic2_data.errors import DataError
from unipic2_data.quarantine import Fault
from unipic2_data.randomness import keyed_rng
from unipic2_data.storage import open_forward
from unipic2_data.tar_stream import tar_samples

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from unipic2_data.patience import Patience
    from unipic2_data.sample import Sample
    from unipic2_data.sources import StreamSource

__all__ = ["StreamProgress", "StreamReader", "StreamState"]


@dataclass(frozen=True)
class StreamProgress:
    """How many shards of each stream a reader has finished since the run was started.

    Attributes:
        reader: Number of the reader among those of its rank.
        finished: Number of the source -> shards.
    """

    reader: int
    finished: dict[int, int]


@dataclass(frozen=True)
class StreamState:
    """Places in the endless order of a stream's shards that are still to be read.

    Attributes:
        left: Places before `following` that are not finished.
        following: From here on nothing has been read.
    """

    left: tuple[int, ...] = ()
    following: int = 0

    def place(self, turn: int) -> int:
        """Return the place in the order that is dealt in a turn (from 0)."""
        return self.left[turn] if turn < len(self.left) else self.following + turn - len(self.left)

    def after(self, finished: Sequence[int]) -> StreamState:
        """Return the state after reader r has finished the first ``finished[r]`` of the shards dealt to it."""
        readers = len(finished)
        turns = max(max(finished) * readers, len(self.left))
        left = [self.place(turn) for turn in range(turns) if turn // readers >= finished[turn % readers]]
        return StreamState(tuple(left), self.place(turns))

    def to_json(self) -> dict[str, Any]:
        """Return the state as plain values."""
        return {"left": list(self.left), "following": self.following}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> StreamState:
        """Return what `to_json` returned."""
        return StreamState(tuple(values["left"]), values["following"])


@dataclass
class StreamReader:
    """One reader of a stream.

    Attributes:
        source: The stream.
        seed: Seed of the order of shards.
        state: What is still to be read.
        number: Number of this reader among all.
        readers: Number of all.
        patience: How patiently servers and commands are tried.
        finished: Shards that were read to their end.
    """

    source: StreamSource
    seed: int
    state: StreamState
    number: int
    readers: int
    patience: Patience
    finished: int = 0
    _samples: Iterator[tuple[Sample | Fault, bool]] | None = field(default=None, repr=False)

    def next(self) -> Sample | Fault:
        """Return the next sample, or what is wrong with it."""
        if self._samples is None:
            self._samples = self._read()
        found, is_last = next(self._samples)
        self.finished += is_last
        return found

    def _read(self) -> Iterator[tuple[Sample | Fault, bool]]:
        """Yield samples, endlessly, and whether each is the last of its shard."""
        turn = self.number
        while True:
            previous = None
            for found in self._shard(self.state.place(turn)):
                if previous is not None:
                    yield previous, False
                previous = found
            if previous is None:
                previous = Fault("empty shard", f"{self.source.name}: a shard holds no samples.")
            yield previous, True
            turn += self.readers

    def _shard(self, place: int) -> Iterator[Sample | Fault]:
        epoch, number = divmod(place, len(self.source.shards))
        order = keyed_rng(self.seed, self.source.name, epoch, "shards").permutation(len(self.source.shards))
        name = self.source.shards[order[number]]
        try:
            with open_forward(name, self.patience) as file:
                for found in tar_samples(file.read, name):
                    if isinstance(found, Fault) or found.kind == self.source.kind:
                        yield found
                    else:
                        what = f"{name}: sample {found.key} is of kind {found.kind}, expected {self.source.kind}."
                        yield Fault("wrong kind", what)
        except DataError as error:
            yield Fault("shard cannot be read", str(error))
