"""The tab that asks about a picture."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import gradio as gr

from unipic2_apps.ui import pieces
from unipic2_apps.ui.client import Model, ServerError
from unipic2_apps.ui.pictures import picture_input
from unipic2_apps.ui.tab import Context, Target, bind

__all__ = ["AskTab"]

HINT = "Questions and answers will be here. Later questions know the earlier ones."
READY = "Write a question, and press Enter. Without a picture it is about nothing in particular."


class AskTab:
    """A picture, and what is said about it.

    Args:
        context: What the tab works with.
        tabs: The tabs of the page, of which this one is shown when it is given a picture.
    """

    def __init__(self, context: Context, tabs: gr.Tabs) -> None:
        self.context = context
        self.tabs = tabs
        self.running: Any = None
        self.turns = gr.State([])
        self.notice = gr.HTML(visible=False, elem_id="ask-notice")
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                self.source = picture_input("Picture to ask about", "ask-source")
            with gr.Column(scale=3, min_width=300):
                self.talk = gr.HTML(pieces.talk([], HINT), elem_id="ask-talk")
                self.words = gr.Textbox(
                    label="Question",
                    placeholder="what colour is the circle?",
                    lines=1,
                    max_lines=6,
                    elem_id="ask-words",
                )
                with gr.Row():
                    self.run = gr.Button("Ask", variant="primary", min_width=90, elem_id="ask-run")
                    self.stop = gr.Button("Stop", interactive=False, min_width=90, elem_id="ask-stop")
                    self.clear = gr.Button("Begin anew", min_width=90, elem_id="ask-clear")
                self.status = gr.HTML(pieces.ready(READY), elem_id="ask-status")

    @property
    def target(self) -> Target:
        """What takes a picture to ask about it, from elsewhere on the page."""
        return Target([self.tabs, self.source, *self._anew], self.take, self.running, "#ask-words textarea")

    @property
    def capable(self) -> list[Any]:
        """What changes with what the model can do."""
        return [self.notice, self.run, self.words]

    def wire(self) -> None:
        """Bind what happens on the tab."""
        self.running = bind(
            [self.run.click, self.words.submit],
            self.ask,
            [self.source, self.words, self.turns],
            [self.talk, self.turns, self.words, self.status, self.run, self.stop],
        )
        bind(self.stop.click, self.stopped, (), [self.status, self.run, self.stop], cancels=[self.running])
        bind([self.clear.click, self.source.input], self.anew, (), self._anew, cancels=[self.running])

    async def ask(self, source: str | None, words: str, turns: list[tuple[str, str]]) -> AsyncGenerator[dict[Any, Any]]:
        """Yield what changes while a question is answered."""
        picture = None if source is None else Path(source).read_bytes()
        answer = ""
        yield {
            self.talk: pieces.talk([*turns, (words, answer)], HINT),
            self.status: pieces.busy("Thinking ..."),
            **self._working(is_working=True),
        }
        try:
            async with aclosing(self.context.client.ask(picture, words, turns)) as said:
                async for piece in said:
                    answer += piece
                    yield {self.talk: pieces.talk([*turns, (words, answer)], HINT)}
        except ServerError as error:
            yield {
                self.talk: pieces.talk(turns, HINT),
                self.status: pieces.failed(str(error)),
                **self._working(is_working=False),
            }
            return
        yield {
            self.talk: pieces.talk([*turns, (words, answer)], HINT),
            self.turns: [*turns, (words, answer)],
            self.words: "",
            self.status: pieces.done("Answered."),
            **self._working(is_working=False),
        }

    def stopped(self) -> dict[Any, Any]:
        """Return what changes when a person has stopped it."""
        return {self.status: pieces.ready("Stopped."), **self._working(is_working=False)}

    def anew(self) -> dict[Any, Any]:
        """Return what changes when a conversation begins."""
        return {
            self.turns: [],
            self.talk: pieces.talk([], HINT),
            self.status: pieces.ready(READY),
            self.stop: gr.Button(interactive=False),
        }

    def take(self, path: Path) -> dict[Any, Any]:
        """Return what changes when the tab is given a picture."""
        return {**self.anew(), self.tabs: gr.Tabs(selected="ask"), self.source: str(path)}

    def know(self, model: Model) -> dict[Any, Any]:
        """Return what changes with what the server's model can do."""
        can = "ask" in model.can
        text = (
            f"{model.name} is a {model.variant} checkpoint, which draws and edits but can not answer questions. "
            "Start the server with a MetaQuery checkpoint and its VLM to ask."
        )
        return {
            self.notice: gr.HTML(pieces.note(text), visible=not can),
            self.run: gr.Button(interactive=can),
            self.words: gr.Textbox(interactive=can),
        }

    @property
    def _anew(self) -> list[Any]:
        return [self.turns, self.talk, self.status, self.stop]

    def _working(self, *, is_working: bool) -> dict[Any, Any]:
        return {self.run: gr.Button(interactive=not is_working), self.stop: gr.Button(interactive=is_working)}
