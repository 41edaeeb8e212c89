"""``unipic2 replay``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from unipic2_apps.errors import UsageError
from unipic2_apps.options import ModelOptions

if TYPE_CHECKING:
    from PIL import Image

    from unipic2_apps.tasks import Task

__all__ = ["replay"]

DIFFERS = 1


def replay(
    file: str,
    *,
    out: str | None = None,
    image: str | None = None,
    checkpoint: str | None = None,
    vlm: str | None = None,
    lora: list[str] | None = None,
    device: str | None = None,
) -> int:
    """Make a picture again from the parameters kept with it.

    On the same machine with the same versions it is the same picture, bit for bit. Where it is not, what differs is
    said and the exit code is 1. The file beside a picture knows more than the picture itself: paths, and what it was
    made together with.

    Args:
        file: A picture that unipic2 made, or the .json file beside it.
        out: Where the picture goes, a name that ends in .png; by default FILE_replay.png.
        image: The picture that was edited, if it lies elsewhere now.
        checkpoint: The checkpoint, if it lies elsewhere now.
        vlm: Its VLM, if that lies elsewhere now.
        lora: LoRA adapters, if they lie elsewhere now; may be repeated.
        device: Where to run; by default where it ran.
    """
    from unipic2_apps import making, outputs, record
    from unipic2_apps.loading import load, model_facts
    from unipic2_apps.tasks import to_request

    source = Path(file).expanduser()
    then = record.read(source)
    target = _target(source, out)
    tasks, index, notes = _batch(then, image)
    options = _model_options(then["model"], checkpoint, vlm, lora, device)
    model = load(options, "generate" if tasks[index].image is None else "edit")
    facts = model_facts(model, options)
    if facts["hash"] != then["model"]["hash"]:
        msg = (
            f"{file} was made by the weights {then['model']['hash'][:10]}, but {options.checkpoint} holds "
            f"{str(facts['hash'])[:10]}: pass --checkpoint (and --lora, --vlm) of those that made it."
        )
        raise UsageError(msg)
    picture = making.make_batch(model, tasks, [to_request(task) for task in tasks])[index]
    now = record.build(tasks[index], picture, facts, tasks, index)
    outputs.save(picture, now, target, ai_label=True)
    print(target)
    if now["result"] == then["result"]:
        print("the same picture, bit for bit")
        return 0
    changes = notes + record.differences(then, now)
    print(f"not the same bits{_how_much(source, picture)}; {'; '.join(changes) or 'versions and machine are the same'}")
    return DIFFERS


def _target(source: Path, out: str | None) -> Path:
    if out is None:
        return source.with_name(f"{source.stem}_replay.png")
    target = Path(out).expanduser()
    if target.suffix.lower() != ".png" or target.exists():
        msg = f"--out is {out}, expected a name that ends in .png and is not taken."
        raise UsageError(msg)
    return target


def _batch(then: dict[str, Any], image: str | None) -> "tuple[list[Task], int, list[str]]":
    """Return the tasks that were made together, which one is wanted, and what of them is not as it was."""
    from dataclasses import replace

    from unipic2_apps.tasks import Task

    wanted, size = Task.from_facts(then["picture"]), then["batch"]["size"]
    if wanted.image is not None:
        wanted = replace(wanted, image=str(Path(image or wanted.image).expanduser().absolute()))
        if not _is_there(wanted):
            msg = f"{wanted.image} is not there, or is not the picture that was edited: name that with --image."
            raise UsageError(msg)
    if size == 1:
        return [wanted], 0, []
    tasks = [Task.from_facts(facts) for facts in then["batch"].get("pictures", [])]
    index = int(then["batch"]["index"])
    if len(tasks) == size and all(place == index or _is_there(task) for place, task in enumerate(tasks)):
        return [*tasks[:index], wanted, *tasks[index + 1 :]], index, []
    return [wanted], 0, [f"made alone, not in a batch of {size}, because the others are not known or not there"]


def _is_there(task: "Task") -> bool:
    from unipic2_apps.tasks import file_hash

    return task.image is None or (Path(task.image).is_file() and file_hash(task.image) == task.image_sha256)


def _model_options(
    facts: dict[str, Any], checkpoint: str | None, vlm: str | None, lora: list[str] | None, device: str | None
) -> ModelOptions:
    import torch

    source = checkpoint or facts["checkpoint"]
    if checkpoint is None and not Path(source).is_dir() and source.count("/") != 1:
        msg = f"the checkpoint {source} is not there: pass --checkpoint."
        raise UsageError(msg)
    on_gpu = facts["device"] == "cuda" and torch.cuda.is_available()
    return ModelOptions(
        checkpoint=source,
        # Of a hub id; a folder has none.
        revision=None if Path(source).is_dir() else facts["revision"],
        vlm=vlm or facts["vlm"],
        lora=facts["lora"] if lora is None else lora,
        t5=facts["t5"],
        device=device or ("cuda" if on_gpu else "cpu"),
        dtype=facts["dtype"],
        quantization=facts["quantization"],
        encoder_quantization=facts["encoder_quantization"],
        tiling=facts["tiling"],
    )


def _how_much(source: Path, picture: "Image.Image") -> str:
    """Return by how many of the 255 levels pixels differ, if the picture lies there."""
    from PIL import Image, ImageChops

    original = source.with_suffix(".png")
    if not original.is_file():
        return ""
    with Image.open(original) as opened:
        before = opened.convert("RGB")
    if before.size != picture.size:
        return f": {before.width}x{before.height} -> {picture.width}x{picture.height}"
    levels: Any = ImageChops.difference(before, picture).getextrema()  # (lowest, highest) of each channel
    largest = max(highest for _, highest in levels)
    return f": pixels differ by at most {largest} of 255"
