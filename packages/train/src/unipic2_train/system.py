"""The models of a Kontext run: what is frozen (VAE, text encoders, scheduler) and the transformer that is trained.

Frozen parts are loaded once, kept outside the LightningModule's state, never copied for the EMA and never stored in a
training checkpoint. The transformer is built on the meta device and filled parameter by parameter, so that under FSDP2
no rank ever holds more than its shard and one full parameter.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from unipic2_data.randomness import keyed_rng
from unipic2_dit import checkpoint
from unipic2_dit.conditioning import Conditioning
from unipic2_dit.parallelize import shard
from unipic2_dit.text import TextConditioner
from unipic2_dit.transformer import SD3Transformer2DKontextModel
from unipic2_train import encoding
from unipic2_train.pictures import EncodedBatch, FrozenPictures
from unipic2_train.weights import fill, stored_values
from unipic2_unified.denoising import Conditions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self

    from torch.distributed.device_mesh import DeviceMesh

    from unipic2_data.batch import Batch

__all__ = ["AdapterConfig", "EncodedBatch", "FrozenParts", "build_transformer", "initial_value"]

Init = Literal["checkpoint", "scratch"]
CACHE_BYTES = 256 * 2**20
EMBEDDED_ROWS = 8


@dataclass
class AdapterConfig:
    """A LoRA adapter on the transformer's attention and feed-forward layers."""

    rank: int = 32
    """Rank of the update matrices."""
    alpha: int = 64
    """The update is scaled by alpha / rank."""
    targets: list[str] = field(
        default_factory=lambda: [
            "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
            "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
        ]
    )  # fmt: skip
    """Endings of the adapted modules' names."""


class FrozenParts(FrozenPictures):
    """VAE, text encoders and scheduler of a checkpoint folder.

    Args:
        source: Checkpoint folder or hub id in the official layout.
        device: Where the models go.
        dtype: Dtype of their weights.
    """

    def __init__(
        self, source: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__(source, device, dtype)
        self.text = TextConditioner.from_pretrained(self.folder, dtype=dtype, device=device)
        self._embedded: OrderedDict[str, Conditioning] = OrderedDict()
        self._embedded_bytes = 0
        self._unconditional: Conditioning | None = None

    def to(self, device: torch.device | str) -> Self:
        """Move the models, in place."""
        self.text.to(device)
        return super().to(device)

    @torch.no_grad()
    def encode(self, batch: Batch, posterior_seed: int | None = None) -> EncodedBatch:
        """Encode pixels and prompts of a batch, as far as a cache has not done so; see ``FrozenPictures``."""
        return self._encoded(batch, self._conditioning(batch), self._empty(), posterior_seed)

    @torch.no_grad()
    def conditions(self, batch: Batch, *, guided: bool = True) -> Conditions:
        """Return what pictures are sampled from; see ``FrozenPictures``."""
        references = None if batch.references is None else self.encode_pixels(batch.references)
        return Conditions(self.embed(batch.prompts), self.embed([""]) if guided else None, references)

    @torch.no_grad()
    def embed(self, prompts: Sequence[str]) -> Conditioning:
        """Embed prompts; on a CPU each distinct one once, since prompts come back epoch after epoch.

        A resumed run starts with nothing embedded and must get the same bits. A product's last bits depend on its
        number of rows where that is small, so prompts are embedded in multiples of ``EMBEDDED_ROWS``; on other devices,
        whose kernels vary more, a batch is embedded whole and nothing is kept.
        """
        if self.device.type != "cpu":
            return self.text(prompts)
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._embedded]
        if new:
            rows = self.text([*new, *[""] * (-len(new) % EMBEDDED_ROWS)])
            for index, prompt in enumerate(new):
                row = rows.rows(slice(index, index + 1))
                self._embedded[prompt] = Conditioning(*(part.clone() for part in row))
                self._embedded_bytes += sum(part.nbytes for part in row)
        result = Conditioning.cat([self._embedded[prompt] for prompt in prompts])
        while self._embedded_bytes > CACHE_BYTES:
            _, oldest = self._embedded.popitem(last=False)
            self._embedded_bytes -= sum(part.nbytes for part in oldest)
        return result

    def fingerprint(self) -> str:
        """Return the sha256 of all frozen weights: what a training checkpoint keeps instead of them."""
        return encoding.weights_hash(self.vae, *self.text.encoders())

    def _identify(self, what: str) -> str:
        return encoding.identity_of(self.text) if what == "text" else super()._identify(what)

    def _conditioning(self, batch: Batch) -> Conditioning:
        if batch.prompt_embeds is None or batch.pooled is None:
            return self.embed(batch.prompts)
        return Conditioning(batch.prompt_embeds, batch.pooled).to(self.device, self.text.text_encoder.dtype)

    def _empty(self) -> Conditioning:
        """Return the embedded empty prompt, embedded once: it is one row whatever the batch."""
        if self._unconditional is None or self._unconditional.prompt_embeds.device != self.device:
            self._unconditional = self.embed([""])
        return self._unconditional


