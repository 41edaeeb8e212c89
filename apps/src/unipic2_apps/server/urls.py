"""Pictures by URL, from the few hosts that the operator allows, and from nowhere inside.

A URL of a client's is https on the usual port, of a host that is named exactly. The host's addresses are resolved once:
each has to be public, and the connection goes to one of these, not to whatever the name means a moment later. Redirects
stay on the host. Time and bytes are bounded.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Collection
from functools import cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

import h11

from unipic2_apps.errors import UsageError
from unipic2_apps.server.errors import ApiError

__all__ = ["Connect", "Fetcher", "Resolve", "check_host", "is_public"]

Resolve = Callable[[str], Awaitable[list[str]]]
"""Returns the addresses of a host."""
Connect = Callable[[str, str], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
"""Opens a TLS connection to an address, with a certificate of the host."""

PORT = 443
SECONDS = 15.0
LONGEST_URL = 2048
MOST_REDIRECTS = 3
REDIRECTS = {301, 302, 303, 307, 308}
CHUNK = 2**16
_HOST = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*", re.ASCII)
# IPv6 that leads to IPv4 addresses of any kind: NAT64, Teredo, 6to4.
_TUNNELS = [IPv6Network(each) for each in ("64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16")]


class _Answer(NamedTuple):
    status: int
    headers: dict[bytes, bytes]
    body: bytes


class Fetcher:
    """Gets pictures of allowed hosts.

    Args:
        hosts: Their names.
        max_bytes: The most bytes of a picture.
        seconds: The most time that a picture may take, redirects included.
        resolve: How names become addresses.
        connect: How connections are made.
    """

    def __init__(
        self,
        hosts: Collection[str],
        *,
        max_bytes: int,
        seconds: float = SECONDS,
        resolve: Resolve | None = None,
        connect: Connect | None = None,
    ) -> None:
        self.hosts = {check_host(host) for host in hosts}
        self.max_bytes = max_bytes
        self.seconds = seconds
        self._resolve = resolve or _resolve
        self._connect = connect or _connect

    async def fetch(self, url: str, param: str) -> tuple[bytes, str | None]:
        """Return what is at a URL, and what it is said to be.

        Args:
            url: The URL.
            param: The field that it came in.

        Raises:
            ApiError: If it may not be opened, or does not answer with a file that is small enough.
        """
        try:
            async with asyncio.timeout(self.seconds):
                answer = await self._follow(url)
        except TimeoutError:
            problem = f"the URL's host took more than {self.seconds:g} s: send the picture itself."
        except _RefusedError as error:
            problem = str(error)
        except (OSError, h11.ProtocolError):  # nothing of our network is told
            problem = "the URL's host can't be reached, has no valid certificate or does not speak HTTP."
        else:
            kind = answer.headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
            return answer.body, kind or None
        raise ApiError(400, "invalid_image", f"{param}: {problem}", param=param)

    async def _follow(self, url: str) -> _Answer:
        host, target = self._split(url)
        addresses = await self._addresses(host)
        for _ in range(MOST_REDIRECTS + 1):
            answer = await self._get(addresses, host, target)
            if answer.status not in REDIRECTS:
                return answer
            url = urljoin(f"https://{host}{target}", answer.headers.get(b"location", b"").decode("latin-1"))
            onto, target = self._split(url)
            if onto != host:
                msg = "the URL leads to another host; send the URL that it leads to."
                raise _RefusedError(msg)
        msg = f"the URL leads on more than {MOST_REDIRECTS} times."
        raise _RefusedError(msg)

    def _split(self, url: str) -> tuple[str, str]:
        """Return the host and the path of an allowed URL."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            host, port = "", None
        # What the parser drops or a header could not hold must not be there at all.
        is_plain = len(url) <= LONGEST_URL and url.isascii() and url.isprintable() and " " not in url
        if not is_plain or not host or parts.scheme != "https" or "@" in parts.netloc or port not in (None, PORT):
            msg = "the URL is none that is opened here: https://HOST/PATH, percent-encoded, or a data URI."
            raise _RefusedError(msg)
        if host not in self.hosts:
            allowed = ", ".join(sorted(self.hosts))
            msg = f"URLs of {host[:100]} are not opened here, only of {allowed}; or send a data URI."
            raise _RefusedError(msg)
        return host, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    async def _addresses(self, host: str) -> list[str]:
        addresses = await self._resolve(host)
        if not addresses or not all(map(is_public, addresses)):
            msg = f"{host} has no public address at the moment."
            raise _RefusedError(msg)
        return addresses

    async def _get(self, addresses: list[str], host: str, target: str) -> _Answer:
        reader, writer = await self._open(addresses, host)
        try:
            connection = h11.Connection(h11.CLIENT)
            writer.write(connection.send(_request(host, target)) + connection.send(h11.EndOfMessage()))
            await writer.drain()
            return await self._read(connection, reader)
        finally:
            writer.transport.abort()

    async def _open(self, addresses: list[str], host: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        for address in addresses[:-1]:
            try:
                return await self._connect(address, host)
            except OSError:  # such as IPv6 where there is none
                continue
        return await self._connect(addresses[-1], host)

    async def _read(self, connection: h11.Connection, reader: asyncio.StreamReader) -> _Answer:
        status, headers, body = 0, {}, bytearray()
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(CHUNK))
            elif isinstance(event, h11.Response):
                status, headers = event.status_code, dict(event.headers)
                if status in REDIRECTS:
                    return _Answer(status, headers, b"")
                self._check(status, headers)
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > self.max_bytes:
                    raise self._too_large()
            elif isinstance(event, h11.EndOfMessage):
                return _Answer(status, headers, bytes(body))

    def _check(self, status: int, headers: dict[bytes, bytes]) -> None:
        if status != 200:
            msg = f"the URL's host answers {status}, and not with a picture."
            raise _RefusedError(msg)
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            msg = "the URL's host packs the picture, which was not asked for."
            raise _RefusedError(msg)
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length[:20]) > self.max_bytes:
            raise self._too_large()

    def _too_large(self) -> _RefusedError:
        return _RefusedError(f"the picture at the URL has more than {self.max_bytes} bytes.")


class _RefusedError(Exception):
    """A URL that is not opened, or not to the end; the message is for the client."""


def check_host(host: str) -> str:
    """Return the name of a host as URLs have it.

    Raises:
        UsageError: If it is none.
    """
    name = host.strip().lower()
    if not _HOST.fullmatch(name):
        msg = f"--allow-urls {host!r} is no host: write its name alone, such as images.example.org."
        raise UsageError(msg)
    return name


def is_public(text: str) -> bool:
    """Tell whether an address is one of the internet, and none of this machine, its networks or a way into them."""
    try:
        address: IPv4Address | IPv6Address = ip_address(text)
    except ValueError:  # an address with a zone is a local one
        return False
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(str(address.ipv4_mapped))
        if any(address in network for network in _TUNNELS) or address.is_site_local:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _request(host: str, target: str) -> h11.Request:
    headers = [
        ("Host", host),
        ("User-Agent", "unipic2"),
        ("Accept", "image/png, image/jpeg, image/webp"),
        ("Accept-Encoding", "identity"),
        ("Connection", "close"),
    ]
    return h11.Request(method="GET", target=target, headers=headers)


async def _resolve(host: str) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, PORT, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


async def _connect(address: str, host: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(address, PORT, ssl=_trust(), server_hostname=host)


@cache
def _trust() -> ssl.SSLContext:
    return ssl.create_default_context()
