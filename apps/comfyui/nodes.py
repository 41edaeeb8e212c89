"""The nodes: from widgets and images to a request, and back.

Images are float tensors (B, H, W, C) in [0, 1], RGB, as everywhere in ComfyUI.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image

from .client import (  # noqa: TID252 - ComfyUI chooses this package's name
    UniPic2Error,
    call,
    check_server,
    default_server,
    model_of,
)

__all__ = ["UniPic2Ask", "UniPic2Edit", "UniPic2Generate"]

LARGEST_SEED = 2**53 - 1  # the largest that ComfyUI's page keeps exactly
GLANCE = 3.0
"""Seconds that a server has to say which model it serves."""


class _Node:
    """What the nodes have in common."""

    FUNCTION = "run"
    CATEGORY = "UniPic2"

    @classmethod
    def IS_CHANGED(cls, server: str | None = None, **_: Any) -> Any:  # noqa: N802 - ComfyUI's name
        """Return what results depend on beside the inputs: the model that the server has now.

        Linked inputs are not known yet. If the server is one, or doesn't answer, the node runs, and says what is wrong.
        """
        if server is None:
            return float("nan")
        model = model_of(server, patience=GLANCE)
        return f"{model['id']} {model['created']}"

    @classmethod
    def VALIDATE_INPUTS(cls, server: str | None = None, prompt: str | None = None) -> bool | str:  # noqa: N802
        """Return True, or what is wrong with an input before anything runs. Linked inputs are not known yet."""
        if server is not None:
            try:
                check_server(server)
            except UniPic2Error as error:
                return str(error)
        if prompt is not None and not prompt.strip():
            return "prompt is empty; say what is wanted."
        return True


class UniPic2Generate(_Node):
    """Pictures from a prompt."""

    DESCRIPTION = "Makes pictures from a prompt, on a UniPic2 server."
    RETURN_TYPES = ("IMAGE",)
    OUTPUT_TOOLTIPS = ("The pictures; picture k is made from seed + k.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        """Return the inputs, in the order of the widgets."""
        side = {"default": 0, "min": 0, "max": 8192, "step": 16}
        return {
            "required": {
                "prompt": _text("What to draw."),
                "negative_prompt": _text("What to lead away from."),
                "width": ("INT", {**side, "tooltip": "Pixels; 0 in width and height is the checkpoint's own size."}),
                "height": ("INT", {**side, "tooltip": "Pixels; 0 in width and height is the checkpoint's own size."}),
                "batch_size": ("INT", {"default": 1, "min": 1, "max": 64, "tooltip": "How many pictures."}),
                **_sampling(),
                "server": _server(),
            }
        }

    def run(
        self,
        prompt: str,
        negative_prompt: str,
        width: int,
        height: int,
        batch_size: int,
        seed: int,
        steps: int,
        guidance: float,
        server: str,
    ) -> tuple[torch.Tensor]:
        """Return the pictures."""
        if (width == 0) != (height == 0):
            msg = f"the size is {width}x{height}: give width and height, or 0 in both for the checkpoint's own."
            raise UniPic2Error(msg)
        asked = {
            "prompt": prompt,
            "negative_prompt": negative_prompt,
            "size": f"{width}x{height}" if width else "auto",
            "n": batch_size,
            "seed": seed,
            "num_inference_steps": steps,
            "guidance_scale": guidance,
        }
        return (_pictures(call(server, "/v1/images/generations", asked)),)


class UniPic2Edit(_Node):
    """Edits of pictures by an instruction."""

    DESCRIPTION = "Edits pictures by an instruction, on a UniPic2 server."
    RETURN_TYPES = ("IMAGE",)
    OUTPUT_TOOLTIPS = ("An edit of each picture, about as large; edit k is made from seed + k.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        """Return the inputs, in the order of the widgets."""
        return {
            "required": {
                "image": ("IMAGE", {"tooltip": "The pictures to edit, each by itself."}),
                "prompt": _text("What to change."),
                "negative_prompt": _text("What to lead away from."),
                **_sampling(),
                "server": _server(),
            }
        }

    def run(
        self,
        image: torch.Tensor,
        prompt: str,
        negative_prompt: str,
        seed: int,
        steps: int,
        guidance: float,
        server: str,
    ) -> tuple[torch.Tensor]:
        """Return an edit of each picture."""
        asked = {
            "prompt": prompt,
            "negative_prompt": negative_prompt,
            "num_inference_steps": steps,
            "guidance_scale": guidance,
        }
        edits = [
            _pictures(call(server, "/v1/images/edits", {**asked, "images": [{"image_url": uri}], "seed": seed + index}))
            for index, uri in enumerate(_data_uris(image))
        ]
        return (torch.cat(edits),)


class UniPic2Ask(_Node):
    """An answer to a question about pictures."""

    DESCRIPTION = "Answers a question about pictures; the server needs a MetaQuery checkpoint."
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("answer",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        """Return the inputs, in the order of the widgets."""
        heat = {"default": 0.0, "min": 0.0, "max": 2.0, "step": 0.05, "tooltip": "0 is the likeliest answer."}
        return {
            "required": {
                "image": ("IMAGE", {"tooltip": "The pictures that the question is about, all together."}),
                "prompt": _text("The question."),
                "max_tokens": ("INT", {"default": 128, "min": 1, "max": 8192, "tooltip": "The longest answer."}),
                "temperature": ("FLOAT", heat),
                "seed": _seed(),
                "server": _server(),
            }
        }

    def run(
        self, image: torch.Tensor, prompt: str, max_tokens: int, temperature: float, seed: int, server: str
    ) -> tuple[str]:
        """Return the answer."""
        shown = [{"type": "image_url", "image_url": {"url": uri}} for uri in _data_uris(image)]
        asked = {
            "model": model_of(server)["id"],
            "messages": [{"role": "user", "content": [*shown, {"type": "text", "text": prompt}]}],
            "max_tokens": max_tokens,
            "temperature": temperature,
            "seed": seed,
            "modalities": ["text"],  # whatever the words are
        }
        answer = call(server, "/v1/chat/completions", asked)
        try:
            return (str(answer["choices"][0]["message"]["content"]),)
        except (LookupError, TypeError) as error:
            raise _unreadable() from error


def _text(tooltip: str) -> tuple[str, dict[str, Any]]:
    return ("STRING", {"default": "", "multiline": True, "tooltip": tooltip})


def _server() -> tuple[str, dict[str, Any]]:
    return ("STRING", {"default": default_server(), "tooltip": "Where `unipic2 serve` listens."})


def _seed() -> tuple[str, dict[str, Any]]:
    return ("INT", {"default": 0, "min": 0, "max": LARGEST_SEED, "control_after_generate": True})


def _sampling() -> dict[str, tuple[str, dict[str, Any]]]:
    return {
        "seed": _seed(),
        "steps": ("INT", {"default": 50, "min": 1, "max": 1000, "tooltip": "Denoising steps."}),
        "guidance": (
            "FLOAT",
            {"default": 3.5, "min": 0.0, "max": 100.0, "step": 0.1, "tooltip": "How closely to follow the prompt."},
        ),
    }


def _data_uris(images: torch.Tensor) -> list[str]:
    """Return each picture of a batch (B, H, W, C) as a data URI; what is beyond RGB is left out."""
    if images.ndim != 4 or images.shape[-1] not in {3, 4} or 0 in images.shape:
        msg = f"image has the shape {tuple(images.shape)}; expected pictures, as (batch, height, width, 3)."
        raise UniPic2Error(msg)
    levels = (images[..., :3].float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    uris = []
    for level in levels:
        file = io.BytesIO()
        Image.fromarray(level).save(file, format="PNG", compress_level=3)
        uris.append("data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii"))
    return uris


def _pictures(answer: Mapping[str, Any]) -> torch.Tensor:
    """Return the pictures of an answer, (B, H, W, 3)."""
    try:
        files = [io.BytesIO(base64.b64decode(item["b64_json"], validate=True)) for item in answer["data"]]
        arrays = [np.array(Image.open(file, formats=["PNG"]).convert("RGB")) for file in files]
        return torch.from_numpy(np.stack(arrays)).float() / 255
    except (LookupError, TypeError, ValueError, OSError) as error:
        raise _unreadable() from error


def _unreadable() -> UniPic2Error:
    msg = "the server's answer holds nothing that this node can read: is `server` a UniPic2 server of the same version?"
    return UniPic2Error(msg)
