"""What a caller can do wrong. Every message says how to mend it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["NotCapableError", "RequestError", "refusals"]


class RequestError(ValueError):
    """A request that can't be carried out as it is."""


class NotCapableError(RequestError):
    """A model can't do what is asked; the message says what it is and which kind can."""


@contextmanager
def refusals() -> Iterator[None]:
    """Make a RequestError of the plain ValueError with which a VLM refuses what is too long or too large."""
    try:
        yield
    except RequestError:
        raise
    except ValueError as error:
        raise RequestError(str(error)) from error
