"""Sharding of the transformer over processes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from unipic2_dit.transformer import SD3Transformer2DKontextModel

__all__ = ["shard"]


def shard(
    transformer: SD3Transformer2DKontextModel, mesh: DeviceMesh, mp_policy: MixedPrecisionPolicy | None = None
) -> None:
    """Shard the transformer in place with FSDP2: each block by itself, then what is left.

    Add LoRA adapters before this: added after it, they stay unsharded and fail in the forward pass.

    Args:
        transformer: The transformer, on any device, meta included.
        mesh: One-dimensional mesh of the processes that share the parameters.
        mp_policy: Dtypes of the gathered parameters and of the gradients' reduction; the sharded parameters keep
            theirs.
    """
    policy = mp_policy or MixedPrecisionPolicy()
    for block in transformer.transformer_blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    # The root would cast every input, and bfloat16 can't tell timestep 731 from 732: forward casts its own.
    fully_shard(transformer, mesh=mesh, mp_policy=replace(policy, cast_forward_inputs=False))
