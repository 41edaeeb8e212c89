"""Intervals and tables: a score without its uncertainty is half a score.

Images of one prompt succeed and fail together, so they are no independent draws: where a prompt has several images,
intervals come from a bootstrap that draws whole prompts (clusters). A proportion over independent images gets Wilson's
interval, which is right also near 0 and 1 and for small counts.

Training runs differ by their seed as well. Where every run is scored on the same prompts, `hierarchical_interval` draws
seeds and prompts, and of two arms with the same seeds and prompts the differences.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = [
    "Interval",
    "bootstrap_interval",
    "format_interval",
    "geneval_intervals",
    "grouped_intervals",
    "hierarchical_interval",
    "markdown_table",
    "student_t_quantile",
    "wilson_interval",
]

RESAMPLES = 2000


class Interval(NamedTuple):
    """A mean and where the true one may lie."""

    mean: float
    low: float
    high: float
    total: int
    """Values behind the mean."""


def wilson_interval(successes: int, total: int, confidence: float = 0.95) -> Interval:
    """Return Wilson's score interval of a proportion (Wilson 1927).

    With ``p = successes / total`` and the normal quantile ``z``, the limits are
    ``(p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)``.

    Args:
        successes: Number of successes, 0 to ``total``.
        total: Number of independent trials, at least 1.
        confidence: Coverage, in (0, 1).

    Returns:
        The proportion and its limits.

    Raises:
        ValueError: If the counts or the confidence are out of range.
    """
    if total < 1 or not 0 <= successes <= total:
        message = f"expected 0 <= successes <= total and total >= 1, got {successes} of {total}"
        raise ValueError(message)
    z = NormalDist().inv_cdf((1 + _checked(confidence)) / 2)
    proportion = successes / total
    centre = proportion + z**2 / (2 * total)
    half = z * (proportion * (1 - proportion) / total + z**2 / (4 * total**2)) ** 0.5
    scale = 1 + z**2 / total
    # Rounding must not push a limit past the proportion at 0 and 1, where they are equal.
    low, high = min((centre - half) / scale, proportion), max((centre + half) / scale, proportion)
    return Interval(proportion, max(low, 0.0), min(high, 1.0), total)


def bootstrap_interval(
    values: Sequence[float],
    clusters: Sequence[Hashable],
    strata: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return the percentile interval of a mean whose values come in clusters.

    Clusters are drawn with replacement, each with all of its values. With strata, clusters are drawn within each
    stratum and the mean is the unweighted mean of the strata's means (GenEval's overall score, with a tag a stratum).

    Args:
        values: One number a measurement, for example 0 or 1 for an image.
        clusters: What each measurement belongs to, for example its prompt.
        strata: The group of each measurement; a cluster lies in one stratum. None = one stratum.
        confidence: Coverage, in (0, 1).
        resamples: Number of draws.
        seed: Seed of the draws.

    Returns:
        The mean and its limits; the same inputs give the same interval.

    Raises:
        ValueError: If there are no values, the lengths differ, or a cluster lies in two strata.
    """
    groups = [None] * len(values) if strata is None else list(strata)
    if not len(values) == len(clusters) == len(groups) or not len(values):
        message = f"expected as many clusters and strata as values, and at least one value, got {len(values)} values, "
        raise ValueError(message + f"{len(clusters)} clusters and {len(groups)} strata")
    members: dict[Hashable, dict[Hashable, list[float]]] = {}
    owner: dict[Hashable, Hashable] = {}
    for value, cluster, group in zip(values, clusters, groups, strict=True):
        if owner.setdefault(cluster, group) != group:
            message = f"cluster {cluster!r} lies in two strata: {owner[cluster]!r} and {group!r}"
            raise ValueError(message)
        members.setdefault(group, {}).setdefault(cluster, []).append(float(value))
    rng = np.random.default_rng(seed)
    means, draws = [], []
    for by_cluster in members.values():
        sums = np.array([sum(cluster) for cluster in by_cluster.values()])  # (K,)
        counts = np.array([len(cluster) for cluster in by_cluster.values()])  # (K,)
        means.append(sums.sum() / counts.sum())
        draws.append(_resampled_means(sums, counts, resamples, rng))
    tail = (1 - _checked(confidence)) / 2
    low, high = np.quantile(np.mean(draws, axis=0), [tail, 1 - tail])
    return Interval(float(np.mean(means)), float(low), float(high), len(values))


