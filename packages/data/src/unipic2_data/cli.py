"""The command line `unipic2-data`: make, import and look after data sets."""

from __future__ import annotations

import os
import re
import sys
import warnings
from pathlib import Path
from typing import Literal

from unipic2_data import commands
from unipic2_data.adapters.fields import Fields
from unipic2_data.adapters.record import Format

__all__ = ["import_", "main", "presets", "shapes", "shapesbench"]

World = Literal["quick", "full"]


def shapes(
    out: Path,
    size: int = 32,
    t2i: int = 60_000,
    edit: int = 60_000,
    qa: int = 0,
    validation: int = 512,
    test: int = 1000,
    heldout: int = 500,
    seed: int = 0,
    workers: int = 0,
    world: World = "quick",
) -> None:
    """Write a data set of the shapes world: text-to-image, edit and question samples with ground truth.

    Args:
        out: Folder to make.
        size: Width and height of the pictures in pixels; the full world needs 64 or more.
        t2i: Text-to-image samples for training.
        edit: Edit samples for training.
        qa: Questions with four options for training; the full world has them.
        validation: Validation samples of each kind.
        test: Test samples of each kind: unseen scenes, unseen prompts.
        heldout: Samples of each kind that show what training never does: pairs of colour and shape, phrasings; in the
            full world also numbers, relations, edits of an attribute, and five objects or more.
        seed: The same seed writes the same bytes.
        workers: Processes; 0 = one per core.
        world: quick (1-3 objects, 4 shapes, 6 colours, five edits) or full (1-6 objects, 8 shapes, 10 colours, nine
            edits, questions).
    """
    from tqdm import tqdm

    from unipic2_data.errors import DataError
    from unipic2_data.shapes.full.render import MIN_SIZE
    from unipic2_data.shapes.full.world import write_full_world
    from unipic2_data.shapes.world import ShapesConfig, write_shapes

    smallest, write = (MIN_SIZE, write_full_world) if world == "full" else (16, write_shapes)
    if size < smallest or size % 2 or min(t2i, edit, qa, validation, test, heldout, seed, workers) < 0:
        msg = f"--size must be an even number >= {smallest} in the {world} world, and all other numbers >= 0."
        raise DataError(msg)
    if qa and world == "quick":
        msg = "--qa: the quick world has no questions; choose --world full."
        raise DataError(msg)
    splits = {"validation": validation, "test": test, "heldout": heldout}
    samples = {"train": {"t2i": t2i, "edit": edit} | ({"qa": qa} if world == "full" else {})}
    for split, count in splits.items():
        samples[split] = {kind: count for kind, wanted in samples["train"].items() if wanted}
    with tqdm(total=sum(sum(kinds.values()) for kinds in samples.values()), unit=" samples", disable=None) as bar:
        config = ShapesConfig(size, seed, samples)
        manifest = write(out, config, workers or os.cpu_count() or 1, bar.update)
    for split, counts in manifest.counts.items():
        print(f"{split}: " + ", ".join(f"{count} {kind}" for kind, count in counts.items()))
    print(f"wrote {manifest.root / 'manifest.json'}")


def shapesbench(data: Path, out: Path, splits: str = "test,heldout") -> str:
    """Lay out samples of a shapes world as a suite of ShapesBench, for `unipic2-evals score --bench shapes`.

    Args:
        data: A data set that `unipic2-data shapes` wrote.
        out: Folder to make.
        splits: Splits to take, with commas between them.
    """
    from unipic2_data.manifest import Manifest
    from unipic2_data.shapes.suite import write_suite

    counts = write_suite(Manifest.load(data), out, [split.strip() for split in splits.split(",")])
    return ", ".join(f"{count} {kind}" for kind, count in counts.items()) + f"\nwrote {out / 'suite.jsonl'}"


