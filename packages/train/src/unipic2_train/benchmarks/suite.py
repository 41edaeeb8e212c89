"""What a benchmark asks a model to make: a list of files, each with its prompt and, for edits, its source.

A suite knows nothing of models. Its works are in a fixed order, and each has a key that names its noise, so that any
process can make any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from unipic2_data.randomness import keyed_hash
from unipic2_evals.pictures import Embedded, Picture

__all__ = ["Source", "Suite", "Work", "picture_seed"]

Source = Picture | Embedded


@dataclass(frozen=True)
class Work:
    """One file to make: a picture, or several in one.

    Attributes:
        key: Name in the benchmark; with ``number`` it names the noise.
        prompt: What to make, or how to edit.
        file: Where, below the output folder.
        number: Which picture of its prompt this is, counted from 0; of several, the first.
        tiles: Pictures in the file: 1, or 4 as 2 x 2 (DPG-Bench), in the order TL, TR, BL, BR.
        source: The picture to edit, or None.
        size: Height and width of the result in px; None = the checkpoint's own or, for edits, the source's.
        texts: Text files that belong beside it, by path below the output folder.
        copy: Where a copy of the source belongs, below the output folder; empty if nowhere.
    """

    key: str
    prompt: str
    file: str
    number: int = 0
    tiles: int = 1
    source: Source | None = None
    size: tuple[int, int] | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    copy: str = ""


@dataclass(frozen=True)
class Suite:
    """A benchmark as a list of works.

    Attributes:
        bench: Its name.
        works: What a complete run makes, in order.
        digest: sha256 of the benchmark's file of prompts.
        counts: What was found, by what is counted; compared with ``official`` by ``--check_data``.
        official: What the published benchmark has.
        settings: What else decides which works there are: pictures a prompt, language.
        prepare: Called with the output folder by the first process, before anything is made.
        finish: Called with the output folder when all files are there; writes what the official layout has beyond
            them. Several processes may call it.
    """

    bench: str
    works: list[Work]
    digest: str
    counts: dict[str, int]
    official: dict[str, int]
    settings: dict[str, int | str | None]
    prepare: Callable[[Path], object] | None = None
    finish: Callable[[Path], object] | None = None

    def __post_init__(self) -> None:
        """Refuse two works that would write one file."""
        seen: set[str] = set()
        for work in self.works:
            if work.file in seen:
                msg = f"{self.bench}: two prompts would write {work.file} (the second has key {work.key!r})"
                raise ValueError(msg)
            seen.add(work.file)

    def deviations(self) -> list[str]:
        """Return how the data differs from the published benchmark, a line each; none if it does not."""
        return [
            f"{self.bench}: expected {count} {name}, found {self.counts.get(name, 0)}"
            for name, count in self.official.items()
            if self.counts.get(name, 0) != count
        ]


def picture_seed(seed: int, bench: str, key: str, number: int) -> int:
    """Return the seed of one picture's noise: a hash of the run's seed, benchmark, key and number, 63 bits."""
    return int.from_bytes(keyed_hash(seed, bench, key, number)[:8], "little") >> 1
