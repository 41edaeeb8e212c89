"""What the page asks of the server: HTTP, server-sent events, and the server's own words when it refuses."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from unipic2_apps.errors import UsageError

__all__ = ["Client", "Model", "ServerError", "Settings", "Shown", "check_address", "mime_of"]

PREVIEWS = 3
CONNECT_SECONDS = 5
_MAGIC = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"RIFF": "webp"}


class ServerError(Exception):
    """There is no result; the message is for the person at the page."""


@dataclass(frozen=True)
class Model:
    """What the server has."""

    name: str
    variant: str
    can: frozenset[str]
    """Of ``generate``, ``edit`` and ``ask``."""
    width: int
    height: int
    """Of pictures of which no size is asked, in px."""


@dataclass(frozen=True)
class Settings:
    """How pictures are made. What is None, or empty, is left to the server."""

    size: str = ""
    """WIDTHxHEIGHT in px."""
    negative_prompt: str = ""
    steps: int | None = None
    guidance: float | None = None
    seed: int | None = None
    num_images: int = 1

    def fields(self) -> dict[str, Any]:
        """Return the fields of a request."""
        given = {
            "n": self.num_images,
            "size": self.size.strip().lower(),
            "negative_prompt": self.negative_prompt.strip(),
            "num_inference_steps": self.steps,
            "guidance_scale": self.guidance,
            "seed": self.seed,
        }
        return {name: value for name, value in given.items() if value not in (None, "")}


@dataclass(frozen=True)
class Shown:
    """A picture of a stream."""

    row: int
    """Which of the request's pictures, from 0."""
    data: bytes
    """The file, as the server sent it."""
    seed: int
    preview: int | None = None
    """How many previews of it there were before, or None if it is done."""


