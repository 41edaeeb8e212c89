"""What a data set holds: sizes, aspect ratios, lengths of texts, licences, sources, scores; from its JSON alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from unipic2_data.errors import DataError
from unipic2_data.facts import named_size, scores_of
from unipic2_data.jobs import run_jobs, silent, tick
from unipic2_data.manifest import Manifest
from unipic2_data.sample import texts_of
from unipic2_data.scan import scan_documents

if TYPE_CHECKING:
    from pathlib import Path

    from unipic2_data.jobs import Progress
    from unipic2_data.manifest import Shard

__all__ = ["Stats", "collect_stats", "plot_stats"]

_QUANTILES = (0, 0.05, 0.5, 0.95, 1)
_NAMED = ("kind", "task", "source", "licence")
_UNKNOWN = "not said"
_COLUMNS = 3
_SHOWN = 12  # values of a name that the report lists


@dataclass
class Stats:
    """Counts and numbers of a data set.

    Attributes:
        samples: How many there are.
        damaged: How many of them are unreadable, or have no text.
        counts: kind, task, source, licence -> value -> samples.
        numbers: Name -> one number for each sample that has it: width, height and aspect (width / height) of targets,
            references, texts (different ones of a sample), words of each text, scores.
    """

    samples: int = 0
    damaged: int = 0
    counts: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in _NAMED})
    numbers: dict[str, np.ndarray] = field(default_factory=dict)

    def quantiles(self) -> dict[str, dict[str, float]]:
        """Return count, mean and quantiles of every number."""
        return {
            name: {
                "count": len(values),
                "mean": float(values.mean()),
                **{f"{share:.0%}": float(value) for share, value in zip(_QUANTILES, found, strict=True)},
            }
            for name, values in sorted(self.numbers.items())
            if len(values) and (found := np.quantile(values, _QUANTILES)) is not None
        }

    def to_json(self) -> dict[str, Any]:
        """Return counts and quantiles."""
        counts = {name: dict(counter.most_common()) for name, counter in self.counts.items()}
        return {"samples": self.samples, "damaged": self.damaged, "counts": counts, "numbers": self.quantiles()}

    def __str__(self) -> str:
        damage = f", {self.damaged} of them damaged: see `unipic2-data verify`" if self.damaged else ""
        lines = [f"{self.samples} samples{damage}"]
        for name, counter in self.counts.items():
            shown = [f"{value} {count}" for value, count in counter.most_common(_SHOWN)]
            more = [f"and {len(counter) - _SHOWN} more"] if len(counter) > _SHOWN else []
            lines.append(f"{name}: {', '.join([*shown, *more])}")
        heads = ["", "count", "mean", *(f"{share:.0%}" for share in _QUANTILES)]
        lines.append("".join(f"{head:>12}" for head in heads).replace(" " * 12, f"{'':20}", 1))
        for name, values in self.quantiles().items():
            lines.append(f"{name:20}" + "".join(f"{value:12.6g}" for value in values.values()))
        return "\n".join(lines)


def collect_stats(path: Path, *, workers: int = 1, progress: Progress = silent) -> Stats:
    """Read the JSON of every sample of a data set.

    Args:
        path: The folder, or the manifest file in it.
        workers: Processes.
        progress: Makes progress bars.

    Raises:
        DataError: If the data set cannot be read.
    """
    manifest = Manifest.load(path)
    stats = Stats()
    numbers: dict[str, list[np.ndarray]] = {}
    with progress("stats", sum(shard.samples for shard in manifest.shards)) as bar:
        for _, part in run_jobs(partial(_shard_stats, manifest), manifest.shards, workers, bar.update):
            stats.samples += part.samples
            stats.damaged += part.damaged
            for name, counter in part.counts.items():
                stats.counts[name].update(counter)
            for name, values in part.numbers.items():
                numbers.setdefault(name, []).append(values)
    stats.numbers = {name: np.sort(np.concatenate(values)) for name, values in numbers.items()}
    return stats


def plot_stats(stats: Stats, file: Path, title: str) -> None:
    """Draw sizes, aspect ratios, lengths of texts, licences, sources or tasks, and scores into a PNG file.

    Raises:
        DataError: If matplotlib is not there.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        msg = "drawing needs matplotlib: pip install 'unipic2-data[plots]'."
        raise DataError(msg) from error
    histograms = {
        "size of targets [px]": ("width", "height"),
        "aspect of targets (width / height)": ("aspect",),
        "words of a text": ("words",),
        "texts of a sample": ("texts",),
    } | {name: (name,) for name in sorted(stats.numbers) if name.startswith("score ")}
    bars = ("licence", "task" if len(stats.counts["task"]) > 1 else "source")
    rows = -(-(len(bars) + len(histograms)) // _COLUMNS)
    figure = Figure(figsize=(13, 3.2 * rows), layout="constrained")
    figure.suptitle(f"{title}: {stats.samples} samples")
    panels = iter(figure.subplots(rows, _COLUMNS, squeeze=False).flat)
    for name in bars:
        axes = next(panels)
        common = stats.counts[name].most_common(_SHOWN)[::-1]
        axes.barh([value[:30] for value, _ in common], [count for _, count in common])
        axes.set_xlabel(f"samples by {name}")
    for name, series in histograms.items():
        axes = next(panels)
        for one in series:
            axes.hist(stats.numbers.get(one, np.array([])), bins=50, histtype="step", label=one)
        if len(series) > 1:
            axes.legend()
        axes.set_xlabel(name)
    for axes in panels:
        axes.axis("off")
    figure.savefig(file, dpi=100, format="png")


def _shard_stats(manifest: Manifest, shard: Shard) -> Stats:
    stats = Stats()
    numbers: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        numbers.setdefault(name, []).append(value)

    for document in scan_documents(manifest, shard):
        tick()
        stats.samples += 1
        stats.counts["kind"][shard.kind] += 1
        if isinstance(document, DataError):
            stats.damaged += 1
            continue
        key, meta = document
        for name in _NAMED[1:]:
            stats.counts[name][str(meta.get(name) or _UNKNOWN)] += 1
        if size := named_size(meta):
            note("width", size[1])
            note("height", size[0])
            note("aspect", size[1] / size[0])
        try:
            texts = texts_of(shard.kind, meta, f"sample {key} of {manifest.root}")
            note("texts", len(texts))
        except DataError:
            texts = []
            stats.damaged += 1
        for text in texts:
            note("words", len(text.split()))
        if isinstance(references := meta.get("reference_sizes"), list) and references:
            note("references", len(references))
        for name, value in scores_of(meta).items():
            note(f"score {name}", value)
    stats.numbers = {name: np.array(values, np.float64) for name, values in numbers.items()}
    return stats
