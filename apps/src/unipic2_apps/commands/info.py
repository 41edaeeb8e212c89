"""``unipic2 info``."""

from dataclasses import replace
from json import dumps, loads
from pathlib import Path
from typing import Any

from unipic2_apps.errors import UsageError
from unipic2_apps.options import ModelOptions

__all__ = ["info"]


def info(folder: str, *, json: bool = False, model: ModelOptions) -> None:
    """Say what a checkpoint is, what it can do, how large it is and which weights it holds.

    It is loaded for that, strictly: what this command describes can be used.

    Args:
        folder: Folder or hub id, the same as --checkpoint.
        json: Print JSON instead of text.
        model: Which, and how it is loaded.
    """
    from unipic2_apps.loading import load, model_facts

    if folder and model.checkpoint:
        msg = f"{folder} and --checkpoint {model.checkpoint} are two checkpoints: name one."
        raise UsageError(msg)
    options = replace(model, checkpoint=folder) if folder else model
    loaded = load(options)
    facts = {**model_facts(loaded, options), **loaded.info()}
    facts["made by"] = _origin(facts["checkpoint"])
    print(dumps(facts, indent=1) if json else _text(facts))


def _origin(checkpoint: str) -> dict[str, Any]:
    """Return what training wrote into the folder: the run, its steps, its data."""
    file = Path(checkpoint) / "unipic2.json"
    try:
        found = loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _text(facts: dict[str, Any]) -> str:
    sizes = facts["sizes"]
    height, width = sizes["default"]
    lines = {
        "checkpoint": facts["checkpoint"],
        "kind": facts["variant"],
        "can": ", ".join(facts["can"]),
        "sizes": f"{width}x{height} px by default; multiples of {sizes['multiple']} up to {sizes['max_edge']}",
        "shift": f"{facts['shift']:g}",
        "parameters": f"{_count(facts['parameters'])} ({_count(facts['bytes'])}B in memory)",
        "hash": facts["hash"],
        "run": facts["made by"].get("run"),
    }
    width = max(map(len, [*lines, *facts["parts"]])) + 2
    head = [f"{name:<{width}}{value}" for name, value in lines.items() if value]
    parts = [
        f"{name:<{width}}{part['class']:<34}{_count(part['parameters']):>7}  {_count(part['bytes']):>7}B"
        f"  {part['dtype']}" + (f", matrices {part['quantization']}" if part["quantization"] else "")
        for name, part in facts["parts"].items()
        if "class" in part
    ]
    return "\n".join([*head, "", *parts])


def _count(number: float) -> str:
    for unit in ("", "k", "M"):
        if number < 999.5:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}G"
