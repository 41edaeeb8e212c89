"""Shipped recipes and how a recipe's layers become one configuration.

A recipe is a YAML file. Its ``layers`` name other recipes (model, data, stage, hardware), read in order; the file's own
keys come last. Mappings merge, lists replace, and a changed ``class_path`` drops the ``init_args`` of the class before.
Names such as ``pretrain/tiny`` mean files of this package; anything that ends in ``.yaml`` is a path.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

__all__ = ["RecipeError", "available", "folder", "merge", "resolve"]

LAYERS = "layers"


class RecipeError(ValueError):
    """A recipe that can't be found or read."""


def folder() -> Path:
    """Return the folder of the shipped recipes."""
    return Path(__file__).parent


def available(stage: str | None = None) -> list[str]:
    """Return the names of the shipped recipes, all or of one stage."""
    names = sorted(path.relative_to(folder()).with_suffix("").as_posix() for path in folder().rglob("*.yaml"))
    return [name for name in names if stage is None or name.startswith(f"{stage}/")]


def resolve(name: str) -> dict[str, Any]:
    """Read a recipe and its layers into one mapping without the ``layers`` key.

    Raises:
        RecipeError: Not found (the known names are listed), not a mapping, a key given twice, or a circle of layers.
    """
    return _resolve(name, base=Path.cwd(), parents=())


def merge(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    """Return ``lower`` overridden by ``upper``: mappings merge, everything else is replaced."""
    if "class_path" in upper and upper["class_path"] != lower.get("class_path"):
        return upper
    merged = dict(lower)
    for key, value in upper.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def _resolve(name: str, base: Path, parents: tuple[Path, ...]) -> dict[str, Any]:
    path = _find(name, base)
    if path in parents:
        msg = f"recipe {path} is a layer of itself"
        raise RecipeError(msg)
    recipe = _read(path)
    merged: dict[str, Any] = {}
    layers = recipe.pop(LAYERS, [])
    if not isinstance(layers, list) or not all(isinstance(layer, str) for layer in layers):
        msg = f"recipe {path}: layers must be a list of recipes, not {layers!r}"
        raise RecipeError(msg)
    for layer in layers:
        merged = merge(merged, _resolve(layer, path.parent, (*parents, path)))
    return merge(merged, recipe)


def _find(name: str, base: Path) -> Path:
    if name.endswith((".yaml", ".yml")):
        path = (base / Path(name).expanduser()).resolve()
        if not path.is_file():
            msg = f"recipe file {path} does not exist"
            raise RecipeError(msg)
        return path
    path = folder() / f"{name}.yaml"
    if not path.is_file():
        msg = f"no recipe named {name!r}; shipped: {', '.join(available())}; or give a path to a .yaml file"
        raise RecipeError(msg)
    return path


def _read(path: Path) -> dict[str, Any]:
    try:
        recipe = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        msg = f"recipe {path} is not valid YAML: {error}"
        raise RecipeError(msg) from error
    if not isinstance(recipe, dict):
        msg = f"recipe {path} must be a mapping of keys, not {type(recipe).__name__}"
        raise RecipeError(msg)
    return recipe


class _UniqueKeys(yaml.SafeLoader):
    """YAML without duplicate keys, and with 1e-4 as a number."""


def _unique_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    twice = sorted({str(key) for key in keys if keys.count(key) > 1})
    if twice:
        raise yaml.constructor.ConstructorError(None, None, f"keys given twice: {', '.join(twice)}", node.start_mark)
    loader.flatten_mapping(node)
    return dict(loader.construct_pairs(node, deep=True))


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)
