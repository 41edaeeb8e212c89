"""Find samples whose text is a benchmark's prompt, or written with a benchmark's template.

Prompts are lines of text, or JSON lines with a ``prompt``. Three levels, the strictest first: the text is a prompt
("exact"), it is one but for case, punctuation and spacing ("normalised"), or it has the form of one with other words
("template"). Templates come from GenEval's metadata (``include``: the classes and colours of a prompt are its slots: "a
photo of a {} right of a {}"), and from lines that hold ``{}``. A slot takes one to three words.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from unipic2_data.errors import DataError
from unipic2_data.jobs import run_jobs, silent, tick
from unipic2_data.manifest import Manifest
from unipic2_data.notes import data_id
from unipic2_data.sample import texts_of
from unipic2_data.scan import scan_documents
from unipic2_data.texts import normalised

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from unipic2_data.jobs import Progress

__all__ = ["LEVELS", "Prompts", "find_leaks"]

LEVELS = ("exact", "normalised", "template")
_SLOT = "{}"
_SLOT_WORDS = r"[\w'-]+(?: [\w'-]+){0,2}"
_MARK = "slotslotslot"  # a word that stands for a slot while a text is normalised
_ARTICLE = re.compile(rf"\b(?:an?|the) (?={_MARK}\b)")


@dataclass(frozen=True)
class Prompts:
    """The prompts of benchmarks.

    Attributes:
        exact: As they are.
        plain: Normalised text -> prompt.
        templates: Patterns of normalised texts, and how they read.
    """

    exact: frozenset[str]
    plain: dict[str, str]
    templates: tuple[tuple[re.Pattern[str], str], ...]

    @staticmethod
    def read(files: Sequence[Path]) -> Prompts:
        """Read files of prompts.

        Raises:
            DataError: If a file cannot be read, or holds no prompts.
        """
        texts: list[str] = []
        templates: dict[str, None] = {}
        for file in files:
            before = len(texts) + len(templates)
            for text, slots in _prompts(file):
                if _SLOT in text:
                    templates[text] = None
                else:
                    texts.append(text)
                    templates |= dict.fromkeys([_template(text, slots)] if slots else [])
            if len(texts) + len(templates) == before:
                msg = f"{file} holds no prompts; expected lines of text, or JSON lines with a 'prompt'."
                raise DataError(msg)
        patterns = {_pattern(template): template for template in templates if _SLOT in template}
        compiled = tuple((re.compile(pattern), template) for pattern, template in patterns.items())
        return Prompts(frozenset(texts), {normalised(text): text for text in texts}, compiled)

    def find(self, text: str) -> tuple[str, str] | None:
        """Return level and prompt (or template) that a text is, or None."""
        if text in self.exact:
            return "exact", text
        plain = normalised(text)
        if plain in self.plain:
            return "normalised", self.plain[plain]
        for pattern, template in self.templates:
            if pattern.fullmatch(plain):
                return "template", template
        return None


def find_leaks(
    sources: Sequence[Path],
    prompts: Sequence[Path],
    out: Path,
    *,
    levels: Sequence[str] = LEVELS,
    workers: int = 1,
    progress: Progress = silent,
) -> dict[str, int]:
    """Write a note about every sample with a text of a benchmark.

    Args:
        sources: The data sets.
        prompts: Files of the benchmarks' prompts.
        out: File of notes to make: key, reason, ``text`` and ``prompt``.
        levels: What counts.
        workers: Processes.
        progress: Makes progress bars.

    Returns:
        Samples by level.

    Raises:
        DataError: If a file or data set cannot be read, or a level is unknown.
    """
    if unknown := set(levels) - set(LEVELS):
        msg = f"unknown level {', '.join(sorted(unknown))}; expected some of {', '.join(LEVELS)}."
        raise DataError(msg)
    known = Prompts.read(prompts)
    manifests = [Manifest.load(source) for source in sources]
    jobs = [(source, shard) for source, manifest in enumerate(manifests) for shard in range(len(manifest.shards))]
    find = partial(_find, manifests, known, frozenset(levels))
    with progress("leaks", sum(shard.samples for manifest in manifests for shard in manifest.shards)) as bar:
        found = dict(run_jobs(find, jobs, workers, bar.update))
    notes = [note for job in jobs for note in found[job]]
    temporary = out.with_name(f".{out.name}.partial")
    temporary.write_text("".join(json.dumps(note, ensure_ascii=False) + "\n" for note in notes), encoding="utf-8")
    temporary.replace(out)
    counts = Counter(note["level"] for note in notes)
    return {level: counts[level] for level in levels}


def _find(manifests: list[Manifest], known: Prompts, levels: frozenset[str], job: tuple[int, int]) -> list[dict]:
    source, shard = job
    manifest = manifests[source]
    notes = []
    for document in scan_documents(manifest, manifest.shards[shard]):
        tick()
        if isinstance(document, DataError):
            continue  # a matter of `unipic2-data verify`
        key, meta = document
        for text in _texts(manifest.shards[shard].kind, meta):
            found = known.find(text)
            if found and found[0] in levels:
                level, prompt = found
                note = {"data": data_id(manifest), "key": key, "reason": f"benchmark prompt ({level})", "level": level}
                notes.append(note | {"text": text, "prompt": prompt})
                break
    return notes


def _texts(kind: str, meta: dict[str, Any]) -> list[str]:
    """Return all texts of a sample, none if it is damaged."""
    try:
        texts = texts_of(kind, meta, "a sample")
    except DataError:
        texts = []
    caption = meta.get("caption")
    return texts + ([caption] if isinstance(caption, str) else [])


def _prompts(file: Path) -> list[tuple[str, list[str]]]:
    """Return the prompts of a file, each with the words that fill its slots."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        msg = f"cannot read prompts from {file}: {error}."
        raise DataError(msg) from error
    found: list[tuple[str, list[str]]] = []
    for number, line in enumerate((line.strip() for line in lines), 1):
        if not line.startswith("{") or line.startswith(_SLOT):
            found += [(line, [])] if line else []
            continue
        try:
            row = json.loads(line)
            found.append((row["prompt"].strip(), _slots(row)))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            msg = f"{file}:{number}: expected a JSON object with a text in 'prompt'."
            raise DataError(msg) from error
    return found


def _slots(row: dict[str, Any]) -> list[str]:
    """Return the classes and colours of a prompt of GenEval, the longest first."""
    include = row.get("include")
    objects = [one for one in include if isinstance(one, dict)] if isinstance(include, list) else []
    words = [one[name] for one in objects for name in ("class", "color") if isinstance(one.get(name), str)]
    return sorted(words, key=len, reverse=True)


def _template(text: str, slots: list[str]) -> str:
    """Return a prompt with its slots open: "a photo of two dogs", ["dog"] -> "a photo of two {}"."""
    words = "|".join(re.escape(slot) for slot in slots)
    return re.sub(rf"\b(?:{words})(?:es|s)?\b", _SLOT, text)


def _pattern(template: str) -> str:
    """Return the pattern of normalised texts of a template; before a slot, one article is as good as another."""
    plain = normalised(template.replace(_SLOT, f" {_MARK} "))
    plain = _ARTICLE.sub("(?:an?|the) ", re.escape(plain).replace(r"\ ", " "))
    return re.sub(rf"\b{_MARK}\b", lambda _: _SLOT_WORDS, plain)
