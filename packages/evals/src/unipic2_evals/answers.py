"""What models said about pictures, kept in a JSONL file: scoring can be run again without any model.

One object a line: ``key`` (of the `Request`), ``kind``, ``judge`` and ``revision`` (who said it), and ``value``: the
text of a reply or an answer, or ``{"objects", "colors"}`` of a detector. Several judges may share a file. Lines are
appended as answers come in, so a run that was killed goes on where it stopped; a line that it left half written is
dropped.
"""

import json
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from unipic2_evals.checks import as_field, as_json, as_mapping, as_text
from unipic2_evals.pictures import Kind, Request

__all__ = ["Answers", "Asker", "CallError", "JudgeId", "ask_all"]


BATCH = 32
"""Requests at a time, for models that take several."""


class JudgeId(NamedTuple):
    """Who looked at the pictures. Scores of different judges are not comparable."""

    id: str
    revision: str

    def __str__(self) -> str:
        return f"{self.id} ({self.revision})"


class CallError(Exception):
    """A model gave no answer to one request, in spite of all tries; other requests may fare better."""


class Asker(NamedTuple):
    """A model that can be asked now, as opposed to answers that are already there."""

    judge: JudgeId
    kinds: frozenset[Kind]
    ask: Callable[[Request], Any]
    """Returns the value to keep; raises `CallError`. Called from several threads if there are several workers."""
    workers: int = 1
    ask_many: Callable[[Sequence[Request]], Sequence[Any]] | None = None
    """Likewise for several requests of one kind at a time, where that is faster; only without several workers."""


class Answers:
    """A JSONL file of answers.

    Attributes:
        path: The file; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._values: dict[tuple[JudgeId, str], Any] = {}
        self._whole_bytes = 0
        self._lock = threading.Lock()
        if path.exists():
            self._read()

    def get(self, judge: JudgeId, request: Request) -> Any:
        """Return what a judge said; None if nothing is known."""
        return self._values.get((judge, request.key()))

    def add(self, judge: JudgeId, request: Request, value: Any) -> None:
        """Append an answer to the file; safe to call from several threads."""
        key = request.key()
        row = {"key": key, "kind": request.kind, "judge": judge.id, "revision": judge.revision, "value": value}
        line = (json.dumps(row) + "\n").encode()
        with self._lock:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("r+b" if self.path.exists() else "w+b") as file:
                file.truncate(self._whole_bytes)
                file.seek(self._whole_bytes)
                file.write(line)
            self._whole_bytes += len(line)
            self._values[judge, key] = value

    def judges(self) -> list[JudgeId]:
        """Return all who said something, sorted."""
        return sorted({judge for judge, _ in self._values})

    def choose(self, id: str | None = None, revision: str | None = None) -> JudgeId:
        """Return the only judge of that id and revision.

        Raises:
            ValueError: If there is none, or more than one.
        """
        fitting = [
            judge
            for judge in self.judges()
            if (id is None or judge.id == id) and (revision is None or judge.revision == revision)
        ]
        if len(fitting) == 1:
            return fitting[0]
        found = "; ".join(f"id {judge.id!r} revision {judge.revision!r}" for judge in self.judges()) or "none"
        wanted = "one judge" if id is revision is None else f"one judge with id {id!r} and revision {revision!r}"
        message = f"{self.path}: expected answers of {wanted}, found {len(fitting)}; answers are there of: {found}"
        raise ValueError(message)

    def _read(self) -> None:
        content = self.path.read_bytes()
        self._whole_bytes = content.rfind(b"\n") + 1
        lines = content[: self._whole_bytes].split(b"\n")
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            name = f"{self.path}, line {number}"
            row = as_mapping(as_json(line.decode("utf-8", errors="replace"), name), name)
            id, revision, key = (
                as_text(as_field(row, k, name), f"{k} of {name}") for k in ("judge", "revision", "key")
            )
            self._values[JudgeId(id, revision), key] = as_field(row, "value", name)


def ask_all(
    requests: Iterable[Request],
    answers: Answers,
    asker: Asker,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, str]:
    """Ask what is not known yet, and keep each answer as soon as it is there.

    Args:
        requests: What must be known; duplicates are asked once.
        answers: What is known.
        asker: Whom to ask.
        progress: Called with the numbers of finished and of all calls.

    Returns:
        Why there is no answer, by key, for calls that failed; they are not kept, so the next run asks again.

    Raises:
        ValueError: If the asker can not answer this kind, or what it raises itself.
    """
    unknown = {request.key(): request for request in requests if answers.get(asker.judge, request) is None}
    foreign = sorted({request.kind for request in unknown.values()} - asker.kinds)
    if foreign:
        message = f"judge {asker.judge.id!r} gives {', '.join(sorted(asker.kinds))}; the benchmark wants {foreign[0]}"
        raise ValueError(message)
    failures: dict[str, str] = {}
    finished = count(1)  # next() of a count is atomic

    def ask(key: str, request: Request) -> None:
        try:
            answers.add(asker.judge, request, asker.ask(request))
        except CallError as error:
            failures[key] = str(error)
        done = next(finished)
        if progress is not None:
            progress(done, len(unknown))

    if asker.workers == 1 and asker.ask_many is not None:
        _in_batches(asker.ask_many, list(unknown.values()), answers, asker.judge, progress)
        return failures
    if asker.workers == 1:
        for key, request in unknown.items():
            ask(key, request)
        return failures
    _in_threads(ask, list(unknown.items()), asker.workers)
    return failures


def _in_batches(
    ask_many: Callable[[Sequence[Request]], Sequence[Any]],
    requests: Sequence[Request],
    answers: Answers,
    judge: JudgeId,
    progress: Callable[[int, int], None] | None,
) -> None:
    for start in range(0, len(requests), BATCH):
        batch = requests[start : start + BATCH]
        for request, value in zip(batch, ask_many(batch), strict=True):
            answers.add(judge, request, value)
        if progress is not None:
            progress(start + len(batch), len(requests))


def _in_threads(ask: Callable[[str, Request], None], work: Sequence[tuple[str, Request]], workers: int) -> None:
    """Run in threads; the first error, or an interrupt, cancels what has not begun."""
    pool = ThreadPoolExecutor(workers)
    try:
        futures = [pool.submit(ask, key, request) for key, request in work]
        wait(futures, return_when=FIRST_EXCEPTION)
        for future in futures:
            if future.done():
                future.result()
    finally:
        pool.shutdown(cancel_futures=True)
