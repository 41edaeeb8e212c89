"""The server on Ray Serve: replicas on one machine or many, each the whole app with engines of its own behind it.

::

    serve run unipic2_apps.ray_serve:app checkpoint=DIR gpus=1 max_replicas=4

Arguments are the options of ``unipic2 serve``, but for host and port, which are Ray Serve's, and those of
``ScaleOptions``. Needs the extra ``ray``.

Without ``from __future__ import annotations``: jsonargparse reads the types.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveInt
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unipic2_apps.arguments import call
from unipic2_apps.cli import Command
from unipic2_apps.errors import UsageError
from unipic2_apps.options import ModelOptions
from unipic2_apps.server.command import make_app, make_pool, read_keys
from unipic2_apps.server.options import LimitOptions, ServerOptions

if TYPE_CHECKING:
    from ray.serve import Application

__all__ = ["REPLICA_HEADER", "Replica", "ScaleOptions", "app"]

REPLICA_HEADER = "X-Replica"
LONGER = 10
"""Seconds beyond the grace after which Ray ends a replica itself."""


@dataclass(frozen=True)
class ScaleOptions:
    """The replicas.

    Args:
        min_replicas: The fewest replicas; 0 lets the model go while nobody asks.
        max_replicas: The most; by default as many as the fewest, or 1.
        busy: Requests under way in a replica beyond which there should be more replicas; by default --max-rows.
        gpus: GPUs of a replica.
        cpus: Cores of a replica.
    """

    min_replicas: NonNegativeInt = 1
    max_replicas: PositiveInt | None = None
    busy: PositiveInt | None = None
    gpus: NonNegativeFloat = 0.0
    cpus: NonNegativeFloat = 1.0


class Replica:
    """One copy of the server: the app, its queue, and engines in processes of their own.

    Args:
        model: What each engine loads.
        server: The server.
        limits: What one request may ask for.
    """

    def __init__(self, model: ModelOptions, server: ServerOptions, limits: LimitOptions) -> None:
        keys = read_keys(server.api_keys)
        self._pool = make_pool(model, server)
        self._app = make_app(self._pool, keys, model, server, limits)

    async def __serve_build_asgi_app__(self) -> ASGIApp:
        from ray import serve

        await self._pool.start()
        return Named(self._app, serve.get_replica_context().replica_id.unique_id)

    def check_health(self) -> None:
        """Have Ray replace a replica none of whose engines can be started again; one that died alone comes back."""
        if self._pool.broken:
            raise RuntimeError(self._pool.broken)


class Named:
    """An app whose responses say which replica they are from."""

    def __init__(self, app: ASGIApp, name: str) -> None:
        self.app = app
        self.name = name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REPLICA_HEADER] = self.name
            await send(message)

        await self.app(scope, receive, named)


def app(arguments: dict[str, Any]) -> "Application":
    """Return the application that ``serve run`` and ``serve deploy`` start.

    Args:
        arguments: Options by name, as text or as values of YAML.

    Raises:
        UsageError: If one is unknown or impossible.
    """
    built: list[Application] = []

    def build(*, model: ModelOptions, server: ServerOptions, limits: LimitOptions, scale: ScaleOptions) -> None:
        built.append(_application(model, server, limits, scale))

    call(build, "serve", Command("", ""), _words(arguments))
    return built[0]


def _words(arguments: Mapping[str, Any]) -> list[str]:
    """Return arguments as a command line."""
    words = []
    for key, value in arguments.items():
        if key in ("host", "port"):
            msg = f"{key} is not the app's here: set it in the http_options of Ray Serve's configuration."
            raise UsageError(msg)
        several = value if isinstance(value, list) else [value]
        words += [f"--{key}={each if isinstance(each, str) else json.dumps(each)}" for each in several]
    return words


def _application(
    model: ModelOptions, server: ServerOptions, limits: LimitOptions, scale: ScaleOptions
) -> "Application":
    from ray import serve

    most = scale.max_replicas or max(scale.min_replicas, 1)
    if most < scale.min_replicas:
        msg = f"max_replicas is {most}, but min_replicas {scale.min_replicas}."
        raise UsageError(msg)
    replicas: dict[str, Any] = {"num_replicas": most}
    if most > scale.min_replicas:
        scaling = {"min_replicas": scale.min_replicas, "max_replicas": most}
        replicas = {"autoscaling_config": {**scaling, "target_ongoing_requests": scale.busy or server.max_rows}}
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name="UniPic2",
        # A replica's own queue is what refuses, with 429 and when to come back; Ray's is the second line.
        max_ongoing_requests=2 * server.max_queue,
        max_queued_requests=2 * server.max_queue * most,
        ray_actor_options={"num_cpus": scale.cpus, "num_gpus": scale.gpus},
        graceful_shutdown_timeout_s=server.grace + LONGER,
        **replicas,
    )
    return deployment.bind(model, server, limits)
