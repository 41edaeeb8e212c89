"""``unipic2 serve``.

Without ``from __future__ import annotations``: the signature is the command line. What is slow to import is imported
while the engines load.
"""

import asyncio
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unipic2_apps.errors import UsageError
from unipic2_apps.listening import address, bind, say
from unipic2_apps.options import ModelOptions
from unipic2_apps.server.options import LimitOptions, ServerOptions

if TYPE_CHECKING:
    from fastapi import FastAPI

    from unipic2_apps.engine.pool import Pool

__all__ = ["KEEP_ALIVE", "make_app", "make_pool", "read_keys", "serve"]

LOCAL = {"127.0.0.1", "::1", "localhost"}
KEEP_ALIVE = 75
"""Seconds of an idle connection. Clients let go after 5, as uvicorn would: then a request can meet a closing door."""


def serve(*, model: ModelOptions, server: ServerOptions, limits: LimitOptions) -> None:
    """Serve a checkpoint over HTTP: OpenAI's images and chat endpoints, /health, /metrics, and /docs for the rest."""
    keys = read_keys(server.api_keys)
    if server.moderation is not None:
        from unipic2_apps.server.moderation import load_hook

        load_hook(server.moderation)
    if server.allow_urls:
        from unipic2_apps.server.urls import check_host

        for host in server.allow_urls:
            check_host(host)
    listening = bind(server.host, server.port)
    if server.host not in LOCAL and not keys:
        say(f"warning: {server.host} is open to the network, and without --api-keys everybody may use the server.")
    with listening:
        asyncio.run(_serve(listening, keys, model, server, limits))


async def _serve(
    listening: socket.socket, keys: list[str], model: ModelOptions, server: ServerOptions, limits: LimitOptions
) -> None:
    from unipic2_apps.engine.pool import NoEngineError

    pool = make_pool(model, server)
    loading = asyncio.create_task(pool.start())
    await asyncio.sleep(0)  # the engines start, and load while this process imports
    import uvicorn

    app = make_app(pool, keys, model, server, limits)
    try:
        await loading
    except NoEngineError as error:
        raise UsageError(str(error)) from error
    config = uvicorn.Config(app, log_level="info", server_header=False, timeout_keep_alive=KEEP_ALIVE)

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            _announce(app.state.service.name, pool.facts, address(listening))

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            # At once, so that whoever waits longer than the grace is told, before connections are closed.
            stopping = asyncio.create_task(pool.stop(grace=server.grace))
            await super().shutdown(sockets)
            await stopping

    await Server(config).serve(sockets=[listening])


def _announce(name: str, facts: dict[str, Any], where: str) -> None:
    kept = {part: f" in {quantization}" for part, quantization in facts["quantization"].items()}
    weights = ", ".join(f"{part} {size / 1e9:.3g} GB{kept.get(part, '')}" for part, size in facts["bytes"].items())
    total = sum(facts["bytes"].values()) / 1e9
    say(f"weights of each engine, in {facts['dtype']}: {weights}; in all {total:.3g} GB")
    say(f"serving {name} ({facts['variant']}: {', '.join(facts['can'])}) at {where}, described at /docs")


def make_pool(model: ModelOptions, server: ServerOptions) -> "Pool":
    """Return the engines of a server, which are not started yet."""
    from dataclasses import replace

    from unipic2_apps.engine.link import in_process
    from unipic2_apps.engine.pool import Pool

    devices: list[str | None] = [*server.devices] or [model.device]
    launches = [in_process(replace(model, device=device), server.max_rows) for device in devices]
    return Pool(launches, max_queue=server.max_queue)


def make_app(
    pool: "Pool", keys: list[str], model: ModelOptions, server: ServerOptions, limits: LimitOptions
) -> "FastAPI":
    """Return the application over a pool, which may still be loading."""
    from unipic2_apps.loading import default_checkpoint
    from unipic2_apps.server.app import create_app
    from unipic2_apps.server.guard import MEGABYTE
    from unipic2_apps.server.moderation import load_hook
    from unipic2_apps.server.service import Service
    from unipic2_apps.server.urls import Fetcher

    name = server.name or Path(model.checkpoint or default_checkpoint()).name
    hook = None if server.moderation is None else load_hook(server.moderation)
    fetcher = Fetcher(server.allow_urls, max_bytes=limits.max_body * MEGABYTE) if server.allow_urls else None
    service = Service(pool, name, limits=limits, hook=hook, fetcher=fetcher, ai_label=server.ai_label)
    pool.on_step = service.metrics.on_step
    return create_app(service, server, keys=keys)


def read_keys(path: str | None) -> list[str]:
    """Return the keys that a file holds; without one there are none.

    Raises:
        UsageError: If it can't be read or is empty.
    """
    if path is None:
        return []
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        msg = f"--api-keys {path} can't be read ({error})."
        raise UsageError(msg) from error
    keys = [line.strip() for line in lines if line.strip()]
    if not keys:
        msg = f"--api-keys {path} holds no key: write one a line."
        raise UsageError(msg)
    return keys
