"""What planning needs to know of every sample, without opening a shard: size, licence, scores.

The table is one file beside the manifest, ``samples.npz``: a row for each sample, in the order of the manifest's
shards. Commands that write a data set write it too; for others it is made by one look at the JSON of every sample.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from unipic2_data.errors import DataError
from unipic2_data.facts import named_size, scores_of
from unipic2_data.images import picture_size
from unipic2_data.jobs import run_jobs, silent, tick
from unipic2_data.sample import document_from_tar, sample_from_tar
from unipic2_data.storage import LocalFiles

if TYPE_CHECKING:
    from unipic2_data.jobs import Progress
    from unipic2_data.manifest import Manifest, Shard
    from unipic2_data.storage import Files

__all__ = ["TABLE", "SampleTable"]

TABLE = "samples.npz"
_LARGEST = 2**16 - 1
_FIRST_READ = 2**14  # bytes that hold the JSON of nearly every sample
_UNREADABLE = (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError)


@dataclass
class SampleTable:
    """Columns with a row for each of N samples.

    Attributes:
        sizes: Height and width of the picture that counts (the target; the first reference if there is none), uint16
            (N, 2); 0 if there is none, or it is unreadable.
        licences: Names of licences.
        licence: Number of each sample's licence in `licences`, int16 (N,); -1 = not said.
        scores: Name of a score -> float32 (N,); NaN where a sample has none.
    """

    sizes: np.ndarray
    licences: list[str] = field(default_factory=list)
    licence: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int16))
    scores: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.sizes)

    def rows(self, chosen: np.ndarray | slice) -> SampleTable:
        """Return the table of some samples."""
        scores = {name: column[chosen] for name, column in self.scores.items()}
        return SampleTable(self.sizes[chosen], self.licences, self.licence[chosen], scores)

    @staticmethod
    def build(manifest: Manifest, *, workers: int = 1, progress: Progress = silent) -> SampleTable:
        """Look at the JSON of every sample of a data set on this machine.

        Args:
            manifest: The data set.
            workers: Processes.
            progress: Makes progress bars.

        Raises:
            DataError: If a shard or its index is not there.
        """
        parts: dict[int, _Part] = {}
        jobs = list(enumerate(manifest.shards))
        with progress("table", sum(shard.samples for shard in manifest.shards)) as bar:
            for (number, _), part in run_jobs(partial(_shard_rows, manifest), jobs, workers, bar.update):
                parts[number] = part
        ordered = [parts[number] for number, _ in jobs]
        sizes = np.concatenate([part.sizes for part in ordered] or [np.zeros((0, 2), np.uint16)])
        licences = sorted({name for part in ordered for name in part.licences if name is not None})
        codes: dict[str | None, int] = {name: code for code, name in enumerate(licences)}
        licence = np.array([codes.get(name, -1) for part in ordered for name in part.licences], np.int16)
        starts = np.cumsum([0, *(len(part.sizes) for part in ordered)])
        scores: dict[str, np.ndarray] = {}
        for start, part in zip(starts.tolist(), ordered, strict=False):
            for name, found in part.scores.items():
                column = scores.setdefault(name, np.full(len(sizes), np.nan, np.float32))
                for row, value in found:
                    column[start + row] = value
        return SampleTable(sizes, licences, licence, dict(sorted(scores.items())))

    def save(self, manifest: Manifest) -> None:
        """Write the table beside a manifest, under a temporary name and then renamed."""
        path = manifest.root / TABLE
        temporary = path.with_name(f".{TABLE}.{os.getpid()}.partial")
        columns: dict[str, Any] = {f"score {name}": column for name, column in self.scores.items()}
        head = json.dumps({"manifest": manifest.digest, "licences": self.licences}).encode()
        with temporary.open("wb") as file:
            np.savez(file, head=np.frombuffer(head, np.uint8), sizes=self.sizes, licence=self.licence, **columns)
        temporary.replace(path)

    @staticmethod
    def load(manifest: Manifest, files: Files) -> SampleTable | None:
        """Return the table beside a manifest, or None if there is none, or that of another manifest."""
        try:
            with np.load(io.BytesIO(files.whole(TABLE)), allow_pickle=False) as stored:
                head = json.loads(stored["head"].tobytes())
                if head["manifest"] != manifest.digest:
                    return None
                names = [name for name in stored.files if name.startswith("score ")]
                scores = {name.removeprefix("score "): stored[name] for name in names}
                table = SampleTable(stored["sizes"], head["licences"], stored["licence"], scores)
        except (DataError, *_UNREADABLE):
            return None
        expected = sum(shard.samples for shard in manifest.shards)
        whole = all(len(column) == expected for column in (table.sizes, table.licence, *scores.values()))
        return table if whole else None


@dataclass
class _Part:
    """Rows of one shard."""

    sizes: np.ndarray
    licences: list[str | None] = field(default_factory=list)
    scores: dict[str, list[tuple[int, float]]] = field(default_factory=dict)


def _shard_rows(manifest: Manifest, job: tuple[int, Shard]) -> _Part:
    _, shard = job
    files = LocalFiles(manifest.root)
    part = _Part(np.zeros((shard.samples, 2), np.uint16))
    for row, (start, length) in enumerate(manifest.offsets(shard).tolist()):
        tick()
        meta, size = _look(files, shard.path, start, length)
        part.sizes[row] = np.clip(size, 0, _LARGEST)
        licence = meta.get("licence")
        part.licences.append(licence if isinstance(licence, str) else None)
        for name, value in scores_of(meta).items():
            part.scores.setdefault(name, []).append((row, float(value)))
    return part


def _look(files: LocalFiles, path: str, start: int, length: int) -> tuple[dict[str, Any], tuple[int, int]]:
    """Return JSON and size of a sample; pictures are only read if the JSON does not say how large they are."""
    found = document_from_tar(files.part(path, start, min(length, _FIRST_READ)))
    if found and (size := _said(found[1])):
        return found[1], size
    try:
        sample = sample_from_tar(files.part(path, start, length), path)
        if size := _said(sample.meta):
            return sample.meta, size
        image = sample.target or next(iter(sample.references), None)
        return sample.meta, picture_size(image.data) if image else (0, 0)
    except DataError:  # it keeps its place in training with weight 0, unless sizes are asked for
        return {}, (0, 0)


def _said(meta: dict[str, Any]) -> tuple[int, int] | None:
    """Return the size that the JSON names: of the target, else of the first reference."""
    references = meta.get("reference_sizes")
    sizes = map(named_size, (meta, *(references if isinstance(references, list) else [])[:1]))
    return next(filter(None, sizes), None)
