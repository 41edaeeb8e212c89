"""Random access to the samples of a data set: each one read away, checked, and decoded."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from unipic2_data.errors import DataError
from unipic2_data.images import Raster, decode_picture
from unipic2_data.quarantine import BadSample
from unipic2_data.sample import Image, Sample, document_from_tar, sample_from_tar, texts_of
from unipic2_data.storage import LocalFiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unipic2_data.manifest import Manifest, Shard
    from unipic2_data.sources import DataSource
    from unipic2_data.storage import Files

__all__ = ["Decoded", "SampleStore", "check", "decode"]

_KEPT_INDEXES = 1024  # shards
_FIRST_READ = 2**14  # bytes that hold the JSON of nearly every sample


@dataclass(slots=True)
class Decoded:
    """A sample with its pictures decoded."""

    key: str
    kind: str
    texts: list[str]
    meta: dict[str, Any]
    target: Raster | None
    references: list[Raster]


class SampleStore:
    """The samples of one split by kind and number, each one read away; nothing is read before it is asked for.

    Args:
        manifest: The data set.
        split: Its split.
        kinds: Kinds to read; None = all that the split has.
        index: The files of the indexes; None = the manifest's folder.
        tars: The files of the shards; None = the manifest's folder.

    Raises:
        DataError: If the split or a kind is empty.
    """

    def __init__(
        self,
        manifest: Manifest,
        split: str,
        kinds: Sequence[str] | None = None,
        index: Files | None = None,
        tars: Files | None = None,
    ) -> None:
        self.manifest, self.split = manifest, split
        self._index = index or LocalFiles(manifest.root)
        self.tars = tars or LocalFiles(manifest.root)
        self._shards: dict[str, list[Shard]] = {}
        self._starts: dict[str, list[int]] = {}
        for kind in kinds or manifest.kinds(split):
            self._shards[kind] = manifest.shards_of(split, kind)
            self._starts[kind] = np.cumsum([0, *(shard.samples for shard in self._shards[kind])]).tolist()
        self.counts = {kind: starts[-1] for kind, starts in self._starts.items()}
        self._offsets: OrderedDict[str, np.ndarray] = OrderedDict()

    @staticmethod
    def of(source: DataSource, split: str) -> SampleStore:
        """Return the samples of a source."""
        return SampleStore(source.manifest, split, None, source.index, source.tars)

    def where(self, kind: str, index: int) -> str:
        """Return shard and place of a sample, for messages."""
        shard, number = self._place(kind, index)
        return f"{shard.path}, sample {number}"

    def read(self, kind: str, index: int) -> Sample:
        """Return sample number `index` of a kind, pictures still encoded.

        Raises:
            BadSample: If it cannot be read.
        """
        shard, number = self._place(kind, index)
        where = f"{shard.path}, sample {number}"
        try:
            start, length = self._table(shard)[number].tolist()
            is_inside = 0 <= start < start + length <= shard.bytes
            data = self.tars.part(shard.path, start, length) if is_inside else b""
        except DataError as error:
            msg = f"{where}: {error}"
            raise BadSample(msg, "shard cannot be read") from error
        if not is_inside:
            msg = f"{where}: the index names {length} bytes from {start} on, of {shard.bytes}. Make it again."
            raise BadSample(msg, "damaged index")
        if len(data) < length:
            msg = f"{where}: cut off, the shard ends before it. Copy or make the shard again."
            raise BadSample(msg, "cut off")
        try:
            sample = sample_from_tar(data, where)
        except DataError as error:
            raise BadSample(str(error), "unreadable tar or JSON") from error
        if sample.kind != kind:
            msg = f"{where}: {sample.key} is of kind {sample.kind}, its shard of kind {kind}. Index the shard again."
            raise BadSample(msg, "wrong kind")
        return sample

    def sample(self, kind: str, index: int, size: tuple[int, int] | None = None) -> Decoded:
        """Return sample number `index` of a kind with its pictures decoded.

        Args:
            kind: The kind.
            index: The number.
            size: (H, W) that the pictures will be brought to; they may be decoded no larger than that needs.

        Raises:
            BadSample: If the sample is damaged, lacks what its kind needs, or has no text.
        """
        return decode(self.read(kind, index), str(self.manifest.root), size)

    def texts(self, kind: str, index: int) -> list[str]:
        """Return the texts of a sample; its pictures are not read if its JSON stands before them.

        Raises:
            DataError: If it cannot be read, or has no text.
        """
        shard, number = self._place(kind, index)
        start, length = self._table(shard)[number].tolist()
        found = document_from_tar(self.tars.part(shard.path, start, min(length, _FIRST_READ))) if start >= 0 else None
        meta = found[1] if found else self.read(kind, index).meta
        return texts_of(kind, meta, f"{shard.path}, sample {number}")

    def _place(self, kind: str, index: int) -> tuple[Shard, int]:
        number = bisect_right(self._starts[kind], index) - 1
        return self._shards[kind][number], index - self._starts[kind][number]

    def _table(self, shard: Shard) -> np.ndarray:
        """Return first byte and length of each sample of a shard."""
        if shard.index in self._offsets:
            self._offsets.move_to_end(shard.index)
            return self._offsets[shard.index]
        try:
            table = np.load(io.BytesIO(self._index.whole(shard.index)), allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            msg = f"unreadable index {shard.index}: {error}. Copy or make it again."
            raise DataError(msg) from error
        if table.shape != (shard.samples, 2):
            msg = f"index {shard.index} has shape {table.shape}, expected ({shard.samples}, 2). Make it again."
            raise DataError(msg)
        self._offsets[shard.index] = table
        if len(self._offsets) > _KEPT_INDEXES:
            self._offsets.popitem(last=False)
        return table


def decode(sample: Sample, where: str, size: tuple[int, int] | None = None) -> Decoded:
    """Return a sample with its pictures decoded.

    Args:
        sample: The sample.
        where: Its data set, for messages.
        size: (H, W) that the pictures will be brought to; they may be decoded no larger than that needs.

    Raises:
        BadSample: If the sample is damaged, lacks what its kind needs, or has no text.
    """
    texts = check(sample, where)
    name = f"sample {sample.key} of {where}"
    target = _picture(sample.target, f"{name}: target", size) if sample.target else None
    references = [_picture(image, f"{name}: reference", size) for image in sample.references]
    return Decoded(sample.key, sample.kind, texts, sample.meta, target, references)


def check(sample: Sample, where: str) -> list[str]:
    """Return the texts of a sample that has all that its kind needs.

    Args:
        sample: The sample.
        where: Its data set, for messages.

    Raises:
        BadSample: If something is missing.
    """
    name = f"sample {sample.key} of {where}"
    try:
        texts = texts_of(sample.kind, sample.meta, name)
    except DataError as error:
        raise BadSample(str(error), "no text") from error
    needs_target, needs_reference = sample.kind in {"t2i", "edit"}, sample.kind == "edit"
    if (sample.target is None and needs_target) or (len(sample.references) != 1 and needs_reference):
        msg = (
            f"{name}: a {sample.kind} sample needs a target{' and one reference' if needs_reference else ''}, "
            f"found {'a' if sample.target else 'no'} target and {len(sample.references)} references."
        )
        raise BadSample(msg, "target is missing" if sample.target is None else "not one reference")
    return texts


def _picture(image: Image, where: str, size: tuple[int, int] | None) -> Raster:
    if not image.data:
        msg = f"{where} has no bytes."
        raise BadSample(msg, "picture is empty")
    try:
        return decode_picture(image.data, size)
    except DataError as error:
        from PIL.Image import DecompressionBombError

        bomb = isinstance(error.__cause__, DecompressionBombError)
        reason = "picture is larger than any that is read" if bomb else "picture is unreadable"
        msg = f"{where}: {error}"
        raise BadSample(msg, reason) from error
