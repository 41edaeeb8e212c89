"""UniPic 2.0's Kontext DiT: text-to-image generation and image editing with one network.

Names are loaded on first use, so that ``import unipic2_dit`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unipic2_dit.conditioning import Conditioning
    from unipic2_dit.pipeline import StableDiffusion3KontextPipeline
    from unipic2_dit.sampling import DenoisingState
    from unipic2_dit.text import TextConditioner
    from unipic2_dit.transformer import SD3Transformer2DKontextModel

__all__ = [
    "Conditioning",
    "DenoisingState",
    "SD3Transformer2DKontextModel",
    "StableDiffusion3KontextPipeline",
    "TextConditioner",
]
__version__ = "0.1.0"

_HOMES = {
    "Conditioning": "unipic2_dit.conditioning",
    "DenoisingState": "unipic2_dit.sampling",
    "SD3Transformer2DKontextModel": "unipic2_dit.transformer",
    "StableDiffusion3KontextPipeline": "unipic2_dit.pipeline",
    "TextConditioner": "unipic2_dit.text",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(_HOMES[name]), name)
