"""The two passes of an import over the parts of its source: survey, and writing; each part is done once."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from unipic2_data.adapters.record import Adapter, Part, Record, Skipped
from unipic2_data.convert import Conversion, convert
from unipic2_data.errors import DataError
from unipic2_data.jobs import run_jobs, tick
from unipic2_data.manifest import Shard, ShardWriter
from unipic2_data.randomness import keyed_hash
from unipic2_data.sample import sample_to_tar
from unipic2_data.workspace import write_json

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

    from unipic2_data.jobs import Progress

__all__ = ["PartWriter", "survey", "write_parts"]

_SHARD_BYTES = 256 * 2**20
_DONE = "done.json"


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
) -> list[dict[str, Any]]:
    """Write the parts that are not written yet, and return what became of each.

    The groups with the smallest hashes are for validation. Should none of them be usable, more are chosen, one by one,
    and the part that has it is written again.
    """
    order = np.unique(np.concatenate(groups)) if groups else np.array([], np.uint64)
    wanted = round(validation_fraction * len(order))
    wanted = max(wanted, 1) if validation_fraction and len(order) > 1 else wanted
    while True:
        limits = {number: int(np.sum(groups[number] <= order[wanted - 1])) if wanted else 0 for number, _ in parts}
        write.limit = int(order[wanted - 1]) if wanted else -1
        results = {number: write.finished(number) for number, _ in parts}
        todo = [part for part in parts if (results[part[0]] or {}).get("validation") != limits[part[0]]]
        before = sum(len(groups[number]) for number, _ in parts) - sum(len(groups[number]) for number, _ in todo)
        with progress("import", sum(map(len, groups)), before) as bar:
            for (number, _), result in run_jobs(write, todo, workers, bar.update):
                write_json(write.folder(number) / _DONE, result | {"validation": limits[number]})
        done = [write.finished(number) or {} for number, _ in parts]
        splits = {shard["split"] for result in done for shard in result["shards"]}
        if not wanted or splits != {"train"} or wanted + 1 >= len(order):
            return done
        wanted += 1


class PartWriter:
    """Writes the shards of a part into a folder of its own. Pickled to the processes that write."""

    def __init__(self, adapter: Adapter, settings: Conversion, seed: int, work: Path, shard_samples: int) -> None:
        self._adapter, self._settings, self._seed, self._work = adapter, settings, seed, work
        self._shard_samples = shard_samples
        self.limit = -1  # groups with a hash up to here are for validation

    def folder(self, number: int) -> Path:
        """Return the folder of a part."""
        return self._work / "parts" / f"{number:06d}"

    def finished(self, number: int) -> dict[str, Any] | None:
        """Return what became of a part, or None if it is not finished."""
        file = self.folder(number) / _DONE
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    def __call__(self, job: tuple[int, Part]) -> dict[str, Any]:
        """Write the shards of a part, and return them and what was skipped."""
        number, part = job
        folder = self.folder(number)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        skipped = []
        with _Writers(folder, self._shard_samples) as writers:
            for found in self._adapter.read(part):
                try:
                    if isinstance(found, Skipped):
                        raise DataError(found.reason)
                    sample = convert(found, self._settings)
                    split = "validation" if _hash(self._seed, found.group) <= self.limit else "train"
                    writers.add(split, sample.kind, sample_to_tar(sample))
                except DataError as error:
                    skipped.append((found.name, str(error)))
                if isinstance(found, Record):
                    tick()
        return {"shards": [asdict(shard) for shard in writers.shards], "skipped": skipped}


class _Writers:
    """One open shard for each split and kind; a full one is closed and the next begun."""

    def __init__(self, root: Path, shard_samples: int) -> None:
        self._root, self._shard_samples = root, shard_samples
        self._stack = ExitStack()
        self._writers: dict[tuple[str, str], list[ShardWriter]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)  # type: ignore[arg-type]

    @property
    def shards(self) -> list[Shard]:
        """The finished shards: by split and kind, then in order."""
        return [writer.close() for _, writers in sorted(self._writers.items()) for writer in writers]

    def add(self, split: str, kind: str, members: bytes) -> None:
        """Append a sample to its split's shard."""
        writers = self._writers.setdefault((split, kind), [])
        if not writers or len(writers[-1]) >= self._shard_samples or writers[-1].size >= _SHARD_BYTES:
            if writers:
                writers[-1].close()
            writer = ShardWriter(self._root, f"{split}-{kind}-{len(writers):05d}.tar", split, kind)
            writers.append(self._stack.enter_context(writer))
        writers[-1].append(members)
