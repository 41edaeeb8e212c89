"""Places for pictures: one that is opened, dropped, pasted or taken by a phone's camera, and a strip to choose from."""

from __future__ import annotations

from typing import Any

import gradio as gr

__all__ = ["picture_input", "picture_strip"]


def picture_input(label: str, name: str) -> gr.Image:
    """Return a place for a picture, whose value is the path of the file, byte for byte as it was given."""
    component: Any = gr.Image(
        label=label,
        type="filepath",
        image_mode=None,
        format="png",
        sources=["upload", "clipboard"],
        height=300,
        buttons=["fullscreen"],
        elem_id=name,
    )
    # Gradio would open the file, and tell its own words and paths of one that it can't read. The server says it better.
    component.preprocess = _path_of
    return component


def picture_strip(label: str, columns: int, name: str) -> gr.Gallery:
    """Return a strip of small pictures to choose one from."""
    return gr.Gallery(
        label=label,
        show_label=False,
        columns=columns,
        fit_columns=False,
        object_fit="contain",
        allow_preview=False,
        interactive=False,
        format="png",
        buttons=[],
        elem_id=name,
    )


def _path_of(payload: Any) -> str | None:
    return None if payload is None else str(payload.path)
