"""The fields that say how a picture is made, as the tabs for drawing and editing both have them."""

from __future__ import annotations

from typing import Any

import gradio as gr

from unipic2_apps.options import PictureOptions
from unipic2_apps.ui.client import Settings

__all__ = ["FieldError", "Fields"]

DEFAULTS = PictureOptions()
MOST_IMAGES = 4


class FieldError(ValueError):
    """A field can't be understood; the message is for the person at the page."""


class Fields:
    """Size, steps, guidance, negative prompt, seed and its lock, and how many pictures.

    Args:
        name: Of the tab, for the fields' ids.
        size: What happens where no size is given.
        several: There is a choice of how many pictures.
    """

    def __init__(self, name: str, *, size: str, several: bool) -> None:
        self.last = gr.State("")  # the seed that the field shows because it was used
        self.count = gr.Slider(1, MOST_IMAGES, 1, step=1, label="Pictures", visible=several, elem_id=f"{name}-count")
        with gr.Row():
            # A text: as numbers, browsers round large ones.
            self.seed = gr.Textbox(
                label="Seed", info="The last one, or yours.", placeholder="new each time", elem_id=f"{name}-seed"
            )
            self.lock = gr.Checkbox(
                label="Lock the seed", info="Not locked, there is a new one each time.", elem_id=f"{name}-lock"
            )
        with gr.Accordion("More settings", open=False, elem_id=f"{name}-more"):
            self.steps = gr.Slider(
                1, 100, int(DEFAULTS.steps), step=1, label="Steps", info="Fewer are faster.", elem_id=f"{name}-steps"
            )
            self.guidance = gr.Slider(
                0,
                15,
                DEFAULTS.guidance,
                step=0.1,
                label="Guidance",
                info="How closely words are followed; 1 is off.",
                elem_id=f"{name}-guidance",
            )
            self.negative = gr.Textbox(
                label="Negative prompt", placeholder="what to lead away from", elem_id=f"{name}-negative"
            )
            self.size = gr.Textbox(
                label="Size", placeholder=f"WIDTHxHEIGHT, such as 768x512; empty: {size}", elem_id=f"{name}-size"
            )

    @property
    def all(self) -> list[Any]:
        """The fields, in the order in which ``read`` takes their values."""
        return [self.count, self.seed, self.lock, self.steps, self.guidance, self.negative, self.size, self.last]

    @staticmethod
    def read(
        count: int,
        seed: str,
        lock: bool,
        steps: int | None,
        guidance: float | None,
        negative: str,
        size: str,
        last: str,
    ) -> Settings:
        """Return what the fields say. The seed counts if it is locked, or was written since the last one was used.

        Raises:
            FieldError: If the seed is no number.
        """
        seed = (seed or "").strip()
        is_meant = seed and (lock or seed != last)
        if is_meant and not (seed.isascii() and seed.isdecimal()):
            msg = f"the seed is {seed[:40]!r}; write a whole number, or nothing."
            raise FieldError(msg)
        return Settings(
            size=size or "",
            negative_prompt=negative or "",
            steps=steps,
            guidance=guidance,
            seed=int(seed) if is_meant else None,
            num_images=int(count),
        )

    def used(self, seed: int) -> dict[Any, Any]:
        """Return what shows the seed that was used."""
        return {self.seed: str(seed), self.last: str(seed)}

    def write(self, settings: Settings) -> dict[Any, Any]:
        """Return what puts settings into the fields, with their seed locked."""
        values = (
            settings.num_images,
            str(settings.seed),
            True,
            settings.steps,
            settings.guidance,
            settings.negative_prompt,
            settings.size,
            str(settings.seed),
        )
        return dict(zip(self.all, values, strict=True))
