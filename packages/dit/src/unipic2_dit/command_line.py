"""What the command lines of this project share: one line for what is wrong, sizes, devices, pictures in and out.

Whatever is slow to import is imported where it is used, so that ``--help`` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import torch
    from PIL import Image

__all__ = ["UsageError", "open_image", "output_paths", "parse_device", "parse_size", "run", "save_images"]


class UsageError(ValueError):
    """A request that can't be carried out; the message says how to mend it."""


def run(
    commands: Sequence[Callable[..., None]],
    prog: str,
    user_errors: Callable[[], tuple[type[Exception], ...]],
    args: Sequence[str] | None,
) -> None:
    """Run one of several functions as a command line; exits with 2 and one line on bad input.

    Args:
        commands: Functions whose signatures are the commands.
        prog: What the program is called.
        user_errors: Returns the errors whose message is all that a person needs; others keep their traceback.
        args: The words; by default those of the process. Options may have dashes: --num-images is --num_images.
    """
    from jsonargparse import ArgumentParser, auto_cli

    class Parser(ArgumentParser):
        """Says what is wrong in one line instead of printing the whole usage first."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{"allow_abbrev": False, **kwargs})

        def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # noqa: ARG002 - jsonargparse's signature
            _fail(f"{message}\nSee `{prog} --help`.")

    given = [_underscored(arg) for arg in (sys.argv[1:] if args is None else args)]
    try:
        auto_cli(list(commands), args=given, as_positional=False, parser_class=Parser, prog=prog)
    except KeyboardInterrupt:
        _fail("interrupted", code=130)
    except ValueError as error:
        if not isinstance(error, user_errors()):
            raise
        _fail(str(error))


def parse_size(size: str | None) -> int | tuple[int, int] | None:
    """``"512"`` -> 512; ``"768x512"``, width and height, -> (512, 768).

    Raises:
        UsageError: If it is neither.
    """
    if size is None:
        return None
    parts = size.lower().split("x")
    if len(parts) > 2 or not all(part.strip().isdecimal() for part in parts):
        msg = f"size {size!r} is neither EDGE nor WIDTHxHEIGHT, such as 512 or 768x512."
        raise UsageError(msg)
    return int(parts[0]) if len(parts) == 1 else (int(parts[1]), int(parts[0]))


def parse_device(name: str) -> torch.device:
    """Return a device by its name.

    Raises:
        UsageError: If torch knows none of that name.
    """
    import torch

    try:
        return torch.device(name)
    except RuntimeError as error:
        msg = f"device {name!r} is unknown: use cpu, cuda or cuda:0."
        raise UsageError(msg) from error


def output_paths(out: str, num_images: int) -> list[Path]:
    """Return where pictures go: ``out`` itself, or numbered beside it if there are several.

    Raises:
        UsageError: If its ending is not that of a picture.
    """
    from PIL import Image

    path = Path(out).expanduser()
    known = Image.registered_extensions()
    if path.suffix.lower() not in known or known[path.suffix.lower()] not in Image.SAVE:
        msg = f"can't write a picture to {out}: end it in .png, .jpg or .webp."
        raise UsageError(msg)
    if num_images == 1:
        return [path]
    return [path.with_stem(f"{path.stem}_{index}") for index in range(num_images)]


def open_image(path: str | Path) -> Image.Image:
    """Return a picture, wholly read and turned as its camera says.

    Raises:
        UsageError: If there is none, or it is damaged.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(Path(path).expanduser()) as opened:
            opened.load()
            return ImageOps.exif_transpose(opened)
    except FileNotFoundError:
        msg = f"there is no image {path}."
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        msg = f"{path} can't be read as an image ({error}). Save it as PNG or JPEG and try again."
    raise UsageError(msg)


def save_images(images: Sequence[Image.Image], outputs: Sequence[Path]) -> None:
    """Write pictures and print where they are.

    Raises:
        UsageError: If one can't be written.
    """
    for image, path in zip(images, outputs, strict=True):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
        except OSError as error:
            msg = f"can't write {path} ({error})."
            raise UsageError(msg) from error
        print(path)  # noqa: T201 - the result that the person asked for


def _fail(message: str, code: int = 2) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)  # noqa: T201
    raise SystemExit(code)


def _underscored(arg: str) -> str:
    if not arg.startswith("--"):
        return arg
    name, equals, value = arg[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"
