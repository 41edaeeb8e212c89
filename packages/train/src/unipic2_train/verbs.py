"""Verbs of ``unipic2-train`` as typed functions: their signature is the command line, what they return is printed."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

__all__ = ["call"]


class _Parser(ArgumentParser):
    """A parser that says what is wrong in one line instead of a page of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # noqa: ARG002
        print(f"error: {message}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2)


def call(verb: Callable[..., str], name: str, arguments: Sequence[str], positional: bool = False) -> None:
    """Run a verb with command-line arguments and print what it returns.

    Args:
        verb: A function with a typed signature and a docstring.
        name: What it is called on the command line.
        arguments: What stands behind the name; options may be written with hyphens or underscores.
        positional: Whether required arguments need no name.
    """
    parser: Any = _Parser(
        prog=f"unipic2-train {name}", description=(verb.__doc__ or "").partition("Args:")[0], allow_abbrev=False
    )
    parser.add_function_arguments(verb, as_group=False, as_positional=positional)
    words = [re.sub(r"^--[^=]+", lambda m: m[0][:2] + m[0][2:].replace("-", "_"), word) for word in arguments]
    switches = {f"--{key}" for key, value in inspect.signature(verb).parameters.items() if value.annotation is bool}
    words = [f"{word}=true" if word in switches else word for word in words]
    values = parser.instantiate(parser.parse_args(words)).as_dict()
    # jsonargparse's PositiveInt is a subclass of int that YAML can not write.
    plain = {
        key: int(value) if isinstance(value, int) and type(value) is not bool else value
        for key, value in values.items()
    }
    print(verb(**plain))  # noqa: T201
