"""Pieces of HTML that Gradio has no component for. All that comes from people, models and servers is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from unipic2_apps.ui.client import Model

__all__ = ["about", "busy", "compare", "done", "facts", "failed", "head", "note", "ready", "talk", "url_of"]

TINY = 256
"""Pictures up to this edge, in px, are shown with square pixels instead of blurred ones."""
_VERBS = {"generate": "draws", "edit": "edits", "ask": "answers questions"}


def url_of(path: Path) -> str:
    """Return the address at which the page offers a file."""
    return f"gradio_api/file={quote(str(path))}"


def ready(text: str) -> str:
    """Return what stands where progress will be."""
    return f'<p class="u2-status u2-quiet">{escape(text)}</p>'


def busy(text: str, fraction: float | None = None) -> str:
    """Return progress; without a fraction it only moves."""
    value = "" if fraction is None else f' value="{fraction:.3f}"'
    return (
        f'<div class="u2-status" role="status"><progress max="1"{value} aria-label="progress"></progress>'
        f"<p>{escape(text)}</p></div>"
    )


def done(text: str) -> str:
    """Return what is said of a success."""
    return f'<p class="u2-status u2-done" role="status">{escape(text)}</p>'


def failed(text: str) -> str:
    """Return what is said of a failure."""
    return f'<p class="u2-status u2-failed" role="alert">{escape(text[:1].upper() + text[1:])}</p>'


def note(text: str) -> str:
    """Return what is good to know."""
    return f'<p class="u2-status u2-note" role="note">{escape(text)}</p>'


def head(below: str) -> str:
    """Return the head of the page."""
    return f"<h1>UniPic2</h1>{below}"


def about(model: Model) -> str:
    """Return a line about the server's model, and how its pictures are shown."""
    verbs = [verb for name, verb in _VERBS.items() if name in model.can]
    what = " and ".join(filter(None, [", ".join(verbs[:-1]), *verbs[-1:]]))
    text = f"<b>{escape(model.name)}</b> ({escape(model.variant)}) {what}"
    square = "<style>.gradio-container img { image-rendering: pixelated; }</style>"
    return (
        f'<p class="u2-about">{text} &middot; {model.width}&times;{model.height} px unless you say otherwise</p>'
        f"{square if max(model.width, model.height) <= TINY else ''}"
    )


def compare(before: Path | None, after: Path | None, words: str = "") -> str:
    """Return two pictures above each other and a slider between them, for mouse, finger and arrow keys."""
    if after is None:
        return '<div class="u2-compare u2-empty"><p>Before and after will be here.</p></div>'
    shown = (
        f'<img class="u2-after" src="{url_of(after)}" alt="{escape(f"After: {words}" if words else "The picture")}">'
    )
    if before is None:
        return f'<figure class="u2-compare"><div class="u2-stage">{shown}</div></figure>'
    return (
        '<figure class="u2-compare" style="--cut: 50%"><div class="u2-stage">'
        f'{shown}<img class="u2-before" src="{url_of(before)}" alt="Before"><span class="u2-line"></span>'
        '<span class="u2-tag u2-left">before</span><span class="u2-tag u2-right">after</span>'
        '<input type="range" min="0" max="100" value="50" aria-label="Border between before and after, in percent" '
        "oninput=\"this.closest('figure').style.setProperty('--cut', this.value + '%')\"></div>"
        f"<figcaption>{escape(words)}</figcaption></figure>"
    )


def talk(turns: Sequence[tuple[str, str]], hint: str) -> str:
    """Return questions and answers."""
    if not turns:
        return f'<p class="u2-talk u2-empty">{escape(hint)}</p>'
    said = "".join(
        f'<p class="u2-asked"><span class="u2-who">You: </span>{escape(asked)}</p>'
        f'<p class="u2-answered"><span class="u2-who">Answer: </span>{escape(answered) or "&hellip;"}</p>'
        for asked, answered in turns
    )
    return f'<div class="u2-talk" role="log" aria-live="polite" tabindex="0" aria-label="Conversation">{said}</div>'


def facts(values: Mapping[str, object]) -> str:
    """Return a table of parameters."""
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(str(value))}</td></tr>' for name, value in values.items()
    )
    return f'<table class="u2-facts">{rows}</table>'
