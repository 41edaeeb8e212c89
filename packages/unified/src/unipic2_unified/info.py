"""Facts about a loaded model: what it is, how large, and which weights exactly."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from unipic2_unified.checkpoint import Parts

__all__ = ["part_facts", "total_hash"]


def part_facts(parts: Parts) -> dict[str, dict[str, Any]]:
    """Return class, number of parameters, bytes, dtype and device of each model, by name."""
    models: dict[str, nn.Module] = {"transformer": parts.transformer, "vae": parts.vae}
    if parts.encoders is not None:
        models |= parts.encoders.modules()
    return {name: _facts(model) for name, model in models.items()}


def total_hash(hashes: dict[str, str]) -> str:
    """Return one SHA-256 of the parts' hashes."""
    lines = (f"{name} {value}" for name, value in sorted(hashes.items()))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _facts(model: nn.Module) -> dict[str, Any]:
    parameters = list(model.parameters())
    dtypes = sorted({str(each.dtype).removeprefix("torch.") for each in parameters})
    return {
        "class": type(model).__name__,
        "parameters": sum(each.numel() for each in parameters),
        "bytes": sum(each.nbytes for each in parameters),
        "dtype": ", ".join(dtypes),
        "device": str(parameters[0].device),
    }
