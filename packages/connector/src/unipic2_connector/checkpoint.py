"""The conditioner of a checkpoint folder in the official layout, loaded strictly.

``conditioner/`` holds ``config.json`` and safetensors, as the authors released and ``save_pretrained`` writes them.
Nothing ever starts from random weights: missing, unexpected or wrongly shaped weights are an error that lists them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from unipic2_connector.connector import StableDiffusion3Conditioner

__all__ = ["CheckpointError", "load_conditioner"]

PART = "conditioner"
CLASS_NAME = "StableDiffusion3Conditioner"
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
_MAX_LISTED = 20


class CheckpointError(ValueError):
    """A checkpoint that can't be used; the message says what was found, what was expected and what to do."""


def load_conditioner(
    source: str | Path,
    *,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> StableDiffusion3Conditioner:
    """Load the conditioner of a checkpoint.

    Args:
        source: Checkpoint folder (the one that has ``conditioner/``), or a hub id ``owner/name``, of which the
            conditioner is downloaded unless it is in the local cache.
        revision: Branch, tag or commit of a hub id.
        dtype: Dtype of the weights; by default float32.
        device: Where it goes.

    Returns:
        The conditioner, in evaluation mode.

    Raises:
        CheckpointError: If it is missing, damaged, of another class, or its weights are not just those of its config.
    """
    from unipic2_connector.connector import StableDiffusion3Conditioner

    folder = _resolve_folder(source, revision) / PART
    config = _read_config(folder)
    try:
        with torch.device("meta"):
            empty = StableDiffusion3Conditioner.from_config(config)
    except (ValueError, TypeError) as error:
        msg = f"{folder / 'config.json'} is no config of a {CLASS_NAME}: {error}"
        raise CheckpointError(msg) from error
    expected = {key: tuple(value.shape) for key, value in empty.state_dict().items()}
    _check_weights(_weight_shapes(folder), expected, folder)
    model = StableDiffusion3Conditioner.from_pretrained(folder, torch_dtype=dtype or torch.float32)
    return model.eval().to(device) if device is not None else model.eval()


def _resolve_folder(source: str | Path, revision: str | None) -> Path:
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    owner, _, name = str(source).partition("/")
    if folder.exists() or not owner or not name or "/" in name or owner.startswith((".", "~")):
        msg = f"There is no checkpoint folder {source}. Pass a folder in the official layout, or a hub id owner/name."
        raise CheckpointError(msg)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(source), revision=revision, allow_patterns=[f"{PART}/*"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        pinned = f" --revision {revision}" if revision else ""
        msg = (
            f"There is no folder {source}, and as a hub id it is not in the local cache and can't be downloaded here "
            f"({type(error).__name__}). On a machine with a connection, run `hf download {source}{pinned} "
            f"--local-dir DIR`, and pass that DIR."
        )
        raise CheckpointError(msg) from error


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        msg = (
            f"The checkpoint {folder.parent} has no {PART}/config.json. Only MetaQuery checkpoints have a conditioner; "
            f"UniPic2-SD3.5M-Kontext has text encoders instead."
        )
        raise CheckpointError(msg)
    try:
        config = dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        msg = f"{path} is not valid JSON ({error}). Copy or download the folder again."
        raise CheckpointError(msg) from error
    if config.get("_class_name") != CLASS_NAME:
        msg = f"{folder} holds a {config.get('_class_name')}, expected {CLASS_NAME}. Is this a UniPic 2 checkpoint?"
        raise CheckpointError(msg)
    return config


def _weight_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every tensor in a folder's safetensors, reading headers only."""
    from safetensors import SafetensorError, safe_open

    index = folder / f"{WEIGHTS_NAME}.index.json"
    files = [folder / WEIGHTS_NAME]
    if index.is_file():
        files = sorted({folder / file for file in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        if not file.is_file():
            msg = f"The weights {file} are missing. Copy or download the folder again."
            raise CheckpointError(msg)
        try:
            with safe_open(file, framework="pt") as weights:
                shapes.update({key: tuple(weights.get_slice(key).get_shape()) for key in weights.keys()})  # noqa: SIM118
        except SafetensorError as error:
            msg = f"The weights {file} are damaged or cut short ({error}). Copy or download them again."
            raise CheckpointError(msg) from error
    return shapes


def _check_weights(found: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]], folder: Path) -> None:
    """Compare names and shapes of weights; the error lists the missing, the unexpected and the wrongly shaped."""
    parts = {
        "missing": sorted(expected.keys() - found.keys()),
        "unexpected": sorted(found.keys() - expected.keys()),
        "wrongly shaped": [
            f"{key} (found {list(found[key])}, expected {list(expected[key])})"
            for key in sorted(found.keys() & expected.keys())
            if found[key] != expected[key]
        ],
    }
    lines = []
    for title, listed in parts.items():
        if listed:
            more = f", and {len(listed) - _MAX_LISTED} more" if len(listed) > _MAX_LISTED else ""
            lines.append(f"  {title} ({len(listed)}): {', '.join(listed[:_MAX_LISTED])}{more}")
    if lines:
        msg = f"The weights in {folder} are not those that its config asks for:\n" + "\n".join(lines)
        raise CheckpointError(msg)
