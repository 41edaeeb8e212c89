"""The application: endpoints, what stands in front of them, and the shape of errors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from unipic2_apps import __version__
from unipic2_apps.server import chat, images
from unipic2_apps.server.errors import ApiError, SafeJSON, add_handlers
from unipic2_apps.server.guard import Guard
from unipic2_apps.server.metrics import Counted
from unipic2_apps.server.options import ServerOptions
from unipic2_apps.server.schemas import ErrorBody, ModelReply, ModelsReply
from unipic2_apps.server.service import Service, service_of

__all__ = ["create_app"]

EXPOSED = [images.IGNORED_HEADER, "Retry-After"]
PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {
        "model": ErrorBody,
        "description": "It is refused as it is; the message says why, Retry-After when to return.",
    },
    503: {"model": ErrorBody, "description": "No engine can do it at the moment."},
}

router = APIRouter()


def create_app(service: Service, options: ServerOptions | None = None, *, keys: Collection[str] = ()) -> FastAPI:
    """Return the application of a service; when it ends, the engines end.

    Args:
        service: The model.
        options: Rate limit, CORS and how long to wait for what runs.
        keys: API keys that let in; without any everybody may.
    """
    given = options or ServerOptions()

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await service.pool.stop(grace=given.grace)

    app = FastAPI(
        title="UniPic2",
        version=__version__,
        description="Make and edit pictures, and ask about them: OpenAI's API over a UniPic2 checkpoint.",
        redoc_url=None,
        responses=PROBLEMS,
        lifespan=lifespan,
    )
    app.state.service = service
    service.metrics.watch(service.pool)
    for each in (router, images.router, chat.router):
        app.include_router(each)
    add_handlers(app)
    app.add_middleware(Guard, keys=keys, per_minute=given.rate_limit, max_body=service.limits.max_body)
    if given.cors_origin:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=given.cors_origin,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=EXPOSED,
        )
    app.add_middleware(Counted, metrics=service.metrics)
    return app


@router.get("/v1/models", response_model=ModelsReply)
async def models(request: Request) -> Response:
    """List the model."""
    return SafeJSON({"object": "list", "data": [_model(service_of(request))]})


@router.get("/v1/models/{name}", response_model=ModelReply)
async def model(request: Request, name: str) -> Response:
    """Describe the model."""
    service = service_of(request)
    service.check_model(name)
    return SafeJSON(_model(service))


@router.get("/health", response_model=dict[str, Any])
async def health(request: Request) -> Response:
    """Tell whether an engine works; 503 if none does."""
    pool = service_of(request).pool
    facts = {"engines": pool.size, "ready": pool.ready, "queue": pool.rows, "restarts": pool.restarts}
    if not pool.ready:
        raise ApiError(503, "engine_unavailable", f"no engine works at the moment ({facts}).")
    return SafeJSON({"status": "ok", **facts})


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """Return counters for Prometheus."""
    return Response(service_of(request).metrics.text(), media_type="text/plain; version=0.0.4")


def _model(service: Service) -> dict[str, Any]:
    about = {"id": service.name, "object": "model", "created": service.started, "owned_by": "unipic2"}
    return {**about, "facts": service.pool.facts}
