"""``unipic2 generate`` and ``unipic2 edit``."""

from pathlib import Path
from typing import TYPE_CHECKING

from unipic2_apps.options import ModelOptions, OutputOptions, PictureOptions

if TYPE_CHECKING:
    from unipic2_apps.outputs import Entry
    from unipic2_apps.sheet import Cell
    from unipic2_apps.tasks import Task

__all__ = ["edit", "generate"]


def generate(
    prompt: list[str],
    *,
    prompts: Path | None = None,
    pictures: PictureOptions,
    output: OutputOptions,
    model: ModelOptions,
) -> None:
    """Make pictures from prompts.

    Each picture is a PNG that knows its parameters, with the whole record in a .json file beside it. What is there
    already is left alone, so the same command goes on after an interruption.

    Args:
        prompt: What to make; several make several pictures.
        prompts: File of prompts: .txt with one a line, or .jsonl with an object a line: prompt, and if they differ
            negative_prompt, size, steps, guidance, seed and name (of the file).
        pictures: How they are made.
        output: Where they go.
        model: What makes them.
    """
    from unipic2_apps import tasks

    _make(tasks.prompts(prompt, prompts, pictures), pictures.num_images, output, model)


def edit(
    image: str,
    instruction: list[str],
    *,
    prompts: Path | None = None,
    original_size: bool = False,
    pictures: PictureOptions,
    output: OutputOptions,
    model: ModelOptions,
) -> None:
    """Edit a picture, or all pictures of a folder, by instructions.

    Each result is a PNG that knows its parameters, with the whole record in a .json file beside it. What is there
    already is left alone, so the same command goes on after an interruption.

    Args:
        image: Picture to edit, or a folder of them.
        instruction: How to edit, such as "make the circle red"; several make several results of each picture.
        prompts: File of edits: .jsonl with an object a line: image (as seen from the file), prompt, and if they differ
            negative_prompt, size, steps, guidance, seed and name; or .txt with an instruction a line, for IMAGE.
        original_size: Resize results to exactly the size of their pictures.
        pictures: How they are made.
        output: Where they go.
        model: What makes them.
    """
    from unipic2_apps import tasks

    wanted = tasks.edits(image, instruction, prompts, pictures, original_size=original_size)
    _make(wanted, pictures.num_images, output, model)


def _make(wanted: "list[Task]", num_images: int, output: OutputOptions, options: ModelOptions) -> None:
    import sys

    from tqdm import tqdm

    from unipic2_apps.loading import load, model_facts
    from unipic2_apps.making import make
    from unipic2_apps.outputs import sheet_path
    from unipic2_apps.sheet import write_sheets

    model = load(options, "generate" if wanted[0].image is None else "edit")
    written: list[str] = []

    def report(path: str) -> None:
        written.append(path)
        tqdm.write(path)

    there = make(model, wanted, model_facts(model, options), output, report)
    if len(written) < len(there):
        print(f"{len(there) - len(written)} of {len(there)} were there already", file=sys.stderr)
    if output.sheet:
        cells = [_cell(entry) for entry in there]
        for path in write_sheets(cells, sheet_path(output.out), columns=num_images, ai_label=output.ai_label):
            print(path)


def _cell(entry: "Entry") -> "Cell":
    from unipic2_apps.sheet import Cell

    caption, image = f"{entry.task.prompt} (seed {entry.task.seed})", entry.task.image
    if image is None:
        return Cell(caption, (entry.path,))
    return Cell(f"{Path(image).stem}: {caption}", (Path(image), entry.path))
