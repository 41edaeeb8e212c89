"""A hook of the operator's own that sees what comes in and what goes out, and may refuse it."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from unipic2_apps.errors import UsageError
from unipic2_apps.server.errors import ApiError

__all__ = ["Hook", "Moderated", "load_hook", "moderate"]


@dataclass(frozen=True)
class Moderated:
    """What a hook judges."""

    stage: Literal["before", "after"]
    """Before anything is made from it, or what was made."""
    text: str
    """The prompt or question; afterwards of a question, its answer."""
    pictures: Sequence[Image.Image]
    """Pictures that came with it; afterwards those that were made, previews too."""


Hook = Callable[[Moderated], str | None]
"""Returns why it refuses, which the client is told, or ``None``. It is called in a thread."""


def load_hook(path: str) -> Hook:
    """Return the function that ``MODULE:FUNCTION`` names.

    Raises:
        UsageError: If there is none.
    """
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        msg = f"--moderation {path} names no function ({error}): write MODULE:FUNCTION, importable from here."
        raise UsageError(msg) from error
    if not callable(found):
        msg = f"--moderation {path} is a {type(found).__name__}, not a function."
        raise UsageError(msg)
    hook: Hook = found
    return hook


async def moderate(hook: Hook | None, judged: Moderated) -> None:
    """Ask the hook, if there is one.

    Raises:
        ApiError: If it refuses; also if it fails, since then nothing was judged.
    """
    if hook is None:
        return
    try:
        reason = await asyncio.to_thread(hook, judged)
    except Exception as error:
        msg = "the moderation of this server does not work at the moment."
        raise ApiError(503, "moderation_failed", msg) from error
    if reason is not None:
        raise ApiError(400, "moderation_blocked", f"refused by the moderation of this server: {reason}")
