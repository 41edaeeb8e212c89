"""Text-to-image prompts of the full world: GenEval's six categories and metadata schema.

A prompt string belongs to the split of its hash, whatever the seed; a prompt that is held out for an axis belongs to
"heldout": a held-out pair, number or triple of a relation, five objects or more, or a phrasing that training never
shows. The training split has one category more, ``scene``: captions that name every object with colour and cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unipic2_data.shapes.full.drawing import belongs, color_for, random_scene
from unipic2_data.shapes.full.scene import (
    CELLS,
    HELD_OUT_COUNTS,
    MANY,
    MAX_ITEMS,
    RELATIONS,
    SHAPES,
    Item,
    Scene,
    backgrounds_for,
    random_item,
    related_cells,
)
from unipic2_data.shapes.full.wording import NUMBERS, plural, with_article
from unipic2_data.shapes.scene import split_of

if TYPE_CHECKING:
    from unipic2_data.shapes.scene import Draws

__all__ = [
    "AXIS_TAGS",
    "HELD_OUT_PHRASINGS",
    "HELD_OUT_TRIPLES",
    "PHRASINGS",
    "TAGS",
    "Prompt",
    "draw_prompt",
    "scene_caption",
    "scene_for",
]

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
AXIS_TAGS = {
    "pair": ("colors", "color_attr"),
    "relation": ("position",),
    "count": ("counting",),
    "many": ("counting",),
    "phrasing": TAGS,
}
"""Held-out axis -> the categories that have it."""
PHRASINGS = ("a photo of {x}", "an image of {x}", "a picture of {x}", "{x}", "there is {x}", "show {x}")
HELD_OUT_PHRASINGS = ("an image showing {x}", "{x} in a photo")
# A triple and its reflection, the same picture in other words, are never both held out.
HELD_OUT_TRIPLES = frozenset(
    (first, relation, second)
    for a, first in enumerate(SHAPES)
    for b, second in enumerate(SHAPES)
    for r, relation in enumerate(RELATIONS)
    if a != b and (3 * a + 5 * b + 2 * r) % 8 == 0
)
_SHARES = {"train": 0.72, "validation": 0.08, "test": 0.20}

Parts = tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt: its text, and what a picture must show for it.

    Attributes:
        tag: Category.
        text: The prompt.
        parts: Shape and colour (None = free) of every object that the picture shows.
        relation: Position of the first part relative to the second, or None.
        axis: What the prompt is held out for, or None.
    """

    tag: str
    text: str
    parts: Parts
    relation: str | None = None
    axis: str | None = None

    @property
    def split(self) -> str:
        """The split of the prompt string, whatever the seed."""
        return "heldout" if self.axis else split_of("full-prompt", self.text, _SHARES)

    @property
    def metadata(self) -> dict[str, Any]:
        """GenEval's metadata: tag, include, exclude (counting only), prompt; the class is the shape."""
        if self.tag == "counting":
            shape, count = self.parts[0][0], len(self.parts)
            clauses: dict[str, Any] = {
                "include": [{"class": shape, "count": count}],
                "exclude": [{"class": shape, "count": count + 1}],
            }
        else:
            include = [_clause(shape, color) for shape, color in self.parts]
            if self.relation:  # GenEval lists the object of reference first
                include = [include[1], include[0] | {"position": [self.relation, 0]}]
            clauses = {"include": include}
        return {"tag": self.tag, **clauses, "prompt": self.text}


def draw_prompt(tag: str, split: str, draws: Draws, axis: str | None = None) -> Prompt:
    """Draw a prompt of a category that belongs to a split and, in the split "heldout", to an axis."""
    phrasings = HELD_OUT_PHRASINGS if axis == "phrasing" else PHRASINGS
    while True:
        words, parts, relation = _content(tag, draws, axis)
        phrasing = draws.choice(phrasings)
        if tag == "counting":
            phrasing = phrasing.replace("there is", "there are")
        prompt = Prompt(tag, phrasing.format(x=words), parts, relation, axis)
        if prompt.split == split:
            return prompt


def scene_for(prompt: Prompt, split: str, draws: Draws, attempts: int = 300) -> Scene | None:
    """Draw a scene of a split that shows exactly what the prompt names; None if none was found.

    Of one object there are so few scenes that a small split may have none.
    """
    for _ in range(attempts):
        if prompt.relation:
            cells = draws.choice(_RELATED[prompt.relation])
        else:
            cells = draws.sample(range(len(CELLS)), len(prompt.parts))
        items = [
            random_item(draws, shape, color or color_for(shape, draws), cell)
            for (shape, color), cell in zip(prompt.parts, cells, strict=True)
        ]
        scene = Scene(draws.choice(backgrounds_for(item.color for item in items)), tuple(items))
        if belongs(split, prompt.axis, scene):
            return scene
    return None


def scene_caption(draws: Draws) -> tuple[Prompt, Scene]:
    """Draw a training scene with a caption that names every object with colour and cell."""
    while True:
        scene = random_scene(draws)
        items: list[Item] = draws.sample(scene.items, len(scene.items))
        text = ", ".join(f"{with_article(f'{item.color} {item.shape}')} at the {CELLS[item.cell]}" for item in items)
        prompt = Prompt("scene", text, tuple((item.shape, item.color) for item in items))
        if belongs("train", None, scene) and prompt.split == "train":
            return prompt, scene


def _content(tag: str, draws: Draws, axis: str | None) -> tuple[str, Parts, str | None]:
    """Draw words, parts and relation of something that a prompt can say."""
    if tag == "single_object":
        shape = draws.choice(SHAPES)
        return with_article(shape), ((shape, None),), None
    if tag == "counting":
        shape, count = _number(draws, axis)
        return f"{NUMBERS[count]} {plural(shape, count)}", ((shape, None),) * count, None
    if tag == "colors":
        shape = draws.choice(SHAPES)
        color = color_for(shape, draws, pair=axis == "pair")
        return with_article(f"{color} {shape}"), ((shape, color),), None
    a, b = draws.sample(SHAPES, 2)
    if tag == "two_object":
        return f"{with_article(a)} and {with_article(b)}", ((a, None), (b, None)), None
    if tag == "position":
        relation = draws.choice(RELATIONS)
        while ((a, relation, b) in HELD_OUT_TRIPLES) != (axis == "relation"):
            a, b = draws.sample(SHAPES, 2)
            relation = draws.choice(RELATIONS)
        return f"{with_article(a)} {relation} {with_article(b)}", ((a, None), (b, None)), relation
    first = color_for(a, draws, pair=axis == "pair")
    second = first
    while second == first:
        second = color_for(b, draws)
    return f"{with_article(f'{first} {a}')} and {with_article(f'{second} {b}')}", ((a, first), (b, second)), None


def _number(draws: Draws, axis: str | None) -> tuple[str, int]:
    """Draw a shape and how many of it."""
    while True:
        count = MANY + draws.below(MAX_ITEMS - MANY + 1) if axis == "many" else 2 + draws.below(MANY - 2)
        shape = draws.choice(SHAPES)
        if ((shape, count) in HELD_OUT_COUNTS) == (axis == "count"):
            return shape, count


def _clause(shape: str, color: str | None) -> dict[str, Any]:
    return {"class": shape, "count": 1} | ({"color": color} if color else {})


_RELATED = {
    relation: tuple((a, b) for a in range(len(CELLS)) for b in range(len(CELLS)) if related_cells(relation, a, b))
    for relation in RELATIONS
}
"""Cells of the first and the second object, for each relation."""
