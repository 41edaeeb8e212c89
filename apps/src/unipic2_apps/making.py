"""Make many pictures: batch by batch, leaving out what is there, telling how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from unipic2_apps import record
from unipic2_apps.errors import UsageError, user_errors
from unipic2_apps.options import OutputOptions
from unipic2_apps.outputs import Entry, plan, save
from unipic2_apps.tasks import Task, to_request

if TYPE_CHECKING:
    from PIL import Image

    from unipic2_dit.sampling import DenoisingState
    from unipic2_unified import Request, UniPic2

__all__ = ["Progress", "Report", "make", "make_batch"]

Report = Callable[[str], None]
BAR = "{l_bar}{bar}| {n:.1f}/{total} pictures [{elapsed}<{remaining}, {rate_fmt}]"


class Progress:
    """A bar on stderr that counts pictures, moves with every denoising step, and shows rate and remaining time."""

    def __init__(self, total: int) -> None:
        # Only a terminal gets one.
        self.bar = tqdm(total=total, disable=None, bar_format=BAR, unit="picture", leave=total > 1)
        self._made, self._of_batch, self._weight = 0, 0, 1.0

    @contextmanager
    def batch(self, new: int, size: int) -> Iterator[None]:
        """Count the new pictures of a batch that is made inside the context; the others of it are there already."""
        self._of_batch, self._weight = 0, new / size
        yield
        self._made += new
        self.bar.update(self._made - self.bar.n)

    def on_step(self, state: DenoisingState) -> None:
        """Move with a denoising step of some rows of the batch."""
        steps = (state.sigmas > 0).sum(dim=1)
        share = float((state.index.minimum(steps) / steps).sum())
        self.bar.update(self._made + self._weight * (self._of_batch + share) - self.bar.n)
        if bool(state.done.all()):
            self._of_batch += len(steps)


def make(
    model: UniPic2, tasks: Sequence[Task], facts: Mapping[str, Any], output: OutputOptions, report: Report
) -> list[Entry]:
    """Make pictures and write them.

    Batches are the same whether some pictures are there already or not, so that what is made after an interruption is
    what would have been made without it.

    Args:
        model: The model, without a cache of prompts.
        tasks: What to make.
        facts: Facts of the model.
        output: Where to, and how many together.
        report: Gets the path of each picture.

    Returns:
        The pictures that are there now.

    Raises:
        UsageError: If some could not be made; all others have been.
    """
    entries = plan(tasks, output.out, facts, overwrite=output.overwrite)
    batches = [entries[start : start + output.batch_size] for start in range(0, len(entries), output.batch_size)]
    failures: list[str] = []
    there: list[Entry] = []
    progress = Progress(sum(not entry.done for entry in entries))
    with progress.bar:
        for batch in batches:
            if all(entry.done for entry in batch):
                there += batch
                continue
            usable = [(entry, request) for entry in batch if (request := _request(model, entry.task, failures))]
            if not usable:
                continue
            with progress.batch(sum(not entry.done for entry, _ in usable), len(usable)):
                pictures = make_batch(
                    model, [entry.task for entry, _ in usable], [each for _, each in usable], progress
                )
            for index, ((entry, _), picture) in enumerate(zip(usable, pictures, strict=True)):
                if not entry.done:
                    made = record.build(entry.task, picture, facts, [each.task for each, _ in usable], index)
                    save(picture, made, entry.path, ai_label=output.ai_label)
                    report(str(entry.path))
                there.append(entry)
    if failures:
        of_many = f"{len(failures)} of {len(entries)} pictures could not be made, all others were. The first: "
        raise UsageError((of_many if len(entries) > 1 else "") + failures[0])
    return there


def make_batch(
    model: UniPic2, tasks: Sequence[Task], requests: Sequence[Request], progress: Progress | None = None
) -> list[Image.Image]:
    """Return the pictures of tasks that are made together."""
    from unipic2_dit.pictures import restore_sizes, upright_rgb

    pictures = model.run(requests, on_step=None if progress is None else progress.on_step)
    return [
        restore_sizes([picture], [upright_rgb(request.image)])[0]
        if task.original_size and request.image is not None
        else picture
        for picture, task, request in zip(pictures, tasks, requests, strict=True)
    ]


def _request(model: UniPic2, task: Task, failures: list[str]) -> Request | None:
    """Return a task's request, or note what is wrong with it."""
    try:
        request = to_request(task)
        model.prepare(request)
    except user_errors() as error:
        failures.append(str(error))
        return None
    return request
