"""``python -m unipic2_dit generate|edit``: make or edit pictures with a checkpoint folder.

Whatever is slow to import is imported where it is used, so that ``--help`` answers at once. For the same reason there
is no ``from __future__ import annotations``: to resolve it jsonargparse would run the imports under ``TYPE_CHECKING``.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse.typing import PositiveInt

from unipic2_dit.command_line import UsageError, open_image, output_paths, parse_device, parse_size, run, save_images

if TYPE_CHECKING:
    from unipic2_dit.pipeline import StableDiffusion3KontextPipeline

__all__ = ["edit", "generate", "main"]


def generate(
    checkpoint: str,
    prompt: str,
    *,
    out: str = "out.png",
    size: str | None = None,
    negative_prompt: str = "",
    steps: PositiveInt = 50,
    guidance: float = 3.5,
    seed: int = 0,
    num_images: PositiveInt = 1,
    lora: str | None = None,
    lora_scale: float = 1.0,
    t5: bool = True,
    revision: str | None = None,
    device: str | None = None,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    offload: bool = False,
    tiling: bool = False,
) -> None:
    """Make a picture from a prompt.

    Args:
        checkpoint: Checkpoint folder in the official layout, or a hub id.
        prompt: What to make.
        out: Where the picture goes; several are numbered (out_0.png, out_1.png, ...).
        size: Size in px, as EDGE (a square) or WIDTHxHEIGHT; by default the checkpoint's own.
        negative_prompt: What to lead away from.
        steps: Denoising steps.
        guidance: Scale of classifier-free guidance; 1 turns it off.
        seed: Picture k is made from seed + k, so that it can be made again alone.
        num_images: How many pictures.
        lora: LoRA adapter: a .safetensors file, or a folder with pytorch_lora_weights.safetensors.
        lora_scale: Weight of the adapter.
        t5: Use T5 if the checkpoint has it; without it less memory is needed.
        revision: Revision of a hub id.
        device: Where to run; by default a GPU if there is one.
        dtype: Dtype of the weights; auto is bfloat16 on a GPU and float32 on a CPU.
        offload: Keep on the GPU only the model that is running.
        tiling: Decode in tiles, for large pictures in little memory.
    """
    _check_prompt(prompt)
    outputs = output_paths(out, num_images)
    wanted = parse_size(size)
    pipeline = _load(checkpoint, revision, device, dtype, t5=t5, lora=lora, lora_scale=lora_scale)
    height, width = wanted if isinstance(wanted, tuple) else (wanted, wanted)
    _prepare(pipeline, device, offload=offload, tiling=tiling)
    images = pipeline(
        prompt=prompt,
        negative_prompt=negative_prompt,
        height=height,
        width=width,
        num_inference_steps=steps,
        guidance_scale=guidance,
        num_images_per_prompt=num_images,
        generator=_generators(seed, num_images),
    ).images
    save_images(images, outputs)


def edit(
    checkpoint: str,
    prompt: str,
    image: str,
    *,
    out: str = "out.png",
    size: str | None = None,
    original_size: bool = False,
    negative_prompt: str = "",
    steps: PositiveInt = 50,
    guidance: float = 3.5,
    seed: int = 0,
    num_images: PositiveInt = 1,
    lora: str | None = None,
    lora_scale: float = 1.0,
    t5: bool = True,
    revision: str | None = None,
    device: str | None = None,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    offload: bool = False,
    tiling: bool = False,
) -> None:
    """Edit a picture by an instruction.

    Args:
        checkpoint: Checkpoint folder in the official layout, or a hub id.
        prompt: How to edit, such as "make the circle red".
        image: Picture to edit.
        out: Where the result goes; several are numbered (out_0.png, out_1.png, ...).
        size: Size in px, as EDGE (the longer edge, aspect ratio kept) or WIDTHxHEIGHT; by default the picture's own,
            rounded to the checkpoint's multiple. Nothing is ever cropped.
        original_size: Resize the result to exactly the picture's own size.
        negative_prompt: What to lead away from.
        steps: Denoising steps.
        guidance: Scale of classifier-free guidance; 1 turns it off.
        seed: Picture k is made from seed + k, so that it can be made again alone.
        num_images: How many pictures.
        lora: LoRA adapter: a .safetensors file, or a folder with pytorch_lora_weights.safetensors.
        lora_scale: Weight of the adapter.
        t5: Use T5 if the checkpoint has it; without it less memory is needed.
        revision: Revision of a hub id.
        device: Where to run; by default a GPU if there is one.
        dtype: Dtype of the weights; auto is bfloat16 on a GPU and float32 on a CPU.
        offload: Keep on the GPU only the model that is running.
        tiling: Encode and decode in tiles, for large pictures in little memory.
    """
    _check_prompt(prompt)
    outputs = output_paths(out, num_images)
    wanted = parse_size(size)
    picture = open_image(image)
    pipeline = _load(checkpoint, revision, device, dtype, t5=t5, lora=lora, lora_scale=lora_scale)
    if isinstance(wanted, int):
        wanted = pipeline.sizes.fit_longer_edge(picture.height, picture.width, wanted)
    height, width = wanted or (None, None)
    _prepare(pipeline, device, offload=offload, tiling=tiling)
    images = pipeline(
        prompt=prompt,
        image=picture,
        negative_prompt=negative_prompt,
        height=height,
        width=width,
        original_size=original_size,
        num_inference_steps=steps,
        guidance_scale=guidance,
        num_images_per_prompt=num_images,
        generator=_generators(seed, num_images),
    ).images
    save_images(images, outputs)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; exits with 2 and one line on bad input."""
    run([generate, edit], "python -m unipic2_dit", _user_errors, args)


