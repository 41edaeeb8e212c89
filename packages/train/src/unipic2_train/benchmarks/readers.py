"""The benchmarks' own files as suites: GenEval is drawn from its seed, the others are read from where they are kept.

Paths are those of ``unipic2_evals.<benchmark>.output_path``, so the output folder is what `unipic2-evals score --dir`
and the official scorers take. For ``gedit`` and ``gedit2`` that is the model's folder; its name is the model's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from unipic2_evals import dpg, gedit, gedit2, geneval, geneval2, geneval_suite, imgedit, shapesbench
from unipic2_evals.checks import as_field, as_json, as_mapping, as_number, as_text
from unipic2_evals.pictures import Picture
from unipic2_evals.tables import picture_of, table_rows
from unipic2_train.benchmarks.suite import Suite, Work

__all__ = ["READERS", "DataOptions", "read_suite"]

GENEVAL_SEED, GENEVAL_PROMPTS = 43, 100
SAMPLES = 4
"""Pictures a prompt in GenEval, and tiles a picture in DPG-Bench."""
GEDIT_COLUMNS = ("key", "task_type", "instruction", "instruction_language", "input_image")


@dataclass(frozen=True)
class DataOptions:
    """Where a benchmark's files are, and which part of it is wanted; a benchmark refuses what it has no use for."""

    data: Path | None = None
    sources: Path | None = None
    samples: int | None = None
    language: str | None = None


def read_suite(bench: str, out: Path, options: DataOptions) -> Suite:
    """Return what a benchmark asks for.

    Args:
        bench: Its name.
        out: The output folder, of which some layouts take the model's name.
        options: Where its files are.

    Raises:
        ValueError: If the benchmark is unknown, a file is missing or malformed, or an option means nothing to it.
    """
    if bench not in READERS:
        msg = f"bench: expected one of {', '.join(READERS)}, got {bench!r}"
        raise ValueError(msg)
    reader, used = READERS[bench]
    idle = [name for name, value in vars(options).items() if value is not None and name not in used]
    if idle:
        takes = ", ".join(f"--{name}" for name in used) or "none"
        msg = f"--{idle[0]} means nothing to {bench}; of the options about data it takes {takes}"
        raise ValueError(msg)
    return reader(out, options)


def _geneval(_out: Path, options: DataOptions) -> Suite:
    """GenEval: 553 prompts, drawn again from the official seed; or ``--data``, another suite in its format."""
    if options.data is None:
        rows = geneval_suite.prompt_suite(GENEVAL_SEED, GENEVAL_PROMPTS)
        digest = geneval_suite.generate_suite(GENEVAL_SEED, GENEVAL_PROMPTS)["sha256"]
    else:
        path = _file(options.data, "geneval", "a suite in GenEval's format, JSONL")
        rows = [dict(row) for _, row in table_rows(path)]
        digest = _digest(path)
    samples = options.samples or SAMPLES
    works = [
        Work(
            key=f"{index:05}",
            prompt=as_text(as_field(row, "prompt", f"prompt {index}"), f"prompt of prompt {index}"),
            file=geneval.output_path(index, number)["image"],
            number=number,
            texts={geneval.output_path(index, number)["metadata"]: json.dumps(row)},
        )
        for index, row in enumerate(rows)
        for number in range(samples)
    ]
    return Suite("geneval", works, digest, {"prompts": len(rows)}, {"prompts": 553}, {"samples": samples})


def _dpg(_out: Path, options: DataOptions) -> Suite:
    """DPG-Bench: a prompt a text file."""
    folder = _folder(options.data, "dpg", "the folder dpg_bench/prompts with a .txt file a prompt")
    tiles = options.samples or SAMPLES
    if tiles not in (1, SAMPLES):
        msg = f"--samples of dpg is the number of tiles, 1 or {SAMPLES}, not {tiles}"
        raise ValueError(msg)
    files = sorted(folder.glob("*.txt"))
    if not files:
        msg = f"{folder}: expected the prompts of DPG-Bench, a .txt file each, found none"
        raise ValueError(msg)
    whole = hashlib.sha256()
    works = []
    for file in files:
        content = file.read_bytes()
        whole.update(file.name.encode() + b"\0" + content + b"\0")
        prompt = content.decode("utf-8").strip()
        works.append(Work(file.stem, prompt, dpg.output_path(file.name)["image"], tiles=tiles))
    return Suite("dpg", works, whole.hexdigest(), {"prompts": len(works)}, {"prompts": 1065}, {"tiles": tiles})


def _gedit(out: Path, options: DataOptions) -> Suite:
    """GEdit-Bench: the dataset's rows with their ``input_image``."""
    path = _existing(
        options.data, "gedit", "the dataset's rows as Parquet (a file or the folder of its parts) or JSONL"
    )
    languages = ("en", "cn")
    if options.language not in (None, *languages):
        msg = f"--language: expected en or cn, got {options.language!r}"
        raise ValueError(msg)
    works, counts = [], dict.fromkeys(languages, 0)
    for name, row in table_rows(path, GEDIT_COLUMNS):
        key, group, instruction, language = (
            as_text(as_field(row, c, name), f"{c} of {name}") for c in GEDIT_COLUMNS[:4]
        )
        counts[language] = counts.get(language, 0) + 1
        if options.language not in (None, language):
            continue
        paths = gedit.output_path(out.name, group, language, key)
        edited, copy = (paths[which].removeprefix(f"{out.name}/") for which in ("edited", "source"))
        source = picture_of(as_field(row, "input_image", name), path.parent, f"input_image of {name}")
        works.append(Work(f"{group}/{language}/{key}", instruction, edited, source=source, copy=copy))
    counts = {f"rows in {language}": count for language, count in counts.items()}
    return Suite(
        "gedit", works, _digest(path), counts, {"rows in en": 606, "rows in cn": 606}, {"language": options.language}
    )


