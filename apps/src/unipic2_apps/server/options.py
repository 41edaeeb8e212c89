"""Groups of options of ``unipic2 serve``.

Without ``from __future__ import annotations``: jsonargparse reads the types.
"""

from dataclasses import dataclass, field

from jsonargparse.typing import NonNegativeInt, PositiveInt

__all__ = ["LimitOptions", "ServerOptions"]


@dataclass(frozen=True)
class ServerOptions:
    """The server.

    Args:
        host: Address to listen on; 0.0.0.0 opens the server to the network, which then needs --api-keys.
        port: Port to listen on.
        name: What clients call the model; by default the name of the checkpoint's folder.
        devices: A device for each engine, may be repeated; by default one engine on --device.
        max_rows: The most pictures that an engine has under way at a time.
        max_queue: The most pictures and questions that wait or run; more are refused with 429.
        api_keys: File with one key a line; without it anybody who reaches the port may use it.
        rate_limit: The most requests a minute for each key (or address, without keys); 0 is no limit.
        cors_origin: Web page origin that browsers may use the server from, may be repeated; none by default.
        allow_urls: Host whose pictures the server fetches when a client names their https URL, may be repeated; none by
            default: then pictures come as bytes or data URIs alone.
        moderation: MODULE:FUNCTION that sees what comes in and goes out and may refuse it.
        ai_label: Write into each picture that it was made by AI; --no-ai-label leaves it out.
        grace: Seconds that running requests have to finish when the server is asked to end.
    """

    host: str = "127.0.0.1"
    port: NonNegativeInt = 8000
    name: str | None = None
    devices: list[str] = field(default_factory=list)
    max_rows: PositiveInt = 8
    max_queue: PositiveInt = 64
    api_keys: str | None = None
    rate_limit: NonNegativeInt = 0
    cors_origin: list[str] = field(default_factory=list)
    allow_urls: list[str] = field(default_factory=list)
    moderation: str | None = None
    ai_label: bool = True
    grace: NonNegativeInt = 30


@dataclass(frozen=True)
class LimitOptions:
    """What one request may ask for.

    Args:
        max_images: Pictures (n).
        max_steps: Denoising steps.
        max_pixels: Pixels of a picture that is made.
        max_input_pixels: Pixels of a picture that comes in.
        max_prompt: Characters of a prompt.
        max_answer: Tokens of an answer.
        max_body: Megabytes of a request.
    """

    max_images: PositiveInt = 10
    max_steps: PositiveInt = 100
    max_pixels: PositiveInt = 1536 * 1536
    max_input_pixels: PositiveInt = 4096 * 4096
    max_prompt: PositiveInt = 8000
    max_answer: PositiveInt = 1024
    max_body: PositiveInt = 32
