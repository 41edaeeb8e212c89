"""What the tabs share: what they work with, and how an event of the page is bound to a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from unipic2_apps.ui.client import Client
from unipic2_apps.ui.history import Histories, Shelf

__all__ = ["BROWSER_COOKIE", "Context", "Target", "bind", "browser_of", "hand_over"]

BROWSER_COOKIE = "unipic2_page"
# The tab may not be there yet: a few tries.
FOCUS = """() => {
  let left = 40;
  const timer = setInterval(() => {
    const field = [...document.querySelectorAll("%s")].find((each) => each.offsetParent);
    if (field) field.focus();
    if (field || --left === 0) clearInterval(timer);
  }, 50);
}"""


@dataclass(frozen=True)
class Context:
    """What all tabs work with."""

    client: Client
    shelf: Shelf
    histories: Histories


@dataclass(frozen=True)
class Target:
    """Something on the page that takes a picture from elsewhere."""

    outputs: Sequence[Any]
    """The components that change."""
    take: Callable[..., dict[Any, Any]]
    """Returns the changes for a picture's path."""
    running: Any
    """The event of work on the picture before, which ends then."""
    focus: str
    """The field that is next, or several of which the one that is shown is."""


def bind(
    triggers: Callable[..., Any] | Sequence[Callable[..., Any]],
    function: Callable[..., Any] | None,
    inputs: Sequence[Any] = (),
    outputs: Sequence[Any] = (),
    *,
    cancels: Any = None,
) -> Any:
    """Have a function called when something happens on the page, by any number of people at a time."""
    return gr.on(
        list(triggers) if isinstance(triggers, Sequence) else [triggers],
        function,
        list(inputs),
        list(outputs),
        cancels=cancels,
        show_progress="hidden",
        concurrency_limit=None,
        api_visibility="private",
    )


def hand_over(
    button: gr.Button,
    function: Callable[..., dict[Any, Any]],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    to: Target,
) -> None:
    """Have a click on a button bring a picture to another tab, and the keyboard with it.

    Args:
        button: The button.
        function: Returns what changes.
        inputs: The components whose values it takes.
        outputs: What may change.
        to: Where the picture goes.
    """
    bind(button.click, function, inputs, outputs, cancels=[to.running]).then(None, js=FOCUS % to.focus)


def browser_of(request: gr.Request) -> str:
    """Return the browser that a request came from, as the page's cookie tells it."""
    return str(request.cookies.get(BROWSER_COOKIE, ""))
