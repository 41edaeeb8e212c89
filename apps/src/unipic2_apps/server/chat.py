"""``/v1/chat/completions``: questions about pictures, and pictures when asked for."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, Literal

from fastapi import APIRouter, Request
from PIL import Image
from starlette.responses import Response, StreamingResponse

from unipic2_apps.engine.tasks import Answered, Ask, Make, Picture, Piece, Turn
from unipic2_apps.server.errors import ApiError, SafeJSON, body_of
from unipic2_apps.server.images import IGNORED_HEADER, STREAM
from unipic2_apps.server.moderation import Moderated, moderate
from unipic2_apps.server.pictures import encode, to_data_uri
from unipic2_apps.server.routing import choose
from unipic2_apps.server.schemas import ChatBody, ChatReply, ignored_fields
from unipic2_apps.server.service import Service, service_of

__all__ = ["router"]

ROLES: dict[str, Literal["system", "user", "assistant"]] = {
    "user": "user",
    "assistant": "assistant",
    "system": "system",
    "developer": "system",
}

router = APIRouter()


@router.post("/v1/chat/completions", response_model=ChatReply, responses=STREAM)
async def completions(request: Request, body: ChatBody) -> Response:
    """Answer a question, with pictures or without; or draw, or edit the last picture.

    ``modalities`` says which. Without it the first words of the last message decide; ``choice`` in the reply tells how.
    """
    service = service_of(request)
    service.check_model(body.model)
    if body.messages[-1].role != "user":
        msg = f"the last message is the {body.messages[-1].role}'s; it has to be the user's."
        raise ApiError(400, "invalid_value", msg, param="messages")
    urls = [message.urls() for message in body.messages]
    choice = choose(body.messages[-1].text(), list(map(len, urls)), body.modalities)
    if choice.task == "text":
        task: Make | Ask = await _question(service, body)
    else:
        task = await _drawing(service, body, _edited(urls, choice.picture))
    deltas = _deltas(service, request, task)
    ignored = ignored_fields(body)
    headers = {IGNORED_HEADER: ", ".join(ignored)} if ignored else {}
    facts = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": service.name}
    if body.stream:
        first = await anext(deltas)  # what is refused at once is a plain 4xx
        with_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
        stream = _stream(first, deltas, facts, choice.facts(), with_usage=with_usage)
        return StreamingResponse(
            stream, media_type="text/event-stream", headers={**headers, "Cache-Control": "no-store"}
        )
    whole = await _whole(deltas)
    reply = {**facts, "object": "chat.completion", "choices": [whole], "choice": choice.facts()}
    if isinstance(task, Ask):
        reply["usage"] = whole.pop("usage")
    return SafeJSON(reply, headers=headers)


def _edited(urls: Sequence[Sequence[str]], index: int | None) -> Sequence[str]:
    """Return the pictures of a message to edit: all that came with the last one, but the last of an earlier one."""
    if index is None:
        return ()
    return urls[index] if index == len(urls) - 1 else urls[index][-1:]


async def _drawing(service: Service, body: ChatBody, urls: Sequence[str]) -> Make:
    service.check_edited(len(urls))  # before any is opened
    return service.make(
        body.messages[-1].text(),
        await _pictures(service, urls),
        size=body.size,
        steps=body.num_inference_steps,
        guidance=body.guidance_scale,
        seed=body.seed,
        negative_prompt=body.negative_prompt,
    )


async def _question(service: Service, body: ChatBody) -> Ask:
    *history, last = [
        (Turn(ROLES[message.role], message.text(), len(message.urls())), message.urls()) for message in body.messages
    ]
    pictures = []
    if "ask" in service.pool.facts.get("can", ()):  # or it is refused, whatever the pictures are
        urls = [url for _, each in (*history, last) for url in each]
        service.check_pictures(len(urls))
        pictures = await _pictures(service, urls)
    return service.ask(
        last[0].text,
        pictures,
        history=[turn for turn, _ in history if turn.text or turn.pictures],
        max_tokens=body.max_completion_tokens or body.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        seed=body.seed,
    )


async def _pictures(service: Service, urls: Sequence[str]) -> list[Image.Image]:
    return [await service.picture(url, "messages") for url in urls]


async def _deltas(service: Service, request: Request, task: Make | Ask) -> AsyncGenerator[dict[str, Any] | Answered]:
    """Yield what is added to the message, after moderation, and in the end the tokens of an answer."""
    held = ""
    async with aclosing(service.events(request, task)) as events:
        async for event in events:
            if isinstance(event, Piece):
                if service.hook is None:
                    yield {"content": event.text}
                else:  # half an answer can't be judged
                    held += event.text
            elif isinstance(event, Answered):
                service.metrics.answers.inc()
                if service.hook is not None:
                    await moderate(service.hook, Moderated("after", held, ()))
                    yield {"content": held}
                yield event
            elif isinstance(event, Picture):
                assert isinstance(task, Make)  # only that makes pictures
                await moderate(service.hook, Moderated("after", task.prompt, [event.picture]))
                edited = bool(task.pictures)
                file = await asyncio.to_thread(encode, event.picture, "png", edited=edited, label=service.ai_label)
                service.metrics.pictures.inc()
                image = {"type": "image_url", "image_url": {"url": to_data_uri(file, "png")}}
                yield {"images": [{**image, "seed": task.seeds[event.row]}]}


async def _whole(deltas: AsyncGenerator[dict[str, Any] | Answered]) -> dict[str, Any]:
    """Return the only choice of a reply; that of an answer carries its usage."""
    message: dict[str, Any] = {"role": "assistant", "content": None}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    async with aclosing(deltas):
        async for delta in deltas:
            if isinstance(delta, Answered):
                message["content"] = message["content"] or ""
                choice |= {"finish_reason": _reason(delta), "usage": _usage(delta)}
            elif "content" in delta:
                message["content"] = (message["content"] or "") + delta["content"]
            else:
                message |= delta
    return choice


async def _stream(
    first: dict[str, Any] | Answered,
    deltas: AsyncGenerator[dict[str, Any] | Answered],
    facts: dict[str, Any],
    taken: dict[str, str],
    *,
    with_usage: bool,
) -> AsyncIterator[bytes]:
    def chunk(delta: dict[str, Any], reason: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        return _data({**facts, "object": "chat.completion.chunk", "choices": [choice], **more})

    async with aclosing(deltas):
        try:
            yield chunk({"role": "assistant", "content": ""}, choice=taken)
            delta: dict[str, Any] | Answered | None = first
            answered = None
            while delta is not None:
                if isinstance(delta, Answered):
                    answered = delta
                else:
                    yield chunk(delta)
                delta = await anext(deltas, None)
            yield chunk({}, "stop" if answered is None else _reason(answered))
            if with_usage and answered is not None:
                yield _data({**facts, "object": "chat.completion.chunk", "choices": [], "usage": _usage(answered)})
        except ApiError as error:  # too late for a status
            yield _data(body_of(error))
    yield b"data: [DONE]\n\n"


def _reason(answered: Answered) -> str:
    return "length" if answered.cut else "stop"


def _usage(answered: Answered) -> dict[str, int]:
    read, written = answered.prompt_tokens, answered.answer_tokens
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _data(content: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(content)}\n\n".encode()
