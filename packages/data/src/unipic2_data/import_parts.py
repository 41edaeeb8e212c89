"""The two passes of an import over the parts of its source: survey, and writing; each part is done once."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from unipic2_data.adapters.record import Adapter, Part, Record, Skipped
from unipic2_data.convert import Conversion, convert
from unipic2_data.errors import DataError
from unipic2_data.jobs import run_jobs, tick
from unipic2_data.parts import PartFolders, Placed
from unipic2_data.randomness import keyed_hash
from unipic2_data.sample import sample_to_tar

if TYPE_CHECKING:
    from pathlib import Path

    from unipic2_data.jobs import Progress

__all__ = ["PartWriter", "survey", "write_parts"]


def survey(
    adapter: Adapter, parts: list[tuple[int, Part]], work: Path, seed: int, workers: int, progress: Progress
) -> list[np.ndarray]:
    """Return the hashes of the groups of each part's samples; those of parts surveyed before are read."""
    folder = work / "survey"
    folder.mkdir(exist_ok=True)
    files = [folder / f"{number:06d}.npy" for number, _ in parts]
    missing = [part for part in parts if not files[part[0]].is_file()]
    with progress("survey", None) as bar:
        for (number, _), hashes in run_jobs(partial(_groups, adapter, seed), missing, workers, bar.update):
            temporary = files[number].with_suffix(".partial")
            with temporary.open("wb") as file:
                np.save(file, hashes)
            temporary.replace(files[number])
    return [np.load(file) for file in files]


def _groups(adapter: Adapter, seed: int, job: tuple[int, Part]) -> np.ndarray:
    """Return the hash of each sample's group."""
    hashes = []
    for found in adapter.read(job[1], pictures=False):
        tick()
        if isinstance(found, Record):
            hashes.append(_hash(seed, found.group))
    return np.array(hashes, np.uint64)


def _hash(seed: int, group: str) -> int:
    return int.from_bytes(keyed_hash(seed, "validation", group)[:8], "big")


def write_parts(
    write: PartWriter,
    parts: list[tuple[int, Part]],
    groups: list[np.ndarray],
    validation_fraction: float,
    workers: int,
    progress: Progress,
) -> None:
    """Write the parts that are not written yet.

    The groups with the smallest hashes are for validation. Should none of them be usable, more are chosen, one by one,
    and the part that has it is written again.
    """
    order = np.unique(np.concatenate(groups)) if groups else np.array([], np.uint64)
    wanted = round(validation_fraction * len(order))
    wanted = max(wanted, 1) if validation_fraction and len(order) > 1 else wanted
    total = sum(map(len, groups))
    while True:
        write.limit = int(order[wanted - 1]) if wanted else -1
        todo = []
        for number, part in parts:
            chosen = int(np.sum(groups[number] <= order[wanted - 1])) if wanted else 0
            if (write.folders.finished(number) or {}).get("validation") != chosen:
                todo.append((number, part, chosen))
        with progress("import", total, total - sum(len(groups[number]) for number, *_ in todo)) as bar:
            for _ in run_jobs(write, todo, workers, bar.update):
                pass
        shards = write.folders.shards(number for number, _ in parts)
        splits = {shard.split for part in shards for shard in part}
        if not wanted or splits != {"train"} or wanted + 1 >= len(order):
            return
        wanted += 1


class PartWriter:
    """Writes the shards of a part. Pickled to the processes that write.

    Args:
        adapter: The source.
        settings: What applies to every record.
        seed: Seed of the choice of validation groups.
        folders: Where the shards go.
    """

    def __init__(self, adapter: Adapter, settings: Conversion, seed: int, folders: PartFolders) -> None:
        self._adapter, self._settings, self._seed, self.folders = adapter, settings, seed, folders
        self.limit = -1  # groups with a hash up to here are for validation

    def __call__(self, job: tuple[int, Part, int]) -> None:
        """Write the shards of a part: its number, what it is, and how many of its samples are for validation."""
        number, part, chosen = job
        self.folders.write(number, map(self._place, self._adapter.read(part)), validation=chosen)

    def _place(self, found: Record | Skipped) -> Placed | Skipped:
        if isinstance(found, Skipped):
            return found
        tick()
        try:
            sample = convert(found, self._settings)
            split = "validation" if _hash(self._seed, found.group) <= self.limit else "train"
            return Placed(split, sample.kind, sample_to_tar(sample))
        except DataError as error:
            return Skipped(found.name, str(error))
