"""Words of a command line to the call of a typed function.

A verb's signature is its command line. A parameter that is a dataclass stands for a group of options of its own. The
rules beyond jsonargparse's: positional words may stand anywhere, hyphens are as good as underscores, switches need no
value (``--sheet``, ``--no-t5``), options that are lists may be repeated, and some have a short name (``-n``, ``-o``).
"""

from __future__ import annotations

import inspect
import json
import re
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NoReturn, get_origin, get_type_hints

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from unipic2_apps.errors import UsageError

if TYPE_CHECKING:
    from unipic2_apps.cli import Command

__all__ = ["call"]

SHORT = {"-n": "num_images", "-o": "out"}


def call(verb: Callable[..., int | None], name: str, command: Command, words: Sequence[str]) -> int:
    """Run a verb with the words of a command line.

    Args:
        verb: A function with a typed signature and a docstring; it returns an exit code or nothing.
        name: What it is called on the command line.
        command: Its entry in the table.
        words: What stands behind the name.

    Returns:
        The exit code.

    Raises:
        UsageError: If the words don't fit the signature.
    """
    hints = {key: hint for key, hint in get_type_hints(verb).items() if key != "return"}
    positional = [each.rstrip("?*") for each in command.positionals]
    groups: dict[str, Any] = {key: hint for key, hint in hints.items() if is_dataclass(hint)}
    types = {key: hint for key, hint in hints.items() if key not in groups and key not in positional}
    for group in groups.values():
        types |= get_type_hints(group)
    if "-h" in words or "--help" in words:
        _parser(verb, name, command, positional, groups).print_help()
        return 0
    options, rest = _split(words, types, name)
    parser = _parser(verb, name, command, positional, groups)
    values = dict(parser.parse_args([f"--{key}={value}" for key, value in options.items()]).as_dict())
    given: dict[str, Any] = _assign(command.positionals, rest, name)
    for key, group in groups.items():
        given[key] = group(**{field.name: _plain(values.pop(field.name)) for field in fields(group)})
    return verb(**given, **{key: _plain(value) for key, value in values.items()}) or 0


class _Formatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """jsonargparse's formatter, with examples as they were written."""


class _Parser(ArgumentParser):
    """Says what is wrong in one line instead of a page of usage, and shows options as people type them."""

    def format_help(self, *formatter: Any) -> str:
        """Return the help, with hyphens, short names, switches without values, and options that are repeated."""
        text = str(super().format_help(*formatter)).replace(" {true,false}", "")
        text = re.sub(
            r"--(\w+) \[ITEM,\.\.\.\], --\w+\+ \[ITEM,\.\.\.\]", lambda found: f"--{found[1]} {found[1].upper()}", text
        )
        for short, key in SHORT.items():
            text = text.replace(f"\n  --{key} ", f"\n  {short}, --{key} ")
        return re.sub(r"(?<![\w-])--\w+", lambda it: it[0].replace("_", "-"), text)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # noqa: ARG002 - jsonargparse's signature
        raise UsageError(" ".join(message.split()).removeprefix("Validation failed: "))


def _parser(
    verb: Callable[..., Any], name: str, command: Command, positional: Sequence[str], groups: dict[str, Any]
) -> _Parser:
    document = inspect.cleandoc(verb.__doc__ or "")
    prose, _, arguments = document.partition("Args:\n")
    width = max(map(len, positional), default=0)
    described = [f"  {key.upper():<{width}}  {_description(arguments, key)}" for key in positional]
    examples = "examples:\n" + "\n".join(f"  {line}" for line in command.examples)
    parser: Any = _Parser(
        prog=f"unipic2 {name}",
        usage=f"unipic2 {name} {command.usage} [options]".replace("  ", " "),
        description="\n".join([prose.strip(), *([""] if described else []), *described]),
        epilog=examples,
        formatter_class=_Formatter,
        allow_abbrev=False,
        default_env=False,
    )
    parser.add_function_arguments(verb, as_group=False, as_positional=False, skip={*positional, *groups})
    for group in groups.values():
        parser.add_class_arguments(group, as_group=True)
    return parser


def _description(arguments: str, name: str) -> str:
    """Return what a docstring says of an argument, on one line."""
    found = re.search(rf"^    {name}: (.+(?:\n     +.+)*)", arguments, re.MULTILINE)
    return " ".join(found[1].split()) if found else ""


def _split(words: Sequence[str], types: dict[str, Any], name: str) -> tuple[dict[str, str], list[str]]:
    """Return the options by name, as text that jsonargparse reads, and the positional words."""
    options: dict[str, str] = {}
    lists: dict[str, list[str]] = {}
    rest: list[str] = []
    remaining = list(reversed(words))
    while remaining:
        word = remaining.pop()
        if word == "--":
            rest += reversed(remaining)
            break
        if not word.startswith("-") or word == "-" or re.fullmatch(r"-\d.*", word):
            rest.append(word)
        else:
            key, value = _option(word, types, name)
            if value is None and types[key] is bool:
                value = remaining.pop() if remaining and remaining[-1] in ("true", "false") else "true"
            elif value is None and remaining:
                value = remaining.pop()
            if value is None:
                msg = f"{word} needs a value. See `unipic2 {name} --help`."
                raise UsageError(msg)
            if get_origin(types[key]) is list:
                lists.setdefault(key, []).append(value)
            else:
                options[key] = value
    return options | {key: json.dumps(values) for key, values in lists.items()}, rest


def _option(word: str, types: dict[str, Any], name: str) -> tuple[str, str | None]:
    """Return the parameter that an option names, and its value unless that is the next word."""
    text, equals, value = word.partition("=")
    key = SHORT.get(text, text.lstrip("-").replace("-", "_"))
    if key in types and (text in SHORT or text.startswith("--")):
        return key, value if equals else None
    without = key.removeprefix("no_")
    if types.get(without) is bool and key != without and not equals:
        return without, "false"
    near = get_close_matches(key, types, n=1)
    hint = f" Did you mean --{near[0].replace('_', '-')}?" if near else ""
    msg = f"unknown option {text}.{hint} See `unipic2 {name} --help`."
    raise UsageError(msg)


def _assign(positionals: Sequence[str], words: list[str], name: str) -> dict[str, Any]:
    left = list(words)
    given: dict[str, Any] = {}
    for each in positionals:
        key = each.rstrip("?*")
        if each.endswith("*"):
            given[key], left = left, []
        elif left:
            given[key] = left.pop(0)
        elif each.endswith("?"):
            given[key] = ""
        else:
            msg = f"{key.upper()} is missing. See `unipic2 {name} --help`."
            raise UsageError(msg)
    if left:
        msg = f"{left[0]!r} is one word too many. A text of several words needs quotes; see `unipic2 {name} --help`."
        raise UsageError(msg)
    return given


def _plain(value: Any) -> Any:
    # jsonargparse's PositiveInt is a subclass of int that JSON writers need not know.
    return int(value) if isinstance(value, int) and type(value) is not bool else value
