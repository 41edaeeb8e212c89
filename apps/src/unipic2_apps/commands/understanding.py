"""``unipic2 ask``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse.typing import PositiveInt

from unipic2_apps.errors import UsageError
from unipic2_apps.options import AnswerOptions, ModelOptions, PictureOptions

if TYPE_CHECKING:
    from unipic2_apps.tasks import Task
    from unipic2_unified import UniPic2

__all__ = ["ask"]


def ask(
    image: str,
    question: list[str],
    *,
    out: Path | None = None,
    batch_size: PositiveInt = 4,
    answers: AnswerOptions,
    model: ModelOptions,
) -> None:
    """Ask a question about a picture, or about each picture of a folder.

    This needs a MetaQuery checkpoint with its VLM. One answer is printed as it comes, several are a line each.

    Args:
        image: A picture, or a folder of them.
        question: What to ask; several are asked about each picture.
        out: File for the answers, .jsonl. What is in it is not asked again, so the same command goes on after an
            interruption.
        batch_size: Questions that are answered together.
        answers: How answers are chosen.
        model: Who answers.
    """
    from unipic2_apps import tasks
    from unipic2_apps.loading import load

    if not question:
        msg = f'ask something about {image}, in quotes: unipic2 ask {image} "what colour is the circle?".'
        raise UsageError(msg)
    if out is not None and out.suffix != ".jsonl":
        msg = f"--out is {out}, expected a name that ends in .jsonl."
        raise UsageError(msg)
    wanted = tasks.edits(image, question, None, PictureOptions(), original_size=False)
    if len(wanted) == 1 and out is None:
        picture = tasks.open_image(wanted[0].image or "")
        _stream(load(model, "ask"), picture, question[0], answers)
    else:
        _ask_all(load(model, "ask"), wanted, out, batch_size, answers)


def _stream(model: "UniPic2", picture: Any, question: str, options: AnswerOptions) -> None:
    pieces = model.ask(
        picture,
        question,
        stream=True,
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        seed=options.answer_seed,
    )
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


def _ask_all(model: "UniPic2", wanted: "list[Task]", out: Path | None, batch_size: int, options: AnswerOptions) -> None:
    from dataclasses import asdict

    from tqdm import tqdm

    from unipic2_apps.outputs import write

    decoding = {**asdict(options), "model_hash": model.info()["hash"]}
    rows = [] if out is None else _read(out)
    known = {_key(row) for row in rows}
    new = [row for row in (_row(task, decoding) for task in wanted) if _key(row) not in known]
    failures: list[str] = []
    several = len({task.prompt for task in wanted}) > 1
    with tqdm(total=len(new), unit=" answers", disable=None) as bar:
        for start in range(0, len(new), batch_size):
            batch = new[start : start + batch_size]
            for row in _answer(model, batch, options, failures):
                rows.append(row)
                asked = f"  [{row['question']}]" if several else ""
                tqdm.write(f"{Path(row['image']).name}: {row['answer']}{asked}")
            if out is not None:
                text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
                write(out.expanduser(), text.encode())
            bar.update(len(batch))
    if failures:
        msg = f"{len(failures)} of {len(wanted)} questions have no answer, all others have. The first: {failures[0]}"
        raise UsageError(msg)


def _answer(
    model: "UniPic2", batch: list[dict[str, Any]], options: AnswerOptions, failures: list[str]
) -> list[dict[str, Any]]:
    """Return the rows with answers; what can't be read is noted and left out."""
    from unipic2_apps.tasks import open_image
    from unipic2_dit.pictures import upright_rgb
    from unipic2_unified.errors import refusals
    from unipic2_vlm.understanding import Decoding

    rows, pictures = [], []
    for row in batch:
        try:
            pictures.append([upright_rgb(open_image(row["image"]))])
            rows.append(row)
        except UsageError as error:
            failures.append(str(error))
    if not rows:
        return []
    decoding = Decoding(options.max_new_tokens, options.temperature, options.top_p, options.answer_seed)
    with model.prompts.awake(), refusals():
        texts = model.understanding.ask(pictures, [row["question"] for row in rows], decoding)
    return [{**row, "answer": text} for row, text in zip(rows, texts, strict=True)]


def _row(task: "Task", decoding: dict[str, Any]) -> dict[str, Any]:
    return {"image": task.image, "image_sha256": task.image_sha256, "question": task.prompt, **decoding}


def _key(row: dict[str, Any]) -> str:
    return json.dumps({key: value for key, value in row.items() if key not in ("image", "answer")}, sort_keys=True)


def _read(out: Path) -> list[dict[str, Any]]:
    path = out.expanduser()
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        msg = f"{out} is there already and holds no answers ({error}): name another file."
        raise UsageError(msg) from error
