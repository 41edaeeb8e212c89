"""The command line `unipic2-data`: make, import and look after data sets."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["main", "shapes"]


def shapes(
    out: Path,
    size: int = 32,
    t2i: int = 60_000,
    edit: int = 60_000,
    validation: int = 512,
    test: int = 1000,
    heldout: int = 500,
    seed: int = 0,
    workers: int = 0,
) -> None:
    """Write a data set of the shapes world: text-to-image and edit samples with ground truth.

    Args:
        out: Folder to make.
        size: Width and height of the pictures in pixels.
        t2i: Text-to-image samples for training.
        edit: Edit samples for training.
        validation: Validation samples of each kind.
        test: Test samples of each kind: unseen scenes, unseen prompts.
        heldout: Samples of each kind with held-out colour x shape pairs or phrasings.
        seed: The same seed writes the same bytes.
        workers: Processes; 0 = one per core.
    """
    from tqdm import tqdm

    from unipic2_data.errors import DataError
    from unipic2_data.shapes.world import ShapesConfig, write_shapes

    if size < 16 or size % 2 or min(t2i, edit, validation, test, heldout, seed, workers) < 0:
        msg = "--size must be an even number >= 16, and all other numbers >= 0."
        raise DataError(msg)
    splits = {"validation": validation, "test": test, "heldout": heldout}
    samples = {"train": {"t2i": t2i, "edit": edit}}
    for split, count in splits.items():
        samples[split] = {kind: count for kind, wanted in samples["train"].items() if wanted}
    with tqdm(total=sum(sum(kinds.values()) for kinds in samples.values()), unit=" samples", disable=None) as bar:
        manifest = write_shapes(Path(out), ShapesConfig(size, seed, samples), workers or os.cpu_count() or 1, bar.update)
    for split, counts in manifest.counts.items():
        print(f"{split}: " + ", ".join(f"{count} {kind}" for kind, count in counts.items()))
    print(f"wrote {manifest.root / 'manifest.json'}")


def main() -> None:
    """Run the command line; a `DataError` is printed without traceback, exit code 2."""
    from jsonargparse import auto_cli

    from unipic2_data.errors import DataError

    try:
        auto_cli({"shapes": shapes}, prog="unipic2-data")
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("error: interrupted; nothing was written", file=sys.stderr)
        sys.exit(130)
