"""Shards and the manifest of a data set.

A data set is a folder: ``manifest.json``, tars below ``SPLIT/KIND-00000.tar``, and beside each tar an index
``....idx.npy``: int64 (samples, 2), first byte and length of each sample's members. With the index any sample is one
read away; without it the tars are plain webdataset.

The manifest holds no dates and no absolute paths, so the same command writes the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import numpy as np

from unipic2_data import __version__
from unipic2_data.errors import DataError
from unipic2_data.sample import KINDS, Sample, sample_to_tar

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

__all__ = ["MANIFEST_VERSION", "Manifest", "Shard", "ShardWriter", "new_folder", "package_versions"]

MANIFEST_VERSION = 1
_NAME = "manifest.json"
_END_OF_TAR = bytes(1024)
_CHECKED_SHARDS = 1024  # to look at all files of a large data set takes minutes on a network: `verify` does


@dataclass(slots=True)  # not frozen: large manifests would be read several times slower
class Shard:
    """One tar. ``path`` and ``index`` are relative to the manifest's folder; sizes in bytes; sha256 of the tar."""

    path: str
    index: str
    split: str
    kind: str
    samples: int
    bytes: int
    sha256: str


@dataclass
class Manifest:
    """What a data set holds.

    Attributes:
        root: Folder of the data set.
        shards: Its tars, in order: samples are numbered through the shards of a split and kind.
        generator: Command and settings that made the data set.
        packages: Versions of what wrote it.
    """

    root: Path
    shards: list[Shard]
    generator: dict[str, Any] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)
    _digest: str | None = field(default=None, compare=False, repr=False)  # of the file that it was read from

    @cached_property
    def counts(self) -> dict[str, dict[str, int]]:
        """Samples by split and kind."""
        counts: dict[str, dict[str, int]] = {}
        for shard in self.shards:
            split = counts.setdefault(shard.split, {})
            split[shard.kind] = split.get(shard.kind, 0) + shard.samples
        return counts

    @property
    def digest(self) -> str:
        """sha256 of the manifest: the identity of the data set, for lineage."""
        return self._digest or hashlib.sha256(self._document().encode()).hexdigest()

    def kinds(self, split: str) -> dict[str, int]:
        """Return the samples of each kind of a split, in the order of ``KINDS``.

        Raises:
            DataError: If the split is unknown or empty.
        """
        counts = {kind: n for kind in KINDS if (n := self.counts.get(split, {}).get(kind, 0))}
        if not counts:
            have = ", ".join(f"{name} ({sum(c.values())})" for name, c in self.counts.items()) or "nothing"
            msg = f"split '{split}' of {self.root} is empty; the data set has {have}. Name another split or make it."
            raise DataError(msg)
        return counts

    def shards_of(self, split: str, kind: str) -> list[Shard]:
        """Return the shards of a split and kind, in order.

        Raises:
            DataError: If there are no samples of the kind in the split.
        """
        if kind not in (present := self.kinds(split)):
            msg = f"split '{split}' of {self.root} has no '{kind}' samples; it has {', '.join(present)}."
            raise DataError(msg)
        return [shard for shard in self.shards if shard.split == split and shard.kind == kind]

    def save(self) -> Path:
        """Write ``manifest.json`` (under a temporary name, then renamed) and return its path."""
        path = self.root / _NAME
        temporary = path.with_name(f".{_NAME}.partial")
        temporary.write_text(self._document(), encoding="utf-8")
        return temporary.replace(path)

    @staticmethod
    def load(path: str | Path) -> Manifest:
        """Read the manifest of a data set, and check that its (first 1,024) shards are there and of the right size.

        Args:
            path: The folder, or the manifest file in it.

        Raises:
            DataError: If there is no readable manifest, or shards are missing or cut off (they are named).
        """
        manifest = Manifest.read(path)
        manifest._require_files()
        return manifest

    @staticmethod
    def read(path: str | Path) -> Manifest:
        """Read the manifest of a data set and nothing else.

        Args:
            path: The folder, or the manifest file in it.

        Raises:
            DataError: If there is no readable manifest.
        """
        path = Path(path).expanduser()
        file = path / _NAME if path.is_dir() else path
        if not file.is_file():
            msg = f"no data set at {path}: {file} does not exist. Make one with `unipic2-data shapes` or `import`."
            raise DataError(msg)
        return Manifest.parse(file.read_bytes(), file.parent, str(file))

    @staticmethod
    def parse(text: bytes, root: Path, name: str) -> Manifest:
        """Return what the bytes of a manifest say.

        Args:
            text: The bytes.
            root: Folder of the data set.
            name: Name of the manifest, for messages.

        Raises:
            DataError: If it is not readable.
        """
        try:
            document = json.loads(text)
            version = document["version"]
            shards = [Shard(**shard) for shard in document["shards"]] if version == MANIFEST_VERSION else []
            digest = hashlib.sha256(text).hexdigest()
            manifest = Manifest(root, shards, document["generator"], document["packages"], digest)
        except (ValueError, KeyError, TypeError) as error:
            msg = f"{name} is not a readable manifest: {error}. Make the data set again."
            raise DataError(msg) from error
        if version != MANIFEST_VERSION:
            msg = f"{name} has manifest version {version!r}; this program reads version {MANIFEST_VERSION}."
            raise DataError(msg)
        return manifest

    def verify(self) -> None:
        """Read every tar and compare its checksum and index; see `unipic2_data.verify` for more.

        Raises:
            DataError: If shards are damaged; every one is named.
        """
        self._require_files()
        damages = [damage for shard in self.shards for damage in self.damages(shard)]
        if damages:
            msg = f"{self.root} is damaged: {'; '.join(damages)}. Copy or make the data set again."
            raise DataError(msg)

    def damages(self, shard: Shard) -> list[str]:
        """Return what is wrong with the files of a shard: presence, length, checksum, length of the index."""
        found = []
        tar = self.root / shard.path
        try:
            size = tar.stat().st_size
            with tar.open("rb") as file:
                if size != shard.bytes:
                    found.append(f"{shard.path}: {size} bytes, expected {shard.bytes}")
                elif hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
                    found.append(f"{shard.path}: checksum differs")
        except OSError as error:
            found.append(f"{shard.path}: {error.strerror}")
        try:
            if (shape := self.offsets(shard).shape) != (shard.samples, 2):
                found.append(f"{shard.index}: expected {shard.samples} samples, found a table of shape {shape}")
        except DataError as error:
            found.append(f"{shard.index}: {error}")
        return found

    def offsets(self, shard: Shard) -> np.ndarray:
        """Return first byte and length of each sample of a shard: int64 (samples, 2)."""
        try:
            return np.load(self.root / shard.index)
        except (OSError, ValueError, EOFError) as error:
            msg = f"unreadable index {self.root / shard.index}: {error}. Copy or make the data set again."
            raise DataError(msg) from error

    def _document(self) -> str:
        document = {
            "version": MANIFEST_VERSION,
            "counts": self.counts,
            "generator": self.generator,
            "packages": self.packages,
            "shards": [asdict(shard) for shard in self.shards],
        }
        return json.dumps(document, indent=1) + "\n"

    def _require_files(self) -> None:
        missing, wrong = [], []
        for shard in self.shards[:_CHECKED_SHARDS]:
            tar = self.root / shard.path
            if not tar.is_file():
                missing.append(shard.path)
            elif (size := tar.stat().st_size) != shard.bytes:
                wrong.append(f"{shard.path} ({size} bytes, expected {shard.bytes})")
            if not (self.root / shard.index).is_file():
                missing.append(shard.index)
        problems = [
            f"{len(names)} {what}: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
            for what, names in (("missing", missing), ("of the wrong size", wrong))
            if names
        ]
        if problems:
            msg = f"shards of {self.root} are {'; '.join(problems)}. Copy them again or make the data set again."
            raise DataError(msg)


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Give a temporary folder beside `out` to fill; it becomes `out` if all goes well, and is removed if not.

    Raises:
        DataError: If `out` is there and not an empty folder.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        msg = f"{out} exists and is not empty. Name another folder, or remove this one."
        raise DataError(msg)
    out = out.absolute()
    temporary = out.with_name(f".{out.name}.partial-{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.replace(out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def package_versions(*names: str) -> dict[str, str]:
    """Return the versions of this package, of Python and of the named distributions."""
    from importlib.metadata import version

    own = {"unipic2-data": __version__, "python": platform.python_version()}
    return own | {name: version(name) for name in names}


class ShardWriter:
    """Writes one tar and its index, under temporary names until `close`; used as a context manager.

    Args:
        root: Folder of the data set.
        path: Path of the tar, relative to it.
        split: Split of all samples.
        kind: Kind of all samples.
    """

    def __init__(self, root: Path, path: str, split: str, kind: str) -> None:
        self._root, self._path, self._split, self._kind = root, path, split, kind
        self._tar = root / path
        self._tar.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = self._tar.with_name(f".{self._tar.name}.partial")
        self._file: BinaryIO = self._temporary.open("wb")
        self._hash = hashlib.sha256()
        self._position = 0
        self._offsets: list[tuple[int, int]] = []
        self.shard: Shard | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()
            self._temporary.unlink(missing_ok=True)

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._position

    def __len__(self) -> int:
        return len(self._offsets)

    def add(self, sample: Sample) -> None:
        """Append a sample."""
        if sample.kind != self._kind:
            msg = f"sample {sample.key} is of kind {sample.kind}, the shard {self._path} of kind {self._kind}."
            raise DataError(msg)
        self.append(sample_to_tar(sample))

    def append(self, members: bytes) -> None:
        """Append the members of a sample as they are, headers and padding included."""
        self._offsets.append((self._position, len(members)))
        self._write(members)

    def close(self) -> Shard:
        """Finish the tar, write the index and give both their names; again: nothing more happens."""
        if self.shard is not None:
            return self.shard
        self._write(_END_OF_TAR)
        self._file.close()
        index = self._tar.with_suffix(".idx.npy")
        temporary = index.with_name(f".{index.name}.partial")
        with temporary.open("wb") as file:
            np.save(file, np.array(self._offsets, np.int64).reshape(-1, 2))
        temporary.replace(index)
        self._temporary.replace(self._tar)
        self.shard = Shard(
            path=self._path,
            index=index.relative_to(self._root).as_posix(),
            split=self._split,
            kind=self._kind,
            samples=len(self._offsets),
            bytes=self._position,
            sha256=self._hash.hexdigest(),
        )
        return self.shard

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self._position += len(data)
