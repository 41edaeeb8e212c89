"""Folders of Qwen2.5-VL, in the layout of Hugging Face, loaded strictly.

``config.json``, safetensors, tokenizer and ``preprocessor_config.json``. Nothing ever starts from random weights:
missing, unexpected or wrongly shaped weights are an error that lists them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, Qwen2_5_VLForConditionalGeneration, TorchAoConfig

__all__ = ["CheckpointError", "Quantization", "load_model", "resolve_folder"]

Quantization = Literal["int8", "nf4"]
"""How the linear layers' weights are kept: 8 bits by torchao, or 4 by bitsandbytes. Only weights are quantised, so that
a row of a batch does not depend on the others."""

_LIBRARIES = {"int8": "torchao", "nf4": "bitsandbytes"}
MODEL_TYPE = "qwen2_5_vl"
_DOWNLOADED = ("*.json", "*.jinja", "*.safetensors", "*.txt")
_MAX_LISTED = 20


class CheckpointError(ValueError):
    """A VLM folder that can't be used; the message says what was found, what was expected and what to do."""


def resolve_folder(source: str | Path, *, revision: str | None = None) -> Path:
    """Return the local folder of a VLM, and make sure that it holds a Qwen2.5-VL.

    Args:
        source: A folder, or a hub id ``owner/name``, which is downloaded unless it is in the local cache.
        revision: Branch, tag or commit of a hub id.

    Raises:
        CheckpointError: If there is no such folder, the hub id is not in the cache and can't be downloaded, or the
            folder holds something else.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir():
        folder = _download(str(source), revision)
    path = folder / "config.json"
    if not path.is_file():
        unipic = (folder / "transformer").is_dir()
        hint = " This is a UniPic 2 checkpoint; its VLM has a folder of its own, such as Qwen2.5-VL-7B-Instruct's."
        msg = f"{folder} has no config.json, so it is no folder of Qwen2.5-VL.{hint if unipic else ''}"
        raise CheckpointError(msg)
    try:
        found = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except ValueError as error:
        msg = f"{path} is not valid JSON ({error}). Copy or download the folder again."
        raise CheckpointError(msg) from error
    if found != MODEL_TYPE:
        msg = f"{folder} holds a model of type {found!r}, expected {MODEL_TYPE!r} (Qwen2.5-VL, 3B or 7B for instance)."
        raise CheckpointError(msg)
    return folder


def load_model(
    source: str | Path,
    *,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    quantization: Quantization | None = None,
) -> Qwen2_5_VLForConditionalGeneration:
    """Load the weights of a VLM, strictly, in evaluation mode.

    Args:
        source: Folder of a Qwen2.5-VL, or a hub id.
        revision: Revision of a hub id.
        dtype: Dtype of the weights, by default float32; of a quantised model, what it computes in, by default bfloat16.
        device: Where it goes, by default the CPU.
        quantization: Load the linear layers in 8 or 4 bits.

    Raises:
        CheckpointError: If it is no Qwen2.5-VL, its weights are damaged or not exactly those of its config, or
            quantised weights are asked for and a library is missing.
    """
    from safetensors import SafetensorError
    from transformers import Qwen2_5_VLForConditionalGeneration

    folder = resolve_folder(source, revision=revision)
    options: dict[str, Any] = {"dtype": dtype or torch.float32}
    if quantization is not None:
        options = {"dtype": dtype or torch.bfloat16, "device_map": {"": device or "cpu"}}
        options["quantization_config"] = _quantization_config(quantization, options["dtype"])
    try:
        model, info = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            folder, output_loading_info=True, ignore_mismatched_sizes=True, local_files_only=True, **options
        )
    except (OSError, SafetensorError) as error:
        msg = f"The weights in {folder} are missing, damaged or cut short: {str(error).splitlines()[0]}"
        raise CheckpointError(msg) from error
    wrong = sorted(str(key[0] if isinstance(key, tuple) else key) for key in info["mismatched_keys"])
    _raise_on_mismatch(folder, sorted(info["missing_keys"]), sorted(info["unexpected_keys"]), wrong)
    if quantization == "nf4":
        for module in model.modules():
            if hasattr(module, "support_avx512bf16_for_cpu"):
                # CPUs with bfloat16 instructions would repack the weights for a kernel that knows few sizes.
                module.support_avx512bf16_for_cpu = False
    # A quantised model was loaded where it belongs.
    return model.eval() if device is None or quantization is not None else model.eval().to(device)


def _download(source: str, revision: str | None) -> Path:
    owner, _, name = source.partition("/")
    if not owner or not name or "/" in name or owner.startswith((".", "~")) or Path(source).exists():
        msg = f"There is no folder {source}. Pass the folder of a Qwen2.5-VL, or a hub id owner/name."
        raise CheckpointError(msg)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=list(_DOWNLOADED)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        pinned = f" --revision {revision}" if revision else ""
        msg = (
            f"There is no folder {source}, and as a hub id it is not in the local cache and can't be downloaded here "
            f"({type(error).__name__}). On a machine with a connection, run `hf download {source}{pinned} "
            f"--local-dir DIR`, and pass that DIR."
        )
        raise CheckpointError(msg) from error


def _quantization_config(quantization: Quantization, dtype: torch.dtype) -> BitsAndBytesConfig | TorchAoConfig:
    if quantization not in _LIBRARIES:
        msg = f"quantization is {quantization!r}; known are 'int8', 'nf4' and None."
        raise CheckpointError(msg)
    missing = [name for name in (_LIBRARIES[quantization], "accelerate") if find_spec(name) is None]
    if missing:
        msg = (
            f"The VLM in {quantization} needs {' and '.join(missing)}, which the extra `quantized` brings: run "
            f"`pip install {' '.join(missing)}`, or load it without quantization."
        )
        raise CheckpointError(msg)
    from transformers import BitsAndBytesConfig, TorchAoConfig

    if quantization == "nf4":
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    return TorchAoConfig(import_module("torchao.quantization").Int8WeightOnlyConfig(set_inductor_config=False))


def _raise_on_mismatch(
    folder: Path, missing: Iterable[str], unexpected: Iterable[str], wrong_shapes: Iterable[str]
) -> None:
    lines = []
    for title, keys in (("missing", missing), ("unexpected", unexpected), ("wrongly shaped", wrong_shapes)):
        listed = list(keys)
        if listed:
            more = f", and {len(listed) - _MAX_LISTED} more" if len(listed) > _MAX_LISTED else ""
            lines.append(f"  {title} ({len(listed)}): {', '.join(listed[:_MAX_LISTED])}{more}")
    if lines:
        msg = f"The weights in {folder} are not those that its config asks for:\n" + "\n".join(lines)
        raise CheckpointError(msg)
