"""A checkpoint folder to the parts of a unified model, loaded strictly.

The DiT's folder holds ``transformer/ vae/ scheduler/`` and either text encoders (Kontext) or ``conditioner/``
(MetaQuery), whose VLM has a Hugging Face folder of its own. Nothing ever starts from random weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from unipic2_connector.checkpoint import CheckpointError as ConditionerError
from unipic2_connector.checkpoint import load_conditioner
from unipic2_connector.conditioner import MetaQueryConditioner
from unipic2_dit.checkpoint import CheckpointError, has_component, load_component, load_lora, resolve_folder
from unipic2_dit.pipeline import StableDiffusion3KontextPipeline
from unipic2_dit.quantization import Quantization
from unipic2_dit.resolution import Sizes
from unipic2_dit.text import TextConditioner
from unipic2_unified.encoders import Encoders, MetaQueryEncoders, TextEncoders
from unipic2_unified.variants import Reference, Variant, read_reference, read_variant
from unipic2_vlm.checkpoint import CheckpointError as VlmError
from unipic2_vlm.checkpoint import resolve_folder as resolve_vlm_folder
from unipic2_vlm.queries import QueryEncoder

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler

    from unipic2_dit.transformer import SD3Transformer2DKontextModel

__all__ = ["Lora", "Parts", "VlmSource", "load_parts", "part_hashes"]

Lora = str | Path | tuple[str | Path, float]
"""A ``.safetensors`` file or its folder, alone or with its weight (1 is as trained)."""

VLM_FOLDER = "vlm"
"""Where a MetaQuery checkpoint may have its VLM inside, as a folder or a link to one."""


@dataclass
class Parts:
    """What a unified model is made of."""

    variant: Variant
    """What kind of checkpoint they are from."""
    transformer: SD3Transformer2DKontextModel
    """The DiT."""
    vae: AutoencoderKL
    """Autoencoder between pixels and latents."""
    scheduler: FlowMatchEulerDiscreteScheduler
    """Holds the shift of the noise levels."""
    encoders: Encoders | None = None
    """What reads prompts."""
    reference: Reference = "dit"
    """Who sees the picture that is edited."""
    lora_weights: list[float] = field(default_factory=list)
    """The weight of each adapter."""
    sources: dict[str, list[Path]] = field(default_factory=dict)
    """The files and folders that each part was loaded from; unknown if they were not loaded."""
    quantization: dict[str, Quantization] = field(default_factory=dict)
    """How the matrices of each part are kept that are not whole."""


@dataclass(frozen=True)
class VlmSource:
    """Where a MetaQuery checkpoint's VLM is."""

    source: str | Path | None = None
    """Folder of the Qwen2.5-VL, or a hub id; by default ``vlm/`` inside the checkpoint."""
    revision: str | None = None
    """Revision of a hub id."""


def load_parts(
    source: str | Path,
    *,
    revision: str | None = None,
    vlm: VlmSource = VlmSource(),
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    encoder_device: torch.device | str | None = None,
    text_encoders: bool = True,
    use_t5: bool = True,
    lora: Sequence[Lora] = (),
    quantization: Quantization | None = None,
    encoder_quantization: Quantization | None = None,
) -> Parts:
    """Load a checkpoint.

    Args:
        source: Folder in the official layout, or a hub id.
        revision: Revision of a hub id.
        vlm: The VLM of a MetaQuery checkpoint.
        dtype: Dtype of all models.
        device: Where they go.
        encoder_device: Where what reads prompts goes instead.
        text_encoders: Load what reads prompts.
        use_t5: Load T5, if the folder has it.
        lora: LoRA adapters of the transformer; several add up.
        quantization: Keep the transformer's matrices in 8 or 4 bits.
        encoder_quantization: The same for what reads prompts and is large: the VLM, or T5.

    Raises:
        CheckpointError: If a part is missing, damaged, or does not fit the others, or can't be quantised here.
    """
    folder = resolve_folder(source, revision=revision)
    variant = read_variant(folder)
    if variant != "metaquery" and vlm.source is not None:
        msg = (
            f"{source} is no MetaQuery checkpoint (it has no conditioner/), so it has no use for the VLM {vlm.source}."
        )
        raise CheckpointError(msg)
    if encoder_quantization is not None and text_encoders:
        _check_quantizable(folder, variant, use_t5=use_t5)
    loaded = {
        name: load_component(folder, name, dtype=dtype, device=device, quantization=quantization)
        for name in ("transformer", "vae", "scheduler")
    }
    parts = Parts(
        variant,
        **loaded,
        reference=read_reference(folder, variant),
        sources={name: [folder / name] for name in loaded},
    )
    if quantization is not None:
        parts.quantization["transformer"] = quantization
    _check_channels(parts, folder)
    _load_adapters(parts, lora)
    if text_encoders:
        where = device if encoder_device is None else encoder_device
        if variant != "metaquery":
            _load_text(parts, folder, dtype, where, use_t5=use_t5, quantization=encoder_quantization)
            return parts
        try:
            _load_metaquery(parts, folder, vlm, dtype, where, encoder_quantization)
        except (ConditionerError, VlmError) as error:  # the leaves don't know each other, nor each other's errors
            raise CheckpointError(str(error)) from error
    return parts


