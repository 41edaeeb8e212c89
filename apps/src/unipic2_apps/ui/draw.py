"""The tab that draws pictures from words."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from unipic2_apps.ui import pieces
from unipic2_apps.ui.client import PREVIEWS, ServerError, Shown
from unipic2_apps.ui.fields import FieldError, Fields
from unipic2_apps.ui.history import Entry
from unipic2_apps.ui.tab import Context, Target, bind, browser_of, hand_over

__all__ = ["DrawTab"]

READY = "Write what you want to see, and press Enter."


class DrawTab:
    """Words, and the pictures that the server makes of them.

    Args:
        context: What the tab works with.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.paths = gr.State([])
        self.chosen = gr.State(0)
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                self.words = gr.Textbox(
                    label="What to draw",
                    placeholder="a red circle and a blue square",
                    lines=1,
                    max_lines=6,
                    autofocus=True,
                    elem_id="draw-words",
                )
                with gr.Row():
                    self.run = gr.Button("Draw", variant="primary", min_width=120, elem_id="draw-run")
                    self.stop = gr.Button("Stop", interactive=False, min_width=120, elem_id="draw-stop")
                self.fields = Fields("draw", size="the model's own", several=True)
            with gr.Column(scale=3, min_width=300):
                self.status = gr.HTML(pieces.ready(READY), elem_id="draw-status")
                self.pictures = gr.Gallery(
                    label="Pictures",
                    show_label=False,
                    columns=1,
                    object_fit="contain",
                    interactive=False,
                    format="png",
                    buttons=["download", "fullscreen"],
                    elem_id="draw-pictures",
                )
                with gr.Row():
                    self.to_edit = gr.Button("Edit this", interactive=False, min_width=120, elem_id="draw-to-edit")
                    self.to_ask = gr.Button("Ask about this", interactive=False, min_width=120, elem_id="draw-to-ask")

    def wire(self, edit: Target, ask: Target) -> None:
        """Bind what happens on the tab.

        Args:
            edit: What takes a picture to edit it.
            ask: What takes a picture to ask about it.
        """
        changing = [
            self.status,
            self.pictures,
            self.paths,
            self.chosen,
            self.fields.seed,
            self.fields.last,
            *self._buttons,
        ]
        running = bind([self.run.click, self.words.submit], self.draw, [self.words, *self.fields.all], changing)
        bind(self.stop.click, self.stopped, (), [self.status, *self._buttons], cancels=[running])
        bind(self.pictures.select, self.choose, (), [self.chosen])
        for button, target in ((self.to_edit, edit), (self.to_ask, ask)):
            hand_over(button, _taken_by(target), [self.paths, self.chosen], target.outputs, target)

    async def draw(self, request: gr.Request, words: str, *values: Any) -> AsyncGenerator[dict[Any, Any]]:
        """Yield what changes while pictures are made."""
        try:
            settings = self.fields.read(*values)
        except FieldError as error:
            yield {self.status: pieces.failed(str(error))}
            return
        started = time.monotonic()
        columns = 1 if settings.num_images == 1 else 2
        yield {
            **self._working(is_working=True),
            self.status: pieces.busy("Waiting for the first preview ..."),
            self.pictures: gr.Gallery([], columns=columns, selected_index=None),
            self.paths: [],
            self.chosen: 0,
        }
        latest: dict[int, tuple[Shown, Path]] = {}
        try:
            name = await self.context.client.name()
            async with aclosing(self.context.client.draw(words, settings)) as shown:
                async for each in shown:
                    latest[each.row] = each, self.context.shelf.keep(each.data, words, each.seed)
                    yield {self.status: _progress(latest, settings.num_images), self.pictures: _files(latest)}
            finished = [latest[row] for row in sorted(latest)]
            if len(finished) != settings.num_images or any(each.preview is not None for each, _ in finished):
                msg = "The server's answer ended before the pictures were done."
                raise ServerError(msg)
        except ServerError as error:
            yield {**self._working(is_working=False), self.status: pieces.failed(str(error))}
            return
        for each, path in finished:
            made = replace(settings, seed=each.seed, num_images=1)
            self.context.histories.add(browser_of(request), Entry("draw", words, made, path, name))
        seeds = ", ".join(str(each.seed) for each, _ in finished)
        yield {
            **self._working(is_working=False),
            self.status: pieces.done(f"Done in {time.monotonic() - started:.1f} s. Seed {seeds}."),
            self.paths: [path for _, path in finished],
            **self.fields.used(finished[0][0].seed),
            self.to_edit: gr.Button(interactive=True),
            self.to_ask: gr.Button(interactive=True),
        }

    def stopped(self) -> dict[Any, Any]:
        """Return what changes when a person has stopped it."""
        return {**self._working(is_working=False), self.status: pieces.ready("Stopped.")}

    @staticmethod
    def choose(event: gr.SelectData) -> int:
        """Return which of the pictures was clicked."""
        return int(event.index)

    @property
    def _buttons(self) -> list[Any]:
        return [self.run, self.stop, self.to_edit, self.to_ask]

    def _working(self, *, is_working: bool) -> dict[Any, Any]:
        return {
            self.run: gr.Button(interactive=not is_working),
            self.stop: gr.Button(interactive=is_working),
            self.to_edit: gr.Button(interactive=False),
            self.to_ask: gr.Button(interactive=False),
        }


def _files(latest: dict[int, tuple[Shown, Path]]) -> list[tuple[str, str]]:
    return [(str(latest[row][1]), f"seed {latest[row][0].seed}") for row in sorted(latest)]


def _progress(latest: dict[int, tuple[Shown, Path]], rows: int) -> str:
    """Return how far pictures are, by their previews."""
    shares = [1.0 if each.preview is None else (each.preview + 1) / (PREVIEWS + 1) for each, _ in latest.values()]
    finished = sum(share == 1 for share in shares)
    text = f"{finished} of {rows} done ..." if finished and rows > 1 else "Drawing ..."
    return pieces.busy(text, sum(shares) / rows)


def _taken_by(target: Target) -> Any:
    def take(paths: list[Path], chosen: int) -> dict[Any, Any]:
        return target.take(paths[min(chosen, len(paths) - 1)])

    return take
