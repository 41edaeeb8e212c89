"""Write a trained model as a checkpoint folder in the official layout, or its adapter as a LoRA file.

What is written loads with ``python -m unipic2_dit``, stock diffusers and the released scripts. The folder appears under
its name only when it is complete.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from unipic2_train.training_checkpoint import trainable_parameters

if TYPE_CHECKING:
    from collections.abc import Iterable

    from diffusers import AutoencoderKL
    from transformers import PreTrainedModel

    from unipic2_data.batch import Batch
    from unipic2_dit.transformer import SD3Transformer2DKontextModel
    from unipic2_train.metaquery import MetaQueryParts
    from unipic2_train.system import FrozenParts

    Part = tuple[nn.Module, dict[str, Tensor]]

__all__ = ["save_adapter", "save_metaquery", "save_model", "save_vae", "save_vlm", "trained_values"]

LICENCE_NOTE = """\
Licence note: the code that made this model is Apache-2.0. The weights carry the licences of what they were started from
and of the data they were trained on; a model that started from Stable Diffusion 3.5 Medium is under the Stability AI
Community License, one that started from UniPic2 weights under theirs. Check both before you share it.
"""
KONTEXT = (
    "A UniPic2 Kontext model: text-to-image and image editing in one network.",
    """\
Use it: `python -m unipic2_dit generate --checkpoint DIR --prompt "..."`, `python -m unipic2_dit edit --checkpoint DIR
--image IN.png --prompt "..."`, or `StableDiffusion3KontextPipeline.from_pretrained(DIR)`.""",
)
METAQUERY = (
    "A UniPic2 MetaQuery model: a vision-language model, with queries and a connector, in the place of text encoders.",
    "Use it with its vision-language model (`vlm` above): `unipic2_unified.UniPic2.from_pretrained(DIR, vlm=VLM)`.",
)
"""What a model card says a model is, and how it is used."""


def save_model(
    folder: Path, transformer: nn.Module, values: dict[str, Tensor], frozen: FrozenParts, facts: dict[str, Any]
) -> None:
    """Write a whole model folder: transformer, VAE, scheduler, text encoders, ``model_index.json`` and a model card.

    Args:
        folder: Where; an older export of that name is replaced when the new one is complete.
        transformer: Gives config and class.
        values: All its parameters, full, by name.
        frozen: The other parts.
        facts: What the model card and ``unipic2.json`` say of the run: recipe, data, scores, lineage.
    """
    from unipic2_dit.pipeline import StableDiffusion3KontextPipeline

    text = frozen.text
    pipeline = StableDiffusion3KontextPipeline(
        transformer=_transformer_of(transformer, values),
        vae=frozen.vae,
        scheduler=frozen.scheduler,
        text_encoder=text.text_encoder,
        tokenizer=text.tokenizer,
        text_encoder_2=text.text_encoder_2,
        tokenizer_2=text.tokenizer_2,
        text_encoder_3=text.text_encoder_3,
        tokenizer_3=text.tokenizer_3,
    )
    partial = _fresh(folder)
    pipeline.save_pretrained(partial)
    _write_facts(partial, folder.name, facts)
    _finish(partial, folder)


def save_metaquery(
    folder: Path, transformer: Part, conditioner: Part, frozen: MetaQueryParts, facts: dict[str, Any]
) -> None:
    """Write a MetaQuery folder: transformer, VAE, scheduler and conditioner; the VLM keeps its own.

    Args:
        folder: As for ``save_model``.
        transformer: Gives config and class, and all its parameters, full, by name.
        conditioner: Likewise.
        frozen: VAE and scheduler, and who sees the picture that is edited; ``conditioner/config.json`` says so if it is
            not both, as in the released system.
        facts: As for ``save_model``.
    """
    from unipic2_connector import StableDiffusion3Conditioner
    from unipic2_dit.pipeline import StableDiffusion3KontextPipeline

    pipeline = StableDiffusion3KontextPipeline(
        transformer=_transformer_of(*transformer),
        vae=frozen.vae,
        scheduler=frozen.scheduler,
        **{f"{part}{number}": None for part in ("text_encoder", "tokenizer") for number in ("", "_2", "_3")},
    )
    module, values = conditioner
    made = StableDiffusion3Conditioner.from_config(module.config)
    made.load_state_dict(values)
    if frozen.reference != "both":
        made.register_to_config(reference=frozen.reference)
    partial = _fresh(folder)
    pipeline.save_pretrained(partial)
    made.save_pretrained(partial / "conditioner")
    _write_facts(partial, folder.name, {**facts, "reference": frozen.reference}, METAQUERY)
    _finish(partial, folder)


def save_adapter(folder: Path, values: dict[str, Tensor], alpha: int, facts: dict[str, Any]) -> None:
    """Write ``pytorch_lora_weights.safetensors`` with diffusers' names, for ``--lora`` and ``load_lora_weights``.

    Args:
        folder: Where.
        values: The adapter's full parameters, by their names in the transformer.
        alpha: LoRA's alpha; rank and targets are read off the weights.
        facts: As for ``save_model``.
    """
    weights = {f"transformer.{name.replace('.default.', '.')}": value.contiguous() for name, value in values.items()}
    rank = next(value.shape[0] for name, value in weights.items() if "lora_A" in name)
    targets = sorted({name.removeprefix("transformer.").split(".lora_")[0] for name in weights})
    adapter = {"transformer.r": rank, "transformer.lora_alpha": alpha, "transformer.target_modules": targets}
    partial = _fresh(folder)
    metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(adapter)}
    save_file(weights, partial / "pytorch_lora_weights.safetensors", metadata=metadata)
    _write_facts(partial, folder.name, facts)
    _finish(partial, folder)


def save_vae(folder: Path, vae: AutoencoderKL, batches: Iterable[Batch], facts: dict[str, Any]) -> None:
    """Write an autoencoder with the ``shift_factor`` and ``scaling_factor`` that standardise its latents.

    Args:
        folder: Where.
        vae: The autoencoder.
        batches: Pictures to measure the latents' mean and standard deviation on.
        facts: As for ``save_model``.
    """
    pictures = [pixels for batch in batches if (pixels := batch.pixels) is not None]
    with torch.no_grad():
        latents = torch.cat([vae.encode(pixels.to(vae.device)).latent_dist.mode() for pixels in pictures])
    vae.register_to_config(
        shift_factor=round(latents.mean().item(), 6), scaling_factor=round(1 / latents.std().item(), 6)
    )
    partial = _fresh(folder)
    vae.to(memory_format=torch.contiguous_format).save_pretrained(partial)
    (partial / "unipic2.json").write_text(json.dumps(facts, indent=2, default=str))
    _finish(partial, folder)


def save_vlm(folder: Path, model: PreTrainedModel, start: Path, facts: dict[str, Any]) -> None:
    """Write a VLM in the layout of Hugging Face: config, weights, tokenizer and image processor.

    Args:
        folder: Where.
        model: The model.
        start: Folder with its tokenizer and image processor.
        facts: As for ``save_model``.
    """
    partial = _fresh(folder)
    for file in start.iterdir():
        # Neither old weights nor the index of their shards, which names files that are not there.
        if file.suffix != ".safetensors" and not file.name.endswith(".safetensors.index.json"):
            shutil.copy2(file, partial)
    model.save_pretrained(partial)
    (partial / "unipic2.json").write_text(json.dumps(facts, indent=2, default=str))
    _finish(partial, folder)


def trained_values(module: nn.Module) -> dict[str, Tensor]:
    """Return the trained parameters as full CPU tensors, by name; a collective call under FSDP."""
    return {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).detach().cpu().clone()
        for name, value in trainable_parameters(module).items()
    }


def _transformer_of(module: nn.Module, values: dict[str, Tensor]) -> SD3Transformer2DKontextModel:
    from unipic2_dit.transformer import SD3Transformer2DKontextModel

    model = SD3Transformer2DKontextModel.from_config(module.config)
    # The positional table is a buffer that the config determines; every parameter has to come from ``values``.
    model.load_state_dict({**values, "pos_embed.pos_embed": model.pos_embed.pos_embed})
    return model


def _fresh(folder: Path) -> Path:
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def _finish(partial: Path, folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)


def _write_facts(partial: Path, name: str, facts: dict[str, Any], about: tuple[str, str] | None = None) -> None:
    (partial / "README.md").write_text(_model_card(name, facts, *(about or KONTEXT)))
    (partial / "unipic2.json").write_text(json.dumps(facts, indent=2, default=str))


def _model_card(name: str, facts: dict[str, Any], what: str, use: str) -> str:
    rows = "\n".join(f"| {key} | {value} |" for key, value in facts.items() if not isinstance(value, (dict, list)))
    return f"""---
library_name: diffusers
pipeline_tag: image-to-image
---
# {name}

{what}

| fact | value |
|---|---|
{rows}

{use}

{LICENCE_NOTE}"""
