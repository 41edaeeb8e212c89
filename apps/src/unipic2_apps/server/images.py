"""``/v1/images/generations`` and ``/v1/images/edits``."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, Literal

from fastapi import APIRouter, Request
from PIL import Image
from starlette.responses import Response, StreamingResponse

from unipic2_apps.engine.tasks import Make, Picture, Preview
from unipic2_apps.server.edits import EDIT_BODIES, read_edit
from unipic2_apps.server.errors import ApiError, SafeJSON, body_of
from unipic2_apps.server.moderation import Moderated, moderate
from unipic2_apps.server.pictures import encode, to_data_uri
from unipic2_apps.server.schemas import GenerateBody, ImagesReply, PictureFields, ignored_fields
from unipic2_apps.server.service import Service, service_of

__all__ = ["IGNORED_HEADER", "router", "sse"]

IGNORED_HEADER = "X-Ignored-Fields"
# Tokens are not counted; OpenAI's client types promise the fields.
NO_USAGE = {
    "input_tokens": 0,
    "output_tokens": 0,
    "total_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
}
STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}

router = APIRouter()


@router.post("/v1/images/generations", response_model=ImagesReply, responses=STREAM)
async def generations(request: Request, body: GenerateBody) -> Response:
    """Make pictures from a prompt."""
    return await _pictures(request, body, [], "image_generation")


@router.post("/v1/images/edits", response_model=ImagesReply, responses=STREAM, openapi_extra=EDIT_BODIES)
async def edits(request: Request) -> Response:
    """Edit a picture by an instruction, as a form (``image`` or ``image[]``) or as JSON (``images``)."""
    fields, pictures = await read_edit(request, service_of(request))
    return await _pictures(request, fields, pictures, "image_edit")


async def _pictures(
    request: Request,
    fields: PictureFields,
    pictures: list[Image.Image],
    kind: Literal["image_generation", "image_edit"],
) -> Response:
    service = service_of(request)
    service.check_model(fields.model)
    task = service.make(
        fields.prompt,
        pictures,
        n=fields.n,
        size=fields.size,
        steps=fields.num_inference_steps,
        guidance=fields.guidance_scale,
        seed=fields.seed,
        negative_prompt=fields.negative_prompt,
        previews=(fields.partial_images or 0) if fields.stream else 0,
    )
    ignored = ignored_fields(fields)
    if fields.stream and fields.response_format == "url":
        ignored.append("response_format")
    headers = {IGNORED_HEADER: ", ".join(ignored)} if ignored else {}
    files = _files(service, request, task, fields)
    if fields.stream:
        first = await anext(files)  # what is refused at once is a plain 4xx
        stream = _stream(first, files, task, fields, kind)
        return StreamingResponse(
            stream, media_type="text/event-stream", headers={**headers, "Cache-Control": "no-store"}
        )
    async with aclosing(files):
        made = {event.row: (event, file) async for event, file in files if isinstance(event, Picture)}
    data = [_item(*made[row], task, fields) for row in sorted(made)]
    return SafeJSON({"created": int(time.time()), "data": data, **_echo(made[0][0].picture, fields)}, headers=headers)


async def _files(
    service: Service, request: Request, task: Make, fields: PictureFields
) -> AsyncGenerator[tuple[Picture | Preview, bytes]]:
    """Yield what is made, as files, after moderation."""
    async with aclosing(service.events(request, task)) as events:
        async for event in events:
            if not isinstance(event, Picture | Preview):
                continue
            await moderate(service.hook, Moderated("after", task.prompt, [event.picture]))
            file = await asyncio.to_thread(
                encode,
                event.picture,
                fields.output_format or "png",
                quality=100 if fields.output_compression is None else fields.output_compression,
                edited=bool(task.pictures),
                label=service.ai_label,
            )
            if isinstance(event, Picture):
                service.metrics.pictures.inc()
            yield event, file


async def _stream(
    first: tuple[Picture | Preview, bytes],
    files: AsyncGenerator[tuple[Picture | Preview, bytes]],
    task: Make,
    fields: PictureFields,
    kind: str,
) -> AsyncIterator[bytes]:
    async with aclosing(files):
        try:
            yield _message(*first, task, fields, kind)
            async for event, file in files:
                yield _message(event, file, task, fields, kind)
        except ApiError as error:  # too late for a status
            yield sse("error", body_of(error))


def _message(event: Picture | Preview, file: bytes, task: Make, fields: PictureFields, kind: str) -> bytes:
    facts: dict[str, Any] = {
        "b64_json": base64.b64encode(file).decode(),
        "created_at": int(time.time()),
        "seed": task.seeds[event.row],
        "image_index": event.row,
        **_echo(event.picture, fields),
    }
    if isinstance(event, Preview):
        return sse(f"{kind}.partial_image", {**facts, "partial_image_index": event.index})
    return sse(f"{kind}.completed", {**facts, "usage": NO_USAGE})


def sse(name: str, data: dict[str, Any]) -> bytes:
    """Return a server-sent event; OpenAI's repeat their name inside."""
    body = data if "error" in data else {"type": name, **data}
    return f"event: {name}\ndata: {json.dumps(body)}\n\n".encode()


def _item(event: Picture, file: bytes, task: Make, fields: PictureFields) -> dict[str, Any]:
    seed = {"seed": task.seeds[event.row]}
    if fields.response_format == "url":
        return {"url": to_data_uri(file, fields.output_format or "png"), **seed}
    return {"b64_json": base64.b64encode(file).decode(), **seed}


def _echo(picture: Image.Image, fields: PictureFields) -> dict[str, Any]:
    return {
        "background": "opaque",
        "output_format": fields.output_format or "png",
        "quality": "auto",
        "size": f"{picture.width}x{picture.height}",
    }