def hierarchical_interval(
    values: npt.ArrayLike,
    strata: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return the interval of a mean over training seeds and prompts, where every seed was scored on every prompt.

    Seeds and prompts are both samples, of all runs and of all prompts that there could be. A draw takes S seeds and,
    for all of them together, P prompts, each with replacement (Owen 2007, "The pigeonhole bootstrap"; slightly
    conservative). Drawing few seeds from themselves shows too little of their spread: the seeds' part of each draw is
    widened by ``sqrt(S / (S - 1)) * t / z``, with the quantiles of Student's t (S - 1 degrees) and of the normal, so
    that differences between seeds alone give Student's interval, and differences between prompts alone the bootstrap's.

    For two arms pass their difference, ``second - first``: the paired interval.

    Args:
        values: One number a seed and prompt, shape (S, P); with one seed the interval is over prompts alone.
        strata: The group of each prompt: prompts are drawn within groups, and the mean is the unweighted mean of the
            groups' means. None = one group.
        confidence: Coverage, in (0, 1).
        resamples: Number of draws.
        seed: Seed of the draws.

    Returns:
        The mean and its limits; the same inputs give the same interval.

    Raises:
        ValueError: If the values are no full table of finite numbers, or strata are not as many as prompts.
    """
    table = np.asarray(values, dtype=np.float64)  # (S, P)
    groups = [None] * table.shape[-1] if strata is None else list(strata)
    if table.ndim != 2 or not table.size or not np.isfinite(table).all() or len(groups) != table.shape[1]:
        message = f"expected finite values of shape (seeds, prompts) and a stratum a prompt, got {table.shape} values, "
        raise ValueError(message + f"{int(np.isfinite(table).sum())} of them finite, and {len(groups)} strata")
    rng = np.random.default_rng(seed)
    num_seeds = len(table)
    seeds = rng.integers(num_seeds, size=(resamples, num_seeds))  # (R, S)
    weights = np.stack([np.bincount(row, minlength=num_seeds) for row in seeds]) / num_seeds  # (R, S)
    by_group = [[place for place, name in enumerate(groups) if name == group] for group in dict.fromkeys(groups)]
    by_seed = np.mean([table[:, places].mean(axis=1) for places in by_group], axis=0)  # (S,)
    draws = np.zeros(resamples)
    for places in by_group:
        picked = rng.integers(len(places), size=(resamples, len(places)))  # (R, P of the group)
        draws += np.take_along_axis(weights @ table[:, places], picked, axis=1).mean(axis=1) / len(by_group)
    if num_seeds > 1:
        quantile = (1 + _checked(confidence)) / 2
        widening = math.sqrt(num_seeds / (num_seeds - 1)) * student_t_quantile(quantile, num_seeds - 1)
        draws += (widening / NormalDist().inv_cdf(quantile) - 1) * (weights @ by_seed - by_seed.mean())
    tail = (1 - _checked(confidence)) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(float(by_seed.mean()), float(low), float(high), table.size)


def student_t_quantile(probability: float, degrees: int) -> float:
    """Return a quantile of Student's t with a whole number of degrees of freedom.

    The distribution function has a closed form (Abramowitz and Stegun, 26.7.3 and 26.7.4); it is inverted by bisection.

    Args:
        probability: In (0.5, 1).
        degrees: At least 1.

    Raises:
        ValueError: If one is out of range.
    """
    if not 0.5 < probability < 1 or degrees < 1:
        message = f"expected a probability in (0.5, 1) and 1 or more degrees, got {probability} and {degrees}"
        raise ValueError(message)
    low, high = 0.0, 1.0
    while _student_t_coverage(high, degrees) < 2 * probability - 1:
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_t_coverage(middle, degrees) < 2 * probability - 1 else (low, middle)
    return (low + high) / 2


def grouped_intervals(
    correct: Sequence[bool], groups: Sequence[Hashable], clusters: Sequence[Hashable] | None = None
) -> dict[Hashable, Interval]:
    """Return the proportion of correct images in each group.

    Args:
        correct: One verdict an image.
        groups: The group of each image, for example its category.
        clusters: The prompt of each image. None, or a prompt an image, gives Wilson's interval; otherwise a bootstrap
            over prompts.

    Returns:
        Intervals by group, in order of first appearance.
    """
    keys = list(range(len(correct))) if clusters is None else list(clusters)
    members: dict[Hashable, tuple[list[bool], list[Hashable]]] = {}
    for verdict, group, key in zip(correct, groups, keys, strict=True):
        verdicts, prompts = members.setdefault(group, ([], []))
        verdicts.append(bool(verdict))
        prompts.append(key)
    return {
        group: wilson_interval(sum(verdicts), len(verdicts))
        if len(set(prompts)) == len(prompts)
        else bootstrap_interval(verdicts, prompts)
        for group, (verdicts, prompts) in members.items()
    }


def geneval_intervals(records: Sequence[Mapping[str, Any]]) -> dict[str, Interval]:
    """Return GenEval's scores with intervals.

    Args:
        records: Image records as `unipic2_evals.geneval.summary` takes them.

    Returns:
        Intervals by tag, and ``overall``: the unweighted mean of the tags, drawn by prompt within each tag.
    """
    correct = [bool(record["correct"]) for record in records]
    tags = [str(record["tag"]) for record in records]
    prompts = [record["metadata"] for record in records]
    by_tag = {str(tag): interval for tag, interval in grouped_intervals(correct, tags, prompts).items()}
    # A prompt may occur under two tags; a tag's prompts are clusters of their own.
    clusters = list(zip(tags, prompts, strict=True))
    return {**by_tag, "overall": bootstrap_interval(correct, clusters, strata=tags)}


def format_interval(interval: Interval, digits: int = 3) -> str:
    """Return an interval as text, for example ``0.813 [0.772, 0.848]``."""
    return f"{interval.mean:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table with aligned columns.

    Args:
        headers: Column titles; columns after the first are aligned to the right.
        rows: Cells; each row is as long as the titles. Intervals are formatted, anything else is printed.

    Returns:
        The table, ending in a line break.

    Raises:
        ValueError: If a row has another length.
    """
    cells = [[_cell(cell) for cell in row] for row in rows]
    for row in cells:
        if len(row) != len(headers):
            message = f"expected {len(headers)} cells, got {len(row)}: {row}"
            raise ValueError(message)
    widths = [max(3, *(len(row[column]) for row in [list(headers), *cells])) for column in range(len(headers))]
    rule = [("-" * width if column == 0 else "-" * (width - 1) + ":") for column, width in enumerate(widths)]

    def line(row: Sequence[str]) -> str:
        padded = [
            text.ljust(width) if column == 0 else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |\n"

    return "".join(line(row) for row in [headers, rule, *cells])


def _student_t_coverage(t: float, degrees: int) -> float:
    """Return the probability of (-t, t)."""
    theta = math.atan2(t, math.sqrt(degrees))
    cosine, total, term = math.cos(theta), 0.0, 1.0
    # even: sin (1 + 1/2 cos^2 + 1 3 / (2 4) cos^4 + ...); odd: sin cos (1 + 2/3 cos^2 + 2 4 / (3 5) cos^4 + ...)
    first = 1 + degrees % 2
    for power in range(first, degrees, 2):
        total += term
        term *= power / (power + 1) * cosine**2
    if degrees % 2 == 0:
        return math.sin(theta) * total
    return 2 / math.pi * (theta + math.sin(theta) * cosine * total)


def _cell(value: object) -> str:
    text = format_interval(value) if isinstance(value, Interval) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _checked(confidence: float) -> float:
    if not 0 < confidence < 1:
        message = f"confidence: expected a number between 0 and 1, got {confidence}"
        raise ValueError(message)
    return confidence


def _resampled_means(
    sums: npt.NDArray[np.float64], counts: npt.NDArray[np.int64], resamples: int, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Return the means of ``resamples`` draws of whole clusters, shape (resamples,)."""
    drawn = rng.integers(len(sums), size=(resamples, len(sums)))  # (resamples, K)
    means: npt.NDArray[np.float64] = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    return means
