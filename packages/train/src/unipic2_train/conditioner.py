"""Queries and connector of a MetaQuery run, new or loaded, whole or sharded."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from unipic2_connector import StableDiffusion3Conditioner
from unipic2_connector.parallelize import shard
from unipic2_data.randomness import keyed_rng
from unipic2_dit import checkpoint
from unipic2_train import home
from unipic2_train.system import initial_value
from unipic2_train.weights import fill, stored_values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.distributed.device_mesh import DeviceMesh

    from unipic2_dit.transformer import SD3Transformer2DKontextModel

__all__ = ["ConnectorConfig", "build_conditioner"]


@dataclass
class ConnectorConfig:
    """Sizes of new queries and a new connector; the defaults are the released ones."""

    num_queries: int = 256
    """Queries."""
    hidden_size: int = 1536
    """Width of the connector."""
    intermediate_size: int = 8960
    """Width inside its feed-forward."""
    num_layers: int = 24
    """Its layers."""
    num_heads: int = 24
    """Its heads."""
    positions: Literal["1d", "mrope"] = "1d"
    """How the VLM numbers its tokens: counted (released), or pictures by row and column, as it was trained."""
    layers: list[int] = field(default_factory=lambda: [-1])
    """Hidden states of the VLM, side by side; -1 is its last layer (released)."""


def build_conditioner(
    source: str | None,
    sizes: ConnectorConfig | None,
    seed: int,
    hidden_size: int,
    transformer: SD3Transformer2DKontextModel,
    mesh: DeviceMesh | None,
    device: torch.device,
) -> StableDiffusion3Conditioner:
    """Build queries and connector, on the meta device first, as the transformer is.

    Args:
        source: Checkpoint whose ``conditioner/`` to load, or ``None``.
        sizes: Of a new one, or ``None``.
        seed: Seed of new weights.
        hidden_size: Of the VLM.
        transformer: What they condition.
        mesh: Shard over this mesh.
        device: Where the (local) parameters go.

    Raises:
        ValueError: Both or neither are given, or they do not fit the transformer.
        CheckpointError: The weights are missing or do not fit their config.
    """
    if (source is None) == (sizes is None):
        msg = (
            "model.metaquery needs either conditioner (a checkpoint whose queries and connector training goes on from) "
            "or connector (sizes of new ones), and the other one null"
        )
        raise ValueError(msg)
    if sizes is not None:
        folder, settings = None, _new_settings(sizes, hidden_size, transformer)
    else:
        folder = checkpoint.resolve_folder(home.path(str(source)))
        settings = checkpoint.read_config(folder, "conditioner")
        settings.pop("reference", None)
        _check_fits(settings, transformer, folder)
    with torch.device("meta"):
        conditioner = StableDiffusion3Conditioner.from_config(settings)
    stored = None if folder is None else stored_values(folder / "conditioner", conditioner)
    if mesh is not None:
        shard(conditioner, mesh)
    conditioner.to_empty(device=device)
    fill(conditioner, lambda name, shape: _initial(name, shape, seed) if stored is None else stored(name))
    return conditioner


def _new_settings(
    config: ConnectorConfig, hidden_size: int, transformer: SD3Transformer2DKontextModel
) -> dict[str, Any]:
    return {
        "connector_config": {
            "hidden_size": config.hidden_size,
            "intermediate_size": config.intermediate_size,
            "num_hidden_layers": config.num_layers,
            "num_attention_heads": config.num_heads,
        },
        "num_queries": config.num_queries,
        "llm_hidden_size": hidden_size,
        "pooled_projection_dim": transformer.config.pooled_projection_dim,
        "joint_attention_dim": transformer.config.joint_attention_dim,
        "vlm_positions": config.positions,
        "vlm_layers": list(config.layers),
    }


def _check_fits(settings: dict[str, Any], transformer: SD3Transformer2DKontextModel, folder: Path) -> None:
    names = ("joint_attention_dim", "pooled_projection_dim")
    wrong = {name: (settings.get(name), transformer.config[name]) for name in names}
    wrong = {name: pair for name, pair in wrong.items() if pair[0] != pair[1]}
    if wrong:
        listed = ", ".join(f"{name} {found} against {wanted}" for name, (found, wanted) in wrong.items())
        msg = f"the conditioner of {folder} does not fit the transformer of model.metaquery.checkpoint: {listed}"
        raise ValueError(msg)


def _initial(name: str, shape: Sequence[int], seed: int) -> Tensor:
    """Return the initial value of a parameter: queries of norm 1, the rest as the transformer's."""
    if name != "meta_queries":
        return initial_value(name, shape, seed)
    values = keyed_rng(seed, name, purpose="init").standard_normal(tuple(shape)) * shape[1] ** -0.5
    return torch.from_numpy(values.astype("float32"))