def build_transformer(
    source: str | Path,
    init: Init,
    *,
    architecture: dict[str, Any] | None = None,
    adapter: AdapterConfig | None = None,
    mesh: DeviceMesh | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> SD3Transformer2DKontextModel:
    """Build the transformer to train.

    Args:
        source: Checkpoint folder or hub id; its ``transformer/`` gives config and, for ``"checkpoint"``, weights.
        init: ``"checkpoint"`` loads the weights strictly, ``"scratch"`` draws them from ``seed``.
        architecture: Config values that replace the folder's; only with ``"scratch"``.
        adapter: Train this LoRA adapter instead of the weights.
        mesh: Shard over this mesh (FSDP2).
        device: Where the (local) parameters go.
        seed: Seed of new weights.

    Raises:
        ValueError: A changed architecture for loaded weights.
        CheckpointError: The folder's weights are missing or do not fit its config.
    """
    if architecture and init == "checkpoint":
        msg = "model.architecture needs `init: scratch`: loaded weights come with their own architecture"
        raise ValueError(msg)
    folder = checkpoint.resolve_folder(source)
    config = {**checkpoint.read_config(folder, "transformer"), **(architecture or {})}
    with torch.device("meta"):
        transformer = SD3Transformer2DKontextModel.from_config(config)
    values = stored_values(folder / "transformer", transformer) if init == "checkpoint" else None
    if adapter is not None:
        _add_adapter(transformer, adapter)
    if mesh is not None:
        shard(transformer, mesh)
    transformer.to_empty(device=device)
    fill(transformer, lambda name, shape: _value(name, shape, values, seed))
    _fill_positions(transformer, config)
    return transformer


def initial_value(name: str, shape: Sequence[int], seed: int) -> Tensor:
    """Return the initial value of a parameter, a function of its name and the seed alone.

    Matrices are Xavier-uniform; modulations and the output projection start at zero, so that every block starts as the
    identity (DiT, Peebles and Xie 2023, section 3.2); norms start at one, biases at zero. Attention of the image tokens
    starts as looking for what is alike and passing it on (mimetic initialisation, Trockman and Kolter 2023): keys are
    made as queries are, and the output projection undoes an orthogonal value projection. A token of the target so finds
    the reference's token of the same place from the first step, instead of after many edits. LoRA's A is
    Kaiming-uniform and its B zero, so that an adapter starts without effect.
    """
    name = name.replace(".base_layer.", ".")
    if name.endswith(".bias") or "lora_B" in name or "proj_out" in name or (".linear." in name and "norm" in name):
        return torch.zeros(*shape)
    if len(shape) == 1:
        return torch.ones(*shape)
    if name.endswith(("to_v.weight", "to_out.0.weight")):
        value = _orthogonal(name.replace("to_out.0", "to_v"), shape, seed)
        return value.T.contiguous() if name.endswith("to_out.0.weight") else value
    rng = keyed_rng(seed, name.replace("to_k.weight", "to_q.weight"), purpose="init")
    fan_in, fan_out = int(torch.Size(shape[1:]).numel()), shape[0]
    bound = (1.0 / fan_in) ** 0.5 if "lora_A" in name else (6.0 / (fan_in + fan_out)) ** 0.5
    return torch.from_numpy(rng.uniform(-bound, bound, tuple(shape)).astype(np.float32))


def _orthogonal(name: str, shape: Sequence[int], seed: int) -> Tensor:
    """Return a random orthogonal matrix; signs are fixed, so that it does not depend on how QR was computed."""
    factor, upper = np.linalg.qr(keyed_rng(seed, name, purpose="init").standard_normal(tuple(shape)))
    return torch.from_numpy((factor * np.sign(np.diag(upper))).astype(np.float32))


def _value(name: str, shape: Sequence[int], stored: Callable[[str], Tensor] | None, seed: int) -> Tensor:
    if stored is None or "lora_" in name:
        return initial_value(name, shape, seed)
    return stored(name.replace(".base_layer.", "."))


def _add_adapter(transformer: SD3Transformer2DKontextModel, adapter: AdapterConfig) -> None:
    from peft import LoraConfig

    transformer.requires_grad_(False)
    transformer.add_adapter(
        LoraConfig(
            r=adapter.rank, lora_alpha=adapter.alpha, target_modules=list(adapter.targets), init_lora_weights=False
        )
    )


def _fill_positions(transformer: SD3Transformer2DKontextModel, config: dict[str, Any]) -> None:
    """Compute the sinusoidal positional table, a buffer that is the same for every model of this config."""
    reference = SD3Transformer2DKontextModel.from_config({**config, "num_layers": 0, "dual_attention_layers": ()})
    transformer.pos_embed.pos_embed.copy_(reference.pos_embed.pos_embed)
