"""Sharding of the conditioner over processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from unipic2_connector.connector import StableDiffusion3Conditioner

__all__ = ["shard"]


def shard(
    conditioner: StableDiffusion3Conditioner, mesh: DeviceMesh, mp_policy: MixedPrecisionPolicy | None = None
) -> None:
    """Shard the conditioner in place with FSDP2: each layer by itself, then what is left, the queries among it.

    Args:
        conditioner: The conditioner, on any device, meta included.
        mesh: One-dimensional mesh of the processes that share the parameters.
        mp_policy: Dtypes of the gathered parameters and of the gradients' reduction; the sharded parameters keep
            theirs.
    """
    policy = mp_policy or MixedPrecisionPolicy()
    for layer in conditioner.connector.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(conditioner, mesh=mesh, mp_policy=policy)
    # The VLM reads the queries before ``forward`` runs. Gathered by hand, their gradient would not be averaged.
    register_fsdp_forward_method(conditioner, "queries")
