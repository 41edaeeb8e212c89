"""What all endpoints share: limits, the way to the engines, and back."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from fastapi import Request
from PIL import Image

from unipic2_apps.engine.pool import NoEngineError, Pool, QueueFullError, Ticket
from unipic2_apps.engine.tasks import Ask, Event, Make, Refused, Task, Turn
from unipic2_apps.server.errors import ApiError
from unipic2_apps.server.metrics import Metrics
from unipic2_apps.server.moderation import Hook, Moderated, moderate
from unipic2_apps.server.options import LimitOptions
from unipic2_apps.server.pictures import read_data_uri, read_picture
from unipic2_apps.server.urls import Fetcher

__all__ = ["Service", "service_of"]

CLIENT_GONE = 499


@dataclass
class Service:
    """One model behind HTTP."""

    pool: Pool
    name: str
    """What clients call the model."""
    limits: LimitOptions = field(default_factory=LimitOptions)
    metrics: Metrics = field(default_factory=Metrics)
    hook: Hook | None = None
    """Moderation."""
    fetcher: Fetcher | None = None
    """Gets pictures by URL, where that is allowed."""
    ai_label: bool = True
    """Pictures say that they were made by AI."""
    started: int = field(default_factory=lambda: int(time.time()))
    """Unix time."""

    def check_model(self, name: str | None) -> None:
        """Make sure that this is the model that is asked for.

        Raises:
            ApiError: If it is another one.
        """
        if name is not None and name != self.name:
            msg = f"there is no model {name[:100]!r} here; this server has {self.name!r}."
            raise ApiError(404, "model_not_found", msg, param="model")

    def check_pictures(self, number: int) -> None:
        """Make sure that a question is about no more pictures than it may be.

        Raises:
            ApiError: If it is.
        """
        self._check_most(number, self.limits.max_images, "messages", "pictures")

    def check_edited(self, number: int) -> None:
        """Make sure that there is no more than one picture to edit.

        Raises:
            ApiError: If there is.
        """
        if number > 1:
            msg = f"{number} pictures were sent; this model edits one at a time."
            raise ApiError(400, "too_many_images", msg, param="image")

    async def picture(self, url: str, param: str) -> Image.Image:
        """Return the picture of a data URI, or of an allowed URL.

        Args:
            url: What the client sent.
            param: The field that it came in.

        Raises:
            ApiError: If it may not be opened, or is no picture.
        """
        most = self.limits.max_input_pixels
        if self.fetcher is None or url[:5].lower() == "data:":
            return await asyncio.to_thread(read_data_uri, url, max_pixels=most, param=param)
        data, mime = await self.fetcher.fetch(url, param)
        return await asyncio.to_thread(read_picture, data, max_pixels=most, mime=mime, param=param)

    def make(
        self,
        prompt: str,
        pictures: Sequence[Image.Image],
        *,
        n: int | None = None,
        size: str | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        seed: int | None = None,
        negative_prompt: str | None = None,
        previews: int = 0,
    ) -> Make:
        """Return the task of making or editing pictures, within the limits.

        Raises:
            ApiError: If it is beyond them, or the model can't do it.
        """
        self._check_capable("edit" if pictures else "generate")
        self._check_text(prompt, "prompt")
        if negative_prompt:
            self._check_text(negative_prompt, "negative_prompt")
        self.check_edited(len(pictures))
        self._check_most(n, self.limits.max_images, "n", "pictures")
        self._check_most(steps, self.limits.max_steps, "num_inference_steps", "steps")
        first = secrets.randbelow(2**32) if seed is None else seed
        return Make(
            prompt=prompt,
            seeds=tuple(range(first, first + (n or 1))),
            steps=steps,
            guidance=guidance,
            negative_prompt=negative_prompt or "",
            size=self._size(size),
            previews=previews,
            pictures=tuple(pictures),
        )

    def ask(
        self,
        question: str,
        pictures: Sequence[Image.Image],
        *,
        history: Sequence[Turn] = (),
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int | None = None,
    ) -> Ask:
        """Return the task of answering a question, within the limits.

        Raises:
            ApiError: If it is beyond them, or the model can't do it.
        """
        self._check_capable("ask")
        self._check_text(question, "messages")
        self._check_text("\n".join([*(turn.text for turn in history), question]), "messages")
        self._check_most(max_tokens, self.limits.max_answer, "max_tokens", "tokens")
        self.check_pictures(len(pictures))
        return Ask(
            question=question,
            max_new_tokens=max_tokens or min(128, self.limits.max_answer),
            temperature=temperature or 0.0,
            top_p=1.0 if top_p is None else top_p,
            seed=secrets.randbelow(2**32) if seed is None else seed,
            history=tuple(history),
            pictures=tuple(pictures),
        )

    async def events(self, request: Request, task: Task) -> AsyncGenerator[Event]:
        """Have a task carried out; yield what happens. If the client leaves, so do its rows.

        Raises:
            ApiError: If it is refused, or can't be carried out.
        """
        text = task.prompt if isinstance(task, Make) else task.words
        await moderate(self.hook, Moderated("before", text, task.pictures))
        ticket = self._submit(task)
        gone = asyncio.create_task(_gone(request))
        try:
            while (event := await self._next(ticket, gone)) is not None:
                if isinstance(event, Refused):
                    raise _refused(event)
                yield event
        finally:
            gone.cancel()
            ticket.cancel()

    async def _next(self, ticket: Ticket, gone: asyncio.Task[None]) -> Event | None:
        following = asyncio.create_task(ticket.next())
        try:
            await asyncio.wait({following, gone}, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                return following.result()
        finally:
            following.cancel()
        self.metrics.gone.inc()
        raise ApiError(CLIENT_GONE, "client_gone", "the client left.")

    def _submit(self, task: Task) -> Ticket:
        try:
            return self.pool.submit(task)
        except QueueFullError as error:
            headers = {"Retry-After": str(error.retry_after)}
            raise ApiError(429, "queue_full", str(error), headers=headers) from error
        except NoEngineError as error:
            raise ApiError(503, "engine_unavailable", str(error), headers={"Retry-After": "5"}) from error

    def _check_capable(self, what: str) -> None:
        can = self.pool.facts.get("can", ())
        if what in can:
            return
        needs = {
            "edit": "a Kontext or MetaQuery checkpoint edits",
            "ask": 'a MetaQuery checkpoint answers, and for a picture send modalities: ["image"]',
        }
        msg = (
            f"this model can't {what}: it is a {self.pool.facts.get('variant')} checkpoint, which can "
            f"{' and '.join(can)}; {needs.get(what, 'others can')}."
        )
        raise ApiError(400, "model_not_capable", msg, param="model")

    def _check_text(self, text: str, param: str) -> None:
        if not text.strip():
            raise ApiError(400, "invalid_value", f"{param}: it is empty; say what is wanted.", param=param)
        if any("\ud800" <= character <= "\udfff" for character in text):
            msg = f"{param}: it holds half of a surrogate pair, which is no character; send valid Unicode."
            raise ApiError(400, "invalid_value", msg, param=param)
        if len(text) > self.limits.max_prompt:
            msg = f"{param}: {len(text)} characters are more than {self.limits.max_prompt}; shorten it."
            raise ApiError(400, "prompt_too_long", msg, param=param)

    def _check_most(self, value: int | None, most: int, param: str, what: str) -> None:
        if value is not None and value > most:
            msg = f"{param}: {value} {what} are more than this server allows, which is {most}."
            raise ApiError(400, "limit_exceeded", msg, param=param)

    def _size(self, size: str | None) -> tuple[int, int] | None:
        if size is None or size == "auto":
            return None
        width, height = map(int, size.split("x"))
        self._check_most(width * height, self.limits.max_pixels, "size", "pixels")
        return height, width


def service_of(request: Request) -> Service:
    """Return the service of the app that a request came to."""
    service: Service = request.app.state.service
    return service


async def _gone(request: Request) -> None:
    """Return when the client has left. The body has been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _refused(event: Refused) -> ApiError:
    if event.kind == "engine":
        return ApiError(503, "engine_failed", event.message, headers={"Retry-After": "1"})
    code = "model_not_capable" if event.kind == "capable" else "invalid_request"
    return ApiError(400, code, event.message)
