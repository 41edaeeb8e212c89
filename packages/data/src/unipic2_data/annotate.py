"""Note something about every sample that only a model or a person can say: scores of a judge, new captions.

`annotate` takes any function from a sample to the fields of its note, and asks it for many samples at a time; `judge`
and `recaption` make such functions of an endpoint. Notes are written as they come: a run that was killed goes on with
the samples that have none.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from unipic2_data.endpoint import Endpoint, Unanswered
from unipic2_data.errors import DataError
from unipic2_data.jobs import silent
from unipic2_data.manifest import Manifest
from unipic2_data.notes import Notes, append_notes, data_id, write_note
from unipic2_data.sample import Sample, texts_of
from unipic2_data.scan import scan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from unipic2_data.jobs import Bar, Progress
    from unipic2_data.manifest import Shard

__all__ = ["AnnotateReport", "annotate", "judge", "recaption"]

_GIVE_UP = 32  # failures in a row after which the endpoint is taken for dead
_LARGEST_NUMBER = 1e300
_OBJECT = re.compile(r"\{[^{}]*\}")
_QUESTIONS = {
    "judge": {
        "t2i": 'The picture was made for this text: "{text}". Rate from 0 to 10 how well it shows what the text says, '
        'and how good it looks (sharp, natural, without artefacts). Answer with JSON only: {"alignment": 0-10, '
        '"quality": 0-10}.',
        "edit": 'The last picture was made from the others by this instruction: "{text}". Rate from 0 to 10 how well '
        "the instruction was followed, how well everything else was preserved, and how good the result looks. Answer "
        'with JSON only: {"instruction": 0-10, "preservation": 0-10, "quality": 0-10}.',
    },
    "recaption": {
        "t2i": "Describe the picture in two or three plain sentences: objects, their number, colours and positions, "
        "the setting, the style, and any text in it. Answer with the description only.",
        "edit": "The last picture was made from the others. Write the instruction, one imperative sentence, that leads "
        'from them to it. It was said to be: "{text}". Answer with the instruction only.',
    },
}


@dataclass
class AnnotateReport:
    """How many samples have a note, how many had one before, and how often there was no answer, by reason."""

    noted: int = 0
    before: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    failed_in_a_row: int = 0

    def __str__(self) -> str:
        lines = [f"{self.noted} noted, {self.before} had a note before, {self.failed.total()} without an answer"]
        lines += [f"  {count} x {reason}" for reason, count in self.failed.most_common()]
        return "\n".join(lines + (["run the same command again to ask for the others"] if self.failed else []))


def annotate(
    path: Path,
    out: Path,
    answer: Callable[[Sample], dict[str, Any]],
    *,
    split: str | None = None,
    concurrency: int = 8,
    stop: Callable[[], object] | None = None,
    progress: Progress = silent,
) -> AnnotateReport:
    """Append a note about every sample of a data set that has none yet.

    Args:
        path: The data set.
        out: File of notes; made if it is not there.
        answer: Returns the fields of a sample's note; called from several threads. `Unanswered` leaves the sample out
            until the next run.
        split: Split to go through; None = all.
        concurrency: Samples at a time.
        stop: Called when the run ends early: answers under way are to be given up.
        progress: Makes progress bars.

    Raises:
        DataError: If a data set or notes cannot be read, or there is no answer many times in a row.
    """
    manifest = Manifest.load(path)
    shards = [shard for shard in manifest.shards if split in {None, shard.split}]
    report = AnnotateReport()
    with append_notes(out) as file, progress(out.stem, sum(shard.samples for shard in shards)) as bar:
        samples = _without_note(manifest, shards, out, report, bar)
        with ThreadPoolExecutor(concurrency) as pool:
            running: dict[Future[dict[str, Any]], str] = {}
            try:
                _hand_out(pool, answer, samples, running, 2 * concurrency)
                while running:
                    done, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        key = running.pop(future)
                        if (fields := _fields(future, report)) is not None:
                            write_note(file, {"data": data_id(manifest), "key": key} | fields)
                        bar.update(1)
                    _hand_out(pool, answer, samples, running, 2 * concurrency)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                if stop is not None:
                    stop()
                raise
    return report


def judge(endpoint: Endpoint, question: str | None = None) -> Callable[[Sample], dict[str, Any]]:
    """Return the function that asks for scores: every number of the JSON object in the answer.

    Args:
        endpoint: Whom to ask.
        question: What to ask, ``{text}`` stands for the sample's text; default: a question for each kind.
    """

    def read(answer: str) -> dict[str, float]:
        for found in reversed(_OBJECT.findall(answer)):
            scores = _numbers(found)
            if scores:
                return scores
        msg = "no JSON object with numbers"
        raise ValueError(msg)

    return lambda sample: {"scores": _ask(endpoint, "judge", question, sample, read)}


def recaption(endpoint: Endpoint, question: str | None = None) -> Callable[[Sample], dict[str, Any]]:
    """Return the function that asks for a caption, or for the instruction of an edit.

    Args:
        endpoint: Whom to ask.
        question: See `judge`.
    """

    def ask(sample: Sample) -> dict[str, Any]:
        text = _ask(endpoint, "recaption", question, sample, lambda answer: " ".join(answer.split()))
        return {"instruction": [text]} if sample.kind == "edit" else {"captions": [text]}

    return ask


def _without_note(
    manifest: Manifest, shards: list[Shard], out: Path, report: AnnotateReport, bar: Bar
) -> Iterator[Sample]:
    """Yield the samples that have no note yet, and count the others."""
    notes = Notes([out])
    for shard in shards:
        for scanned in scan(manifest, shard):
            sample = scanned.sample
            if isinstance(sample, Sample) and not notes.of(data_id(manifest), sample.key):
                yield sample
                continue
            bar.update(1)
            if isinstance(sample, Sample):
                report.before += 1
            else:
                report.failed["sample is unreadable"] += 1


def _hand_out(
    pool: ThreadPoolExecutor,
    answer: Callable[[Sample], dict[str, Any]],
    samples: Iterator[Sample],
    running: dict[Future[dict[str, Any]], str],
    count: int,
) -> None:
    """Ask for more samples, until so many are under way."""
    while len(running) < count and (sample := next(samples, None)) is not None:
        running[pool.submit(answer, sample)] = sample.key


def _fields(future: Future[dict[str, Any]], report: AnnotateReport) -> dict[str, Any] | None:
    """Return the fields of an answer, or count why there is none.

    Raises:
        DataError: If there is none many times in a row.
    """
    try:
        fields = future.result()
    except Unanswered as reason:
        report.failed[str(reason)] += 1
        report.failed_in_a_row += 1
        if report.failed_in_a_row >= _GIVE_UP:
            msg = f"no answer {_GIVE_UP} times in a row, at last: {reason}. What was answered is kept."
            raise DataError(msg) from reason
        return None
    report.failed_in_a_row = 0
    report.noted += 1
    return fields


def _ask(endpoint: Endpoint, what: str, question: str | None, sample: Sample, read: Callable[[str], Any]) -> Any:
    question = question or _QUESTIONS[what].get(sample.kind)
    if question is None or sample.target is None:
        msg = f"nothing to ask about a {sample.kind} sample without a target"
        raise Unanswered(msg)
    text = texts_of(sample.kind, sample.meta, sample.key)[0]
    return endpoint.ask(question.replace("{text}", text), [*sample.references, sample.target], read)


def _numbers(text: str) -> dict[str, float]:
    """Return the numbers of a JSON object, or nothing."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return {
        name: value for name, value in found.items() if type(value) in {int, float} and abs(value) < _LARGEST_NUMBER
    }
