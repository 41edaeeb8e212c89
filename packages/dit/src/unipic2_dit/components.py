"""One part of a checkpoint folder to a model or tokenizer, strictly; which part is of which class is known above."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from unipic2_dit.quantization import Quantization, check_quantization, fill_quantized
from unipic2_dit.weights import CheckpointError, check_weights, raise_on_mismatch, weight_shapes

if TYPE_CHECKING:
    from transformers import T5EncoderModel

__all__ = ["load_diffusers_model", "load_quantized_t5", "load_text_encoder", "load_tokenizer"]

T5_WEIGHTS_NAME = "model.safetensors"


def load_diffusers_model(
    model_class: Any,
    folder: Path,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
    quantization: Quantization | None = None,
) -> Any:
    """Load a model of diffusers' kind, with the keys and shapes that its config asks for.

    Raises:
        CheckpointError: If its weights are others, or can't be quantised here.
    """
    if quantization is not None:
        check_quantization(quantization, device)
    config = model_class.load_config(folder)
    with torch.device("meta"):
        empty = model_class.from_config(config)
    check_weights(weight_shapes(folder), {key: tuple(each.shape) for key, each in empty.state_dict().items()}, folder)
    if quantization is not None:
        fill_quantized(
            empty,
            folder,
            quantization,
            blocks="transformer_blocks",
            dtype=dtype or torch.float32,
            device=device or "cpu",
        )
        return empty.eval()
    model = model_class.from_pretrained(folder, torch_dtype=dtype or torch.float32)
    return model.eval().to(device) if device is not None else model.eval()


def load_text_encoder(
    model_class: Any,
    folder: Path,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
) -> Any:
    """Load a text encoder.

    Raises:
        CheckpointError: If its weights are missing or are not those of its config.
    """
    # Which keys may be absent (tied) or extra (old buffers) is transformers' knowledge, so it does the comparison.
    try:
        model, info = model_class.from_pretrained(
            folder,
            dtype=dtype or torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            local_files_only=True,
        )
    except OSError as error:
        msg = f"{folder} can't be loaded as {model_class.__name__}: {str(error).splitlines()[0]}"
        raise CheckpointError(msg) from error
    wrong = sorted(str(key[0] if isinstance(key, tuple) else key) for key in info["mismatched_keys"])
    raise_on_mismatch(folder, sorted(info["missing_keys"]), sorted(info["unexpected_keys"]), wrong)
    return model.eval().to(device) if device is not None else model.eval()


def load_quantized_t5(
    folder: Path, dtype: torch.dtype, device: torch.device | str, quantization: Quantization
) -> T5EncoderModel:
    """Load T5's encoder with the matrices of its blocks in 8 or 4 bits.

    Raises:
        CheckpointError: If its weights are missing or are not those of its config, or can't be quantised here.
    """
    from transformers import T5Config, T5EncoderModel

    check_quantization(quantization, device)
    with torch.device("meta"):
        model = T5EncoderModel(T5Config.from_pretrained(folder, local_files_only=True))
    # The same matrix by another name, which files hold or not.
    tied = set(model.all_tied_weights_keys)
    shapes = {key: tuple(each.shape) for key, each in model.state_dict().items() if key not in tied}
    found = weight_shapes(folder, T5_WEIGHTS_NAME)
    check_weights({key: shape for key, shape in found.items() if key not in tied}, shapes, folder)
    fill_quantized(
        model, folder, quantization, blocks="encoder.block", name=T5_WEIGHTS_NAME, dtype=dtype, device=device
    )
    model.tie_weights()
    return model.eval()


def load_tokenizer(tokenizer_class: Any, folder: Path) -> Any:
    """Load a tokenizer.

    Raises:
        CheckpointError: If it is missing or damaged.
    """
    if not folder.is_dir():
        msg = f"The checkpoint {folder.parent} has no {folder.name}/. Is it a complete folder in the official layout?"
        raise CheckpointError(msg)
    try:
        return tokenizer_class.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        msg = f"{folder} can't be loaded as {tokenizer_class.__name__}: {str(error).splitlines()[0]}"
        raise CheckpointError(msg) from error
