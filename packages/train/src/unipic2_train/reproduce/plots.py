"""Plots of a grid: scores of arms with every seed as a dot, differences with their bounds, and learning curves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unipic2_train.reproduce.curves import AXES, SCORES, arm_curve, started_at
from unipic2_train.reproduce.verdicts import Cells, Compared, arm_interval
from unipic2_train.reproduce.watch import arm_watched, words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from unipic2_train.reproduce.grid import Grid

__all__ = ["plot_arms", "plot_curves", "plot_differences", "plot_watched"]

INK, PALE, DOT = "#1f3b57", "#9db8d2", "#c2570c"


def plot_arms(grid: Grid, cells: Cells, file: Path) -> None:
    """Draw the first two measures: a bar an arm with its interval, and each seed's own mean."""
    from matplotlib.figure import Figure

    measures, arms = list(grid.measures)[:2], list(grid.arms)
    figure = Figure(figsize=(4.5 * len(measures), 1.2 + 0.4 * len(arms)), layout="constrained")
    axes = figure.subplots(1, len(measures), squeeze=False, sharey=True)[0]
    for place, measure in zip(axes, measures, strict=True):
        for row, arm in enumerate(arms):
            interval = arm_interval(grid, cells, arm, measure)
            if interval is None:
                continue
            place.barh(row, interval.mean, color=PALE, height=0.6)
            place.hlines(row, interval.low, interval.high, color=INK)
            own = [cell["scores"][measure]["values"] for cell in cells.values() if cell["arm"] == arm]
            place.plot([sum(values) / len(values) for values in own], [row] * len(own), ".", color=DOT)
        place.set_yticks(range(len(arms)), arms)
        place.set_title(f"{grid.measures[measure]}; 95 %", fontsize=9)
        place.set_xlim(left=0)
    axes[0].invert_yaxis()
    figure.savefig(file, dpi=110)


def plot_differences(compared: Sequence[Compared], file: Path) -> None:
    """Draw the difference of each claim with its interval and the bound that it has to lie above."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.0 + 0.4 * len(compared)), layout="constrained")
    axes = figure.add_subplot()
    for row, each in enumerate(compared):
        assert each.difference is not None
        axes.hlines(row, each.difference.low, each.difference.high, color=INK)
        axes.plot(each.difference.mean, row, "o", color=INK)
        axes.plot(-(each.claim.margin or 0.0), row, "|", color=DOT, markersize=14)
    axes.locator_params(axis="x", nbins=6)
    axes.axvline(0, color="#bbbbbb", linewidth=0.8)
    axes.set_yticks(range(len(compared)), [_label(each) for each in compared], fontsize=8)
    axes.invert_yaxis()
    axes.set_title("differences, 95 %; the mark is the bound", fontsize=9)
    figure.savefig(file, dpi=110)


def plot_curves(grid: Grid, cells: Cells, file: Path) -> None:
    """Draw both tasks' curves by iterations, images and minutes; what goes on from an arm begins where that ends."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    shown = [arm for arm in grid.arms if arm_curve(cells, arm)]
    figure = Figure(figsize=(13, 7), layout="constrained")
    panels = figure.subplots(len(SCORES), len(AXES), sharey="row")
    for row, measure in zip(panels, SCORES, strict=True):
        row[0].set_ylabel(f"{grid.measures[measure]}, validation", fontsize=9)
        for place, axis in zip(row, AXES, strict=True):
            unit = 60 if axis == "seconds" else 1
            for number, arm in enumerate(shown):
                curve = arm_curve(cells, arm)
                assert curve is not None
                done: Mapping[str, Any] = curve
                before, along = started_at(grid, cells, arm)[axis], done[axis]
                color = colormaps["tab10"](number % 10)
                across = [(before + value) / unit for value in along]
                style = "--" if before else "-"
                place.plot(across, curve["scores"][measure], style, color=color, marker=".", label=arm)
            place.set_xlabel("minutes" if unit > 1 else axis, fontsize=9)
    panels[0][-1].legend(fontsize=8)
    figure.savefig(file, dpi=110)


def plot_watched(grid: Grid, cells: Cells, task: str, file: Path) -> None:
    """Draw what was watched of a task by iterations: a panel a value, a line an arm."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    arms = list(grid.arms)
    shown = {arm: found for arm in arms if (found := arm_watched(cells, arm, task)) is not None}
    names = list(dict.fromkeys(name for found in shown.values() for name in found["values"]))
    across = 4
    down = -(-len(names) // across)
    figure = Figure(figsize=(3.4 * across, 2.8 * down), layout="constrained")
    panels = list(figure.subplots(down, across, squeeze=False).flat)
    for place, name in zip(panels, names, strict=False):
        for arm, found in shown.items():
            if name in found["values"]:
                color = colormaps["tab10"](arms.index(arm) % 10)
                place.plot(found["iterations"], found["values"][name], color=color, label=arm)
        place.set_title(words(name), fontsize=9)
        place.set_xlabel("iterations", fontsize=8)
    for place in panels[len(names) :]:
        place.set_axis_off()
    panels[0].legend(fontsize=8)
    figure.savefig(file, dpi=110)


def _label(each: Compared) -> str:
    claim = each.claim
    return f"{claim.part_of}{claim.part_of and ': '}{claim.name}, {claim.second} - {claim.first} ({each.verdict})"
