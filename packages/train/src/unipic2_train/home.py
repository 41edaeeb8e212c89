"""What commands make on first use and keep: tiny data and foundation checkpoints, below ``$UNIPIC2_HOME``.

Recipes refer to such things as ``home:PRESET/THING`` (``home:tiny/shapes``, ``home:tiny/foundation``). A thing's folder
carries the hash of the recipe that makes it, so a changed recipe makes a new one and an old one is never mistaken for
it. It is built under a file lock, before any training process is spawned, below a temporary name.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unipic2_train import recipes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["HomeError", "folder", "path", "provide", "publish", "references", "source"]

PREFIX = "home:"
_COMMANDS = {  # what leaves which trained model
    "kontext": "make demo",
    "t2i": "lightning run pretrain --config pretrain/tiny-t2i",
    "connector": "lightning run connector",
    "metaquery": "lightning run joint",
    "edit-scores": "unipic2-train label-edits --out home:tiny/edit-scores ...",
    "edit-reward": "lightning run edit-reward",
}


class HomeError(ValueError):
    """A ``home:`` reference that names nothing this package can make or find."""


def folder() -> Path:
    """Return ``$UNIPIC2_HOME``, by default ``unipic2`` in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "unipic2"
    return Path(os.environ.get("UNIPIC2_HOME", default)).expanduser().resolve()


def path(reference: str) -> Path:
    """Return the folder that a reference stands for; any other text is taken as a path.

    Raises:
        HomeError: An unknown thing, or a model that nobody has made yet.
    """
    if not reference.startswith(PREFIX):
        return Path(reference).expanduser()
    preset, thing = _split(reference)
    if thing not in _BUILDERS:
        made = folder() / preset / thing
        if not made.is_dir():
            made_by = _COMMANDS.get(thing, "lightning run STAGE")
            msg = f"{reference} does not exist yet ({made}); `{made_by}` leaves one there in the tiny preset"
            raise HomeError(msg)
        return made
    return folder() / preset / f"{thing}-{_recipe_hash(preset, thing)}"


def source(text: str) -> str | Path:
    """Return the folder that a reference stands for; a path or a hub id stays as it is.

    Raises:
        HomeError: An unknown thing, or a model that nobody has made yet.
    """
    return path(text) if text.startswith(PREFIX) else text


def provide(reference: str) -> Path:
    """Return the folder of a reference and make it first if need be, saying so."""
    target = path(reference)
    if target.is_dir() or not reference.startswith(PREFIX):
        return target
    from filelock import FileLock

    preset, thing = _split(reference)
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{target.name}.lock")):
        if target.is_dir():  # Another process made it while this one waited.
            return target
        print(f"first use: making {reference} at {target}", file=sys.stderr)  # noqa: T201
        partial = target.with_name(f".{target.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            _BUILDERS[thing](partial, _recipe(preset, thing))
            partial.rename(target)
        finally:  # also on Ctrl-C
            shutil.rmtree(partial, ignore_errors=True)
    return target


def check(preset: str) -> None:
    """Check that a preset's recipe holds only what this package can make.

    Raises:
        HomeError: It names something else.
    """
    unknown = sorted(set(recipes.resolve(f"home/{preset}")) - set(_BUILDERS))
    if unknown:
        msg = f"recipe home/{preset} has {', '.join(unknown)}; known: {', '.join(_BUILDERS)}"
        raise HomeError(msg)


def publish(source: Path, target: Path) -> None:
    """Copy a finished folder to where others look for it; what was there is replaced only when the copy is whole."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, partial)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)


def references(config: Any) -> Iterator[str]:
    """Yield every ``home:`` reference inside nested mappings and lists."""
    if isinstance(config, str) and config.startswith(PREFIX):
        yield config
    elif isinstance(config, dict):
        for value in config.values():
            yield from references(value)
    elif isinstance(config, (list, tuple)):
        for value in config:
            yield from references(value)


def _split(reference: str) -> tuple[str, str]:
    preset, _, thing = reference.removeprefix(PREFIX).partition("/")
    if not preset or not thing:
        msg = f"{reference!r} is not of the form home:PRESET/THING, e.g. home:tiny/shapes"
        raise HomeError(msg)
    return preset, thing


def _recipe(preset: str, thing: str) -> dict[str, Any]:
    try:
        recipe = recipes.resolve(f"home/{preset}")
    except recipes.RecipeError as error:
        msg = f"home:{preset}/{thing}: {error}"
        raise HomeError(msg) from error
    if thing not in recipe:
        msg = f"preset {preset!r} has no {thing!r}; it has: {', '.join(sorted(recipe))}"
        raise HomeError(msg)
    return recipe[thing]


def _recipe_hash(preset: str, thing: str) -> str:
    recipe = _recipe(preset, thing)
    # What a thing is made from is part of its identity: new data, new foundation.
    inputs: dict[str, Any] = {}
    inputs |= {stage: recipes.resolve(recipe[stage]) for stage in ("vae", "vlm") if stage in recipe}
    inputs |= {reference: path(reference).name for reference in references([recipe, inputs])}
    text = json.dumps({"recipe": recipe, "inputs": inputs}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _build_shapes(target: Path, recipe: dict[str, Any]) -> None:
    from unipic2_data.cli import shapes

    shapes(target, **recipe)


def _build_foundation(target: Path, recipe: dict[str, Any]) -> None:
    from unipic2_train.workflows import foundation

    foundation.build(target, **recipe)


def _build_vlm(target: Path, recipe: dict[str, Any]) -> None:
    from unipic2_train.workflows import foundation

    foundation.build_vlm(target, **recipe)


_BUILDERS: dict[str, Callable[[Path, dict[str, Any]], None]] = {
    "shapes": _build_shapes,
    "foundation": _build_foundation,
    "vlm": _build_vlm,
}
