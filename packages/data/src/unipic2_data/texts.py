"""Texts in the form in which two of them are compared."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["normalised"]

_NO_WORD = re.compile(r"[^\w']+")


def normalised(text: str) -> str:
    """Return a text without differences of case, punctuation, spacing and Unicode form."""
    return _NO_WORD.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()
