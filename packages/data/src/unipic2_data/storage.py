"""Where the bytes of a data set are: on a disk, behind a web server, or behind a command (object stores).

A disk and a web server give any part of a file. A command gives a file from its first byte on only: the whole shard is
kept in a temporary file while its samples are wanted.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from unipic2_data.errors import DataError
from unipic2_data.patience import Again, Forward, Patience, Resting
from unipic2_data.web import Web, WebFiles

if TYPE_CHECKING:
    from typing import IO, Any

    from unipic2_data.patience import Bytes

__all__ = ["CommandFiles", "Files", "LocalFiles", "open_files", "open_forward"]

_OPEN_FILES = 128
_KEPT_SHARDS = 8  # temporary files of a command's shards
_PIECE = 2**20


class Files(Protocol):
    """The files of a data set, by their path in it."""

    def part(self, path: str, start: int, length: int) -> bytes:
        """Return a part of a file, shorter only where the file ends.

        Raises:
            DataError: If the file cannot be read.
        """
        ...

    def whole(self, path: str) -> bytes:
        """Return a file.

        Raises:
            DataError: If it cannot be read.
        """
        ...


class LocalFiles:
    """Files below a folder.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._open: OrderedDict[str, int] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict()}  # file handles stay in their process

    def __del__(self) -> None:
        for file in getattr(self, "_open", {}).values():
            os.close(file)

    def part(self, path: str, start: int, length: int) -> bytes:
        """Return a part of a file, see `Files`."""
        try:
            return os.pread(self._file(path), length, start)
        except OSError as error:
            msg = f"cannot read shard {self.root / path}: {error.strerror}. Copy or make it again."
            raise DataError(msg) from error

    def whole(self, path: str) -> bytes:
        """Return a file, see `Files`."""
        try:
            return (self.root / path).read_bytes()
        except OSError as error:
            msg = f"cannot read {self.root / path}: {error.strerror}. Copy or make it again."
            raise DataError(msg) from error

    def _file(self, path: str) -> int:
        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        if len(self._open) >= _OPEN_FILES:
            os.close(self._open.popitem(last=False)[1])
        file = os.open(self.root / path, os.O_RDONLY)
        self._open[path] = file
        return file


class CommandFiles:
    """Files that a command writes to its standard output, whole and from front to back.

    Args:
        command: The command, with ``{}`` where the path goes; run by the shell.
        patience: How patiently it is tried.

    Raises:
        DataError: If the path has no place in the command.
    """

    def __init__(self, command: str, patience: Patience) -> None:
        if "{}" not in command:
            msg = f"the command {command!r} must have {{}} where the path of a shard goes."
            raise DataError(msg)
        self._command, self._patience = command, patience
        self._resting = Resting(patience.rest)
        self._kept: OrderedDict[str, IO[bytes]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": OrderedDict()}

    def part(self, path: str, start: int, length: int) -> bytes:
        """Return a part of a file, see `Files`; the first part of a shard fetches all of it."""

        def read() -> bytes:
            if path not in self._kept:
                self._kept[path] = self._fetch(path)
                if len(self._kept) > _KEPT_SHARDS:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(path)
            return os.pread(self._kept[path].fileno(), length, start)

        return self._resting.read(path, read)

    def whole(self, path: str) -> bytes:
        """Return a file, see `Files`."""
        with self._fetch(path) as file:
            return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0)

    def _fetch(self, path: str) -> IO[bytes]:
        """Return a temporary file, without a name, with what the command wrote."""
        command = self._command.replace("{}", shlex.quote(path))
        kept = tempfile.TemporaryFile()  # noqa: SIM115 - closed when it is no longer kept
        with Forward(command, lambda at: _Output(command, at), self._patience) as file:
            while piece := file.read(_PIECE):
                kept.write(piece)
        kept.flush()
        return kept


def open_files(place: str, patience: Patience | None = None) -> Files:
    """Return the files at a place: a folder, an http(s) address, or ``pipe:COMMAND {}``."""
    patience = patience or Patience()
    if place.startswith("pipe:"):
        return CommandFiles(place.removeprefix("pipe:").strip(), patience)
    if place.startswith(("http://", "https://")):
        return WebFiles(place, patience)
    return LocalFiles(Path(place).expanduser())


def open_forward(place: str, patience: Patience) -> Forward:
    """Return the bytes of one file from front to back: a path, an http(s) address, or ``pipe:COMMAND``."""
    if place.startswith("pipe:"):
        return Forward(place, lambda at: _Output(place.removeprefix("pipe:").strip(), at), patience)
    if place.startswith(("http://", "https://")):
        web = Web(patience.timeout)
        return Forward(place, lambda at: web.open_range(place, at), patience)
    return Forward(place, lambda at: _open_local(place, at), patience)


def _open_local(place: str, at: int) -> Bytes:
    try:
        file = Path(place).expanduser().open("rb")
    except OSError as error:
        msg = f"cannot read {place}: {error.strerror}. Copy or make it again."
        raise DataError(msg) from error
    file.seek(at)
    return file


class _Output:
    """What a command writes, from a byte on; it starts from its front each time."""

    def __init__(self, command: str, start: int) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - a pipe that nobody reads could fill up
        self._process = subprocess.Popen(
            command, shell=True, stdout=subprocess.PIPE, stderr=self._errors, stdin=subprocess.DEVNULL
        )
        while start:
            skipped = len(self.read(min(start, _PIECE)))
            if not skipped:
                msg = "it wrote less than before"
                raise Again(msg)
            start -= skipped

    def read(self, count: int) -> bytes:
        """Return at most so many bytes, none at the end."""
        assert self._process.stdout is not None
        piece = self._process.stdout.read(min(count, _PIECE))
        if not piece and (code := self._process.wait()):
            self._errors.seek(0)
            said = self._errors.read()[-200:].decode("utf-8", "replace").strip()
            msg = f"exit code {code}{': ' if said else ''}{said}"
            raise Again(msg)
        return piece

    def close(self) -> None:
        """End the command."""
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process.terminate()  # does nothing to one that has ended
        self._process.wait()
        self._errors.close()
