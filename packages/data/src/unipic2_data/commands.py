"""Commands of `unipic2-data` that look at data sets and curate them. Each returns what to print.

Several data sets or values are given with commas between: ``--licences MIT,CC-BY-4.0``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from unipic2_data.jobs import Bar

__all__ = [
    "duplicates",
    "filter_",
    "index",
    "inspect",
    "judge",
    "leaks",
    "progress_bar",
    "recaption",
    "split",
    "stats",
    "table",
    "verify",
]


def verify(data: Path, pictures: bool = True, workers: int = 0) -> str:
    """Check files, checksums, counts, keys, every sample and every picture; fail if anything is damaged.

    Args:
        data: A data set.
        pictures: Whether to decode every picture; without, it is as fast as the disk.
        workers: Processes; 0 = one per core.
    """
    from unipic2_data.errors import DataError
    from unipic2_data.verify import verify as run

    report = run(data, pictures=pictures, workers=_processes(workers), progress=progress_bar)
    if report.damages:
        raise DataError(str(report))
    return str(report)


def stats(data: Path, plot: Path | None = None, json: Path | None = None, workers: int = 0) -> str:
    """Say what a data set holds: sizes, aspect ratios, lengths of texts, licences, sources, tasks, scores.

    Args:
        data: A data set.
        plot: PNG file to draw it into.
        json: JSON file to write it to.
        workers: Processes; 0 = one per core.
    """
    from unipic2_data.stats import collect_stats, plot_stats
    from unipic2_data.workspace import write_json

    found = collect_stats(data, workers=_processes(workers), progress=progress_bar)
    if plot is not None:
        plot_stats(found, plot, data.name)
    if json is not None:
        write_json(json, found.to_json())
    return str(found)


def inspect(
    data: Path, out: Path, split: str = "train", kind: str | None = None, count: int = 48, seed: int = 0
) -> str:
    """Draw some samples: a contact sheet (sheet.png) and a page (index.html) with pictures, texts and scores.

    Args:
        data: A data set.
        out: Folder for the two files.
        split: Split to draw from.
        kind: Kind to draw; default: all, by their shares.
        count: Number of samples.
        seed: The same seed draws the same samples.
    """
    from unipic2_data.show import choose, contact_sheet, page

    samples = choose(data, split=split, kind=kind, count=count, seed=seed)
    out.mkdir(parents=True, exist_ok=True)
    contact_sheet(samples, out / "sheet.png")
    page(samples, out / "index.html", f"{data.name}, {split}: {len(samples)} samples")
    return f"wrote {out / 'sheet.png'} and {out / 'index.html'}"


def split(
    data: Path,
    out: Path,
    validation: float = 0.0,
    test: float = 0.0,
    from_split: str = "train",
    seed: int = 0,
    workers: int = 0,
) -> str:
    """Write a data set divided anew; samples that share a picture stay together.

    Args:
        data: A data set.
        out: Folder to make.
        validation: Share of the samples for validation.
        test: Share of the samples for testing.
        from_split: Split to divide; others stay as they are.
        seed: Seed of the choice.
        workers: Processes; 0 = one per core.
    """
    from unipic2_data.splitting import split_data

    shares = {"validation": validation, "test": test}
    report = split_data(
        data, out, shares, split=from_split, seed=seed, workers=_processes(workers), progress=progress_bar
    )
    return f"{report}\nwrote {report.manifest.root / 'manifest.json'}"


def index(folder: Path, split: str = "train", workers: int = 0) -> str:
    """Make a data set of foreign tars without copying them: canonical samples, or pictures with texts (jpg + txt).

    Args:
        folder: Folder with the tars; an index is written beside each, and the manifest into the folder.
        split: Split of tars that do not lie below a folder named train, validation, test or heldout.
        workers: Processes; 0 = one per core.
    """
    from unipic2_data.indexing import index_folder

    report = index_folder(folder, split=split, workers=_processes(workers), progress=progress_bar)
    return f"{report}\nwrote {report.manifest.root / 'manifest.json'}"


def table(data: Path, workers: int = 0) -> str:
    """Collect size, licence and scores of every sample in one file, which buckets and filters of training read.

    `import`, `index`, `filter` and `split` have made it already.

    Args:
        data: The data set.
        workers: Processes; 0 = one per core.
    """
    from unipic2_data.manifest import Manifest
    from unipic2_data.table import TABLE, SampleTable

    manifest = Manifest.load(data)
    found = SampleTable.build(manifest, workers=_processes(workers), progress=progress_bar)
    found.save(manifest)
    return f"{len(found)} samples\nwrote {manifest.root / TABLE}"


def duplicates(data: str, out: Path, distance: int = 4, workers: int = 0) -> str:
    """Note samples whose pictures nearly repeat those of an earlier one, in one data set or across several.

    Args:
        data: Data sets, with commas between; samples of the first ones stay.
        out: File of notes to make, for `filter --drop`.
        distance: Signs of 128 that may differ: 0 (the same but for compression) to 7.
        workers: Processes; 0 = one per core.
    """
    from unipic2_data.duplicates import find_duplicates

    counts = find_duplicates(_paths(data), out, distance=distance, workers=_processes(workers), progress=progress_bar)
    lines = [f"{name}: {count} near duplicates" for name, count in counts.items()]
    return "\n".join([*lines, f"wrote {out}; leave them out with: unipic2-data filter {data} OUT --drop {out}"])


def leaks(data: str, prompts: str, out: Path, levels: str = "exact,normalised,template", workers: int = 0) -> str:
    """Note samples whose text is a benchmark's prompt, or written with a benchmark's template.

    Args:
        data: Data sets, with commas between.
        prompts: Files of the benchmarks' prompts, with commas between: lines of text, or JSON lines with "prompt"; of
            GenEval, evaluation_metadata.jsonl, whose templates are then found as well.
        out: File of notes to make, for `filter --drop`.
        levels: What counts: exact, normalised (case, punctuation), template (other words in the same form).
        workers: Processes; 0 = one per core.
    """
    from unipic2_data.leaks import find_leaks

    counts = find_leaks(
        _paths(data),
        _paths(prompts),
        out,
        levels=_words(levels),
        workers=_processes(workers),
        progress=progress_bar,
    )
    lines = [f"{level}: {count} samples" for level, count in counts.items()]
    return "\n".join([*lines, f"wrote {out}; leave them out with: unipic2-data filter {data} OUT --drop {out}"])


def judge(
    data: Path,
    out: Path,
    url: str,
    model: str,
    question: Path | None = None,
    split: str | None = None,
    concurrency: int = 8,
    timeout: float = 120.0,
    retries: int = 5,
) -> str:
    """Ask a model behind an OpenAI-compatible endpoint to score samples. Killed, it goes on when it is run again.

    Args:
        data: A data set.
        out: File of notes to append to, for `filter --notes`.
        url: Base address of the endpoint, such as http://localhost:8000/v1; its key is read from $OPENAI_API_KEY.
        model: Name of the model there.
        question: Text file with the question, {text} stands for the sample's text; it has to ask for a JSON object of
            numbers. Default: questions about alignment, preservation and quality.
        split: Split to score; default: all.
        concurrency: Questions at a time.
        timeout: Seconds for an answer.
        retries: How often to ask again.
    """
    from unipic2_data.annotate import annotate
    from unipic2_data.annotate import judge as make
    from unipic2_data.endpoint import Endpoint

    endpoint = Endpoint(url, model, timeout, retries)
    answer = make(endpoint, question.read_text(encoding="utf-8") if question else None)
    stop = endpoint.stop
    return str(annotate(data, out, answer, split=split, concurrency=concurrency, stop=stop, progress=progress_bar))


def recaption(
    data: Path,
    out: Path,
    url: str,
    model: str,
    question: Path | None = None,
    split: str | None = None,
    concurrency: int = 8,
    timeout: float = 120.0,
    retries: int = 5,
) -> str:
    """Ask a model for captions, or for the instructions of edits. Killed, it goes on when it is run again.

    Args:
        data: A data set.
        out: File of notes to append to, for `filter --notes`.
        url: Base address of the endpoint, such as http://localhost:8000/v1; its key is read from $OPENAI_API_KEY.
        model: Name of the model there.
        question: Text file with the question, {text} stands for the sample's text.
        split: Split to caption; default: all.
        concurrency: Questions at a time.
        timeout: Seconds for an answer.
        retries: How often to ask again.
    """
    from unipic2_data.annotate import annotate
    from unipic2_data.annotate import recaption as make
    from unipic2_data.endpoint import Endpoint

    endpoint = Endpoint(url, model, timeout, retries)
    answer = make(endpoint, question.read_text(encoding="utf-8") if question else None)
    stop = endpoint.stop
    return str(annotate(data, out, answer, split=split, concurrency=concurrency, stop=stop, progress=progress_bar))


def filter_(
    data: str,
    out: Path,
    scores: str | None = None,
    min_side: int | None = None,
    max_aspect: float | None = None,
    licences: str | None = None,
    drop: str | None = None,
    notes: str | None = None,
    texts: Literal["add", "replace"] = "add",
    workers: int = 0,
) -> str:
    """Write a data set of the samples that are wanted, from one or several. Killed, it goes on when it is run again.

    Args:
        data: Data sets, with commas between.
        out: Folder to make.
        scores: Rules about scores, with commas between: 'sc>=7,pq>6'; samples without such a score are left out.
        min_side: Shorter side of the target, at least, in pixels.
        max_aspect: Longer through shorter side, at most.
        licences: Licences that are allowed, with commas between; patterns such as CC-BY-4* may be used.
        drop: Files of notes about samples to leave out, with commas between: duplicates, leaks.
        notes: Files of notes to write into the samples, with commas between: scores of a judge, captions.
        texts: Whether texts of notes are added to those of a sample, or replace them.
        workers: Processes; 0 = one per core.
    """
    from unipic2_data.filtering import Filter, ScoreRule, filter_data

    rules = tuple(ScoreRule.parse(rule) for rule in _words(scores))
    report = filter_data(
        _paths(data),
        out,
        Filter(rules, min_side, max_aspect, tuple(_words(licences))),
        drop=_paths(drop),
        notes=_paths(notes),
        texts=texts,
        workers=_processes(workers),
        progress=progress_bar,
    )
    return f"{report}\nwrote {report.manifest.root / 'manifest.json'}"


def progress_bar(what: str, total: int | None, done: int = 0) -> AbstractContextManager[Bar]:
    """Return a progress bar with rate and remaining time, shown on terminals only."""
    from tqdm import tqdm

    return tqdm(desc=what, total=total, initial=done, unit=" samples", disable=None)


def _processes(workers: int) -> int:
    return workers or os.cpu_count() or 1


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def _paths(text: str | None) -> list[Path]:
    return [Path(word) for word in _words(text)]
