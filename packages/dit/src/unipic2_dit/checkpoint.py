"""Checkpoint folders in the official layout, loaded strictly.

``transformer/ vae/ scheduler/ text_encoder*/ tokenizer*/ model_index.json``: what the authors released, what
``save_pretrained`` writes, and, with a plain ``SD3Transformer2DModel``, what pre-training starts from. Nothing ever
starts from random weights: missing, unexpected or wrongly shaped weights are an error that lists them.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from unipic2_dit import components
from unipic2_dit.quantization import Quantization
from unipic2_dit.weights import CheckpointError, check_weights, weight_shapes

if TYPE_CHECKING:
    from unipic2_dit.pipeline import StableDiffusion3KontextPipeline
    from unipic2_dit.transformer import SD3Transformer2DKontextModel

__all__ = [
    "CheckpointError",
    "check_weights",
    "has_component",
    "load_component",
    "load_lora",
    "load_pipeline",
    "load_transformer",
    "read_config",
    "resolve_folder",
    "weight_shapes",
]

_TRANSFORMER_CLASSES = ("SD3Transformer2DKontextModel", "SD3Transformer2DModel")
_PARTS = (
    "transformer",
    "vae",
    "scheduler",
    "conditioner",
    "text_encoder",
    "tokenizer",
    "text_encoder_2",
    "tokenizer_2",
    "text_encoder_3",
    "tokenizer_3",
)
_DOWNLOADED = ("model_index.json", *(f"{part}/*" for part in _PARTS))
_NOT_DOWNLOADED = ("*.fp16.*", "*.bin", "*.msgpack")


def resolve_folder(source: str | Path, *, revision: str | None = None) -> Path:
    """Return the local folder of a checkpoint.

    Args:
        source: A folder, or a hub id ``owner/name``, which is downloaded unless it is in the local cache.
        revision: Branch, tag or commit of a hub id.

    Raises:
        CheckpointError: If there is no such folder, or the hub id is not in the cache and can't be downloaded.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        msg = f"{source} is a file; a checkpoint is a folder with transformer/, vae/ and scheduler/ in it."
        raise CheckpointError(msg)
    if not _looks_like_hub_id(str(source)):
        msg = f"There is no checkpoint folder {source}. Pass a folder in the official layout, or a hub id owner/name."
        raise CheckpointError(msg)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                str(source),
                revision=revision,
                allow_patterns=list(_DOWNLOADED),
                ignore_patterns=list(_NOT_DOWNLOADED),
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        pinned = f" --revision {revision}" if revision else ""
        msg = (
            f"There is no folder {source}, and as a hub id it is not in the local cache and can't be downloaded here "
            f"({type(error).__name__}). On a machine with a connection, run `hf download {source}{pinned} "
            f"--local-dir DIR`, and pass that DIR."
        )
        raise CheckpointError(msg) from error


def has_component(folder: Path, name: str) -> bool:
    """Tell whether a checkpoint folder has the part ``name`` (such as ``text_encoder_3``)."""
    return (folder / name).is_dir()


def read_config(folder: Path, name: str) -> dict[str, Any]:
    """Return the JSON config of a part of a checkpoint.

    Raises:
        CheckpointError: If the part or its config is missing, or is no JSON.
    """
    path = folder / name / ("scheduler_config.json" if name == "scheduler" else "config.json")
    if not path.is_file():
        msg = f"The checkpoint {folder} has no {name}/{path.name}. Is it a complete folder in the official layout?"
        raise CheckpointError(msg)
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        msg = f"{path} is not valid JSON ({error}). Copy or download the folder again."
        raise CheckpointError(msg) from error


def load_transformer(
    source: str | Path,
    *,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    quantization: Quantization | None = None,
) -> SD3Transformer2DKontextModel:
    """Load the transformer of a checkpoint, also of a stock SD3 text-to-image checkpoint.

    Args:
        source: Checkpoint folder (the one that has ``transformer/``), or a hub id.
        revision: Revision of a hub id.
        dtype: Dtype of the weights; by default float32.
        device: Where it goes.
        quantization: Keep the matrices of its blocks in 8 or 4 bits; ``dtype`` is then that of the rest, and of all
            computation.

    Returns:
        The transformer, in evaluation mode.

    Raises:
        CheckpointError: If it is missing, of another class, or its weights are not exactly those of its config.
    """
    from unipic2_dit.transformer import SD3Transformer2DKontextModel

    folder = resolve_folder(source, revision=revision)
    _check_class(read_config(folder, "transformer").get("_class_name"), _TRANSFORMER_CLASSES, folder / "transformer")
    return components.load_diffusers_model(
        SD3Transformer2DKontextModel, folder / "transformer", dtype, device, quantization
    )


