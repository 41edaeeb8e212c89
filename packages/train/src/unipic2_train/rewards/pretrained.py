"""Loading the pretrained models that score: from a folder or a pinned commit of the hub, strictly, from safetensors."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unipic2_evals.pictures import file_hash

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["load_folder", "load_strictly", "load_tensors", "weights_hash"]

DOWNLOADED = ("*.json", "*.txt", "model*.safetensors")


def load_folder(source: str, revision: str | None) -> tuple[Path, str]:
    """Return the local folder of a model, and its revision: the hub's commit, or a hash over the folder's weights.

    Args:
        source: A folder, or a hub id ``owner/name``, which is downloaded unless it is in the local cache.
        revision: Commit of a hub id.

    Raises:
        ValueError: There is no such folder, no commit is named, or nothing can be downloaded.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        if revision is not None:
            msg = f"revision {revision} belongs to a hub id, but {source} is a folder: leave it out"
            raise ValueError(msg)
        return folder, weights_hash(sorted(folder.glob("*.safetensors")))
    owner, _, name = source.partition("/")
    if not owner or not name or "/" in name or owner.startswith((".", "~")):
        msg = f"there is no folder {source}: pass the folder of a model, or a hub id owner/name with its revision"
        raise ValueError(msg)
    if revision is None:
        msg = f"there is no folder {source}, and a hub id needs its revision (a commit): what scores must not change"
        raise ValueError(msg)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        found = Path(snapshot_download(source, revision=revision, allow_patterns=list(DOWNLOADED)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        msg = (
            f"{source} at {revision} is not in the local cache and can't be downloaded here ({type(error).__name__}): "
            f"on a machine with a connection run `hf download {source} --revision {revision} --local-dir DIR`, and "
            "pass that DIR without a revision"
        )
        raise ValueError(msg) from error
    return found, found.name


def load_strictly(model_class: Any, folder: Path) -> Any:
    """Return a transformers model in float32, whose weights are exactly those that its config asks for.

    Raises:
        ValueError: Weights are missing, unexpected, wrongly shaped or damaged, or only there as pickle.
    """
    from safetensors import SafetensorError

    try:
        model, info = model_class.from_pretrained(
            folder,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            local_files_only=True,
        )
    except (OSError, SafetensorError) as error:
        msg = f"{folder} can't be loaded as {model_class.__name__}: {str(error).splitlines()[0]}"
        raise ValueError(msg) from error
    wrong = {
        title: sorted(str(key[0] if isinstance(key, tuple) else key) for key in info[f"{title}_keys"])[:8]
        for title in ("missing", "unexpected", "mismatched")
    }
    if any(wrong.values()):
        msg = f"the weights in {folder} are not those of its config: " + "; ".join(
            f"{title} {', '.join(keys)}" for title, keys in wrong.items() if keys
        )
        raise ValueError(msg)
    return model.float().eval()


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Return what a safetensors file holds.

    Raises:
        ValueError: It is not there, or is no safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        msg = (
            f"{path} can't be read as safetensors ({error}). Weights are never read from pickle; convert them once: "
            "`save_file(torch.load('head.pth', weights_only=True), 'head.safetensors')` of safetensors.torch"
        )
        raise ValueError(msg) from error


def weights_hash(files: list[Path]) -> str:
    """Return 12 digits that change with any of these files."""
    return hashlib.sha256("".join(file_hash(path) for path in files).encode()).hexdigest()[:12]