def _imgedit(_out: Path, options: DataOptions) -> Suite:
    """ImgEdit-Bench: ``basic_edit.json`` and the folder of its sources."""
    path = _file(options.data, "imgedit", "basic_edit.json")
    sources = _folder(options.sources, "imgedit", "the folder of source images", "sources")
    works = []
    for key, about in as_mapping(as_json(path.read_text(encoding="utf-8"), str(path)), str(path)).items():
        name = f"{key!r} in {path}"
        prompt, source = (as_text(as_field(about, field, name), f"{field} of {name}") for field in ("prompt", "id"))
        works.append(Work(key, prompt, imgedit.output_path(key)["edited"], source=_picture(sources / source, name)))
    return Suite("imgedit", works, _digest(path), {"edits": len(works)}, {"edits": 737}, {})


def _geneval2(_out: Path, options: DataOptions) -> Suite:
    """GenEval 2: a picture a prompt, and the file by which its scripts find them."""
    path = _file(options.data, "geneval2", "geneval2_data.jsonl")
    prompts = geneval2.read_prompts(path)
    works = [Work(f"{i:05}", row.prompt, geneval2.output_path(i)) for i, row in enumerate(prompts)]

    def finish(out: Path) -> None:
        geneval2.write_image_paths(out / geneval2.IMAGE_PATHS, {work.prompt: out / work.file for work in works})

    return Suite("geneval2", works, _digest(path), {"prompts": len(works)}, {"prompts": 800}, {}, finish=finish)


def _gedit2(out: Path, options: DataOptions) -> Suite:
    """GEditBench v2: ``metadata.jsonl`` beside its pictures; the list of results goes beside the model's folder."""
    folder = _folder(options.data, "gedit2", "the benchmark's folder with metadata.jsonl")
    path = _file(folder / "metadata.jsonl", "gedit2", "the benchmark's folder with metadata.jsonl")
    items = gedit2.read_items(folder)
    works = []
    for item in items:
        file = gedit2.output_path(out.name, item.key)["edited"].removeprefix(f"{out.name}/")
        works.append(Work(item.key, item.instruction, file, source=_picture(item.source_image, repr(item.key))))

    def finish(out: Path) -> None:
        gedit2.write_results(out.parent, out.name, items)

    return Suite("gedit2", works, _digest(path), {"edits": len(works)}, {"edits": 1200}, {}, finish=finish)


def _shapes(_out: Path, options: DataOptions) -> Suite:
    """ShapesBench: a suite that ``unipic2-data shapesbench`` wrote; its questions are for models that answer."""
    folder = _folder(options.data, "shapes", "the suite that `unipic2-data shapesbench` wrote")
    items = shapesbench.read_suite(folder)
    works = []
    for item in items:
        for number in range(shapesbench.SAMPLES.get(item.kind, 0)):
            paths = shapesbench.output_path(item.kind, item.key, number)
            source = _picture(folder / paths["source"], repr(item.key)) if item.kind == "edit" else None
            size = tuple(int(as_number(as_field(item.meta, edge, item.key), edge)) for edge in ("height", "width"))
            works.append(Work(item.key, item.text, paths["image"], number, source=source, size=(size[0], size[1])))
    counts = {f"{kind} items": sum(item.kind == kind for item in items) for kind in shapesbench.KINDS}
    digest = _digest(folder / shapesbench.SUITE)
    return Suite("shapes", works, digest, counts, {}, {}, prepare=partial(shapesbench.copy_suite, folder))


READERS: dict[str, tuple[Callable[[Path, DataOptions], Suite], tuple[str, ...]]] = {
    "geneval": (_geneval, ("data", "samples")),
    "dpg": (_dpg, ("data", "samples")),
    "gedit": (_gedit, ("data", "language")),
    "imgedit": (_imgedit, ("data", "sources")),
    "geneval2": (_geneval2, ("data",)),
    "gedit2": (_gedit2, ("data",)),
    "shapes": (_shapes, ("data",)),
}
"""What reads a benchmark, and the options that it takes."""


def _existing(path: Path | None, bench: str, what: str, option: str = "data") -> Path:
    if path is None:
        msg = f"{bench}: --{option} is missing: {what}"
        raise ValueError(msg)
    if not path.exists():
        msg = f"{bench}: --{option} {path} does not exist; expected {what}"
        raise ValueError(msg)
    return path


def _file(path: Path | None, bench: str, what: str) -> Path:
    path = _existing(path, bench, what)
    if not path.is_file():
        msg = f"{bench}: --data {path} is no file; expected {what}"
        raise ValueError(msg)
    return path


def _folder(path: Path | None, bench: str, what: str, option: str = "data") -> Path:
    path = _existing(path, bench, what, option)
    if not path.is_dir():
        msg = f"{bench}: --{option} {path} is no folder; expected {what}"
        raise ValueError(msg)
    return path


def _picture(path: Path, name: str) -> Picture:
    if not path.is_file():
        msg = f"{name}: its source image {path} does not exist"
        raise ValueError(msg)
    return Picture(path)


def _digest(path: Path) -> str:
    """Return the sha256 of a file, or of the Parquet files of a folder in the order of their names."""
    whole = hashlib.sha256()
    for file in sorted(path.glob("*.parquet")) if path.is_dir() else [path]:
        whole.update(file.read_bytes())
    return whole.hexdigest()