def load_component(
    source: str | Path,
    name: str,
    *,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    quantization: Quantization | None = None,
) -> Any:
    """Load one part of a checkpoint, strictly.

    Args:
        source: Checkpoint folder, or a hub id.
        name: ``transformer``, ``vae``, ``scheduler``, ``text_encoder``, ``text_encoder_2``, ``text_encoder_3``,
            ``tokenizer``, ``tokenizer_2`` or ``tokenizer_3``.
        revision: Revision of a hub id.
        dtype: Dtype of a model's weights; by default float32.
        device: Where a model goes.
        quantization: Keep the matrices of ``transformer`` or ``text_encoder_3`` in 8 or 4 bits; others never are.

    Returns:
        The model (in evaluation mode), tokenizer or scheduler.

    Raises:
        CheckpointError: If it is missing, of another class, or has missing, unexpected or wrongly shaped weights.
        KeyError: If ``name`` is no part of a checkpoint.
    """
    import diffusers
    import transformers

    folder = resolve_folder(source, revision=revision)
    if name == "transformer":
        return load_transformer(folder, dtype=dtype, device=device, quantization=quantization)
    if name == "vae":
        _check_class(read_config(folder, name).get("_class_name"), ("AutoencoderKL",), folder / name)
        return components.load_diffusers_model(diffusers.AutoencoderKL, folder / name, dtype, device)
    if name == "scheduler":
        expected = "FlowMatchEulerDiscreteScheduler"
        _check_class(read_config(folder, name).get("_class_name"), (expected,), folder / name)
        return diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(folder / name)
    classes = {
        "text_encoder": "CLIPTextModelWithProjection",
        "text_encoder_2": "CLIPTextModelWithProjection",
        "text_encoder_3": "T5EncoderModel",
        "tokenizer": "CLIPTokenizer",
        "tokenizer_2": "CLIPTokenizer",
        "tokenizer_3": "T5TokenizerFast",
    }
    class_name = classes[name]
    if name.startswith("tokenizer"):
        return components.load_tokenizer(getattr(transformers, class_name), folder / name)
    architectures = read_config(folder, name).get("architectures") or [None]
    _check_class(architectures[0], (class_name,), folder / name)
    if quantization is not None and name == "text_encoder_3":
        return components.load_quantized_t5(folder / name, dtype or torch.float32, device or "cpu", quantization)
    return components.load_text_encoder(getattr(transformers, class_name), folder / name, dtype, device)


def load_pipeline(
    source: str | Path,
    *,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    use_text: bool = True,
    use_t5: bool = True,
) -> StableDiffusion3KontextPipeline:
    """Load a whole checkpoint as a pipeline, strictly.

    Args:
        source: Checkpoint folder, or a hub id.
        revision: Revision of a hub id.
        dtype: Dtype of all models; by default float32.
        device: Where they go.
        use_text: Load the text encoders; without them the pipeline takes embeddings.
        use_t5: Load T5, if the folder has it.

    Raises:
        CheckpointError: If a part is missing or does not fit.
    """
    from unipic2_dit.pipeline import StableDiffusion3KontextPipeline

    folder = resolve_folder(source, revision=revision)
    wanted = ["transformer", "vae", "scheduler"]
    if use_text:
        wanted += ["text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"]
        if use_t5 and has_component(folder, "text_encoder_3"):
            wanted += ["text_encoder_3", "tokenizer_3"]
    parts = {name: load_component(folder, name, dtype=dtype, device=device) for name in wanted}
    return StableDiffusion3KontextPipeline(**parts)


def load_lora(pipeline: StableDiffusion3KontextPipeline, path: str | Path, *, scale: float = 1.0) -> None:
    """Load a LoRA adapter into the pipeline's transformer.

    Args:
        pipeline: The pipeline.
        path: A ``.safetensors`` file, or a folder with ``pytorch_lora_weights.safetensors``.
        scale: Weight of the adapter; 1 is as trained.

    Raises:
        CheckpointError: If there is no such file, or it doesn't fit the transformer.
    """
    path = Path(path).expanduser()
    file = path / "pytorch_lora_weights.safetensors" if path.is_dir() else path
    if not file.is_file():
        msg = f"There is no LoRA file {file}. Pass a .safetensors file, or a folder with {file.name} in it."
        raise CheckpointError(msg)
    from safetensors import SafetensorError

    adapter = f"lora_{len(pipeline.get_list_adapters().get('transformer', []))}"
    try:
        with warnings.catch_warnings():
            # That adapters of int8 matrices can't be merged into them, which nobody asked for.
            warnings.filterwarnings("ignore", message="TorchaoLoraLinear", category=UserWarning)
            pipeline.load_lora_weights(file.parent, weight_name=file.name, adapter_name=adapter)
    except (ValueError, RuntimeError, KeyError, OSError, SafetensorError) as error:
        msg = f"{file} can't be loaded as a LoRA of this transformer: {str(error).splitlines()[0]}"
        raise CheckpointError(msg) from error
    pipeline.set_adapters([adapter], [scale])


def _check_class(found: str | None, expected: tuple[str, ...], where: Path) -> None:
    if found not in expected:
        msg = f"{where} holds a {found}, expected {' or '.join(expected)}. Is this a UniPic 2 or SD3 checkpoint?"
        raise CheckpointError(msg)


def _looks_like_hub_id(source: str) -> bool:
    owner, _, name = source.partition("/")
    return bool(owner and name) and "/" not in name and not owner.startswith((".", "~"))
