"""Read bytes from front to back from what may fail: a server that is down, busy or hangs up, a command that breaks.

What failed is opened again after pauses that double, at the byte that was reached; bytes that were read are never lost.
A file that stays unreadable is left alone for a while, so that a dead server costs one row of pauses and not one for
each of its samples.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

from unipic2_data.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Again", "Bytes", "Forward", "Patience", "Resting"]


@dataclass(frozen=True)
class Patience:
    """How patiently a server or a command is tried.

    Attributes:
        tries: How often in a row without a new byte.
        pause: Seconds before the second time; doubled each time.
        timeout: Seconds without a byte that a web server may take.
        rest: Seconds for which a file is left alone that stayed unreadable.
    """

    tries: int = 5
    pause: float = 0.5
    timeout: float = 30.0
    rest: float = 60.0


class Again(Exception):  # noqa: N818 - a state, not a fault
    """It may work if it is tried again; the message says what happened."""


class Bytes(Protocol):
    """An open source of bytes."""

    def read(self, count: int) -> bytes:
        """Return at most so many bytes, none at the end.

        Raises:
            Again: If the source broke.
        """
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class Forward:
    """Bytes from front to back, opened again where it breaks; used as a context manager.

    Args:
        name: What is read, for messages.
        open_at: Opens it at a byte; raises `Again` if that may work later.
        patience: How patiently it is tried.
    """

    def __init__(self, name: str, open_at: Callable[[int], Bytes], patience: Patience) -> None:
        self._name, self._open_at, self._patience = name, open_at, patience
        self._file: Bytes | None = None
        self._position, self._failures = 0, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def read(self, count: int) -> bytes:
        """Return so many bytes, fewer only where they end.

        Raises:
            DataError: If the source stays unreadable.
        """
        found = bytearray()
        while len(found) < count:
            try:
                if self._file is None:
                    self._file = self._open_at(self._position)
                piece = self._file.read(count - len(found))
            except Again as again:
                self._wait(again)
                continue
            if not piece:
                break
            found += piece
            self._position, self._failures = self._position + len(piece), 0
        return bytes(found)

    def _wait(self, again: Again) -> None:
        self._close()
        self._failures += 1
        if self._failures >= self._patience.tries:
            msg = f"cannot read {self._name} from byte {self._position} on, tried {self._failures} times: {again}."
            raise DataError(msg) from again
        time.sleep(self._patience.pause * 2 ** (self._failures - 1))

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class Resting:
    """Files that stayed unreadable, and until when they are left alone.

    Args:
        seconds: For how long.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until: dict[str, tuple[float, str]] = {}

    def read(self, name: str, read: Callable[[], bytes]) -> bytes:
        """Return what `read` returns, unless it failed not long ago.

        Raises:
            DataError: If it fails, or failed not long ago.
        """
        until, why = self._until.pop(name, (0.0, ""))
        if time.monotonic() < until:
            self._until[name] = until, why
            raise DataError(why)
        try:
            return read()
        except DataError as error:
            if isinstance(error.__cause__, Again):  # else the answer was clear, and cost no pauses
                self._until[name] = time.monotonic() + self._seconds, str(error)
            raise
