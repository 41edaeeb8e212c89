"""A small world of coloured squares with a detector that reads it, so that nothing but this package is needed."""

import json

import numpy as np
import pytest
from PIL import Image

from unipic2_evals.protocols import Detected
from unipic2_evals.shapesbench import SAMPLES, output_path

COLORS = {"red": (215, 40, 40), "blue": (35, 85, 205), "green": (40, 155, 50)}
GROUNDS = {"white": (250, 250, 250), "gray": (150, 150, 150)}


class World:
    """Scenes of squares, one of each colour at most, on the 3x3 grid of a 64-unit picture."""

    def scene(self, *things, ground="white", style="plain"):
        """Return a scene's JSON; a thing is (colour, cell) or (colour, cell, half side)."""
        items = []
        for color, cell, *half in things:
            x, y, r = 11 + 21 * (cell % 3), 11 + 21 * (cell // 3), half[0] if half else 6
            items.append({"shape": "square", "color": color, "cell": cell, "x": x, "y": y, "r": r})
            items[-1]["box"] = [x - r, y - r, x + r, y + r]
        return {"units": 64, "grid": 3, "style": style, "background": ground, "items": items}

    def draw(self, scene):
        """Return the picture of a scene."""
        pixels = np.full((64, 64, 3), GROUNDS[scene["background"]], np.uint8)
        for item in scene["items"]:
            left, top, right, bottom = (round(edge) for edge in item["box"])
            pixels[top:bottom, left:right] = COLORS[item["color"]]
        return 255 - pixels if scene["style"] == "inverted" else pixels

    def detect(self, images):
        """Return the squares of pictures: the box of every colour's pixels."""
        found = []
        for image in images:
            boxes, colors = [], []
            for color, value in COLORS.items():
                rows, columns = np.nonzero(np.abs(image.astype(int) - value).max(-1) <= 40)
                if len(rows) >= 20:
                    edges = [columns.min(), rows.min(), columns.max(), rows.max()]
                    full = len(rows) / ((edges[2] - edges[0] + 1) * (edges[3] - edges[1] + 1))
                    boxes.append([*map(float, edges), float(full)])
                    colors.append(color)
            order = sorted(range(len(boxes)), key=lambda n: -boxes[n][4])
            objects = {"square": [boxes[n] for n in order]} if boxes else {}
            found.append(Detected(objects, {"square": [colors[n] for n in order]} if boxes else {}))
        return found

    def suite(self, folder):
        """Write a suite of two prompts, three edits and a question; one prompt and one edit are held out."""
        red_blue, moved = self.scene(("red", 0), ("blue", 8)), self.scene(("red", 2), ("blue", 8))
        rows = [
            self._prompt("a red square", ("red",), self.scene(("red", 4))),
            self._prompt("a green square", ("green",), self.scene(("green", 4)), "pair"),
            self._edit("move the red square to the top right", "action", red_blue, moved),
            self._edit("add a green square", "add", red_blue, self.scene(("red", 0), ("green", 4), ("blue", 8))),
            self._edit("remove the blue square", "remove", red_blue, self.scene(("red", 0)), "many"),
            {
                "kind": "qa",
                "task": "color",
                "question": "What color is the square?",
                "options": ["red", "blue", "green", "black"],
                "answer": "blue",
                "shapes": {"axis": None, "scene": self.scene(("blue", 3))},
            },
        ]
        folder.mkdir(parents=True)
        for number, row in enumerate(rows):
            row["key"], row["width"], row["height"] = f"item-{number}", 64, 64
            paths = output_path(row["kind"], row["key"])
            (folder / paths["source"]).parent.mkdir(parents=True)
            scenes = [row["shapes"][field] for field in ("scene", "target_scene") if field in row["shapes"]]
            names = {"t2i": ["target"], "edit": ["source", "target"], "qa": ["source"]}[row["kind"]]
            for name, scene in zip(names, scenes, strict=True):
                Image.fromarray(self.draw(scene)).save(folder / paths[name])
        (folder / "suite.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return folder

    def make(self, folder, items, picture="target", replies=None):
        """Write what a model that copies one of the suite's own pictures makes of the items."""
        for item in items:
            if item.kind == "qa":
                if replies is not None:
                    path = folder / output_path(item.kind, item.key)["replies"]
                    path.write_text(json.dumps(replies))
                continue
            for number in range(SAMPLES[item.kind]):
                paths = output_path(item.kind, item.key, number)
                name = picture if item.kind == "edit" else "target"
                (folder / paths["image"]).write_bytes((folder / paths[name]).read_bytes())

    def _prompt(self, text, colors, scene, axis=None):
        include = [{"class": "square", "count": 1, "color": color} for color in colors]
        metadata = {"tag": "colors", "include": include, "prompt": text}
        shapes = {"axis": axis, "scene": scene, "metadata": metadata}
        return {"kind": "t2i", "task": "colors", "captions": [text], "shapes": shapes}

    def _edit(self, text, task, before, after, axis=None):
        shapes = {"axis": axis, "scene": before, "target_scene": after}
        return {"kind": "edit", "task": task, "instruction": text, "shapes": shapes}


@pytest.fixture(scope="session")
def world():
    """The world."""
    return World()
