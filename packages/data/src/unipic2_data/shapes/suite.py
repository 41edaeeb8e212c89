"""Lay out samples of a shapes world as a suite of ShapesBench: a folder that any sampler and scorer can read.

The layout is that of ``unipic2_evals.shapesbench``: ``suite.jsonl``, one item a line, and ``KIND/KEY/source.png`` and
``target.png``. The pictures are the shards' own files.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from unipic2_data.errors import DataError
from unipic2_data.manifest import new_folder
from unipic2_data.scan import scan

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from unipic2_data.manifest import Manifest
    from unipic2_data.sample import Sample

__all__ = ["write_suite"]

_KINDS = ("t2i", "edit", "qa")


def write_suite(manifest: Manifest, out: Path, splits: Sequence[str] = ("test", "heldout")) -> dict[str, int]:
    """Write a suite.

    Args:
        manifest: A data set of the shapes world.
        out: Folder to make; must not exist or be empty.
        splits: Splits to take, all of their samples; training never sees those of "test" and "heldout".

    Returns:
        Number of items by kind.

    Raises:
        DataError: If a split is empty, a sample cannot be read, or it says nothing about its scene.
    """
    counts = dict.fromkeys(_KINDS, 0)
    with new_folder(out) as folder, (folder / "suite.jsonl").open("w", encoding="utf-8") as suite:
        for split in splits:
            for kind in manifest.kinds(split):
                for shard in manifest.shards_of(split, kind):
                    for found in scan(manifest, shard):
                        if isinstance(found.sample, DataError):
                            raise found.sample
                        _write(found.sample, folder)
                        row = {"key": found.sample.key, "kind": kind, **found.sample.meta}
                        suite.write(json.dumps(row, ensure_ascii=False) + "\n")
                        counts[kind] += 1
    return {kind: count for kind, count in counts.items() if count}


def _write(sample: Sample, folder: Path) -> None:
    if "shapes" not in sample.meta or sample.kind not in _KINDS:
        msg = (
            f"sample {sample.key} of kind {sample.kind} has no 'shapes'; expected a data set of `unipic2-data shapes`."
        )
        raise DataError(msg)
    place = folder / sample.kind / sample.key
    place.mkdir(parents=True)
    for name, image in (("source", sample.references[:1]), ("target", [sample.target] if sample.target else [])):
        for one in image:
            (place / f"{name}.{one.suffix}").write_bytes(one.data)