def part_hashes(sources: Mapping[str, Sequence[Path]], lora_weights: Sequence[float] = ()) -> dict[str, str]:
    """Return a SHA-256 of all files of each part, by name; a copy of a folder has the same.

    Args:
        sources: Files and folders of each part.
        lora_weights: The weight of each adapter, which counts as much as its file does.
    """
    hashes = {name: _hash_files(paths) for name, paths in sources.items()}
    if lora_weights:
        lines = "\n".join([hashes["lora"], *(repr(float(weight)) for weight in lora_weights)])
        hashes["lora"] = hashlib.sha256(lines.encode()).hexdigest()
    return hashes


def _check_quantizable(folder: Path, variant: Variant, *, use_t5: bool) -> None:
    if variant == "metaquery" or (use_t5 and has_component(folder, "text_encoder_3")):
        return
    msg = (
        f"Of what reads prompts, only a VLM or T5 is ever quantised, and {folder} "
        f"{'is used without T5' if has_component(folder, 'text_encoder_3') else 'has neither'}: leave "
        f"encoder_quantization (--encoder-quantization) out."
    )
    raise CheckpointError(msg)


def _load_text(
    parts: Parts,
    folder: Path,
    dtype: torch.dtype,
    device: torch.device | str,
    *,
    use_t5: bool,
    quantization: Quantization | None,
) -> None:
    if not has_component(folder, "text_encoder"):
        msg = (
            f"{folder} has neither text_encoder/ (Kontext) nor conditioner/ (MetaQuery), so nothing in it reads "
            f"prompts. Complete the folder, or load it with text_encoders=False and pass embeddings."
        )
        raise CheckpointError(msg)
    text = TextConditioner.from_pretrained(
        folder, dtype=dtype, device=device, use_t5=use_t5, t5_quantization=quantization
    )
    parts.encoders = TextEncoders(text)
    if quantization is not None:
        parts.quantization["text_encoder_3"] = quantization
    tokenizers = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2", "text_encoder_3": "tokenizer_3"}
    for name in parts.encoders.modules():
        parts.sources[name] = [folder / name, folder / tokenizers[name]]


def _load_metaquery(
    parts: Parts,
    folder: Path,
    vlm: VlmSource,
    dtype: torch.dtype,
    device: torch.device | str,
    quantization: Quantization | None,
) -> None:
    conditioner = load_conditioner(folder, dtype=dtype, device=device)
    for width in ("joint_attention_dim", "pooled_projection_dim"):
        found, expected = conditioner.config[width], parts.transformer.config[width]
        if found != expected:
            msg = f"conditioner/ of {folder} has {width} {found}, but its transformer/ has {expected}: they don't fit."
            raise CheckpointError(msg)
    where = _vlm_folder(folder, vlm, conditioner.config.llm_hidden_size)
    encoder = QueryEncoder.from_pretrained(
        where,
        Sizes.of(parts.transformer, parts.vae).multiple,
        dtype=dtype,
        device=device,
        quantization=quantization,
    )
    if quantization is not None:
        parts.quantization["vlm"] = quantization
    try:
        parts.encoders = MetaQueryEncoders(MetaQueryConditioner(encoder, conditioner), encoder)
    except ValueError as error:
        msg = f"The VLM {where} does not fit {folder}. {error}"
        raise CheckpointError(msg) from error
    parts.sources |= {"conditioner": [folder / "conditioner"], "vlm": [where]}


def _vlm_folder(folder: Path, vlm: VlmSource, hidden_size: int) -> Path:
    if vlm.source is not None:
        return resolve_vlm_folder(vlm.source, revision=vlm.revision)
    if has_component(folder, VLM_FOLDER):
        return resolve_vlm_folder(folder / VLM_FOLDER)
    msg = (
        f"{folder} is a MetaQuery checkpoint, which is used with the VLM that it was trained with (hidden size "
        f"{hidden_size}; 3584 is Qwen2.5-VL-7B, 2048 the 3B). Name its folder or hub id as vlm, or link it to "
        f"{folder / VLM_FOLDER}."
    )
    raise CheckpointError(msg)


def _load_adapters(parts: Parts, lora: Sequence[Lora]) -> None:
    if not lora:
        return
    pipeline = StableDiffusion3KontextPipeline(parts.transformer, parts.scheduler, parts.vae)
    scales, paths = [], []
    for each in lora:
        path, scale = each if isinstance(each, tuple) else (each, 1.0)
        load_lora(pipeline, path)
        scales.append(scale)
        paths.append(Path(path).expanduser())
    pipeline.set_adapters(pipeline.get_list_adapters()["transformer"], scales)
    parts.sources["lora"], parts.lora_weights = paths, scales


def _check_channels(parts: Parts, folder: Path) -> None:
    found, expected = parts.vae.config.latent_channels, parts.transformer.config.in_channels
    if found != expected:
        msg = f"vae/ of {folder} has {found} latent channels, but its transformer/ reads {expected}: they don't fit."
        raise CheckpointError(msg)


def _files(path: Path) -> list[Path]:
    """Return a file, or the files of a folder but hidden ones, such as a downloader's notes."""
    if path.is_file():
        return [path]
    found = (each for each in path.rglob("*") if each.is_file())
    return sorted(each for each in found if not any(part.startswith(".") for part in each.relative_to(path).parts))


def _hash_files(paths: Sequence[Path]) -> str:
    total = hashlib.sha256()
    for path in paths:
        for file in _files(path):
            with file.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
            total.update(f"{file.relative_to(path).as_posix()} {digest}\n".encode())
    return total.hexdigest()
