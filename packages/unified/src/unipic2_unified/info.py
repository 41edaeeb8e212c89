"""Facts about a loaded model: what it is, how large, and which weights exactly."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from torch import nn

from unipic2_dit.quantization import count_parameters, stored_bytes

if TYPE_CHECKING:
    from unipic2_unified.checkpoint import Parts

__all__ = ["part_facts", "total_hash"]


def part_facts(parts: Parts) -> dict[str, dict[str, Any]]:
    """Return class, number of parameters, bytes in memory, dtype, quantization and device of each model, by name.

    The bytes are those of weights and buffers; the dtype is that of weights that are kept whole.
    """
    models: dict[str, nn.Module] = {"transformer": parts.transformer, "vae": parts.vae}
    if parts.encoders is not None:
        models |= parts.encoders.modules()
    return {name: {**_facts(model), "quantization": parts.quantization.get(name)} for name, model in models.items()}


def total_hash(hashes: dict[str, str]) -> str:
    """Return one SHA-256 of the parts' hashes."""
    lines = (f"{name} {value}" for name, value in sorted(hashes.items()))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _facts(model: nn.Module) -> dict[str, Any]:
    parameters = list(model.parameters())
    dtypes = sorted({str(each.dtype).removeprefix("torch.") for each in parameters if each.is_floating_point()})
    return {
        "class": type(model).__name__,
        "parameters": count_parameters(model),
        "bytes": stored_bytes(model),
        "dtype": ", ".join(dtypes),
        "device": str(parameters[0].device),
    }
