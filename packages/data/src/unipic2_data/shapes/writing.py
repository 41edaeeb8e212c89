"""Write the shards of a world: jobs, processes, and one manifest at the end."""

from __future__ import annotations

import signal
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

from unipic2_data.errors import DataError
from unipic2_data.manifest import Manifest, Shard, new_folder, package_versions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["SHARD_SAMPLES", "Job", "write_world"]

SHARD_SAMPLES = 4096

Job = tuple[str, str, int, int]
"""Split, kind, first sample and the one after the last: a shard."""


def write_world(
    out: Path,
    settings: dict[str, Any],
    write_shard: Callable[[Path, Job], Shard],
    workers: int = 1,
    progress: Callable[[int], object] | None = None,
) -> None:
    """Write a data set.

    Args:
        out: Folder to make; must not exist or be empty.
        settings: What the manifest says about how the data were made; ``samples`` is split -> kind -> number.
        write_shard: Writes one shard below a folder; can be sent to another process.
        workers: Processes; the bytes do not depend on it.
        progress: Called with the number of samples of each finished shard.

    Raises:
        DataError: If the folder is not empty or no samples are asked for.
    """
    jobs = [
        (split, kind, start, min(start + SHARD_SAMPLES, count))
        for split, kinds in settings["samples"].items()
        for kind, count in kinds.items()
        for start in range(0, count, SHARD_SAMPLES)
    ]
    if not jobs:
        msg = "asked for no samples at all; give --t2i or --edit a number above 0."
        raise DataError(msg)
    with new_folder(out) as folder:
        shards = []
        for shard in _run(partial(write_shard, folder), jobs, workers):
            shards.append(shard)
            if progress:
                progress(shard.samples)
        Manifest(folder, shards, settings, package_versions("numpy")).save()


def _run(write: Callable[[Job], Shard], jobs: list[Job], workers: int) -> Iterator[Shard]:
    if workers <= 1 or len(jobs) == 1:
        yield from map(write, jobs)
        return
    pool = ProcessPoolExecutor(min(workers, len(jobs)), get_context("spawn"))
    try:
        # Ctrl-C reaches every process of the terminal. The workers, started here, inherit a mask and never see it: this
        # process decides, and they finish their shard and stop. (A worker that dies of it can leave the pool waiting.)
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            shards = pool.map(write, jobs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        yield from shards
    finally:
        pool.shutdown(cancel_futures=True)
