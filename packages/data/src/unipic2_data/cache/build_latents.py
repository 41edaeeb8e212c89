"""Encode the pictures of a data set into a cache, each process its own parts (see `portion`).

Legend: B pictures, H/W height and width in pixels, C latent channels, h/w latent height/width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from unipic2_data.assemble import make_batch
from unipic2_data.cache import latents
from unipic2_data.cache.portion import Portion, Report, finished_records
from unipic2_data.cache.records import RecordReader, RecordWriter
from unipic2_data.errors import DataError
from unipic2_data.jobs import Progress, silent
from unipic2_data.randomness import keyed_hash
from unipic2_data.store import decode
from unipic2_data.transform import Transform

if TYPE_CHECKING:
    from pathlib import Path

    from unipic2_data.batch import Batch
    from unipic2_data.sample import Sample

__all__ = ["LatentBuild", "PictureEncoder"]

PART_SAMPLES = 1024
_HAVE_TARGETS = frozenset({"t2i", "edit"})


@dataclass(frozen=True)
class PictureEncoder:
    """Pixels (B, 3, H, W) in [-1, 1] to mean and log-variance (B, 2, C, h, w), and a hash of what decides them."""

    identity: str
    encode: Callable[[Tensor], Tensor]


class LatentBuild:
    """Latents of the pictures of a data set.

    Args:
        folder: Where they go.
        portions: Whose pictures, at which sizes.
        encoder: The autoencoder.
        dtype: ``float32`` or ``bfloat16``.
        flips: Encode the mirrored pictures too: the latents of a mirrored picture are not the mirrored latents.
    """

    what = "latents"

    def __init__(
        self,
        folder: Path,
        portions: Sequence[Portion],
        encoder: PictureEncoder,
        dtype: Literal["float32", "bfloat16"] = "bfloat16",
        *,
        flips: bool = False,
    ) -> None:
        self._folder, self._portions = folder, [portion for portion in portions if portion.kind in _HAVE_TARGETS]
        self._encoder, self._dtype = encoder, dtype
        self._orientations = (False, True) if flips else (False,)
        self._header = {"encoder": encoder.identity, "transform": Transform.identity, "dtype": dtype}
        self.is_complete = False

    def estimate(self) -> tuple[int, float]:
        """Return the number of records and about how many bytes they take, from one sample of each portion."""
        count, size = 0, 0.0
        for portion in self._portions:
            ready = None
            for index in portion.indices:  # the first that is sound
                if ready := self._read(portion, [int(index)], None, Report(self.what)):
                    break
            records = self._records(ready or [], portion)
            count += len(records) * len(portion.indices)
            size += sum(len(data) for _, data, _ in records) * len(portion.indices)
        return count, size

    def run(self, rank: int = 0, world_size: int = 1, batch_size: int = 8, progress: Progress = silent) -> Report:
        """Write this rank's parts, and the index if all are there now (`is_complete` then).

        Raises:
            DataError: If the folder holds latents of another encoder, transform or dtype.
        """
        writer = RecordWriter(self._folder, self._header, self.what)
        known = finished_records(self._folder, self.what)
        report = Report(self.what)
        parts = list(self._parts())
        own = [part for part in parts[rank::world_size] if not writer.has(part[0])]
        with progress("samples", sum(len(portion.indices) for _, portion in own)) as bar:
            for name, portion in own:
                with writer.part(name) as part:
                    for start in range(0, len(portion.indices), batch_size):
                        chunk = [int(index) for index in portion.indices[start : start + batch_size]]
                        for key, data, values in self._records(self._read(portion, chunk, known, report), portion):
                            part.add(key, data)
                            report.error.add(values, latents.latents_from_bytes(data, self._dtype))
                            report.written += 1
                        bar.update(len(chunk))
        self.is_complete = writer.finish(name for name, _ in parts)
        return report

    def _parts(self) -> Iterator[tuple[str, Portion]]:
        """Yield parts and their names, which say what is in them."""
        digests: dict[int, str] = {}
        for portion in self._portions:
            height, width = portion.size
            digest = digests.setdefault(id(portion.store.manifest), portion.store.manifest.digest)
            for start in range(0, len(portion.indices), PART_SAMPLES):
                indices = np.asarray(portion.indices[start : start + PART_SAMPLES], np.int64)
                request = (digest, portion.store.split, indices.tobytes().hex(), len(self._orientations))
                name = f"{portion.kind}-{height}x{width}-{keyed_hash(*request).hex()[:12]}"
                yield name, replace(portion, indices=indices)

    def _read(
        self, portion: Portion, indices: Sequence[int], known: RecordReader | None, report: Report
    ) -> list[tuple[Sample, Batch]]:
        """Return samples that are not known yet, with their pictures as training would see them."""
        found = []
        for index in indices:
            try:
                sample = portion.store.read(portion.kind, index)
                if known is not None and all(key in known for key in self._keys(sample, portion.size)):
                    report.kept += len(self._keys(sample, portion.size))
                    continue
                decoded = decode(sample, str(portion.store.manifest.root), portion.size)
                found.append((sample, make_batch([decoded], [0], Transform(portion.size))))
            except DataError as error:
                report.skipped.append(str(error))
        return found

    def _records(
        self, ready: Sequence[tuple[Sample, Batch]], portion: Portion
    ) -> list[tuple[tuple[int, int], bytes, Tensor]]:
        """Return key, record and values of all pictures of some samples."""
        if not ready:
            return []
        roles = [
            torch.cat(
                [pixels for _, batch in ready if (pixels := getattr(batch, name)) is not None] or [torch.empty(0)]
            )
            for name in ("pixels", "references")
        ]
        encoded = [
            self._encoder.encode(pixels.flip(-1) if flipped else pixels).float().cpu()
            for flipped in self._orientations
            for pixels in roles
            if len(pixels)
        ]
        return [
            (key, latents.latents_to_bytes(moments[row], self._dtype), moments[row])
            for row, (sample, _) in enumerate(ready)
            for key, moments in zip(self._keys(sample, portion.size), encoded, strict=True)
        ]

    def _keys(self, sample: Sample, size: tuple[int, int]) -> list[tuple[int, int]]:
        """Return the keys of all pictures, plain and then mirrored."""
        return [key for flipped in self._orientations for key in latents.keys_of(sample, size, flipped=flipped)]
