"""The tab with all that was made in this browser."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gradio as gr

from unipic2_apps.ui import pieces
from unipic2_apps.ui.draw import DrawTab
from unipic2_apps.ui.edit import EditTab
from unipic2_apps.ui.history import Entry
from unipic2_apps.ui.pictures import picture_strip
from unipic2_apps.ui.tab import Context, Target, bind, browser_of, hand_over

__all__ = ["PastTab"]

EMPTY = "What you draw and edit will be here, with everything that made it."
CHOOSE = "Choose a picture to see what made it."
SHOWN_WORDS = 60


class PastTab:
    """Pictures, newest first; of the chosen one what made it, and ways to go on.

    Args:
        context: What the tab works with.
        tabs: The tabs of the page.
    """

    def __init__(self, context: Context, tabs: gr.Tabs) -> None:
        self.context = context
        self.tabs = tabs
        self.entries = gr.State([])
        self.entry = gr.State(None)
        with gr.Row():
            with gr.Column(scale=3, min_width=300):
                self.hint = gr.HTML(pieces.ready(EMPTY), elem_id="past-hint")
                self.strip = picture_strip("History", 4, "past-pictures")
            with gr.Column(scale=2, min_width=300):
                self.picture = gr.Image(
                    label="Chosen",
                    interactive=False,
                    type="filepath",
                    format="png",
                    height=260,
                    buttons=["download", "fullscreen"],
                    elem_id="past-picture",
                )
                self.reuse = gr.Button("Use these settings", variant="primary", interactive=False, elem_id="past-reuse")
                with gr.Row():
                    self.to_edit = gr.Button("Edit this", interactive=False, min_width=100, elem_id="past-to-edit")
                    self.to_ask = gr.Button("Ask about this", interactive=False, min_width=100, elem_id="past-to-ask")
                self.facts = gr.HTML(elem_id="past-facts")

    def wire(self, shown: Any, draw: DrawTab, edit: EditTab, ask: Target) -> None:
        """Bind what happens on the tab.

        Args:
            shown: The event that the tab is shown.
            draw: The tab for settings of a drawing.
            edit: The tab for settings of an edit, and for pictures.
            ask: What takes a picture to ask about it.
        """
        chosen = [self.entry, self.picture, self.facts, self.reuse, self.to_edit, self.to_ask]
        bind(shown, self.refresh, (), [self.entries, self.strip, self.hint])
        bind(self.strip.select, self.choose, [self.entries], chosen)

        def again(entry: Entry) -> dict[Any, Any]:
            if entry.kind == "edit" and entry.source is not None:
                return edit.take(entry.source, entry.words, entry.settings)
            return {
                self.tabs: gr.Tabs(selected="draw"),
                draw.words: entry.words,
                **draw.fields.write(replace(entry.settings, num_images=1)),
            }

        either = replace(edit.target, focus=f"#draw-words textarea, {edit.target.focus}")
        into_draw = [draw.words, *draw.fields.all]
        hand_over(self.reuse, again, [self.entry], [*edit.target.outputs, *into_draw], either)
        for button, target in ((self.to_edit, edit.target), (self.to_ask, ask)):
            hand_over(button, _taken_by(target), [self.entry], target.outputs, target)

    def refresh(self, request: gr.Request) -> dict[Any, Any]:
        """Return what changes when the tab is shown."""
        entries = self.context.histories.of(browser_of(request))
        return {
            self.entries: entries,
            self.strip: gr.Gallery(
                [(str(each.path), each.words[:SHOWN_WORDS]) for each in entries], selected_index=None
            ),
            self.hint: pieces.ready(CHOOSE if entries else EMPTY),
        }

    def choose(self, entries: list[Entry], event: gr.SelectData) -> dict[Any, Any]:
        """Return what changes when a picture was chosen."""
        entry = entries[min(int(event.index), len(entries) - 1)]
        return {
            self.entry: entry,
            self.picture: str(entry.path),
            self.facts: pieces.facts(_facts(entry)),
            self.reuse: gr.Button(interactive=True),
            self.to_edit: gr.Button(interactive=True),
            self.to_ask: gr.Button(interactive=True),
        }


def _facts(entry: Entry) -> dict[str, object]:
    settings = entry.settings
    values = {
        "Instruction" if entry.kind == "edit" else "Prompt": entry.words,
        "Seed": settings.seed,
        "Steps": settings.steps,
        "Guidance": settings.guidance,
        "Negative prompt": settings.negative_prompt,
        "Size": settings.size or ("the picture's own" if entry.kind == "edit" else "the model's own"),
        "Model": entry.model,
        "Made": f"{entry.made:%Y-%m-%d %H:%M}",
    }
    return {name: value for name, value in values.items() if value not in (None, "")}


def _taken_by(target: Target) -> Any:
    return lambda entry: target.take(entry.path)
