"""The tab that edits a picture, turn by turn."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from unipic2_apps.ui import pieces
from unipic2_apps.ui.client import PREVIEWS, ServerError, Settings, Shown
from unipic2_apps.ui.fields import FieldError, Fields
from unipic2_apps.ui.history import Entry, Versions
from unipic2_apps.ui.pictures import picture_input, picture_strip
from unipic2_apps.ui.tab import Context, Target, bind, browser_of, hand_over

__all__ = ["EditTab"]

READY = "Open a picture, write what to change, and press Enter."
NO_PICTURE = 'There is no picture yet: open one above, or draw one and press "Edit this".'
SHOWN_WORDS = 40


class EditTab:
    """A picture, instructions, and all versions that they made of it.

    Args:
        context: What the tab works with.
        tabs: The tabs of the page, of which this one is shown when it is given a picture.
    """

    def __init__(self, context: Context, tabs: gr.Tabs) -> None:
        self.context = context
        self.tabs = tabs
        self.running: Any = None
        self.versions = gr.State(Versions())
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                self.source = picture_input("Picture to edit", "edit-source")
                self.words = gr.Textbox(
                    label="What to change",
                    placeholder="make the circle green",
                    lines=1,
                    max_lines=6,
                    elem_id="edit-words",
                )
                with gr.Row():
                    self.run = gr.Button("Edit", variant="primary", min_width=90, elem_id="edit-run")
                    self.stop = gr.Button("Stop", interactive=False, min_width=90, elem_id="edit-stop")
                    self.undo = gr.Button("Undo", interactive=False, min_width=90, elem_id="edit-undo")
                self.fields = Fields("edit", size="the picture's own", several=False)
            with gr.Column(scale=3, min_width=300):
                self.status = gr.HTML(pieces.ready(READY), elem_id="edit-status")
                self.compared = gr.HTML(pieces.compare(None, None), elem_id="edit-compared")
                gr.HTML(pieces.ready("Versions: choose one to go on from it."))
                self.strip = picture_strip("Versions", 5, "edit-versions")
                with gr.Row():
                    self.download = gr.DownloadButton(
                        "Download", interactive=False, min_width=120, elem_id="edit-download"
                    )
                    self.to_ask = gr.Button("Ask about this", interactive=False, min_width=120, elem_id="edit-to-ask")

    @property
    def target(self) -> Target:
        """What takes a picture to edit it, from elsewhere on the page."""
        return Target(
            [self.tabs, *self._shown, self.words, *self.fields.all], self.take, self.running, "#edit-words textarea"
        )

    def wire(self, ask: Target) -> None:
        """Bind what happens on the tab.

        Args:
            ask: What takes a picture to ask about it.
        """
        self.running = bind(
            [self.run.click, self.words.submit],
            self.edit,
            [self.versions, self.words, *self.fields.all],
            [*self._shown, self.words, self.fields.seed, self.fields.last],
        )
        for happens, function, given in (
            (self.stop.click, self.stopped, self.versions),
            (self.source.input, self.opened, self.source),
            (self.undo.click, self.undone, self.versions),
            (self.strip.select, self.chosen, self.versions),
        ):
            bind(happens, function, [given], self._shown, cancels=[self.running])
        hand_over(self.to_ask, lambda versions: ask.take(versions.picture), [self.versions], ask.outputs, ask)

    async def edit(
        self, request: gr.Request, versions: Versions, words: str, *values: Any
    ) -> AsyncGenerator[dict[Any, Any]]:
        """Yield what changes while a picture is edited."""
        source = versions.picture
        try:
            settings = self.fields.read(*values)
            if source is None or not source.exists():
                raise FieldError(NO_PICTURE)
        except FieldError as error:
            yield {self.status: pieces.failed(str(error))}
            return
        started = time.monotonic()
        yield {
            self.run: gr.Button(interactive=False),
            self.stop: gr.Button(interactive=True),
            self.status: pieces.busy("Waiting for the first preview ..."),
        }
        last: tuple[Shown, Path] | None = None
        try:
            name = await self.context.client.name()
            async with aclosing(self.context.client.edit(source.read_bytes(), words, settings)) as shown:
                async for each in shown:
                    last = each, self.context.shelf.keep(each.data, words, each.seed)
                    share = 1.0 if each.preview is None else (each.preview + 1) / (PREVIEWS + 1)
                    yield {
                        self.status: pieces.busy("Editing ...", share),
                        self.compared: pieces.compare(source, last[1], words),
                    }
            if last is None or last[0].preview is not None:
                msg = "The server's answer ended before the picture was done."
                raise ServerError(msg)
        except ServerError as error:
            yield {**self._show(versions), self.status: pieces.failed(str(error))}
            return
        made, path = last
        versions.add(path, words)
        used = replace(settings, seed=made.seed)
        self.context.histories.add(browser_of(request), Entry("edit", words, used, path, name, source))
        yield {
            **self._show(versions),
            self.status: pieces.done(
                f"Done in {time.monotonic() - started:.1f} s. Seed {made.seed}. The next edit goes on from here."
            ),
            self.words: "",
            **self.fields.used(made.seed),
        }

    def stopped(self, versions: Versions) -> dict[Any, Any]:
        """Return what changes when a person has stopped it."""
        return {**self._show(versions), self.status: pieces.ready("Stopped.")}

    def opened(self, source: str | None) -> dict[Any, Any]:
        """Return what changes when a person has opened a picture, or closed it."""
        versions = Versions()
        if source is not None:
            versions.open(self.context.shelf.keep(Path(source).read_bytes(), Path(source).stem))
        return {**self._show(versions), self.status: pieces.ready(READY)}

    def undone(self, versions: Versions) -> dict[Any, Any]:
        """Return what changes when the last edit is taken back."""
        versions.undo()
        text = "Back to the version before. The edit is still among the versions."
        return {**self._show(versions), self.status: pieces.ready(text)}

    def chosen(self, versions: Versions, event: gr.SelectData) -> dict[Any, Any]:
        """Return what changes when a version was chosen."""
        versions.current = min(int(event.index), len(versions.items) - 1)
        return {**self._show(versions), self.status: pieces.ready("The next edit goes on from this version.")}

    def take(self, path: Path, words: str = "", settings: Settings | None = None) -> dict[Any, Any]:
        """Return what changes when the tab is given a picture, and perhaps what to do with it."""
        versions = Versions()
        versions.open(self.context.shelf.keep(path.read_bytes(), path.stem))
        fields = {} if settings is None else self.fields.write(settings)
        return {
            **self._show(versions),
            **fields,
            self.tabs: gr.Tabs(selected="edit"),
            self.words: words,
            self.status: pieces.ready("Write what to change, and press Enter."),
        }

    @property
    def _shown(self) -> list[Any]:
        """What changes with the versions."""
        return [
            self.versions,
            self.source,
            self.compared,
            self.strip,
            self.undo,
            self.download,
            self.to_ask,
            self.status,
            self.run,
            self.stop,
        ]

    def _show(self, versions: Versions) -> dict[Any, Any]:
        picture = versions.picture
        words = versions.items[versions.current].instruction if versions.items else ""
        return {
            self.versions: versions,
            self.source: None if picture is None else str(picture),
            self.compared: pieces.compare(versions.before, picture, words),
            self.strip: gr.Gallery(_captioned(versions), selected_index=None),
            self.undo: gr.Button(interactive=versions.before is not None),
            self.download: gr.DownloadButton(value=picture, interactive=picture is not None),
            self.to_ask: gr.Button(interactive=picture is not None),
            self.run: gr.Button(interactive=True),
            self.stop: gr.Button(interactive=False),
        }


def _captioned(versions: Versions) -> list[tuple[str, str]]:
    shown = []
    for index, each in enumerate(versions.items):
        words = "opened" if each.parent is None else f"{index}. {each.instruction[:SHOWN_WORDS]}"
        shown.append((str(each.path), f"now: {words}" if index == versions.current else words))
    return shown
