"""Write a new data set from the samples of others: which stay, in which split, with which JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from unipic2_data.adapters.record import Skipped
from unipic2_data.jobs import run_jobs, tick
from unipic2_data.manifest import Manifest
from unipic2_data.parts import PartFolders, Placed, WriteReport, collect, save_data
from unipic2_data.scan import Scanned, scan
from unipic2_data.workspace import require_same_request, workspace

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from unipic2_data.jobs import Progress
    from unipic2_data.sample import Sample

__all__ = ["Decide", "rewrite"]


class Decide(Protocol):
    """Says what becomes of a sample. Pickled to the processes that write."""

    def __call__(self, source: int, shard: int, scanned: Scanned, sample: Sample) -> Placed | str:
        """Return the sample's place, or the reason to leave it out.

        Args:
            source: Number of the data set.
            shard: Number of its shard.
            scanned: Number and bytes of the sample.
            sample: What they say.
        """
        ...


def rewrite(
    sources: Sequence[Manifest],
    out: Path,
    request: dict[str, Any],
    decide: Decide,
    *,
    workers: int,
    progress: Progress,
) -> WriteReport:
    """Write a data set; killed, it goes on when it is called again.

    Args:
        sources: The data sets, in order.
        out: Folder to make; must not exist or be empty.
        request: What is asked for, with the name of the command; kept in the manifest with where the samples are from.
        decide: What becomes of each sample.
        workers: Processes; the bytes do not depend on it.
        progress: Makes progress bars.

    Raises:
        DataError: If nothing is left, or the request makes no sense.
    """
    lineage = [{"digest": source.digest, "generator": source.generator} for source in sources]
    request = request | {"source": ", ".join(source.root.name for source in sources), "sources": lineage}
    jobs = [(source, shard) for source, manifest in enumerate(sources) for shard in range(len(manifest.shards))]
    numbered = [(number, *job) for number, job in enumerate(jobs)]
    samples = [sources[source].shards[shard].samples for source, shard in jobs]
    with workspace(out, request["command"]) as work:
        require_same_request(work, request)
        folders = PartFolders(work)
        todo = [job for job in numbered if folders.finished(job[0]) is None]
        done = sum(samples) - sum(samples[number] for number, *_ in todo)
        with progress(request["command"], sum(samples), done) as bar:
            for _ in run_jobs(_ShardWriter(sources, decide, folders), todo, workers, bar.update):
                pass
        skipped = folders.skipped(range(len(jobs)))
        save_data(work / "data", collect(work, folders.shards(range(len(jobs)))), skipped, request, workers=workers)
    return WriteReport(Manifest.load(out), skipped)


class _ShardWriter:
    def __init__(self, sources: Sequence[Manifest], decide: Decide, folders: PartFolders) -> None:
        self._sources, self._decide, self._folders = sources, decide, folders

    def __call__(self, job: tuple[int, int, int]) -> None:
        number, source, shard = job
        self._folders.write(number, self._samples(source, shard))

    def _samples(self, source: int, shard: int) -> Iterator[Placed | Skipped]:
        manifest = self._sources[source]
        for scanned in scan(manifest, manifest.shards[shard]):
            tick()
            name = f"{manifest.root.name}/{manifest.shards[shard].path}, sample {scanned.number}"
            if isinstance(scanned.sample, Exception):
                yield Skipped(name, "sample is unreadable")
                continue
            found = self._decide(source, shard, scanned, scanned.sample)
            yield found if isinstance(found, Placed) else Skipped(f"{name} ({scanned.sample.key})", found)
