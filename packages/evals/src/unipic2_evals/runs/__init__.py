"""One benchmark's output folder, read and scored: a module each, behind the same small interface.

A `Run` knows the items that a complete run has, what must be asked about each, and what the rules make of the answers.
The rules themselves are in ``unipic2_evals.<benchmark>``; here are only folders, files and which rule takes what.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from unipic2_evals.answers import JudgeId
from unipic2_evals.mmmu import Variant
from unipic2_evals.pictures import Request

__all__ = ["Item", "Measure", "Options", "Run", "Scored", "refuse_idle"]


class Options(NamedTuple):
    """How to read and score a run; a benchmark refuses what it has no use for."""

    official: bool = True
    data: Path | None = None
    """The benchmark's own file: prompts, questions or instructions."""
    sources: Path | None = None
    """Folder with the source images of edits."""
    prompts: Path | None = None
    """File with the judge's instructions."""
    samples: int | None = None
    """Images a prompt, or tiles a picture. None = the benchmark's."""
    threshold: float | None = None
    """Detections must score more to count. None = GenEval's."""
    counting_threshold: float | None = None
    """The same for counting prompts."""
    variant: Variant | None = None
    """Whose rules, where several are in use. None = the benchmark's own."""


class Item(NamedTuple):
    """One thing to score: usually an image."""

    key: str
    """Unique in the benchmark; pairs runs with each other."""
    prompt: str
    cluster: str
    """What fails and succeeds together, for intervals: usually the prompt."""
    group: str
    """Category, tag or edit type."""
    images: tuple[Path, ...]
    """What a person would look at: the source of an edit first, the scored image last."""
    requests: tuple[Request, ...]
    missing: str = ""
    """Why there is nothing to score; empty if there is."""
    about: Mapping[str, Any] = {}
    """What the benchmark's file says about it."""


class Scored(NamedTuple):
    """What the rules make of one item."""

    values: Mapping[str, float | Sequence[float]]
    """By kind of value; several numbers where an item counts as several (questions of a prompt)."""
    record: Any = None
    """What the scorer's own summary takes; None leaves the item out."""
    failed: str = ""
    """Why there is no score although there is an answer; empty if there is one."""
    note: str = ""
    """What the rules say about the item."""


class Measure(NamedTuple):
    """One row of the table: the mean of a kind of value."""

    name: str
    value: str
    group: str | None = None
    """Only items of this group. None = all."""
    macro: bool = False
    """Whether it is the unweighted mean of the groups' means."""
    binary: bool | None = None
    """Whether the values are verdicts, 0 or 1. None = as all of the benchmark's are."""
    absent: str = ""
    """Why no item has such a value: the row then stands in the table and says so; empty leaves it out."""


class Run(Protocol):
    """A benchmark's output folder."""

    name: str
    official: bool
    quirks: tuple[str, ...]
    """Peculiarities of the official code that are in effect; none with ``official=False``."""
    binary: bool
    """Whether values are verdicts, 0 or 1."""
    rules: JudgeId | None
    """Who judges, if the model that is asked is itself under test; None = the model that is asked judges."""
    settings: Mapping[str, Any]
    """Whatever else decides about scores; runs with other settings are not comparable."""

    def items(self) -> list[Item]:
        """Return what a complete run has, in order."""
        ...

    def score(self, item: Item, answers: Sequence[Any]) -> Scored:
        """Score an item from the answers to its requests, in their order."""
        ...

    def zero(self, item: Item) -> Scored:
        """Return the score of an item that counts as zero."""
        ...

    def measures(self, items: Sequence[Item]) -> list[Measure]:
        """Return the rows of the table, the main score last."""
        ...

    def official_values(self, records: Mapping[str, Any]) -> dict[str, float]:
        """Return means as the benchmark's own summary has them, by name of the measure, from records by item key."""
        ...


def refuse_idle(options: Options, bench: str, *used: str) -> None:
    """Refuse options that a benchmark has no use for; ``official`` is for all.

    Raises:
        ValueError: If another option is set.
    """
    idle = [name for name, value in options._asdict().items() if value is not None and name not in {"official", *used}]
    if idle:
        message = f"--{idle[0]} means nothing to {bench}; it takes {', '.join('--' + name for name in used) or 'none'}"
        raise ValueError(message)
