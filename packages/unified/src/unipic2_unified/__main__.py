"""``python -m unipic2_unified generate|edit|ask``: use a checkpoint folder of any kind.

Whatever is slow to import is imported where it is used, so that ``--help`` answers at once. For the same reason there
is no ``from __future__ import annotations``: to resolve it jsonargparse would run the imports under ``TYPE_CHECKING``.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse.typing import PositiveInt

from unipic2_dit.command_line import UsageError, open_image, output_paths, parse_device, parse_size, run, save_images

if TYPE_CHECKING:
    from unipic2_unified.engine import StepCallback
    from unipic2_unified.model import UniPic2

__all__ = ["ask", "edit", "generate", "main"]

Dtype = Literal["auto", "float32", "bfloat16"]


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
    vlm: str | None = None,
    lora: list[str] | str | None = None,
    t5: bool = True,
    revision: str | None = None,
    device: str | None = None,
    dtype: Dtype = "auto",
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
        vlm: Folder or hub id of a MetaQuery checkpoint's VLM; by default vlm/ inside the checkpoint.
        lora: LoRA adapter, or a list of them: .safetensors files, or folders with pytorch_lora_weights.safetensors.
        t5: Use T5 if the checkpoint has it; without it less memory is needed.
        revision: Revision of a hub id.
        device: Where to run; by default a GPU if there is one.
        dtype: Dtype of the weights; auto is bfloat16 on a GPU and float32 on a CPU.
        offload: Keep what reads prompts on the GPU only while it works.
        tiling: Decode in tiles, for large pictures in little memory.
    """
    _check_text(prompt, "the prompt is empty: say what the picture should show.")
    outputs = output_paths(out, num_images)
    wanted = parse_size(size)
    model = _load(checkpoint, revision, vlm, device, dtype, lora=lora, t5=t5, offload=offload, tiling=tiling)
    given = _given(negative_prompt, steps, guidance, seed, num_images)
    images = model.generate(prompt, size=wanted, on_step=_progress(steps), **given)
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
    vlm: str | None = None,
    lora: list[str] | str | None = None,
    t5: bool = True,
    revision: str | None = None,
    device: str | None = None,
    dtype: Dtype = "auto",
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
        vlm: Folder or hub id of a MetaQuery checkpoint's VLM; by default vlm/ inside the checkpoint.
        lora: LoRA adapter, or a list of them: .safetensors files, or folders with pytorch_lora_weights.safetensors.
        t5: Use T5 if the checkpoint has it; without it less memory is needed.
        revision: Revision of a hub id.
        device: Where to run; by default a GPU if there is one.
        dtype: Dtype of the weights; auto is bfloat16 on a GPU and float32 on a CPU.
        offload: Keep what reads prompts on the GPU only while it works.
        tiling: Encode and decode in tiles, for large pictures in little memory.
    """
    _check_text(prompt, "the prompt is empty: say how to edit the picture.")
    outputs = output_paths(out, num_images)
    wanted = parse_size(size)
    picture = open_image(image)
    model = _load(checkpoint, revision, vlm, device, dtype, lora=lora, t5=t5, offload=offload, tiling=tiling)
    given = _given(negative_prompt, steps, guidance, seed, num_images)
    images = model.edit(picture, prompt, size=wanted, original_size=original_size, on_step=_progress(steps), **given)
    save_images(images, outputs)


def ask(
    checkpoint: str,
    question: str,
    *,
    image: list[str] | str | None = None,
    max_new_tokens: PositiveInt = 128,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    vlm: str | None = None,
    revision: str | None = None,
    device: str | None = None,
    dtype: Dtype = "auto",
) -> None:
    """Answer a question, about pictures or not.

    Args:
        checkpoint: Folder of a MetaQuery checkpoint in the official layout, or a hub id.
        question: The question.
        image: Picture that the question is about, or a list of pictures.
        max_new_tokens: The longest answer.
        temperature: 0 takes the likeliest token each time; more is more varied.
        top_p: Sample among the likeliest tokens that together have this probability.
        seed: Of the sampling.
        vlm: Folder or hub id of the checkpoint's VLM; by default vlm/ inside the checkpoint.
        revision: Revision of a hub id.
        device: Where to run; by default a GPU if there is one.
        dtype: Dtype of the weights; auto is bfloat16 on a GPU and float32 on a CPU.
    """
    _check_text(question, "the question is empty: ask something.")
    pictures = [open_image(path) for path in ([image] if isinstance(image, str) else image or [])]
    model = _load(checkpoint, revision, vlm, device, dtype)
    pieces = model.ask(
        pictures,
        question,
        stream=True,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
    )
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; exits with 2 and one line on bad input."""
    run([generate, edit, ask], "python -m unipic2_unified", _user_errors, args)


def _user_errors() -> tuple[type[Exception], ...]:
    from unipic2_dit.checkpoint import CheckpointError
    from unipic2_dit.resolution import ImpossibleSizeError
    from unipic2_unified.errors import RequestError

    return UsageError, RequestError, CheckpointError, ImpossibleSizeError


def _check_text(text: str, message: str) -> None:
    if not text.strip():
        raise UsageError(message)


def _load(
    checkpoint: str,
    revision: str | None,
    vlm: str | None,
    device: str | None,
    dtype: str,
    *,
    lora: list[str] | str | None = None,
    t5: bool = True,
    offload: bool = False,
    tiling: bool = False,
) -> "UniPic2":
    import torch
    from transformers.utils import logging

    from unipic2_unified.model import UniPic2

    logging.disable_progress_bar()  # one bar a model would hide the denoising steps' own
    where = None if device is None else parse_device(device)
    model = UniPic2.from_pretrained(
        checkpoint,
        revision=revision,
        vlm=vlm,
        dtype=None if dtype == "auto" else getattr(torch, dtype),
        device=where,
        use_t5=t5,
        lora=lora or (),
        offload=offload,
    )
    if tiling:
        model.parts.vae.enable_tiling()
    return model


def _given(negative_prompt: str, steps: int, guidance: float, seed: int, num_images: int) -> dict[str, Any]:
    return {
        "negative_prompts": negative_prompt,
        "steps": steps,
        "guidance": guidance,
        "seed": seed,
        "images_per_prompt": num_images,
    }


def _progress(steps: int) -> "StepCallback":
    """Return a callback that shows how far the denoising is, on stderr."""
    from tqdm import tqdm

    bar: tqdm | None = None

    def update(state: Any) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(total=steps, leave=False, disable=None)
        bar.update(int(state.index[0]) - bar.n)
        if bar.n == steps:
            bar.close()

    return update


if __name__ == "__main__":
    main()
