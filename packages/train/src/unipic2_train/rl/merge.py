"""An adapter merged into its model: what the next stage starts from, and takes as its reference.

``W <- W + (alpha / rank) B A`` for every adapted layer, in float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.distributed.tensor import DTensor

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["merged_values"]

A, B, BASE = ".lora_A.default.weight", ".lora_B.default.weight", ".base_layer."


def merged_values(transformer: nn.Module, alpha: float) -> dict[str, Tensor]:
    """Return all parameters of the model without adapter, full and on the CPU; a collective call under FSDP.

    Args:
        transformer: With an adapter.
        alpha: LoRA's alpha; the rank is read off the weights.
    """
    full = {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).detach().cpu()
        for name, value in transformer.named_parameters()
    }
    merged = {name.replace(BASE, "."): value.clone() for name, value in full.items() if ".lora_" not in name}
    for name, down in full.items():
        if name.endswith(A):
            layer = name.removesuffix(A)
            up = full[layer + B]
            merged[f"{layer}.weight"] += (alpha / len(down)) * (up.float() @ down.float()).to(up.dtype)
    return merged
