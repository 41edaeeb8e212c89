"""The command ``unipic2``: a table of verbs, and what is common to all of them.

Nothing slow is imported before a verb runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import dataclass
from difflib import get_close_matches
from typing import NoReturn

from unipic2_apps import __version__
from unipic2_apps.errors import UsageError, user_errors

__all__ = ["COMMANDS", "Command", "main"]

INTERRUPTED = 130


@dataclass(frozen=True)
class Command:
    """A verb."""

    path: str
    """Module and function."""
    summary: str
    """What it does, in a few words."""
    usage: str = ""
    """How its positional words look."""
    positionals: tuple[str, ...] = ()
    """Their parameters in order: ``name`` is one word, ``name?`` one or none, ``name*`` all that are left."""
    examples: tuple[str, ...] = ()
    """Commands to start from."""


COMMANDS = {
    "generate": Command(
        "unipic2_apps.commands.pictures:generate",
        "make pictures from prompts",
        '"PROMPT" ...',
        ("prompt*",),
        (
            'unipic2 generate "a red circle and a blue square"',
            'unipic2 generate "a lighthouse at dusk" -n 4 --size 768x512 --seed 7 --sheet',
            "unipic2 generate --prompts prompts.txt --out pictures --batch-size 8   # go on later: run it again",
        ),
    ),
    "edit": Command(
        "unipic2_apps.commands.pictures:edit",
        "edit a picture, or all in a folder",
        'IMAGE|FOLDER "INSTRUCTION" ...',
        ("image?", "instruction*"),
        (
            'unipic2 edit drawing.png "make the circle green"',
            'unipic2 edit photos/ "make it snow" --out snowy --original-size --sheet',
            "unipic2 edit --prompts edits.jsonl --checkpoint DIR",
        ),
    ),
    "ask": Command(
        "unipic2_apps.commands.understanding:ask",
        "ask about a picture, or about all in a folder",
        'IMAGE|FOLDER "QUESTION" ...',
        ("image", "question*"),
        (
            'unipic2 ask drawing.png "what colour is the circle?" --checkpoint DIR --vlm VLM',
            'unipic2 ask photos/ "describe the picture" --out answers.jsonl --checkpoint DIR --vlm VLM',
        ),
    ),
    "chat": Command(
        "unipic2_apps.commands.chat:chat",
        "draw, edit and ask, turn by turn",
        "[IMAGE]",
        ("image?",),
        ("unipic2 chat --checkpoint DIR --vlm VLM", "unipic2 chat drawing.png --checkpoint DIR --vlm VLM"),
    ),
    "info": Command(
        "unipic2_apps.commands.info:info",
        "say what a checkpoint is and can do",
        "[CHECKPOINT]",
        ("folder?",),
        ("unipic2 info DIR", "unipic2 info DIR --json"),
    ),
    "replay": Command(
        "unipic2_apps.commands.replay:replay",
        "make a picture again, bit for bit, from the parameters kept with it",
        "FILE",
        ("file",),
        ("unipic2 replay pictures/a-red-circle_0_1f2e3d.png", "unipic2 replay picture.json --checkpoint DIR"),
    ),
    "serve": Command(
        "unipic2_apps.server.command:serve",
        "serve a checkpoint over HTTP, as OpenAI's API",
        examples=("unipic2 serve --checkpoint DIR --port 8000",),
    ),
    "ui": Command(
        "unipic2_apps.ui.command:ui",
        "open a web page to draw, edit and ask",
        examples=("unipic2 ui --checkpoint DIR", "unipic2 ui --server http://127.0.0.1:8000"),
    ),
}


def main(words: list[str] | None = None) -> None:
    """Run the command line; ends with 2 and one line on bad input, and with 130 on Ctrl-C."""
    given = sys.argv[1:] if words is None else words
    try:
        code = _run(given)
    except KeyboardInterrupt:
        _fail("interrupted", INTERRUPTED)
    except BrokenPipeError:  # `unipic2 ... | head`: nobody reads on, nor what Python writes at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except UsageError as error:
        _fail(str(error))
    except ValueError as error:
        if not isinstance(error, user_errors()):
            raise
        _fail(str(error))
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, by name: to import torch here would be slow
            raise
        _fail(
            "the device is out of memory. Try --batch-size 1, --tiling, --offload, --no-t5, --dtype bfloat16, "
            "--quantization int8 or a smaller --size."
        )
    if code:
        raise SystemExit(code)


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if words[0] == "--version":
        print(f"unipic2 {__version__}")
        return 0
    name, *rest = words
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        msg = f"unknown command {name!r}; known: {', '.join(COMMANDS)}.{hint}"
        raise UsageError(msg)
    from unipic2_apps.arguments import call

    module, _, function = COMMANDS[name].path.partition(":")
    return call(getattr(importlib.import_module(module), function), name, COMMANDS[name], rest)


def _help() -> str:
    width = max(map(len, COMMANDS))
    verbs = "\n".join(f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items())
    examples = "\n".join(f"  {COMMANDS[name].examples[0]}" for name in ("generate", "edit", "ask", "serve"))
    return (
        f"usage: unipic2 COMMAND ...\n\nMake and edit pictures, and ask about them, with a UniPic2 checkpoint.\n\n"
        f"commands:\n{verbs}\n\nexamples:\n{examples}\n\n"
        f"Without --checkpoint, the model that `make demo` left is used. `unipic2 COMMAND --help` lists its options."
    )


def _fail(message: str, code: int = 2) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(code)
