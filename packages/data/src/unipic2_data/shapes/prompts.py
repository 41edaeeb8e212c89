"""Text-to-image prompts of the shapes world: GenEval's six categories and metadata schema, several phrasings.

The grammar is small enough to be listed: every prompt string of the six categories exists in `PROMPTS`, under the split
that it belongs to. Test prompts are strings that training never shows. The training split has one category more,
``scene``: captions that name every object with colour and cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations, product
from typing import TYPE_CHECKING, Any

from unipic2_data.shapes.scene import (
    BACKGROUNDS,
    CELLS,
    COLORS,
    HELD_OUT_PAIRS,
    SHAPES,
    Draws,
    Item,
    Scene,
    random_item,
    split_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["HELD_OUT_PHRASING", "PHRASINGS", "PROMPTS", "RELATIONS", "TAGS", "Prompt", "scene_caption", "scene_for"]

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
PHRASINGS = (
    "a photo of {x}",
    "an image of {x}",
    "a picture of {x}",
    "{x}",
    "there is {x}",
    "show {x}",
)
HELD_OUT_PHRASING = "image of {x}"  # known words in a new order
_SHARES = {"train": 0.72, "validation": 0.08, "test": 0.20}
_NUMBERS = ("one", "two", "three")
RELATIONS = {  # cells of (the first, the second) object: same row or same column, never a diagonal
    "left of": ((0, 1), (2, 3)),
    "right of": ((1, 0), (3, 2)),
    "above": ((0, 2), (1, 3)),
    "below": ((2, 0), (3, 1)),
}


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt: its text, and what a picture must show for it.

    Attributes:
        tag: Category.
        text: The prompt.
        parts: Shape and colour (None = free) of every object that the picture shows.
        relation: Position of the first part relative to the second, or None.
        axis: "pair" or "phrasing" if the prompt is held out for that, else None.
        cells: Cell of every part, where the text names it (captions); else empty.
    """

    tag: str
    text: str
    parts: tuple[tuple[str, str | None], ...]
    relation: str | None = None
    axis: str | None = None
    cells: tuple[int, ...] = ()

    @property
    def split(self) -> str:
        """The split of the prompt string, whatever the seed."""
        return "heldout" if self.axis else split_of("prompt", self.text, _SHARES)

    @property
    def metadata(self) -> dict[str, Any]:
        """GenEval's metadata: tag, include, exclude (counting only), prompt; the class is the shape."""
        if self.tag == "counting":
            shape, count = self.parts[0][0], len(self.parts)
            include = [{"class": shape, "count": count}]
            return {
                "tag": self.tag,
                "include": include,
                "exclude": [{"class": shape, "count": count + 1}],
                "prompt": self.text,
            }
        include = [_clause(shape, color) for shape, color in self.parts]
        if self.relation:  # GenEval lists the object of reference first
            include = [include[1], include[0] | {"position": [self.relation, 0]}]
        return {"tag": self.tag, "include": include, "prompt": self.text}


def scene_for(prompt: Prompt, split: str, draws: Draws, attempts: int = 300) -> Scene | None:
    """Draw a scene of a split that shows exactly what the prompt names; None if none was found."""
    for _ in range(attempts):
        if prompt.relation:
            cells = draws.choice(RELATIONS[prompt.relation])
        else:
            cells = draws.sample(range(len(CELLS)), len(prompt.parts))
        items = [
            random_item(draws, shape, color or draws.choice(_FREE_COLORS[shape]), cell)
            for (shape, color), cell in zip(prompt.parts, cells, strict=True)
        ]
        scene = Scene(draws.choice(_BACKGROUNDS), tuple(items))
        if scene.split == split:
            return scene
    return None


def scene_caption(scene: Scene, draws: Draws) -> Prompt:
    """Return a caption that names every object of the scene with colour and cell; two objects make 9 words."""
    items: list[Item] = draws.sample(scene.items, len(scene.items))
    text = ", ".join(f"{item.color} {item.shape} {CELLS[item.cell]}" for item in items)
    if len(items) == 1 and draws.below(2):
        text = f"a {items[0].color} {items[0].shape} at the {CELLS[items[0].cell]}"
    parts = tuple((item.shape, item.color) for item in items)
    return Prompt("scene", text, parts, cells=tuple(item.cell for item in items))


def _clause(shape: str, color: str | None) -> dict[str, Any]:
    return {"class": shape, "count": 1} | ({"color": color} if color else {})


def _contents() -> Iterator[tuple[str, str, tuple[tuple[str, str | None], ...], str | None]]:
    """Yield tag, words, parts and relation of everything that a prompt can say."""
    pairs = list(permutations(SHAPES, 2))
    for shape in SHAPES:
        yield "single_object", f"a {shape}", ((shape, None),), None
    for a, b in pairs:
        yield "two_object", f"a {a} and a {b}", ((a, None), (b, None)), None
    for shape, (count, number) in product(SHAPES, enumerate(_NUMBERS, 1)):
        yield "counting", f"{number} {_plural(shape, count)}", ((shape, None),) * count, None
    for color, shape in product(COLORS, SHAPES):
        yield "colors", f"a {color} {shape}", ((shape, color),), None
    for (a, b), relation in product(pairs, RELATIONS):
        yield "position", f"a {a} {relation} a {b}", ((a, None), (b, None)), relation
    for (a, b), (color_a, color_b) in product(pairs, permutations(COLORS, 2)):
        yield "color_attr", f"a {color_a} {a} and a {color_b} {b}", ((a, color_a), (b, color_b)), None


def _plural(shape: str, count: int) -> str:
    if count == 1:
        return shape
    return shape + ("es" if shape.endswith("s") else "s")


def _phrase(phrasing: str, words: str, count: int) -> str:
    if count > 1:
        phrasing = phrasing.replace("there is", "there are")
    return phrasing.format(x=words)


def _list_prompts() -> dict[str, dict[str, list[Prompt]]]:
    prompts: dict[str, dict[str, list[Prompt]]] = {
        split: {tag: [] for tag in TAGS} for split in ("train", "validation", "test", "heldout")
    }
    for (tag, words, parts, relation), phrasing in product(_contents(), (*PHRASINGS, HELD_OUT_PHRASING)):
        pair = any((color, shape) in HELD_OUT_PAIRS for shape, color in parts)
        new_phrasing = phrasing == HELD_OUT_PHRASING
        if pair and new_phrasing:
            continue  # one axis at a time
        axis = "pair" if pair else "phrasing" if new_phrasing else None
        count = len(parts) if tag == "counting" else 1
        prompt = Prompt(tag, _phrase(phrasing, words, count), parts, relation, axis)
        prompts[prompt.split][tag].append(prompt)
    return prompts


_BACKGROUNDS = tuple(BACKGROUNDS)
_FREE_COLORS = {shape: tuple(c for c in COLORS if (c, shape) not in HELD_OUT_PAIRS) for shape in SHAPES}

PROMPTS = _list_prompts()
"""Every prompt of GenEval's six categories: split -> tag -> prompts."""
