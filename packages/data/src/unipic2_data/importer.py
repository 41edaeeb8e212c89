"""Import a person's own pictures: read with an adapter, convert, split, write shards, report what was left out."""

from __future__ import annotations

import json
import re
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from unipic2_data.adapters.folder import read_folder
from unipic2_data.adapters.jsonl import read_jsonl
from unipic2_data.adapters.record import Record, Skipped
from unipic2_data.errors import DataError
from unipic2_data.images import decode_rgb, plain_bytes
from unipic2_data.manifest import Manifest, Shard, ShardWriter, new_folder, package_versions
from unipic2_data.randomness import keyed_hash
from unipic2_data.sample import Image, Sample
from unipic2_data.transform import same_aspect

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from typing import Self

__all__ = ["ImportReport", "import_source", "read_source"]

_SHARD_SAMPLES = 4096
_SHARD_BYTES = 256 * 2**20
_SHOWN = 5  # names of skipped samples that the report shows for each reason


@dataclass
class ImportReport:
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


def read_source(source: Path, image_root: Path | None = None) -> Iterator[Record | Skipped]:
    """Yield the records of a source, by what it is.

    Args:
        source: A file of JSON lines (edits), or a folder: pictures with captions, and every ``*.jsonl`` directly in it.
        image_root: Folder that names in JSON lines are relative to; default: the folder of the file.

    Raises:
        DataError: If the source is neither.
    """
    if source.is_file() and source.suffix in {".jsonl", ".json"}:
        yield from read_jsonl(source, image_root or source.parent)
    elif source.is_dir():
        used: set[Path] = set()
        for file in sorted(source.glob("*.jsonl")):
            for record in read_jsonl(file, image_root or source):
                if isinstance(record, Record):
                    used.update(path.resolve() for path in (record.target, *record.references))
                yield record
        yield from read_folder(source, frozenset(used))
    else:
        msg = f"cannot import {source}: expected a folder of pictures and captions, or a file of JSON lines (.jsonl)."
        raise DataError(msg)


def import_source(
    source: Path,
    out: Path,
    *,
    image_root: Path | None = None,
    validation_fraction: float = 0.05,
    licence: str | None = None,
    seed: int = 0,
) -> ImportReport:
    """Write a data set from a source; all or nothing.

    Pictures keep their bytes if they are plain RGB JPEG or PNG; all others become upright RGB PNG. Samples that cannot
    be used are skipped, counted by reason and listed in ``skipped.jsonl``.

    Args:
        source: See `read_source`.
        out: Folder to make; must not exist or be empty.
        image_root: See `read_source`.
        validation_fraction: Share of the targets that go to the validation split, chosen by hash; at least one if it is
            above 0 and there are two.
        licence: Licence of samples that name none themselves.
        seed: Seed of the choice.

    Raises:
        DataError: If the request makes no sense, or no sample is usable.
    """
    if not 0 <= validation_fraction < 1:
        msg = f"validation fraction must be at least 0 and below 1, got {validation_fraction}."
        raise DataError(msg)
    records, skipped = [], []
    for found in read_source(source, image_root):
        if isinstance(found, Record):
            records.append(found)
        else:
            skipped.append(found)
    groups: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda record: keyed_hash(seed, "validation", record.group)):
        groups.setdefault(record.group, []).append(record)
    wanted = round(validation_fraction * len(groups))
    wanted = max(wanted, 1) if validation_fraction and len(groups) > 1 else wanted
    defaults = {"source": f"import:{source.name}"} | ({"licence": licence} if licence else {})
    with new_folder(out) as folder:
        with _Writers(folder) as writers:
            filled = 0  # groups in the validation split so far
            for group in groups.values():
                samples = list(_convert(group, defaults, skipped))
                split = "validation" if filled < wanted else "train"
                filled += bool(samples)
                for sample in samples:
                    writers.add(split, sample)
        shards = writers.shards
        if not any(shard.split == "train" for shard in shards):
            reasons = Counter(one.reason for one in skipped)
            why = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common()) or "no pictures found"
            msg = f"nothing to train on in {source}: {why}."
            raise DataError(msg)
        settings = {
            "command": "import",
            "source": source.name,
            "validation_fraction": validation_fraction,
            "seed": seed,
            "skipped": dict(sorted(Counter(one.reason for one in skipped).items())),
        }
        Manifest(folder, shards, settings, package_versions("numpy", "pillow")).save()
        if skipped:
            lines = [json.dumps({"name": one.name, "reason": one.reason}, ensure_ascii=False) for one in skipped]
            (folder / "skipped.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return ImportReport(Manifest.load(out), skipped)


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

    def add(self, split: str, sample: Sample) -> None:
        """Append a sample to its split's shard."""
        writers = self._writers.setdefault((split, sample.kind), [])
        if not writers or len(writers[-1]) >= _SHARD_SAMPLES or writers[-1].size >= _SHARD_BYTES:
            if writers:
                writers[-1].close()
            path = f"{split}/{sample.kind}-{len(writers):05d}.tar"
            writers.append(self._stack.enter_context(ShardWriter(self._root, path, split, sample.kind)))
        writers[-1].add(sample)


def _convert(records: Iterable[Record], defaults: dict[str, str], skipped: list[Skipped]) -> Iterator[Sample]:
    for record in records:
        try:
            images = [_read_image(path) for path in (record.target, *record.references)]
        except DataError as error:
            skipped.append(Skipped(record.name, str(error)))
            continue
        (target, size), *references = images
        if not all(same_aspect(reference_size, size) for _, reference_size in references):
            skipped.append(Skipped(record.name, "source and target have different aspect ratios"))
            continue
        meta = defaults | record.meta | {"height": size[0], "width": size[1]}
        yield Sample(_key(record), record.kind, meta, target, [image for image, _ in references])


def _read_image(path: Path) -> tuple[Image, tuple[int, int]]:
    """Return a picture ready to store, and its height and width; a DataError names the reason to skip it."""
    try:
        data = path.read_bytes()
    except OSError as error:
        msg = "picture is missing" if isinstance(error, FileNotFoundError) else "picture cannot be opened"
        raise DataError(msg) from error
    try:
        size = decode_rgb(data).shape[:2]
        image = Image(*plain_bytes(data))
    except DataError as error:
        msg = "picture is unreadable"
        raise DataError(msg) from error
    return image, (size[0], size[1])


def _key(record: Record) -> str:
    stem = re.sub(r"[^A-Za-z0-9]+", "-", record.target.stem)[:40].strip("-") or "sample"
    return f"{stem}-{keyed_hash(record.name).hex()[:12]}"
