"""Words of the full world: phrasings of edits and questions, and those that training never shows."""

from __future__ import annotations

__all__ = [
    "EDIT_PHRASINGS",
    "HELD_OUT_EDIT_PHRASINGS",
    "HELD_OUT_QUESTION_PHRASINGS",
    "NUMBERS",
    "QUESTION_PHRASINGS",
    "plural",
    "with_article",
]

NUMBERS = ("no", "one", "two", "three", "four", "five", "six")

Phrasings = dict[str, tuple[str, ...]]

EDIT_PHRASINGS: Phrasings = {
    "add": ("add {new} at the {cell}", "put {new} at the {cell}", "draw {new} at the {cell}"),
    "remove": ("remove {object}", "delete {object}", "take away {object}"),
    "replace": ("replace {object} with {shape}", "turn {object} into {shape}", "change {object} into {shape}"),
    "recolour": ("make {object} {color}", "paint {object} {color}", "turn {object} {color}"),
    "bigger": ("make {object} bigger", "enlarge {object}"),
    "smaller": ("make {object} smaller", "shrink {object}"),
    "background": ("change the background to {ground}", "make the background {ground}"),
    "grayscale": ("turn the picture into grayscale", "make the picture grayscale"),
    "inverted": ("invert the colors of the picture", "turn the picture into a negative"),
    "outline": ("turn the picture into an outline drawing", "draw only the outlines"),
    "extract": ("keep only {object} on white", "cut out {object} on a white background"),
    "move to": ("move {object} to the {cell}", "shift {object} to the {cell}", "bring {object} to the {cell}"),
    "move by": ("move {object} directly {relation} {other}", "put {object} directly {relation} {other}"),
}
HELD_OUT_EDIT_PHRASINGS: Phrasings = {  # known words in a new order
    "add": ("at the {cell} add {new}",),
    "remove": ("take {object} away",),
    "replace": ("make {object} into {shape}",),
    "recolour": ("change {object} to {color}",),
    "bigger": ("turn {object} bigger",),
    "smaller": ("turn {object} smaller",),
    "background": ("paint the background {ground}",),
    "grayscale": ("change the picture to grayscale",),
    "inverted": ("make the picture a negative",),
    "outline": ("make the picture an outline drawing",),
    "extract": ("on a white background keep only {object}",),
    "move to": ("put {object} at the {cell}",),
    "move by": ("bring {object} directly {relation} {other}",),
}
for _phrasings in (EDIT_PHRASINGS, HELD_OUT_EDIT_PHRASINGS):
    _phrasings["move"] = _phrasings["move to"]  # inside a composed edit

QUESTION_PHRASINGS: Phrasings = {
    "exist": ("Which of these is in the picture?", "Which of these do you see?"),
    "count": ("How many {things} are there?", "How many {things} are in the picture?"),
    "color": ("What color is {object}?", "Which color does {object} have?"),
    "shape": ("What shape is the {color} object?", "Which shape does the {color} object have?"),
    "relation": ("Where is {object} relative to {other}?", "Where does {object} lie, seen from {other}?"),
    "compare": ("Are there more {things} or more {others}?", "Which are more, {things} or {others}?"),
}
HELD_OUT_QUESTION_PHRASINGS: Phrasings = {
    "exist": ("What do you see in the picture?",),
    "count": ("What is the number of {things} in the picture?",),
    "color": ("In which color do you see {object}?",),
    "shape": ("In which shape do you see the {color} object?",),
    "relation": ("Seen from {other}, where is {object}?",),
    "compare": ("Do you see more {things} or more {others}?",),
}


def with_article(words: str) -> str:
    """Return words with "a" or "an"; the letter L is spoken "el"."""
    return f"an {words}" if words[0] in "aeiou" or words.startswith("L") else f"a {words}"


def plural(thing: str, count: int = 2) -> str:
    """Return the name of one or several things."""
    if count == 1:
        return thing
    return thing + ("es" if thing.endswith("s") else "s")
