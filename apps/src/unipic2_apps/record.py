"""The JSON file beside a picture: everything that made it, so that ``unipic2 replay`` can make it again.

::

    {"format": 1, "software": "unipic2 ...", "made": "...",
     "picture": {prompt, seed, steps, ...}, "result": {width, height, pixels_sha256},
     "model": {checkpoint, hash, dtype, ...}, "batch": {size, index, pictures},
     "versions": {...}, "machine": {...}}

The last bits of a picture depend on what it was computed together with, so the whole batch is written down.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unipic2_apps.errors import UsageError
from unipic2_apps.metadata import SOFTWARE, read_parameters
from unipic2_apps.tasks import Task

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["build", "differences", "identity", "identity_hash", "public", "read", "sidecar"]

FORMAT = 1
DISTRIBUTIONS = ("torch", "diffusers", "transformers", "numpy", "pillow", "unipic2-unified", "unipic2-dit")
PARTS = ("picture", "result", "model", "batch", "versions", "machine")
# What of a model makes a difference to its pictures, beside the machine; where it lies does not.
MODEL_KEYS = ("hash", "dtype", "quantization", "encoder_quantization", "tiling", "t5")


def sidecar(path: Path) -> Path:
    """Return where the record of a picture is."""
    return path.with_suffix(".json")


def build(
    task: Task, picture: Image.Image, model: Mapping[str, Any], batch: Sequence[Task], index: int
) -> dict[str, Any]:
    """Return the record of a picture.

    Args:
        task: What was asked for.
        picture: What was made of it.
        model: Facts of the model.
        batch: All tasks that were made together.
        index: Which of them this is.
    """
    from unipic2_unified.requests import picture_digest

    together = {"pictures": [each.facts() for each in batch]} if len(batch) > 1 else {}
    return {
        "format": FORMAT,
        "software": SOFTWARE,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "picture": task.facts(),
        "result": {"width": picture.width, "height": picture.height, "pixels_sha256": picture_digest(picture)},
        "model": dict(model),
        "batch": {"size": len(batch), "index": index, **together},
        "versions": _versions(),
        "machine": _machine(str(model["device"])),
    }


def public(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record for inside the picture, which is passed on: names instead of paths, nothing of its neighbours."""
    model, picture = dict(record["model"]), dict(record["picture"])
    for facts, key in ((model, "checkpoint"), (model, "vlm"), (picture, "image")):
        facts[key] = _name(facts[key])
    model["lora"] = [_name(each) for each in model["lora"]]
    batch = {key: record["batch"][key] for key in ("size", "index")}
    return {**record, "model": model, "picture": picture, "batch": batch}


def identity(task: Task, model: Mapping[str, Any]) -> dict[str, Any]:
    """Return what equal pictures have in common: the task, wherever its image lies, and the model."""
    facts = {key: value for key, value in task.facts().items() if key != "image"}
    # The hash covers the adapters and their weights; these stand here too, so that a message can name them.
    weights = [each.rpartition(":")[2] for each in model["lora"]]
    return {**facts, **{f"model {key}": model.get(key) for key in MODEL_KEYS}, "model lora weights": weights}


def identity_hash(task: Task, model: Mapping[str, Any]) -> str:
    """Return a short hash of the identity, for the names of files."""
    return hashlib.sha256(json.dumps(identity(task, model), sort_keys=True).encode()).hexdigest()[:6]


def read(file: Path) -> dict[str, Any]:
    """Return the record in a sidecar, beside a picture or inside it.

    Raises:
        UsageError: If there is none, or it is not one of ours.
    """
    path = file.expanduser()
    if not path.is_file():
        msg = f"there is no file {file}."
        raise UsageError(msg)
    beside = path if path.suffix == ".json" else sidecar(path)
    try:
        found = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else read_parameters(path)
    except (OSError, ValueError, SyntaxError) as error:
        msg = f"{file} can't be read ({error}). Name a picture that unipic2 made, or the .json file beside it."
        raise UsageError(msg) from error
    if not isinstance(found, dict) or found.get("format") != FORMAT or not _is_whole(found):
        msg = f"{file} holds no parameters of unipic2 (format {FORMAT}). Name a picture that it made, or its .json."
        raise UsageError(msg)
    return found


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what is not as it was, in versions and machine, as ``name then -> now``."""
    found = []
    for part in ("versions", "machine"):
        before, after = then.get(part, {}), now[part]
        names = [name for name in dict.fromkeys([*before, *after]) if before.get(name) != after.get(name)]
        found += [f"{name} {before.get(name)} -> {after.get(name)}" for name in names]
    return found


def _is_whole(found: Mapping[str, Any]) -> bool:
    parts = {part: found.get(part) for part in PARTS}
    if not all(isinstance(part, dict) for part in parts.values()):
        return False
    model = {*MODEL_KEYS, "checkpoint", "revision", "vlm", "lora", "device"}
    return model <= found["model"].keys() and {"size", "index"} <= found["batch"].keys()


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in DISTRIBUTIONS}}


@cache
def _machine(device: str) -> dict[str, Any]:
    import torch

    on_gpu = device == "cuda"
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        # Which instructions are used, and over how many threads sums are spread, moves last bits.
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def _name(path: str | None) -> str | None:
    # A hub id is no path of anyone's machine.
    return path if path is None or not Path(path).is_absolute() else Path(path).name
