"""Import foreign data: read with an adapter, convert, split, write shards, report what was left out.

The source is cut into parts (a tar, some row groups, 4096 rows or files). Two passes go over them, in any number of
processes: a survey that only collects the names of groups, from which follow the number of samples and the choice of
validation groups; and the writing of each part's shards. A part that is finished is never done again, so an import that
was killed goes on where it was; the data set appears at the end, as a whole. The bytes written do not depend on the
number of processes, nor on interruptions.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from unipic2_data.adapters.fields import Fields
from unipic2_data.adapters.formats import default_mappers, guess_format, open_source
from unipic2_data.adapters.record import Skipped
from unipic2_data.convert import Conversion
from unipic2_data.errors import DataError
from unipic2_data.import_parts import PartWriter, survey, write_parts
from unipic2_data.jobs import silent
from unipic2_data.manifest import Manifest
from unipic2_data.parts import PartFolders, WriteReport, collect, save_data
from unipic2_data.workspace import require_same_request, workspace

if TYPE_CHECKING:
    from pathlib import Path

    from unipic2_data.adapters.presets import Preset
    from unipic2_data.adapters.record import Format
    from unipic2_data.jobs import Progress

__all__ = ["import_source"]


def import_source(
    source: Path,
    out: Path,
    *,
    format: Format | None = None,
    fields: Fields | None = None,
    preset: Preset | None = None,
    image_root: Path | None = None,
    image_tars: Path | None = None,
    validation_fraction: float = 0.05,
    licence: str | None = None,
    max_references: int = 1,
    seed: int = 0,
    workers: int = 1,
    progress: Progress = silent,
) -> WriteReport:
    """Write a data set from a source.

    Pictures keep their bytes if they are plain RGB JPEG or PNG; all others become upright RGB PNG. Samples that cannot
    be used are skipped, counted by reason and listed in ``skipped.jsonl``.

    Args:
        source: File or folder.
        out: Folder to make; must not exist or be empty.
        format: What the source is; default: that of a file by its suffix, or a folder of pictures.
        fields: Which fields of a row hold what; default: see `default_mappers`.
        preset: Format, fields and licence of a known data set, in place of the two above.
        image_root: Folder that names in rows are relative to; default: the folder of the file.
        image_tars: Format "index": the tars that hold the pictures; default: those below the source.
        validation_fraction: Share of the groups (targets) that go to the validation split, chosen by hash; at least one
            if it is above 0 and there are two.
        licence: Licence of samples that name none themselves.
        max_references: Samples with more references are skipped.
        seed: Seed of the choice.
        workers: Processes; the bytes do not depend on it.
        progress: Makes progress bars.

    Raises:
        DataError: If the request makes no sense, or no sample is usable.
    """
    if not 0 <= validation_fraction < 1:
        msg = f"validation fraction must be at least 0 and below 1, got {validation_fraction}."
        raise DataError(msg)
    format = (preset.format if preset else format) or guess_format(source)
    mappers = preset.mappers if preset else (fields,) if fields else default_mappers(format)
    licence = licence or (preset.licence if preset else None)
    settings = Conversion(f"import:{preset.name if preset else source.name}", licence, max_references)
    request = {
        "command": "import",
        "source": source.name,
        "format": format,
        "fields": [asdict(mapper) for mapper in mappers if isinstance(mapper, Fields)],
        "conversion": asdict(settings),
        "validation_fraction": validation_fraction,
        "seed": seed,
    }
    with workspace(out, "import") as work:
        places = [source.absolute(), *(place and place.absolute() for place in (image_root, image_tars))]
        require_same_request(work, request | {"places": list(map(str, places))})
        adapter, damages = open_source(
            source, format, mappers, image_root=image_root, image_tars=image_tars, index=work / "pictures"
        )
        parts = list(enumerate(adapter.parts()))
        require_same_request(work, {"source": [asdict(part) for _, part in parts]}, "parts.json")
        groups = survey(adapter, parts, work, seed, workers, progress)
        folders = PartFolders(work)
        write_parts(PartWriter(adapter, settings, seed, folders), parts, groups, validation_fraction, workers, progress)
        numbers = range(len(parts))
        skipped = [Skipped(damage, "tar of pictures is damaged") for damage in damages] + folders.skipped(numbers)
        shards = collect(work, folders.shards(numbers))
        save_data(work / "data", shards, skipped, request, "train", workers)
    return WriteReport(Manifest.load(out), skipped)
