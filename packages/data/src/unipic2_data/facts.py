"""Scores and sizes that a sample's JSON object names, read with care: tars of others may hold other things there."""

from __future__ import annotations

from typing import Any

__all__ = ["named_size", "scores_of"]

_LARGEST = 1e300  # of a score; larger integers are no floats
_LONGEST = 2**31  # of an edge


def scores_of(meta: dict[str, Any]) -> dict[str, float]:
    """Return the scores of a sample's JSON object; what others wrote there that is no number is left out."""
    scores = meta.get("scores")
    found = scores.items() if isinstance(scores, dict) else ()
    return {name: value for name, value in found if isinstance(value, (int, float)) and not abs(value) > _LARGEST}


def named_size(document: Any) -> tuple[int, int] | None:
    """Return height and width that a JSON object names (a sample's, or that of a reference), or None."""
    if not isinstance(document, dict):
        return None
    height, width = document.get("height"), document.get("width")
    if not (isinstance(height, int) and isinstance(width, int) and min(height, width) > 0):
        return None
    return (height, width) if max(height, width) < _LONGEST else None
