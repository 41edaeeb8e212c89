"""The command line `unipic2-data`: make, import and look after data sets."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

__all__ = ["import_", "main", "shapes"]


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
        config = ShapesConfig(size, seed, samples)
        manifest = write_shapes(out, config, workers or os.cpu_count() or 1, bar.update)
    for split, counts in manifest.counts.items():
        print(f"{split}: " + ", ".join(f"{count} {kind}" for kind, count in counts.items()))
    print(f"wrote {manifest.root / 'manifest.json'}")


def import_(
    source: Path,
    out: Path,
    image_root: Path | None = None,
    validation_fraction: float = 0.05,
    licence: str | None = None,
    seed: int = 0,
) -> None:
    """Write a data set from your own pictures: captions beside images (a.jpg, a.txt), or edits as JSON lines.

    Args:
        source: A folder of pictures with captions and, if you like, *.jsonl files of edits; or one .jsonl file.
        out: Folder to make.
        image_root: Folder that file names in JSON lines are relative to; default: the folder of the file.
        validation_fraction: Share of the targets to keep for validation.
        licence: Licence of samples that name none themselves.
        seed: Seed of the choice of validation samples.
    """
    from unipic2_data.importer import import_source

    report = import_source(
        source, out, image_root=image_root, validation_fraction=validation_fraction, licence=licence, seed=seed
    )
    print(report)
    print(f"wrote {report.manifest.root / 'manifest.json'}")


def main() -> None:
    """Run the command line; a `DataError` is printed without traceback, exit code 2."""
    from jsonargparse import auto_cli

    from unipic2_data.errors import DataError

    try:
        # Options may be written with hyphens or underscores.
        args = [re.sub(r"^--[^=]+", lambda m: m[0][:2] + m[0][2:].replace("-", "_"), arg) for arg in sys.argv[1:]]
        auto_cli({"shapes": shapes, "import": import_}, prog="unipic2-data", args=args)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"error: {error}; nothing was written", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("error: interrupted; nothing was written", file=sys.stderr)
        sys.exit(130)
