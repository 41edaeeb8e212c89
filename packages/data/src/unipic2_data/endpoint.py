"""Ask a model behind an OpenAI-compatible endpoint (vLLM, SGLang, llama.cpp, a hosted one) about pictures.

What passes by itself is asked again after a pause that doubles: a server that is down, stalls, hangs up, is busy or
overloaded (408, 409, 425, 429, 5xx), or answers with something that is no answer. What does not pass is an error at
once: a wrong address, key or model (401 to 405). What the server refuses of one question concerns that question alone.
"""

from __future__ import annotations

import base64
import io
import json
import os
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from unipic2_data.errors import DataError
from unipic2_data.images import decode_small

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from urllib3 import BaseHTTPResponse, PoolManager

    from unipic2_data.sample import Image

__all__ = ["Endpoint", "Unanswered"]

T = TypeVar("T")

_KEY_VARIABLE = "OPENAI_API_KEY"
_BUSY = frozenset({408, 409, 425, 429})
_WRONG = frozenset({401, 402, 403, 404, 405})
_OK, _FAILED, _REFUSED = 200, 500, 400  # statuses from which on a server has failed, or refuses
_LONGEST_PAUSE = 60.0
_CONNECT_SECONDS = 10.0
_ANSWER_BYTES = 2**22  # no answer is longer
_CHUNK = 2**14
_SHOWN = 200


class Unanswered(Exception):  # noqa: N818 - a state, not a fault
    """The endpoint gave no usable answer, however often it was asked; the message is the reason."""


@dataclass
class Endpoint:
    """An endpoint, its model, and how patiently it is asked.

    Attributes:
        url: Base address, for example http://localhost:8000/v1.
        model: Name of the model there.
        timeout: Seconds that one answer may take.
        retries: How often a question is asked again.
        pause: Seconds before the second time; doubled each time, up to a minute.
        side: Pictures are sent as JPEG with a longer side of so many pixels at most.
        max_tokens: Length of an answer.
    """

    url: str
    model: str
    timeout: float = 120.0
    retries: int = 5
    pause: float = 1.0
    side: int = 1024
    max_tokens: int = 512
    _pool: PoolManager | None = field(default=None, repr=False)
    _stopped: threading.Event = field(default_factory=threading.Event, repr=False)

    def stop(self) -> None:
        """Ask no more: questions that wait to be asked again are given up."""
        self._stopped.set()

    def ask(self, text: str, images: Sequence[Image], read: Callable[[str], T]) -> T:
        """Ask about pictures, and return what `read` makes of the answer.

        Args:
            text: The question.
            images: The pictures, before the question.
            read: Reads the answer; a ValueError says that it is none, and the question is asked again.

        Raises:
            Unanswered: If there is no answer after all retries, the question is refused, or a picture is unreadable.
            DataError: If no question can be answered: wrong address, key or model.
        """
        content = [{"type": "image_url", "image_url": {"url": _address(image, self.side)}} for image in images]
        messages = [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]
        body = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": self.max_tokens}
        pause, reason = self.pause, ""
        for attempt in range(self.retries + 1):
            if attempt:
                if self._stopped.wait(min(pause, _LONGEST_PAUSE)):
                    break
                pause *= 2
            try:
                return read(self._answer(body))
            except _Again as again:
                reason = str(again)
                pause = max(pause, again.seconds)
            except DataError:
                raise
            except ValueError as error:
                reason = f"unusable answer ({error})"
        raise Unanswered(reason)

    def _answer(self, body: dict[str, Any]) -> str:
        status, data, retry_after = self._post(body)
        if status in _BUSY or status >= _FAILED:
            msg = f"HTTP {status}"
            raise _Again(msg, retry_after)
        if status in _WRONG or (status != _OK and status < _REFUSED):
            msg = f"{self.url} answered HTTP {status}: {data[:_SHOWN]!r}. Check address, model and ${_KEY_VARIABLE}."
            raise DataError(msg)
        if status != _OK:
            msg = f"question is refused (HTTP {status})"
            raise Unanswered(msg)
        try:
            answer = json.loads(data)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            msg = "answer is no chat completion"
            raise _Again(msg) from error
        if not isinstance(answer, str) or not answer.strip():
            msg = "answer is empty"
            raise _Again(msg)
        return answer.strip()

    def _post(self, body: dict[str, Any]) -> tuple[int, bytes, float]:
        """Return status, body and how long to wait, of one request that takes no longer than the timeout."""
        urllib3 = _urllib3()
        if self._pool is None:
            self._pool = urllib3.PoolManager(maxsize=64)
        key = os.environ.get(_KEY_VARIABLE)
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        until = time.monotonic() + self.timeout
        try:
            response = self._pool.request(
                "POST",
                f"{self.url.rstrip('/')}/chat/completions",
                body=json.dumps(body).encode(),
                headers=headers,
                timeout=urllib3.Timeout(connect=min(_CONNECT_SECONDS, self.timeout), read=self.timeout),
                retries=False,
                preload_content=False,
            )
            data = _read(response, until)
        except urllib3.exceptions.LocationParseError as error:
            msg = f"{self.url} is no address: {error}."
            raise DataError(msg) from error
        except urllib3.exceptions.NewConnectionError as error:
            msg = "nobody listens there"
            raise _Again(msg) from error
        except (urllib3.exceptions.TimeoutError, TimeoutError) as error:
            msg = f"no answer within {self.timeout:g} s"
            raise _Again(msg) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            msg = f"connection failed ({type(error).__name__})"
            raise _Again(msg) from error
        wait = response.headers.get("Retry-After", "")
        return response.status, data, float(wait) if wait.isdecimal() else 0.0


class _Again(Exception):  # noqa: N818 - as above
    """Something that passes; how long to wait before asking again."""

    def __init__(self, reason: str, seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.seconds = seconds


def _read(response: BaseHTTPResponse, until: float) -> bytes:
    """Read a body that may come drop by drop."""
    data = bytearray()
    try:
        while chunk := response.read1(_CHUNK):
            data += chunk
            if time.monotonic() > until:
                raise TimeoutError
            if len(data) > _ANSWER_BYTES:
                msg = "answer is too long"
                raise _Again(msg)
    except BaseException:
        response.close()
        raise
    response.release_conn()
    return bytes(data)


def _address(image: Image, side: int) -> str:
    """Return a picture as a data address."""
    from PIL import Image as Pillow

    try:
        picture = Pillow.fromarray(decode_small(image.data, side))
    except DataError as error:
        msg = "picture is unreadable"
        raise Unanswered(msg) from error
    picture.thumbnail((side, side), Pillow.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=92)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _urllib3() -> Any:
    try:
        import urllib3
    except ImportError as error:
        msg = "asking an endpoint needs urllib3: pip install 'unipic2-data[http]'."
        raise DataError(msg) from error
    return urllib3
