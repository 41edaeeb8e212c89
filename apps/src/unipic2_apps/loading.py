"""From options to a loaded model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unipic2_apps.errors import UsageError
from unipic2_apps.options import ModelOptions
from unipic2_dit.command_line import parse_device

if TYPE_CHECKING:
    import torch

    from unipic2_unified import UniPic2
    from unipic2_unified.variants import Capability

__all__ = ["default_checkpoint", "load", "model_facts", "parse_lora"]


def default_checkpoint() -> Path:
    """Return where ``make demo`` leaves its model: ``tiny/kontext`` in ``$UNIPIC2_HOME``."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "unipic2"
    return Path(os.environ.get("UNIPIC2_HOME", cache)).expanduser().resolve() / "tiny" / "kontext"


def load(options: ModelOptions, needs: Capability | None = None, *, cache_bytes: int = 0) -> UniPic2:
    """Load the model.

    Args:
        options: What to load, and how.
        needs: What it has to be capable of; what its kind can't do is said before anything large is read.
        cache_bytes: Memory for encoded prompts. With none of it, a batch is encoded from scratch, and so depends on
            nothing that was made before: it can be made again bit for bit.

    Raises:
        UsageError: If no checkpoint is named and there is none by default, or an option can't be understood.
        NotCapableError: If it can't do what is needed.
        CheckpointError: If it is damaged or incomplete.
    """
    checkpoint = _checkpoint(options)
    adapters = [parse_lora(each) for each in options.lora]
    import torch
    from transformers.utils import logging

    from unipic2_dit.checkpoint import resolve_folder
    from unipic2_unified import UniPic2, variants

    logging.disable_progress_bar()  # one bar a model would hide those of the pictures
    if needs is not None:
        variant = variants.read_variant(resolve_folder(checkpoint, revision=options.revision))
        variants.check_capable(needs, variant, variants.capabilities(variant, has_vlm=True))
    model = UniPic2.from_pretrained(
        checkpoint,
        revision=options.revision,
        vlm=options.vlm,
        dtype=None if options.dtype == "auto" else getattr(torch, options.dtype),
        device=None if options.device is None else _device(options.device),
        use_t5=options.t5,
        lora=adapters,
        quantization=options.quantization,
        encoder_quantization=options.encoder_quantization,
        offload=options.offload,
        cache_bytes=cache_bytes,
    )
    if options.tiling:
        model.parts.vae.enable_tiling()
        model.parts.vae.enable_slicing()
    return model


def model_facts(model: UniPic2, options: ModelOptions) -> dict[str, Any]:
    """Return what names a loaded model, for the files beside its pictures."""
    info = model.info()
    return {
        "checkpoint": _absolute(_checkpoint(options)),
        "revision": options.revision,
        "vlm": None if options.vlm is None else _absolute(options.vlm),
        "lora": [f"{_absolute(path)}:{weight}" for path, weight in map(parse_lora, options.lora)],
        "t5": options.t5,
        "dtype": info["parts"]["transformer"]["dtype"],
        "quantization": options.quantization,
        "encoder_quantization": options.encoder_quantization,
        "tiling": options.tiling,
        "device": model.device.type,
        "variant": info["variant"],
        "hash": info["hash"],
    }


def parse_lora(text: str) -> tuple[str, float]:
    """``"adapter.safetensors:0.5"`` -> file or folder, and weight (1 unless given)."""
    path, colon, weight = text.rpartition(":")
    try:
        return (path, float(weight)) if colon and path else (text, 1.0)
    except ValueError:  # a colon of the path itself
        return text, 1.0


def _checkpoint(options: ModelOptions) -> str:
    if options.checkpoint:
        return options.checkpoint
    default = default_checkpoint()
    if not default.is_dir():
        msg = (
            f"name a checkpoint: --checkpoint FOLDER_OR_HUB_ID. Without it the model that `make demo` leaves is used, "
            f"but there is none at {default}."
        )
        raise UsageError(msg)
    return str(default)


def _device(name: str) -> torch.device:
    import torch

    device = parse_device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        msg = f"there is no device {name}: this machine has {torch.cuda.device_count()} usable GPUs. Use --device cpu."
        raise UsageError(msg)
    return device


def _absolute(source: str) -> str:
    """Return a folder as an absolute path, and a hub id as it is."""
    path = Path(source).expanduser()
    return str(path.resolve()) if path.exists() else source
