"""``/v1/chat/completions``: questions about pictures, and pictures when asked for by ``modalities``."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from PIL import Image
from starlette.responses import Response, StreamingResponse

from unipic2_apps.engine.tasks import Ask, Make, Picture, Piece
from unipic2_apps.server.errors import ApiError, SafeJSON, body_of
from unipic2_apps.server.images import IGNORED_HEADER, STREAM
from unipic2_apps.server.moderation import Moderated, moderate
from unipic2_apps.server.pictures import encode, read_data_uri, to_data_uri
from unipic2_apps.server.schemas import ChatBody, ChatReply, Message, ignored_fields
from unipic2_apps.server.service import Service, service_of

__all__ = ["router"]

ROLES = {"user": "User", "assistant": "Assistant", "system": "System", "developer": "System"}

router = APIRouter()


@router.post("/v1/chat/completions", response_model=ChatReply, responses=STREAM)
async def completions(request: Request, body: ChatBody) -> Response:
    """Answer a question, with pictures or without; or draw, or edit the last message's picture.

    ``modalities: ["image"]`` asks for a picture. Without it the answer is text, about all pictures of the conversation.
    """
    service = service_of(request)
    service.check_model(body.model)
    if body.messages[-1].role != "user":
        msg = f"the last message is the {body.messages[-1].role}'s; it has to be the user's."
        raise ApiError(400, "invalid_value", msg, param="messages")
    task = await (_drawing if "image" in (body.modalities or ()) else _question)(service, body)
    deltas = _deltas(service, request, task)
    ignored = ignored_fields(body)
    headers = {IGNORED_HEADER: ", ".join(ignored)} if ignored else {}
    facts = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": service.name}
    if body.stream:
        first: dict[str, Any] = await anext(deltas, {})  # what is refused at once is a plain 4xx
        stream = _stream(first, deltas, facts)
        return StreamingResponse(
            stream, media_type="text/event-stream", headers={**headers, "Cache-Control": "no-store"}
        )
    message: dict[str, Any] = {"role": "assistant", "content": None}
    async with aclosing(deltas):
        async for delta in deltas:
            if "content" in delta:
                message["content"] = (message["content"] or "") + delta["content"]
            message |= {key: value for key, value in delta.items() if key != "content"}
    if isinstance(task, Ask):
        message["content"] = message["content"] or ""
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    return SafeJSON({**facts, "object": "chat.completion", "choices": [choice]}, headers=headers)


async def _drawing(service: Service, body: ChatBody) -> Make:
    last = body.messages[-1]
    return service.make(
        last.text(),
        await _pictures(service, last.urls()),
        size=body.size,
        steps=body.num_inference_steps,
        guidance=body.guidance_scale,
        seed=body.seed,
        negative_prompt=body.negative_prompt,
    )


async def _question(service: Service, body: ChatBody) -> Ask:
    urls = [url for message in body.messages for url in message.urls()]
    if "ask" in service.pool.facts.get("can", ()):  # or it is refused, whatever the pictures are
        service.check_pictures(len(urls))
        pictures = await _pictures(service, urls)
    else:
        pictures = []
    return service.ask(
        _transcript(body.messages),
        pictures,
        max_tokens=body.max_completion_tokens or body.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        seed=body.seed,
    )


async def _pictures(service: Service, urls: Sequence[str]) -> list[Image.Image]:
    most = service.limits.max_input_pixels
    return [await asyncio.to_thread(read_data_uri, url, max_pixels=most, param="messages") for url in urls]


def _transcript(messages: Sequence[Message]) -> str:
    """Return a conversation as one question: as it is if there is only one message, else turn by turn."""
    if len(messages) == 1:
        return messages[0].text()
    turns = [f"{ROLES[message.role]}: {message.text()}" for message in messages if message.text()]
    return "\n".join([*turns, "Assistant:"])


async def _deltas(service: Service, request: Request, task: Make | Ask) -> AsyncGenerator[dict[str, Any]]:
    """Yield what is added to the answer, after moderation."""
    held = ""
    async with aclosing(service.events(request, task)) as events:
        async for event in events:
            if isinstance(event, Piece):
                if service.hook is None:
                    yield {"content": event.text}
                else:  # half an answer can't be judged
                    held += event.text
            elif isinstance(event, Picture):
                assert isinstance(task, Make)  # only that makes pictures
                await moderate(service.hook, Moderated("after", task.prompt, [event.picture]))
                edited = bool(task.pictures)
                file = await asyncio.to_thread(encode, event.picture, "png", edited=edited, label=service.ai_label)
                service.metrics.pictures.inc()
                image = {"type": "image_url", "image_url": {"url": to_data_uri(file, "png")}}
                yield {"images": [{**image, "seed": task.seeds[event.row]}]}
    if isinstance(task, Ask):
        service.metrics.answers.inc()
        if service.hook is not None:
            await moderate(service.hook, Moderated("after", held, ()))
            yield {"content": held}


async def _stream(
    first: dict[str, Any], deltas: AsyncGenerator[dict[str, Any]], facts: dict[str, Any]
) -> AsyncIterator[bytes]:
    def chunk(delta: dict[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        return _data({**facts, "object": "chat.completion.chunk", "choices": [choice]})

    async with aclosing(deltas):
        try:
            yield chunk({"role": "assistant", "content": "", **first})
            async for delta in deltas:
                yield chunk(delta)
            yield chunk({}, "stop")
        except ApiError as error:  # too late for a status
            yield _data(body_of(error))
    yield b"data: [DONE]\n\n"


def _data(content: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(content)}\n\n".encode()
