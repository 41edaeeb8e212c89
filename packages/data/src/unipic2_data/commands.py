"""Commands of `unipic2-data` that look at data sets and curate them. Each returns what to print.

Several data sets or values are given with commas between: ``--licences MIT,CC-BY-4.0``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from unipic2_data.jobs import Bar

__all__ = ["index", "inspect", "progress_bar", "split", "stats", "verify"]


def verify(data: Path, pictures: bool = True, workers: int = 0) -> str:
    """Check files, checksums, counts, keys, every sample and every picture; fail if anything is damaged.

    Args:
        data: A data set.
        pictures: Whether to decode every picture; without, it is as fast as the disk.
        workers: Processes; 0 = one per core.
    """
    from unipic2_data.errors import DataError
    from unipic2_data.verify import verify as run

    report = run(data, pictures=pictures, workers=_processes(workers), progress=progress_bar)
    if report.damages:
        raise DataError(str(report))
    return str(report)


def stats(data: Path, plot: Path | None = None, json: Path | None = None, workers: int = 0) -> str:
    """Say what a data set holds: sizes, aspect ratios, lengths of texts, licences, sources, tasks, scores.

    Args:
        data: A data set.
        plot: PNG file to draw it into.
        json: JSON file to write it to.
        workers: Processes; 0 = one per core.
    """
    from unipic2_data.stats import collect_stats, plot_stats
    from unipic2_data.workspace import write_json

    found = collect_stats(data, workers=_processes(workers), progress=progress_bar)
    if plot is not None:
        plot_stats(found, plot, data.name)
    if json is not None:
        write_json(json, found.to_json())
    return str(found)


def inspect(
    data: Path, out: Path, split: str = "train", kind: str | None = None, count: int = 48, seed: int = 0
) -> str:
    """Draw some samples: a contact sheet (sheet.png) and a page (index.html) with pictures, texts and scores.

    Args:
        data: A data set.
        out: Folder for the two files.
        split: Split to draw from.
        kind: Kind to draw; default: all, by their shares.
        count: Number of samples.
        seed: The same seed draws the same samples.
    """
    from unipic2_data.show import choose, contact_sheet, page

    samples = choose(data, split=split, kind=kind, count=count, seed=seed)
    out.mkdir(parents=True, exist_ok=True)
    contact_sheet(samples, out / "sheet.png")
    page(samples, out / "index.html", f"{data.name}, {split}: {len(samples)} samples")
    return f"wrote {out / 'sheet.png'} and {out / 'index.html'}"


def split(
    data: Path,
    out: Path,
    validation: float = 0.0,
    test: float = 0.0,
    from_split: str = "train",
    seed: int = 0,
    workers: int = 0,
) -> str:
    """Write a data set divided anew; samples that share a picture stay together.

    Args:
        data: A data set.
        out: Folder to make.
        validation: Share of the samples for validation.
        test: Share of the samples for testing.
        from_split: Split to divide; others stay as they are.
        seed: Seed of the choice.
        workers: Processes; 0 = one per core.
    """
    from unipic2_data.splitting import split_data

    shares = {"validation": validation, "test": test}
    report = split_data(
        data, out, shares, split=from_split, seed=seed, workers=_processes(workers), progress=progress_bar
    )
    return f"{report}\nwrote {report.manifest.root / 'manifest.json'}"


def index(folder: Path, split: str = "train", workers: int = 0) -> str:
    """Make a data set of foreign tars without copying them: canonical samples, or pictures with texts (jpg + txt).

    Args:
        folder: Folder with the tars; an index is written beside each, and the manifest into the folder.
        split: Split of tars that do not lie below a folder named train, validation, test or heldout.
        workers: Processes; 0 = one per core.
    """
    from unipic2_data.indexing import index_folder

    report = index_folder(folder, split=split, workers=_processes(workers), progress=progress_bar)
    return f"{report}\nwrote {report.manifest.root / 'manifest.json'}"


def progress_bar(what: str, total: int | None, done: int = 0) -> AbstractContextManager[Bar]:
    """Return a progress bar with rate and remaining time, shown on terminals only."""
    from tqdm import tqdm

    return tqdm(desc=what, total=total, initial=done, unit=" samples", disable=None)


def _processes(workers: int) -> int:
    return workers or os.cpu_count() or 1
