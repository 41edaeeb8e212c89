"""What a run trains on: one or more sources, each a data set with a manifest, or tars that are streamed as they come.

========================================  ====================================================================
path                                      source
========================================  ====================================================================
``data/mine``                             a data set on a disk
``https://host/mine``                     a data set behind a web server; samples are read by ranges of bytes
one of these, with ``tars``               its manifest and indexes are there, its tars elsewhere:
                                          ``https://host/tars``, or ``pipe:aws s3 cp s3://bucket/mine/{} -``
``data/{00000..00099}.tar``               tars without a manifest: streamed; also https
``pipe:aws s3 cp s3://b/{00..99}.tar -``  the same through a command
========================================  ====================================================================

With a manifest any run resumes at the exact sample, wherever the tars are. A command gives a shard from its first byte
on only: such shards are fetched whole, and fetched again when a run resumes in the middle of one. Tars without a
manifest resume with the next shard.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from unipic2_data.errors import DataError
from unipic2_data.filtering import Filter, ScoreRule
from unipic2_data.manifest import Manifest
from unipic2_data.sample import KINDS
from unipic2_data.storage import CommandFiles, Files, LocalFiles, open_files
from unipic2_data.table import SampleTable

if TYPE_CHECKING:
    from unipic2_data.jobs import Progress
    from unipic2_data.patience import Patience

__all__ = ["DataSource", "Source", "StreamSource", "open_source"]

_MANIFEST = "manifest.json"


@dataclass
class Source:
    """Something to train on, and which of its samples.

    Attributes:
        path: Data set or tars, see `unipic2_data.sources`.
        weight: Share of the samples of each kind, relative to the other sources; null for all sources = each sample
            is seen as often as any other.
        tars: Where the tars are if not beside the manifest.
        scores: Rules that all hold, such as "quality>=6"; samples without the score are left out.
        min_side: Shorter side of the picture, at least, in pixels.
        max_aspect: Longer through shorter side of the picture, at most.
        licences: Names that the licence may have, or patterns such as "CC-BY-*"; samples without one are left out.
        kind: Kind of the samples of tars without a manifest.
    """

    path: str
    weight: float | None = None
    tars: str | None = None
    scores: list[str] = field(default_factory=list)
    min_side: int | None = None
    max_aspect: float | None = None
    licences: list[str] = field(default_factory=list)
    kind: str = "t2i"

    @property
    def wanted(self) -> Filter:
        """Which samples are wanted."""
        rules = tuple(ScoreRule.parse(rule) for rule in self.scores)
        return Filter(rules, self.min_side, self.max_aspect, tuple(self.licences))

    @property
    def is_stream(self) -> bool:
        """Whether the path names tars, and not a data set."""
        return self.path.startswith("pipe:") or self.path.endswith(".tar")


@dataclass
class DataSource:
    """A data set with a manifest: any sample is one read away.

    Attributes:
        name: Its path, for messages.
        manifest: Its shards.
        index: The files beside the manifest.
        tars: The files of the shards.
    """

    name: str
    manifest: Manifest
    index: Files
    tars: Files

    @property
    def is_sequential(self) -> bool:
        """Whether shards can only be read from front to back, so that samples should be read shard by shard."""
        return isinstance(self.tars, CommandFiles)

    def table(self, workers: int = 1, progress: Progress | None = None) -> SampleTable:
        """Return sizes, licences and scores of all samples; on a disk they are collected if nobody has done so.

        Raises:
            DataError: If the table is missing and cannot be made.
        """
        table = SampleTable.load(self.manifest, self.index)
        if table is not None:
            return table
        if not (isinstance(self.index, LocalFiles) and isinstance(self.tars, LocalFiles)):
            msg = (
                f"{self.name} has no table of sizes and scores (samples.npz) that fits its manifest. Make it where the "
                "tars are on a disk: `unipic2-data table DATA`, and copy it beside the manifest."
            )
            raise DataError(msg)
        table = SampleTable.build(self.manifest, workers=workers, **({"progress": progress} if progress else {}))
        with contextlib.suppress(OSError):  # a folder for reading only: the table serves this run
            table.save(self.manifest)
        return table


@dataclass
class StreamSource:
    """Tars that are read from front to back.

    Attributes:
        name: The pattern, for messages.
        kind: Kind of their samples.
        shards: Path, address or command (``pipe:``) of each tar.
    """

    name: str
    kind: str
    shards: list[str]


def open_source(source: Source, patience: Patience | None = None) -> DataSource | StreamSource:
    """Find out what a source is, and read its manifest if it has one.

    Args:
        source: The source.
        patience: How patiently servers and commands are tried.

    Raises:
        DataError: If there is no such thing, or a stream is asked for what only a manifest can tell.
    """
    if source.is_stream:
        return _open_stream(source)
    if not source.path.startswith(("http://", "https://")):
        manifest = Manifest.read(source.path) if source.tars else Manifest.load(source.path)
        index: Files = LocalFiles(manifest.root)
    else:
        address = source.path.removesuffix(f"/{_MANIFEST}")
        index = open_files(address, patience)
        manifest = Manifest.parse(index.whole(_MANIFEST), Path(address), f"{address}/{_MANIFEST}")
    return DataSource(source.path, manifest, index, open_files(source.tars, patience) if source.tars else index)


def _open_stream(source: Source) -> StreamSource:
    from webdataset.shardlists import expand_urls

    if source.kind not in KINDS:
        msg = f"{source.path} has kind {source.kind!r}; expected one of {', '.join(KINDS)}."
        raise DataError(msg)
    if source.wanted != Filter() or source.tars:
        msg = (
            f"{source.path} is streamed, so its samples cannot be chosen before they are read. Give it a manifest "
            "(`unipic2-data index FOLDER`), or filter it first (`unipic2-data filter`)."
        )
        raise DataError(msg)
    shards = expand_urls(source.path)
    local = [shard for shard in shards if not shard.startswith(("pipe:", "http://", "https://"))]
    if missing := [shard for shard in local if not Path(shard).expanduser().is_file()]:
        msg = f"{len(missing)} of {len(shards)} tars of {source.path} are missing: {', '.join(missing[:8])}."
        raise DataError(msg)
    return StreamSource(source.path, source.kind, shards)
