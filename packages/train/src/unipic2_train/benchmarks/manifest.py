"""What a folder of benchmark pictures was made with: ``manifest.json``, written first and compared at every resume.

Pictures of two models in one folder would be scored as one, so whatever decides about pixels must be the same when a
folder is gone on with. Code and machine may differ; they are listed, each once.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unipic2_train.tracking import git_revision, package_versions

if TYPE_CHECKING:
    from unipic2_train.benchmarks.sampling import SamplerOptions
    from unipic2_train.benchmarks.suite import Suite
    from unipic2_unified import UniPic2

__all__ = [
    "MANIFEST",
    "ManifestError",
    "enter",
    "hash_model",
    "model_facts",
    "sampler_facts",
    "suite_facts",
    "vlm_facts",
]

MANIFEST = "manifest.json"
FORMAT = 1
WEIGHTS = (".safetensors", ".json", ".txt", ".model", ".bin")
MADE_BY = "made_by"
NAMES = ("model.checkpoint", "model.revision", "model.ema", "model.run", "model.optimiser_steps", "model.lora.file")
"""What may be called otherwise at a resume: weights are compared by their hash."""


class ManifestError(ValueError):
    """A folder that holds pictures of something else."""


def enter(out: Path, facts: dict[str, Any], rank: int) -> None:
    """Write the manifest of a new folder, or check that a folder may be gone on with.

    Any process may come first: the file appears under its name whole, and only once.

    Args:
        out: The output folder, made if need be.
        facts: Whatever decides about pixels, as JSON.
        rank: Only the first process notes another version of the code.

    Raises:
        ManifestError: If the folder was made with something else; the message names what differs.
    """
    out.mkdir(parents=True, exist_ok=True)
    file = out / MANIFEST
    facts = json.loads(json.dumps({"format": FORMAT, **facts}))
    made_by = {"git_revision": git_revision(), "versions": package_versions()}
    if not file.exists():
        partial = out / f".{MANIFEST}.{rank}.{os.getpid()}"
        partial.write_text(json.dumps({**facts, MADE_BY: [made_by]}, indent=2) + "\n", encoding="utf-8")
        try:
            os.link(partial, file)  # fails if another process was faster
        except FileExistsError:
            pass
        finally:
            partial.unlink()
    known = json.loads(file.read_text(encoding="utf-8"))
    makers = known.pop(MADE_BY, [])
    changed = sorted(_differences(known, facts))
    if changed:
        shown = "; ".join(f"{name}: {before!r} then, {now!r} now" for name, before, now in changed[:4])
        msg = f"{out} holds pictures made otherwise ({shown}). Name another --out, or make these go on as they began"
        raise ManifestError(msg)
    if made_by not in makers and rank == 0:
        partial = out / f".{MANIFEST}.{os.getpid()}"
        partial.write_text(json.dumps({**known, MADE_BY: [*makers, made_by]}, indent=2) + "\n", encoding="utf-8")
        partial.rename(file)


def hash_model(folder: Path) -> str:
    """Return the sha256 over a model folder's configs, tokenizers and weights, with their relative names."""
    whole = hashlib.sha256()
    files = [path for path in folder.rglob("*") if path.suffix in WEIGHTS and path.parent != folder]
    for path in sorted([*files, folder / "model_index.json"]):
        if path.is_file():
            whole.update(f"{path.relative_to(folder).as_posix()}\0".encode())
            with path.open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def model_facts(
    folder: Path, checkpoint: str, revision: str | None, lora: str | None, lora_scale: float
) -> dict[str, Any]:
    """Return what the model is; ``ema`` is None where the folder does not say whether its weights are averaged."""
    file = folder / "unipic2.json"
    said = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    adapter = None
    if lora is not None:
        path = Path(lora).expanduser()
        weights = path / "pytorch_lora_weights.safetensors" if path.is_dir() else path
        adapter = {"file": lora, "scale": lora_scale, "sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}
    return {
        "checkpoint": checkpoint,
        "revision": revision,
        "sha256": hash_model(folder),
        "ema": said.get("ema"),
        "run": said.get("run"),
        "optimiser_steps": said.get("optimiser_steps"),
        "lora": adapter,
    }


def vlm_facts(model: UniPic2) -> dict[str, Any]:
    """Return which VLM reads the prompts of a MetaQuery model; nothing if none does."""
    from unipic2_unified.checkpoint import part_hashes

    sources = {name: paths for name, paths in model.parts.sources.items() if name == "vlm"}
    return {f"{name}_sha256": digest for name, digest in part_hashes(sources).items()}


def sampler_facts(model: UniPic2, options: SamplerOptions) -> dict[str, Any]:
    """Return how pictures are sampled; the number that is sampled together decides nothing."""
    from unipic2_dit.sampling import dynamics_of

    scheduler = model.parts.scheduler
    config = {name: value for name, value in dict(scheduler.config).items() if not name.startswith("_")}
    return {
        "scheduler": type(scheduler).__name__,
        "scheduler_config": config,
        "dynamics": dynamics_of(scheduler).__name__,
        "default_size": list(model.sizes.default),
        "dtype": str(model.parts.transformer.dtype).removeprefix("torch."),
        "steps": options.steps,
        "guidance": options.guidance,
        "negative_prompt": options.negative_prompt,
        "height": options.height,
        "width": options.width,
    }


def suite_facts(suite: Suite, seed: int) -> dict[str, Any]:
    """Return which pictures there are and what names their noise."""
    return {
        "bench": suite.bench,
        "prompts": {
            "sha256": suite.digest,
            **suite.counts,
            **suite.settings,
            "official_counts": suite.official,
        },
        "seed": seed,
        "noise": "a picture's generator: 63 bits of blake2b(seed, bench, key, number), on the CPU",
    }


def _differences(before: Any, now: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted({*before, *now})
        found = [_differences(before.get(key), now.get(key), f"{name}.{key}" if name else key) for key in keys]
        return [difference for of_key in found for difference in of_key]
    return [] if before == now or name in NAMES else [(name, before, now)]
