"""Groups of options that several verbs share.

Without ``from __future__ import annotations``: jsonargparse reads the types.
"""

from dataclasses import dataclass, field
from typing import Literal

from jsonargparse.typing import PositiveInt

__all__ = ["AnswerOptions", "Dtype", "ModelOptions", "OutputOptions", "PictureOptions"]

Dtype = Literal["auto", "float32", "bfloat16"]
Quantization = Literal["int8", "nf4"]


@dataclass(frozen=True)
class ModelOptions:
    """The model.

    Args:
        checkpoint: Folder in the official layout, or a hub id; by default $UNIPIC2_HOME/tiny/kontext, if it is there.
        revision: Revision of a hub id.
        vlm: Folder or hub id of a MetaQuery checkpoint's VLM; by default vlm/ inside the checkpoint.
        lora: LoRA adapter, FILE_OR_FOLDER or FILE_OR_FOLDER:WEIGHT; may be repeated, several add up.
        t5: Use T5 if the checkpoint has it; without it (--no-t5) less memory is needed.
        device: Where to run; by default a GPU if there is one.
        dtype: Dtype of the weights; auto is bfloat16 on a GPU and float32 on a CPU.
        quantization: Keep the transformer's matrices in 8 bits (int8, by torchao) or 4 (nf4, by bitsandbytes).
        encoder_quantization: The same for the VLM, or for T5.
        offload: Keep what reads prompts on the GPU only while it works.
        tiling: Encode and decode one picture at a time, and large ones in tiles, in little memory.
    """

    checkpoint: str | None = None
    revision: str | None = None
    vlm: str | None = None
    lora: list[str] = field(default_factory=list)
    t5: bool = True
    device: str | None = None
    dtype: Dtype = "auto"
    quantization: Quantization | None = None
    encoder_quantization: Quantization | None = None
    offload: bool = False
    tiling: bool = False


@dataclass(frozen=True)
class PictureOptions:
    """The pictures.

    Args:
        size: Size in px, as EDGE (a square; of an edit, the longer edge) or WIDTHxHEIGHT; by default the checkpoint's
            own, or that of the picture to edit. Nothing is ever cropped.
        negative_prompt: What to lead away from.
        steps: Denoising steps.
        guidance: Scale of classifier-free guidance; 1 turns it off.
        seed: Picture k of each prompt is made from seed + k, so that it can be made again alone.
        num_images: Pictures of each prompt.
    """

    size: str | None = None
    negative_prompt: str = ""
    steps: PositiveInt = 50
    guidance: float = 3.5
    seed: int = 0
    num_images: PositiveInt = 1


@dataclass(frozen=True)
class OutputOptions:
    """What is written.

    Args:
        out: Folder, or a name that ends in .png; several pictures of one name are numbered.
        batch_size: Pictures that are made together.
        sheet: Write a contact sheet of all pictures, OUT_sheet.png.
        overwrite: Make again what is there already, and replace it.
        ai_label: Write into each picture that AI made it (IPTC digital source type); --no-ai-label leaves that out.
    """

    out: str = "pictures"
    batch_size: PositiveInt = 4
    sheet: bool = False
    overwrite: bool = False
    ai_label: bool = True


@dataclass(frozen=True)
class AnswerOptions:
    """The answers.

    Args:
        max_new_tokens: The longest answer.
        temperature: 0 takes the likeliest token each time; more is more varied.
        top_p: Sample among the likeliest tokens that together have this probability.
        answer_seed: Of the sampling.
    """

    max_new_tokens: PositiveInt = 128
    temperature: float = 0.0
    top_p: float = 1.0
    answer_seed: int = 0