class Client:
    """One server. All requests of a client belong to one event loop.

    Args:
        address: Where it is, such as ``http://127.0.0.1:8000``.
        key: API key.

    Raises:
        UsageError: If the address, or the key, can't be one.
    """

    def __init__(self, address: str, key: str | None = None) -> None:
        self.address = check_address(address)
        if key and not (key.isascii() and key.isprintable()):
            msg = "the API key holds characters that no key has: give one line of ASCII."
            raise UsageError(msg)
        # Not by the environment's proxies, and no redirects: the key is for this server alone.
        self._http = httpx.AsyncClient(
            base_url=self.address,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None),
            trust_env=False,
        )
        self._known: Model | None = None

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def model(self) -> Model:
        """Return what the server has.

        Raises:
            ServerError: If it doesn't answer, or not as a UniPic2 server.
        """
        async with self._answer("GET", "/v1/models") as response:
            try:
                found = json.loads(await response.aread())["data"][0]
                facts = found["facts"]
                height, width = facts["default_size"]
                self._known = Model(found["id"], facts["variant"], frozenset(facts["can"]), width, height)
            except (ValueError, LookupError, TypeError) as error:
                raise self._stranger(response.status_code) from error
        return self._known

    async def name(self) -> str:
        """Return the name of what the server has, without asking again: requests may be counted.

        Raises:
            ServerError: See ``model``.
        """
        return (self._known or await self.model()).name

    async def draw(self, prompt: str, settings: Settings) -> AsyncGenerator[Shown]:
        """Yield previews and pictures of a prompt. Closing the generator ends the work on them.

        Raises:
            ServerError: If the server refuses or fails.
        """
        body = {"prompt": prompt, **settings.fields(), **_STREAM}
        async with aclosing(self._pictures("/v1/images/generations", json=body)) as pictures:
            async for each in pictures:
                yield each

    async def edit(self, picture: bytes, instruction: str, settings: Settings) -> AsyncGenerator[Shown]:
        """Yield previews and edits of a picture. Closing the generator ends the work on them.

        Raises:
            ServerError: If the server refuses or fails.
        """
        fields = {name: str(value) for name, value in ({"prompt": instruction} | settings.fields() | _STREAM).items()}
        files = {"image": ("picture", picture, "application/octet-stream")}
        async with aclosing(self._pictures("/v1/images/edits", data=fields, files=files)) as pictures:
            async for each in pictures:
                yield each

    async def ask(
        self, picture: bytes | None, question: str, before: Sequence[tuple[str, str]] = ()
    ) -> AsyncGenerator[str]:
        """Yield an answer, piece by piece. Closing the generator ends the work on it.

        Args:
            picture: What the conversation is about, if anything.
            question: The question.
            before: Earlier questions and answers.

        Raises:
            ServerError: If the server refuses or fails.
        """
        body = {
            "model": await self.name(),
            "messages": _messages(picture, question, before),
            "modalities": ["text"],
            "stream": True,
        }
        async with aclosing(self._events("/v1/chat/completions", json=body)) as events:
            async for event in events:
                for choice in event["choices"]:
                    yield choice["delta"].get("content") or ""

    async def _pictures(self, path: str, **request: Any) -> AsyncGenerator[Shown]:
        async with aclosing(self._events(path, **request)) as events:
            async for event in events:
                yield Shown(
                    row=event["image_index"],
                    data=base64.b64decode(event["b64_json"]),
                    seed=event["seed"],
                    preview=event.get("partial_image_index"),
                )

    async def _events(self, path: str, **request: Any) -> AsyncGenerator[dict[str, Any]]:
        """Yield the data of server-sent events; an error among them is raised."""
        async with self._answer("POST", path, **request) as response:
            async for line in response.aiter_lines():
                name, _, value = line.partition(":")
                if name != "data" or value.strip() == "[DONE]":
                    continue
                event = json.loads(value)
                if "error" in event:
                    raise ServerError(event["error"]["message"])
                yield event

    @asynccontextmanager
    async def _answer(self, method: str, path: str, **request: Any) -> AsyncIterator[httpx.Response]:
        """Send a request; give its answer, unless that is an error."""
        try:
            async with self._http.stream(method, path, **request) as response:
                if response.status_code != 200:
                    raise self._refusal(response.status_code, await response.aread())
                yield response
        except httpx.ConnectError as error:
            msg = f"No server answers at {self.address}. Is it running? `unipic2 serve` starts one."
            raise ServerError(msg) from error
        except httpx.HTTPError as error:
            msg = f"The connection to {self.address} broke before the answer was whole ({type(error).__name__})."
            raise ServerError(msg) from error

    def _refusal(self, status: int, data: bytes) -> ServerError:
        try:
            message = str(json.loads(data)["error"]["message"])
        except (ValueError, LookupError, TypeError):
            return self._stranger(status)
        if status == 401:
            message += " The page takes the key from --api-key, or from UNIPIC2_API_KEY."
        return ServerError(message)

    def _stranger(self, status: int) -> ServerError:
        return ServerError(f"{self.address} answers ({status}), but not as a UniPic2 server does: check --server.")


_STREAM = {"stream": True, "partial_images": PREVIEWS}


def check_address(address: str) -> str:
    """Return the address of a server without what may stand at its end.

    Raises:
        UsageError: If it is none.
    """
    bare = address.strip().rstrip("/").removesuffix("/v1")
    try:
        parts = urlsplit(bare)
        is_usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0 and bare.isascii()
    except ValueError:  # a port that is no number, half an IPv6 address
        is_usable = False
    if not is_usable or "@" in bare or parts.query or parts.fragment:
        msg = (
            f"--server {address!r} is no address: write it as `unipic2 serve` prints it, such as http://127.0.0.1:8000."
        )
        raise UsageError(msg)
    return bare


def mime_of(data: bytes) -> str:
    """Return ``png``, ``jpeg`` or ``webp`` by the first bytes of a file; what it is not, the server will say."""
    return next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), "png")


def _messages(picture: bytes | None, question: str, before: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    turns = [*before, (question, None)]
    messages: list[dict[str, Any]] = []
    for asked, answered in turns:
        messages.append({"role": "user", "content": asked})
        if answered is not None:
            messages.append({"role": "assistant", "content": answered})
    if picture is not None:  # with the first question, so that all are about it
        uri = f"data:image/{mime_of(picture)};base64,{base64.b64encode(picture).decode()}"
        shown = {"type": "image_url", "image_url": {"url": uri}}
        messages[0]["content"] = [{"type": "text", "text": messages[0]["content"]}, shown]
    return messages
