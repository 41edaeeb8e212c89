"""The page: tabs, and what leads from one to another."""

from __future__ import annotations

from typing import Any

import gradio as gr

from unipic2_apps.ui import pieces
from unipic2_apps.ui.ask import AskTab
from unipic2_apps.ui.client import ServerError
from unipic2_apps.ui.draw import DrawTab
from unipic2_apps.ui.edit import EditTab
from unipic2_apps.ui.past import PastTab
from unipic2_apps.ui.tab import Context, bind

__all__ = ["build"]

CACHE_SECONDS = (3600, 24 * 3600)
"""How often copies of pictures are cleared away, and how old they are then."""


def build(context: Context) -> gr.Blocks:
    """Return the page.

    Args:
        context: The server, and where pictures and the history are kept.
    """
    with gr.Blocks(title="UniPic2", analytics_enabled=False, delete_cache=CACHE_SECONDS, fill_width=True) as page:
        about = gr.HTML(pieces.head(pieces.ready("Looking for the server ...")), elem_id="about")
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Draw", id="draw"):
                draw = DrawTab(context)
            with gr.Tab("Edit", id="edit"):
                edit = EditTab(context, tabs)
            with gr.Tab("Ask", id="ask"):
                ask = AskTab(context, tabs)
            with gr.Tab("History", id="past") as past_tab:
                past = PastTab(context, tabs)
        ask.wire()
        edit.wire(ask.target)
        draw.wire(edit.target, ask.target)
        past.wire(past_tab.select, draw, edit, ask.target)

        async def look() -> dict[Any, Any]:
            try:
                model = await context.client.model()
            except ServerError as error:
                return {about: pieces.head(pieces.failed(str(error)))}
            return {about: pieces.head(pieces.about(model)), **ask.know(model)}

        bind(page.load, look, (), [about, *ask.capable])
    return page
