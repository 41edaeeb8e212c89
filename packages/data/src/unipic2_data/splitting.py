"""Divide a data set into splits that share no picture.

Samples with a picture in common (edits of one picture, the turns of a conversation, a pair and its reverse) are one
group, and a group never falls into two splits. Pictures are compared by their bytes; near copies are found by
`unipic2_data.duplicates`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from unipic2_data.errors import DataError
from unipic2_data.jobs import run_jobs, silent, tick
from unipic2_data.manifest import Manifest
from unipic2_data.parts import Placed
from unipic2_data.randomness import keyed_hash
from unipic2_data.rewriting import rewrite
from unipic2_data.sample import Sample, texts_of
from unipic2_data.scan import scan

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from unipic2_data.jobs import Progress
    from unipic2_data.parts import WriteReport
    from unipic2_data.scan import Scanned

__all__ = ["split_data"]


def split_data(
    source: Path,
    out: Path,
    fractions: Mapping[str, float],
    *,
    split: str = "train",
    seed: int = 0,
    workers: int = 1,
    progress: Progress = silent,
) -> WriteReport:
    """Write a data set whose samples are divided anew.

    Args:
        source: The data set.
        out: Folder to make; must not exist or be empty.
        fractions: Share of the samples of each new split; the rest stays where it is.
        split: Split to divide; the samples of others stay where they are.
        seed: Seed of the choice.
        workers: Processes; the bytes do not depend on it.
        progress: Makes progress bars.

    Raises:
        DataError: If the request makes no sense.
    """
    fractions = {name: share for name, share in fractions.items() if share}
    if not fractions or min(fractions.values()) < 0 or sum(fractions.values()) >= 1:
        msg = f"shares of splits must be above 0 and below 1 together, got {dict(fractions)}."
        raise DataError(msg)
    manifest = Manifest.load(source)
    total = sum(manifest.kinds(split).values())
    divided = [number for number, shard in enumerate(manifest.shards) if shard.split == split]
    with progress("pictures", total) as bar:
        pictures = dict(run_jobs(partial(_pictures, manifest), divided, workers, bar.update))
    places = iter(_places(_groups([one for number in divided for one in pictures[number]]), fractions, split, seed))
    names = {number: list(islice(places, len(pictures[number]))) for number in divided}
    request = {"command": "split", "fractions": dict(fractions), "split": split, "seed": seed}
    return rewrite([manifest], out, request, _Place(manifest, names), workers=workers, progress=progress)


@dataclass(frozen=True)
class _Place:
    """Keeps every sample as it is, in its new split."""

    manifest: Manifest
    splits: dict[int, list[str]]

    def __call__(self, source: int, shard: int, scanned: Scanned, sample: Sample) -> Placed:  # noqa: ARG002 - as others
        splits = self.splits.get(shard)
        split = splits[scanned.number] if splits else self.manifest.shards[shard].split
        return Placed(split, sample.kind, scanned.members)


def _pictures(manifest: Manifest, shard: int) -> list[list[int]]:
    """Return the hashes of each sample's pictures; of its text, if it has none."""
    found = []
    for scanned in scan(manifest, manifest.shards[shard]):
        tick()
        sample = scanned.sample
        if not isinstance(sample, Sample):
            found.append([_hash(scanned.members)])
            continue
        images = ([sample.target] if sample.target else []) + sample.references
        hashes = [_hash(image.data) for image in images]
        found.append(hashes or [_hash(_first_text(sample) or scanned.members)])
    return found


def _first_text(sample: Sample) -> bytes:
    try:
        return texts_of(sample.kind, sample.meta, sample.key)[0].encode("utf-8", "surrogatepass")
    except DataError:
        return b""


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


def _groups(pictures: list[list[int]]) -> list[int]:
    """Return the group of each sample: the smallest hash of all pictures that are connected through samples."""
    parent: dict[int, int] = {}

    def root(one: int) -> int:
        parent.setdefault(one, one)
        while parent[one] != one:
            parent[one] = one = parent[parent[one]]
        return one

    for hashes in pictures:
        roots = [root(one) for one in hashes]
        for one in roots:
            parent[one] = min(roots)
    return [root(hashes[0]) for hashes in pictures]


def _places(groups: list[int], fractions: Mapping[str, float], rest: str, seed: int) -> list[str]:
    """Return the split of each sample: groups in an order by hash fill one split after the other."""
    sizes: dict[int, int] = {}
    for group in groups:
        sizes[group] = sizes.get(group, 0) + 1
    order = sorted(sizes, key=lambda group: keyed_hash(seed, "split", group), reverse=True)
    places = dict.fromkeys(sizes, rest)
    for name, share in fractions.items():
        filled = 0
        while order and filled < share * len(groups):
            group = order.pop()
            places[group] = name
            filled += sizes[group]
    return [places[group] for group in groups]
