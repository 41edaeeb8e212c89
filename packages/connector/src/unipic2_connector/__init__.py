"""UniPic 2.0's connector: a vision-language model's hidden states to what the diffusion transformer reads.

Names are loaded on first use, so that ``import unipic2_connector`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unipic2_connector.checkpoint import load_conditioner
    from unipic2_connector.conditioner import MetaQueryConditioner
    from unipic2_connector.connector import Conditioning, StableDiffusion3Conditioner

__all__ = ["Conditioning", "MetaQueryConditioner", "StableDiffusion3Conditioner", "load_conditioner"]
__version__ = "0.1.0"

_HOMES = {
    "Conditioning": "unipic2_connector.connector",
    "MetaQueryConditioner": "unipic2_connector.conditioner",
    "StableDiffusion3Conditioner": "unipic2_connector.connector",
    "load_conditioner": "unipic2_connector.checkpoint",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(_HOMES[name]), name)