def _user_errors() -> tuple[type[Exception], ...]:
    from unipic2_dit.checkpoint import CheckpointError
    from unipic2_dit.resolution import ImpossibleSizeError

    return UsageError, CheckpointError, ImpossibleSizeError


def _check_prompt(prompt: str) -> None:
    if not prompt.strip():
        msg = "the prompt is empty: say what the picture should show, or how to edit it."
        raise UsageError(msg)


def _load(
    checkpoint: str,
    revision: str | None,
    device: str | None,
    dtype: str,
    *,
    t5: bool,
    lora: str | None,
    lora_scale: float,
) -> "StableDiffusion3KontextPipeline":
    import torch
    from transformers.utils import logging

    from unipic2_dit.checkpoint import load_lora, load_pipeline

    logging.disable_progress_bar()  # one bar a text encoder would hide the denoising steps' own
    on_gpu = _device(device).startswith("cuda")
    chosen = {"auto": torch.bfloat16 if on_gpu else torch.float32, "float32": torch.float32, "bfloat16": torch.bfloat16}
    pipeline = load_pipeline(checkpoint, revision=revision, dtype=chosen[dtype], use_t5=t5)
    if lora is not None:
        load_lora(pipeline, lora, scale=lora_scale)
    return pipeline


def _prepare(pipeline: "StableDiffusion3KontextPipeline", device: str | None, *, offload: bool, tiling: bool) -> None:
    if tiling:
        pipeline.vae.enable_tiling()
    where = _device(device)
    if offload:
        if where == "cpu":
            msg = "offload moves models between a GPU and the CPU, but this runs on the CPU: leave it out."
            raise UsageError(msg)
        pipeline.enable_model_cpu_offload(device=where)
    else:
        pipeline.to(where)


def _device(device: str | None) -> str:
    import torch

    return str(parse_device(device or ("cuda" if torch.cuda.is_available() else "cpu")))


def _generators(seed: int, num_images: int) -> list[Any]:
    import torch

    return [torch.Generator().manual_seed(seed + index) for index in range(num_images)]


if __name__ == "__main__":
    main()
