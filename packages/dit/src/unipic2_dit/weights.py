"""Names and shapes of weights in safetensors files, compared with what a config asks for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CheckpointError", "check_weights", "raise_on_mismatch", "read_weights", "weight_shapes"]

WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
_MAX_LISTED = 20


class CheckpointError(ValueError):
    """A checkpoint that can't be used; the message says what was found, what was expected and what to do."""


def weight_shapes(folder: Path, name: str = WEIGHTS_NAME) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every tensor in a folder's safetensors, reading headers only.

    Args:
        folder: Folder of one model.
        name: File name of unsharded weights; ``<name>.index.json`` names the shards.

    Raises:
        CheckpointError: If there are no weights, a shard is missing, or a file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    for file in _files(folder, name):
        try:
            with safe_open(file, framework="pt") as weights:
                shapes.update({key: tuple(weights.get_slice(key).get_shape()) for key in weights.keys()})  # noqa: SIM118
        except SafetensorError as error:
            msg = f"The weights {file} are damaged or cut short ({error}). Copy or download them again."
            raise CheckpointError(msg) from error
    return shapes


def read_weights(folder: Path, name: str = WEIGHTS_NAME) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and value of every tensor in a folder's safetensors, one at a time.

    Args:
        folder: Folder of one model, whose headers ``weight_shapes`` has read.
        name: File name of unsharded weights; ``<name>.index.json`` names the shards.

    Raises:
        CheckpointError: If a shard is missing.
    """
    from safetensors import safe_open

    for file in _files(folder, name):
        with safe_open(file, framework="pt") as weights:
            keys = list(weights.keys())
        for key in keys:
            # Opened anew, because what was read of an open file stays in memory.
            with safe_open(file, framework="pt") as weights:
                yield key, weights.get_tensor(key)


def check_weights(
    found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], where: str | Path
) -> None:
    """Compare names and shapes of weights.

    Args:
        found: Shapes in the files.
        expected: Shapes that the config asks for.
        where: What to call the files in the message.

    Raises:
        CheckpointError: If they differ; lists the missing, the unexpected and the wrongly shaped.
    """
    shapes = [
        f"{key} (found {list(found[key])}, expected {list(expected[key])})"
        for key in sorted(found.keys() & expected.keys())
        if tuple(found[key]) != tuple(expected[key])
    ]
    raise_on_mismatch(where, sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys()), shapes)


def raise_on_mismatch(
    where: str | Path, missing: Iterable[str], unexpected: Iterable[str], wrong_shapes: Iterable[str]
) -> None:
    """Raise an error that lists the differences, if there are any.

    Raises:
        CheckpointError: If any of the lists is not empty.
    """
    lines = []
    for title, keys in (("missing", missing), ("unexpected", unexpected), ("wrongly shaped", wrong_shapes)):
        listed = list(keys)
        if listed:
            more = f", and {len(listed) - _MAX_LISTED} more" if len(listed) > _MAX_LISTED else ""
            lines.append(f"  {title} ({len(listed)}): {', '.join(listed[:_MAX_LISTED])}{more}")
    if lines:
        msg = f"The weights in {where} are not those that its config asks for:\n" + "\n".join(lines)
        raise CheckpointError(msg)


def _files(folder: Path, name: str) -> list[Path]:
    """Return the files of a folder's weights, which are there."""
    index = folder / f"{name}.index.json"
    files = [folder / name]
    if index.is_file():
        files = sorted({folder / file for file in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
    for file in files:
        if not file.is_file():
            msg = f"The weights {file} are missing. Copy or download the folder again."
            raise CheckpointError(msg)
    return files
