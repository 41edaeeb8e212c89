"""Shards that are written in parts, each part once and in any process, then put together into a data set."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from unipic2_data.adapters.record import Skipped
from unipic2_data.errors import DataError
from unipic2_data.manifest import Manifest, Shard, ShardWriter, package_versions
from unipic2_data.table import SampleTable
from unipic2_data.workspace import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from typing import Self

__all__ = ["PartFolders", "Placed", "WriteReport", "collect", "save_data"]

SHARD_SAMPLES = 4096
SHARD_BYTES = 256 * 2**20
_MANY_SAMPLES = 100_000
_DONE = "done.json"
_SHOWN = 5  # names of skipped samples that the report shows for each reason


@dataclass(frozen=True, slots=True)
class Placed:
    """A sample for a split, as the bytes of its tar members."""

    split: str
    kind: str
    members: bytes


@dataclass
class WriteReport:
    """What became of every sample: the data set, and those left out, by reason."""

    manifest: Manifest
    skipped: list[Skipped] = field(default_factory=list)

    def __str__(self) -> str:
        written = sum(shard.samples for shard in self.manifest.shards)
        splits = "; ".join(
            f"{split}: " + ", ".join(f"{n} {kind}" for kind, n in kinds.items())
            for split, kinds in self.manifest.counts.items()
        )
        lines = [f"read {written + len(self.skipped)} samples, wrote {written} ({splits}), skipped {len(self.skipped)}"]
        for reason, count in Counter(skipped.reason for skipped in self.skipped).most_common():
            names = [skipped.name for skipped in self.skipped if skipped.reason == reason]
            more = f", and {count - _SHOWN} more in skipped.jsonl" if count > _SHOWN else ""
            lines.append(f"  {count} x {reason}: {', '.join(names[:_SHOWN])}{more}")
        return "\n".join(lines)


class PartFolders:
    """A folder for each part, with its shards and, once it is finished, a note of what became of it.

    Args:
        work: Folder of the work; its ``data`` becomes the data set.
    """

    def __init__(self, work: Path) -> None:
        self._work = work

    def finished(self, number: int) -> dict[str, Any] | None:
        """Return what became of a part, or None if it is not finished."""
        return read_json(self._folder(number) / _DONE)

    def write(self, number: int, samples: Iterable[Placed | Skipped], **notes: Any) -> None:
        """Write the shards of a part, and note that it is finished, with what else there is to note."""
        folder = self._folder(number)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        skipped = []
        with _Writers(folder) as writers:
            for sample in samples:
                if isinstance(sample, Skipped):
                    skipped.append((sample.name, sample.reason))
                else:
                    writers.add(sample)
        shards = [asdict(shard) for shard in writers.shards]
        write_json(folder / _DONE, {"shards": shards, "skipped": skipped} | notes)

    def shards(self, numbers: Iterable[int]) -> list[list[Shard]]:
        """Return the shards of finished parts, paths relative to the folder of the work."""
        found = []
        for number in numbers:
            prefix = self._folder(number).relative_to(self._work).as_posix()
            ones = [Shard(**one) for one in (self.finished(number) or {"shards": []})["shards"]]
            found.append([replace(one, path=f"{prefix}/{one.path}", index=f"{prefix}/{one.index}") for one in ones])
        return found

    def skipped(self, numbers: Iterable[int]) -> list[Skipped]:
        """Return what finished parts left out."""
        return [Skipped(*one) for number in numbers for one in (self.finished(number) or {"skipped": []})["skipped"]]

    def _folder(self, number: int) -> Path:
        return self._work / "parts" / f"{number:06d}"


def collect(work: Path, shards: Iterable[Iterable[Shard]]) -> list[Shard]:
    """Move the shards of all parts to ``data``, numbered through; small neighbours become one shard.

    Args:
        work: Folder of the work.
        shards: Shards of each part, in order; paths relative to it.

    Returns:
        The shards of the data set, by split and kind. Done again, it does the same.
    """
    root = work / "data"
    places: dict[tuple[str, str], list[Shard]] = {}
    for part in shards:
        for shard in part:
            places.setdefault((shard.split, shard.kind), []).append(shard)
    collected = []
    for (split, kind), ones in sorted(places.items()):
        for number, group in enumerate(_groups(ones)):
            stem = f"{split}/{kind}-{number:05d}"
            if len(group) > 1:
                collected.append(_join(work, root, f"{stem}.tar", group))
                continue
            moved = replace(group[0], path=f"{stem}.tar", index=f"{stem}.idx.npy")
            for old, new in ((group[0].path, moved.path), (group[0].index, moved.index)):
                (root / new).parent.mkdir(parents=True, exist_ok=True)
                if (work / old).exists():  # else it was moved before an interruption
                    (work / old).replace(root / new)
            collected.append(moved)
    return collected


def save_data(
    root: Path,
    shards: list[Shard],
    skipped: list[Skipped],
    request: dict[str, Any],
    needed: str | None = None,
    workers: int = 1,
) -> None:
    """Write the manifest of a data set, its table of samples, and the list of what was left out.

    Args:
        root: Its folder.
        shards: Its shards.
        skipped: What was left out; written to ``skipped.jsonl``.
        request: What was asked for, for the manifest.
        needed: Split that must not be empty.
        workers: Processes that look at the samples for the table, if there are many.

    Raises:
        DataError: If it is empty.
    """
    reasons = Counter(one.reason for one in skipped)
    if not any(needed in {None, shard.split} for shard in shards):
        why = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common()) or "no pictures found"
        msg = f"nothing to train on in {request['source']}: {why}.{_mend(reasons)}"
        raise DataError(msg)
    if skipped:
        lines = [json.dumps({"name": one.name, "reason": one.reason}, ensure_ascii=False) for one in skipped]
        (root / "skipped.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    generator = request | {"skipped": dict(sorted(reasons.items()))}
    manifest = Manifest(root, shards, generator, package_versions("numpy", "pillow"))
    manifest.save()
    many = sum(shard.samples for shard in shards) > _MANY_SAMPLES  # else starting processes takes longer
    SampleTable.build(manifest, workers=workers if many else 1).save(manifest)


def _mend(reasons: Counter[str]) -> str:
    """Return what to try if nothing of a source could be used, as far as the reasons tell."""
    if not reasons:
        return " Name its --format if it holds something else (tars, Parquet, rows, ...)."
    named_otherwise = all("fields missing" in reason for reason in reasons)
    return " Say with --fields which field holds what, or name a --preset." if named_otherwise else ""


def _groups(shards: list[Shard]) -> Iterator[list[Shard]]:
    """Yield runs of shards that fit into one."""
    group: list[Shard] = []
    for shard in shards:
        total = [*group, shard]
        full = sum(one.samples for one in total) > SHARD_SAMPLES or sum(one.bytes for one in total) > SHARD_BYTES
        if group and full:
            yield group
            group = []
        group.append(shard)
    if group:
        yield group


def _join(work: Path, root: Path, path: str, shards: list[Shard]) -> Shard:
    with ShardWriter(root, path, shards[0].split, shards[0].kind) as writer:
        for shard in shards:
            data = (work / shard.path).read_bytes()
            for start, length in np.load(work / shard.index).tolist():
                writer.append(data[start : start + length])
    return writer.close()


class _Writers:
    """One open shard for each split and kind; a full one is closed and the next begun."""

    def __init__(self, root: Path) -> None:
        self._root = root
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

    def add(self, sample: Placed) -> None:
        """Append a sample to its split's shard."""
        writers = self._writers.setdefault((sample.split, sample.kind), [])
        if not writers or len(writers[-1]) >= SHARD_SAMPLES or writers[-1].size >= SHARD_BYTES:
            if writers:
                writers[-1].close()
            path = f"{sample.split}-{sample.kind}-{len(writers):05d}.tar"
            writers.append(self._stack.enter_context(ShardWriter(self._root, path, sample.split, sample.kind)))
        writers[-1].append(sample.members)
