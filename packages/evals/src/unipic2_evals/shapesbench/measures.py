"""Rows of ShapesBench's table: categories, held-out axes and overall scores of each kind, and the sanity rows."""

from collections.abc import Sequence

from unipic2_evals.runs import Item, Measure
from unipic2_evals.shapesbench.sanity import ROWS, VAE, value_name

__all__ = ["EDIT_VALUES", "KIND_NAMES", "MAIN", "held_out_name", "measures_of"]

KIND_NAMES = {"t2i": "text-to-image", "edit": "editing", "qa": "understanding"}
MAIN = {"t2i": "correct", "edit": "score", "qa": "circular"}
"""The value of an item that its categories and its kind's overall score average."""
VERDICTS = {"t2i": True, "edit": False, "qa": True}
EDIT_VALUES = ("score", "exact edit", "copied", "compliance", "preservation", "rendering", "SC", "PQ", "O")
NO_VAE = "no vae.png"


def held_out_name(kind: str, axis: str) -> str:
    """Return the kind of value of an item that is held out for an axis, and the name of its row."""
    return f"{kind} held out, {axis}"


def measures_of(items: Sequence[Item]) -> list[Measure]:
    """Return the rows for the items of a run, the main score of the last kind last."""
    rows: list[Measure] = []
    kinds = dict.fromkeys(item.about["kind"] for item in items if item.about["kind"] != "sanity")
    for kind in kinds:
        for row in ROWS[kind]:
            absent = NO_VAE if row == VAE else ""
            name = value_name(kind, row)
            rows.append(Measure(name, name, macro=kind != "qa", binary=VERDICTS[kind], absent=absent))
    for kind in kinds:
        mine = [item for item in items if item.about["kind"] == kind]
        axes = [item.about["suite"].meta["shapes"].get("axis") for item in mine]
        groups = dict.fromkeys(item.group for item, axis in zip(mine, axes, strict=True) if not axis)
        rows += [Measure(f"{kind} {group}", MAIN[kind], group, binary=VERDICTS[kind]) for group in groups]
        names = [held_out_name(kind, axis) for axis in dict.fromkeys(axes) if axis]
        rows += [Measure(name, name, binary=VERDICTS[kind]) for name in names]
        rows += _overall(kind)
    return rows


def _overall(kind: str) -> list[Measure]:
    if kind == "t2i":
        return [Measure("t2i exact scene", "exact", binary=True), Measure("t2i overall", "correct", macro=True)]
    if kind == "qa":
        return [Measure("qa vanilla", "vanilla", binary=True), Measure("qa overall", "circular", binary=True)]
    verdicts = {"exact edit": "edit exact scene", "copied": "edit copies the source"}
    rows = [Measure(name, value, binary=True) for value, name in verdicts.items()]
    rows += [Measure(f"edit {value}", value) for value in ("compliance", "preservation", "rendering")]
    rows += [Measure(f"edit {value} (GEdit)", value, macro=True) for value in ("SC", "PQ", "O")]
    return [*rows, Measure("edit sample mean", "score"), Measure("edit overall", "score", macro=True)]