def import_(
    source: Path,
    out: Path,
    preset: str | None = None,
    format: Format | None = None,
    fields: Fields | None = None,
    image_root: Path | None = None,
    image_tars: Path | None = None,
    validation_fraction: float = 0.05,
    licence: str | None = None,
    max_references: int = 1,
    seed: int = 0,
    workers: int = 0,
) -> str:
    """Write a data set from pictures and texts of your own or of others. Killed, it goes on when it is run again.

    Args:
        source: A folder of pictures with captions beside them (a.jpg, a.txt) and, if you like, *.jsonl files of edits;
            a file (.jsonl, .json, .parquet, .tar); or what --format or --preset says.
        out: Folder to make.
        preset: A known data set, in place of --format and --fields; `unipic2-data presets` lists them.
        format: tar (webdataset: jpg + txt or json), parquet (pictures inside), json (rows of .jsonl, .json or .txt,
            pictures below --image-root), conversations (UniWorld), index (rows of Parquet or JSON, pictures in tars),
            folder.
        fields: Which fields of a row hold what, as --fields.target, --fields.references, --fields.text, ...; lists as
            '[a,b]'. Default: source, target, instruction; of tars: the picture and txt.
        image_root: Folder that names in rows are relative to; default: the folder of the file.
        image_tars: Tar, or folder with the tars, of --format index; default: those below the source.
        validation_fraction: Share of the targets to keep for validation.
        licence: Licence of samples that name none themselves.
        max_references: Samples with more references are skipped.
        seed: Seed of the choice of validation samples.
        workers: Processes; 0 = one per core.
    """
    from unipic2_data.adapters.presets import find_preset
    from unipic2_data.errors import DataError
    from unipic2_data.importer import import_source

    if preset is not None and (format is not None or fields is not None):
        msg = "--preset says format and fields; name either the preset or the other two."
        raise DataError(msg)
    report = import_source(
        source,
        out,
        format=format,
        fields=fields,
        preset=find_preset(preset) if preset else None,
        image_root=image_root,
        image_tars=image_tars,
        validation_fraction=validation_fraction,
        licence=licence,
        max_references=max_references,
        seed=seed,
        workers=workers or os.cpu_count() or 1,
        progress=commands.progress_bar,
    )
    return f"{report}\nwrote {report.manifest.root / 'manifest.json'}"


def presets(name: str | None = None) -> str:
    """List the known data sets, or say all about one: layout, licence, known defects.

    Args:
        name: One of them.
    """
    from unipic2_data.adapters.presets import PRESETS, find_preset

    if name is not None:
        return str(find_preset(name))
    lines = [f"{preset.name:22} {preset.format:14} {preset.licence:18} {preset.repository}" for preset in PRESETS]
    return "\n".join(lines)


def main() -> None:
    """Run the command line; a `DataError` is printed without traceback, exit code 2."""
    from jsonargparse import auto_cli

    from unipic2_data.errors import DataError

    warnings.filterwarnings("ignore", module=r"PIL\.")  # of odd pictures, by the thousand; errors are counted
    try:
        # Options may be written with hyphens or underscores.
        args = [re.sub(r"^--[^=]+", lambda m: m[0][:2] + m[0][2:].replace("-", "_"), arg) for arg in sys.argv[1:]]
        report = auto_cli(
            {
                "shapes": shapes,
                "shapesbench": shapesbench,
                "import": import_,
                "presets": presets,
                "index": commands.index,
                "table": commands.table,
                "verify": commands.verify,
                "stats": commands.stats,
                "inspect": commands.inspect,
                "split": commands.split,
                "duplicates": commands.duplicates,
                "leaks": commands.leaks,
                "judge": commands.judge,
                "recaption": commands.recaption,
                "filter": commands.filter_,
            },
            prog="unipic2-data",
            args=args,
        )
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"error: {error}; {_what_is_left(error)}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt as error:
        print(f"error: interrupted; {_what_is_left(error)}", file=sys.stderr)
        sys.exit(130)
    if report is not None:
        print(report)


def _what_is_left(error: BaseException) -> str:
    return "; ".join(getattr(error, "__notes__", ["nothing was written"]))
