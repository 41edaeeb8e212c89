"""Files behind a web server, read by ranges of bytes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from unipic2_data.errors import DataError
from unipic2_data.patience import Again, Forward, Patience, Resting

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager

__all__ = ["Web", "WebFiles"]

_CONNECTIONS = 4
_SAFE = "/!$&'()*+,;=:@~"  # characters that a path may have as they are
_LARGEST, _PIECE = 2**40, 2**20
_OK, _PARTIAL, _NOT_SATISFIABLE = 200, 206, 416
_FAILED, _BUSY = 500, frozenset({408, 425, 429})


class Web:
    """Connections to web servers, of this process alone: those of the process it was forked from are not for sharing.

    Args:
        timeout: Seconds without a byte.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._pool: PoolManager | None = None
        self._process = 0

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_pool": None}

    def open_range(self, address: str, start: int, stop: int | None = None) -> _Response:
        """Ask for bytes of a file.

        Args:
            address: The file.
            start: First byte.
            stop: Byte after the last; None = to the end.

        Raises:
            Again: If the server cannot be reached or is busy.
            DataError: If it refuses, or knows no ranges.
        """
        connections = self._connections(address)
        import urllib3

        headers = {"Accept-Encoding": "identity"}
        if start or stop is not None:
            headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        try:
            response = connections.request("GET", address, headers=headers, preload_content=False, retries=False)
        except urllib3.exceptions.HTTPError as error:
            raise Again(_why(error)) from error
        opened = _Response(response)
        try:
            _check_status(response.status, address, ranged="Range" in headers)
        except BaseException:
            opened.close()
            raise
        return opened

    def _connections(self, address: str) -> PoolManager:
        if self._pool is None or self._process != os.getpid():
            try:
                import urllib3
            except ImportError as error:
                msg = f"reading {address} needs urllib3: pip install 'unipic2-data[http]'."
                raise DataError(msg) from error
            timeout = urllib3.Timeout(connect=self._timeout, read=self._timeout)
            self._pool, self._process = urllib3.PoolManager(_CONNECTIONS, timeout=timeout), os.getpid()
        return self._pool


class WebFiles:
    """Files below an address.

    Args:
        root: The address, http or https.
        patience: How patiently the server is asked.
    """

    def __init__(self, root: str, patience: Patience) -> None:
        self._root, self._patience = root.rstrip("/"), patience
        self._web, self._resting = Web(patience.timeout), Resting(patience.rest)

    def part(self, path: str, start: int, length: int) -> bytes:
        """Return a part of a file, see `Files`."""
        return self._read(path, start, start + length) if length > 0 else b""

    def whole(self, path: str) -> bytes:
        """Return a file, see `Files`."""
        return self._read(path, 0, None)

    def _read(self, path: str, start: int, stop: int | None) -> bytes:
        address = f"{self._root}/{quote(path, safe=_SAFE)}"

        def read() -> bytes:
            with Forward(address, lambda at: self._web.open_range(address, start + at, stop), self._patience) as file:
                return file.read(_LARGEST if stop is None else stop - start)

        return self._resting.read(address, read)


class _Response:
    """The body of an answer."""

    def __init__(self, response: BaseHTTPResponse) -> None:
        self._response = response
        length = response.headers.get("Content-Length", "")
        self._left = int(length) if length.isdecimal() else None  # bytes still to come, if the server said so
        self._ended = response.status == _NOT_SATISFIABLE  # asked for what is beyond the end

    def read(self, count: int) -> bytes:
        """Return at most so many bytes, none at the end."""
        if self._ended:
            return b""
        import urllib3

        try:
            piece = self._response.read1(min(count, _PIECE))
        except urllib3.exceptions.HTTPError as error:
            msg = f"the connection broke ({_why(error)})"
            raise Again(msg) from error
        if self._left is not None:
            self._left -= len(piece)
            if not piece and self._left:
                msg = f"the connection broke, {self._left} bytes too early"
                raise Again(msg)
        self._ended = not piece
        return piece

    def close(self) -> None:
        """Give the connection back if the body was read, else close it."""
        if self._ended or self._left == 0:
            self._response.drain_conn()
            self._response.release_conn()
        else:
            self._response.close()


def _check_status(status: int, address: str, *, ranged: bool) -> None:
    if status in {_PARTIAL, _NOT_SATISFIABLE} or (status == _OK and not ranged):
        return
    if status in _BUSY or status >= _FAILED:
        msg = f"status {status}"
        raise Again(msg)
    if status == _OK:
        msg = f"the server of {address} knows no ranges of bytes. Use one that does, or `tars: pipe:curl -sf ...`."
    else:
        msg = f"cannot read {address}: status {status}. Check the address and who may read it."
    raise DataError(msg)


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]
