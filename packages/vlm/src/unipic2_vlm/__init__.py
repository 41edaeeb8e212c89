"""UniPic 2.0's frozen vision-language model: hidden states at learnable queries, and answers about pictures.

Names are loaded on first use, so that ``import unipic2_vlm`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unipic2_vlm.backbone import QwenVLBackbone
    from unipic2_vlm.frozen import FrozenProof
    from unipic2_vlm.processor import QwenVLProcessor, Turn
    from unipic2_vlm.queries import QueryEncoder
    from unipic2_vlm.understanding import Decoding, Understanding

__all__ = ["Decoding", "FrozenProof", "QueryEncoder", "QwenVLBackbone", "QwenVLProcessor", "Turn", "Understanding"]
__version__ = "0.1.0"

_HOMES = {
    "Decoding": "unipic2_vlm.understanding",
    "FrozenProof": "unipic2_vlm.frozen",
    "QueryEncoder": "unipic2_vlm.queries",
    "QwenVLBackbone": "unipic2_vlm.backbone",
    "QwenVLProcessor": "unipic2_vlm.processor",
    "Turn": "unipic2_vlm.processor",
    "Understanding": "unipic2_vlm.understanding",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(_HOMES[name]), name)
