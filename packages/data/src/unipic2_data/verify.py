"""Look at every byte of a data set and name all that is wrong with it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from unipic2_data.errors import DataError
from unipic2_data.images import decode_rgb
from unipic2_data.jobs import run_jobs, silent, tick
from unipic2_data.manifest import Manifest, Shard
from unipic2_data.sample import Image, Sample, lacks
from unipic2_data.scan import key_hash, scan
from unipic2_data.transform import same_aspect

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from unipic2_data.jobs import Progress

__all__ = ["VerifyReport", "problems", "verify"]


@dataclass
class VerifyReport:
    """How many samples were looked at, and every damage, as "where: what"."""

    samples: int = 0
    damages: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        if not self.damages:
            return f"{self.samples} samples, no damage"
        return "\n".join([f"{len(self.damages)} damages in {self.samples} samples:", *self.damages])


def verify(path: Path, *, pictures: bool = True, workers: int = 1, progress: Progress = silent) -> VerifyReport:
    """Check a data set: files, checksums, counts, index, every sample and picture, pairs, keys.

    Args:
        path: The folder, or the manifest file in it.
        pictures: Whether to decode every picture.
        workers: Processes.
        progress: Makes progress bars.

    Raises:
        DataError: If there is no readable manifest.
    """
    manifest = Manifest.read(path)
    report = VerifyReport(damages=_wrong_counts(manifest))
    keys: dict[int, np.ndarray] = {}
    found: dict[int, list[str]] = {}
    total = sum(shard.samples for shard in manifest.shards)
    jobs = list(enumerate(manifest.shards))
    with progress("verify", total) as bar:
        for (number, _), (damages, hashes) in run_jobs(
            partial(_verify_shard, manifest, pictures), jobs, workers, bar.update
        ):
            found[number], keys[number] = damages, hashes
            report.samples += len(hashes)
    report.damages += [damage for number in sorted(found) for damage in found[number]]
    report.damages += _duplicates(manifest, [keys[number] for number, _ in jobs])
    return report


def problems(sample: Sample, *, pictures: bool = True) -> Iterator[str]:
    """Yield what is wrong with a sample: what is missing, unreadable pictures, wrong sizes, mismatched pairs."""
    if missing := lacks(sample):
        yield missing
    sizes: dict[str, tuple[int, int] | None] = {}
    images = ([("target", sample.target)] if sample.target else []) + [
        (f"ref_{number}", image) for number, image in enumerate(sample.references)
    ]
    for role, image in images:
        sizes[role] = _size(image) if pictures else None
        if not image.data:
            yield f"{role} is empty"
        elif pictures and sizes[role] is None:
            yield f"{role} is unreadable"
    target = sizes.get("target")
    named = (sample.meta.get("height"), sample.meta.get("width"))
    if target and named != (None, None) and named != target:
        yield f"target has {target[1]}x{target[0]} pixels, its JSON says {named[1]}x{named[0]}"
    for role, size in sizes.items():
        if target and size and not same_aspect(size, target):
            yield f"mismatched pair: {role} has {size[1]}x{size[0]} pixels, target {target[1]}x{target[0]}"


def _wrong_counts(manifest: Manifest) -> list[str]:
    document = json.loads((manifest.root / "manifest.json").read_text(encoding="utf-8"))
    if document.get("counts") == manifest.counts:
        return []
    return [f"manifest.json: counts {document.get('counts')}, but its shards have {manifest.counts}"]


def _verify_shard(manifest: Manifest, pictures: bool, job: tuple[int, Shard]) -> tuple[list[str], np.ndarray]:
    """Return the damages of a shard, and the hashes of its samples' keys (0: unreadable)."""
    _, shard = job
    damages = manifest.damages(shard)
    hashes, cut = [], 0
    try:
        for scanned in scan(manifest, shard):
            tick()
            sample = scanned.sample
            if isinstance(sample, Sample):
                hashes.append(key_hash(sample.key))
                if sample.kind != shard.kind:
                    what = f"is of kind {sample.kind}, its shard of kind {shard.kind}"
                    damages.append(f"{shard.path}, sample {sample.key}: {what}")
                found = problems(sample, pictures=pictures)
                damages += [f"{shard.path}, sample {sample.key}: {what}" for what in found]
            else:
                hashes.append(0)
                is_cut = str(sample).endswith("cut off")
                cut += is_cut
                if not is_cut or cut == 1:
                    damages.append(str(sample))
    except DataError as error:
        if not damages:
            damages.append(str(error))
    if cut > 1:
        damages.append(f"{shard.path}: {cut} samples are cut off")
    return damages, np.array(hashes, np.uint64)


def _size(image: Image) -> tuple[int, int] | None:
    try:
        height, width, _ = decode_rgb(image.data).shape
    except DataError:
        return None
    return height, width


def _duplicates(manifest: Manifest, keys: list[np.ndarray]) -> list[str]:
    """Name every key that more than one sample has, and where."""
    values, counts = np.unique(np.concatenate([*keys, np.array([], np.uint64)]), return_counts=True)
    repeated = set(values[(counts > 1) & (values > 0)].tolist())
    places: dict[str, list[str]] = {}
    for shard, hashes in zip(manifest.shards, keys, strict=True):
        if repeated and not repeated.isdisjoint(hashes.tolist()):
            for scanned in scan(manifest, shard):
                sample = scanned.sample
                if isinstance(sample, Sample) and key_hash(sample.key) in repeated:
                    places.setdefault(sample.key, []).append(f"{shard.path}, sample {scanned.number}")
    return [f"{' and '.join(where)}: key {key} appears {len(where)} times" for key, where in places.items()]
