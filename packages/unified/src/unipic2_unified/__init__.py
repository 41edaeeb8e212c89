"""UniPic 2.0's unified model: a checkpoint folder, and generation, editing and understanding behind the same calls.

Names are loaded on first use, so that ``import unipic2_unified`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unipic2_unified.errors import NotCapableError, RequestError
    from unipic2_unified.model import UniPic2
    from unipic2_unified.requests import Job, Request

__all__ = ["Job", "NotCapableError", "Request", "RequestError", "UniPic2"]
__version__ = "0.1.0"

_HOMES = {
    "Job": "unipic2_unified.requests",
    "NotCapableError": "unipic2_unified.errors",
    "Request": "unipic2_unified.requests",
    "RequestError": "unipic2_unified.errors",
    "UniPic2": "unipic2_unified.model",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(_HOMES[name]), name)
