"""A judge or VQA model behind an OpenAI-compatible server (vLLM, SGLang, a vendor's API); extra ``[http]``.

One call of ``POST URL/chat/completions`` a request: the text, then the images as PNG in data URIs, as the official
script of ImgEdit-Bench sends them. What may pass is tried again with a growing pause: no connection, no answer in time,
a connection that breaks, status 408, 409, 425, 429 and 5xx, and an answer that holds no text. What will not pass for
any request (wrong key, wrong address) ends the run; what the server holds against one request fails that request alone.
"""

import base64
import io
import json
import os
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from unipic2_evals.answers import Asker, CallError, JudgeId
from unipic2_evals.judges import model_asker
from unipic2_evals.pictures import Pixels

if TYPE_CHECKING:
    import urllib3

__all__ = ["ChatModel", "HttpOptions", "http_asker"]

TRY_AGAIN = frozenset({408, 409, 425, 429})
FOR_ALL_REQUESTS = frozenset({401, 402, 403, 404, 405})
LONGEST_PAUSE = 60.0
SHOWN = 200


class _Problem(NamedTuple):
    what: str
    wait: float = 0.0
    """Seconds for which the server asked."""


@dataclass(frozen=True)
class HttpOptions:
    """A served model and how to call it.

    Attributes:
        url: Base address, ending in /v1.
        model: The model's name on the server; the judge's id in reports.
        revision: Which version of it is served; a server does not say. It stands in every row of a report.
        key_variable: Environment variable that holds the key, if the server wants one.
        concurrency: Calls at a time.
        tries: Calls for one request before it has failed.
        timeout: Seconds without any data after which a call has failed.
        pause: Seconds before the second try; doubled with each, and randomised by half.
        max_tokens: Longest reply.
        temperature: Of sampling. None = the server's default.
    """

    url: str
    model: str
    revision: str
    key_variable: str = "OPENAI_API_KEY"
    concurrency: int = 8
    tries: int = 6
    timeout: float = 120.0
    pause: float = 1.0
    max_tokens: int = 1024
    temperature: float | None = 0.0


@dataclass(frozen=True)
class ChatModel:
    """Calls a served model: a `unipic2_evals.protocols.Judge`; may be used by many threads.

    Attributes:
        options: What to call.
    """

    options: HttpOptions
    _pool: "urllib3.PoolManager" = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        options = self.options
        if min(options.concurrency, options.tries, options.max_tokens) < 1 or min(options.timeout, options.pause) < 0:
            message = f"expected concurrency, tries and max_tokens >= 1, and timeout and pause >= 0, got {options}"
            raise ValueError(message)
        try:
            import urllib3
        except ImportError:
            message = "calling a server needs urllib3: pip install 'unipic2-evals[http]'"
            raise ValueError(message) from None
        pool = urllib3.PoolManager(maxsize=options.concurrency, retries=False, timeout=options.timeout)
        object.__setattr__(self, "_pool", pool)

    @property
    def judge(self) -> JudgeId:
        """Who answers, with the settings that change answers."""
        options = self.options
        temperature = "default" if options.temperature is None else f"{options.temperature:g}"
        return JudgeId(
            options.model, f"{options.revision}; temperature {temperature}, {options.max_tokens} tokens at most"
        )

    def __call__(self, images: Sequence[Pixels], prompt: str) -> str:
        """Return the model's reply.

        Args:
            images: RGB, each uint8 (H, W, 3).
            prompt: The text, sent before the images.

        Returns:
            The reply's text.

        Raises:
            CallError: If all tries have failed, or the server refuses this request.
            ValueError: If the server refuses every request.
        """
        text: str = self.choice(images, prompt)["message"]["content"]
        return text

    def choice(self, images: Sequence[Pixels], prompt: str, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return all that the server says of the model's reply: beside its text, for example probabilities.

        Args:
            images: As above.
            prompt: As above.
            more: Fields to add to the request, for example ``{"logprobs": True}``.

        Returns:
            The first of the answer's choices; its ``["message"]["content"]`` is a text.

        Raises:
            CallError: As above.
            ValueError: As above.
        """
        body = json.dumps({**self._payload(images, prompt), **(more or {})}).encode()
        problem = _Problem("")
        for attempt in range(self.options.tries):
            if attempt:
                time.sleep(self._pause(attempt, problem.wait))
            found = self._call(body)
            if not isinstance(found, _Problem):
                return found
            problem = found
        message = f"{self.options.tries} tries failed, the last one: {problem.what}"
        raise CallError(message)

    def _payload(self, images: Sequence[Pixels], prompt: str) -> dict[str, Any]:
        content: list[dict[str, Any]] = [{"type": "text", "text": prompt}]
        content += [{"type": "image_url", "image_url": {"url": _data_uri(image)}} for image in images]
        options = self.options
        sampling = {} if options.temperature is None else {"temperature": options.temperature}
        messages = [{"role": "user", "content": content}]
        return {"model": options.model, "messages": messages, "max_tokens": options.max_tokens, **sampling}

    def _call(self, body: bytes) -> "dict[str, Any] | _Problem":
        """Return the choice, or what went wrong for now."""
        from urllib3.exceptions import HTTPError, LocationValueError

        key = os.environ.get(self.options.key_variable)
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        url = f"{self.options.url.rstrip('/')}/chat/completions"
        try:
            response = self._pool.request("POST", url, body=body, headers=headers)
        except LocationValueError as error:
            message = f"{url}: no address: {error}"
            raise ValueError(message) from None
        except HTTPError as error:
            return _Problem(f"{type(error).__name__}: {error}")
        said = f"status {response.status}: {response.data[:SHOWN].decode(errors='replace')}"
        if response.status in TRY_AGAIN or response.status >= 500:
            wait = response.headers.get("Retry-After", "")
            return _Problem(said, float(wait) if wait.isdecimal() else 0.0)
        if response.status in FOR_ALL_REQUESTS or not (response.status == 200 or response.status >= 400):
            message = f"{url}: {said}; is the address right, the model served, the key in ${self.options.key_variable}?"
            raise ValueError(message)
        if response.status != 200:
            message = f"the server refuses the request: {said}"
            raise CallError(message)
        choice = _choice(response.data)
        return choice or _Problem(f"no text in the answer: {response.data[:SHOWN].decode(errors='replace')!r}")

    def _pause(self, attempt: int, wait: float) -> float:
        growing = self.options.pause * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
        return min(max(wait, growing), LONGEST_PAUSE)


def http_asker(options: HttpOptions) -> Asker:
    """Return how to ask a served model; it answers yes/no questions and judges alike."""
    model = ChatModel(options)

    def vqa(image: Pixels, question: str) -> str:
        return model([image], question)

    return model_asker(model.judge, vqa=vqa, judge=model, workers=options.concurrency)


def _choice(data: bytes) -> dict[str, Any] | None:
    """Return the choice of a chat completion that holds a text; None if there is none."""
    try:
        choice = json.loads(data)["choices"][0]
        text = choice["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return choice if isinstance(text, str) and text.strip() else None


def _data_uri(image: Pixels) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
