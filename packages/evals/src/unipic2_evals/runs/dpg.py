"""DPG-Bench's output folder: one picture of 2 x 2 tiles for each prompt, ``ITEM_ID.png``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unipic2_evals import dpg
from unipic2_evals.answers import JudgeId
from unipic2_evals.pictures import Picture, Request
from unipic2_evals.runs import Item, Measure, Options, Scored, refuse_idle

__all__ = ["DPGRun"]

TILES = 4
QUIRKS = ("first data row skipped", "exact yes", "missing parent drops the picture", "categories of the last tile")


class DPGRun:
    """A folder of pictures and the questions about them.

    Args:
        folder: What the sampler wrote.
        options: ``data``: ``dpg_bench.csv``. ``samples``: tiles a picture (4; 1 = the picture is one tile).
    """

    name = "dpg"
    binary = False
    rules: JudgeId | None = None

    def __init__(self, folder: Path, options: Options) -> None:
        refuse_idle(options, self.name, "data", "samples")
        if options.data is None:
            message = "dpg: --data is missing: the path of dpg_bench.csv"
            raise ValueError(message)
        self.folder, self.official, self.tiles = folder, options.official, options.samples or TILES
        self.graphs = dpg.prepare_data(options.data.read_text(encoding="utf-8"), options.official)
        self.quirks: tuple[str, ...] = QUIRKS if options.official else ()
        self.settings: Mapping[str, Any] = {"tiles": self.tiles}

    def items(self) -> list[Item]:
        """Return the pictures of all prompts that have questions."""
        return [self._item(key, graph) for key, graph in self.graphs.items()]

    def score(self, item: Item, answers: Sequence[Any]) -> Scored:
        """Apply the graph to the answers about each tile."""
        graph = item.about
        qids = list(graph["qid2question"])
        tiles = [dict(zip(qids, answers[start : start + len(qids)], strict=True)) for start in _starts(answers, qids)]
        first = item.requests[0].pictures[0]
        assert isinstance(first, Picture)
        assert first.crop is not None
        side = first.crop
        result: Mapping[str, Any] = dpg.score_one_prompt(
            _questions(graph), tiles, self.tiles, side[2] - side[0], self.official
        )
        if "error" in result:
            return Scored({}, failed=f"the official code fails with {result['error']} and leaves the picture out")
        raw = result["raw_scores_last_image"] if self.official else result["scores"]
        return self._scored(item, result["average"], raw)

    def zero(self, item: Item) -> Scored:
        """Return a picture on which every answer is no."""
        return self._scored(item, 0.0, dict.fromkeys(item.about["qid2tuple"], 0.0))

    def measures(self, items: Sequence[Item]) -> list[Measure]:
        """Return the categories in two depths, and the mean over prompts; all in percent."""
        names: dict[str, None] = {}
        for item in items:
            names |= dict.fromkeys(self.zero(item).values)
        names.pop("dpg", None)
        return [*(Measure(name, name) for name in sorted(names)), Measure("dpg", "dpg")]

    def official_values(self, records: Mapping[str, Any]) -> dict[str, float]:
        """Return DPG-Bench's percentages."""
        result = dpg.aggregate(list(records.values()))
        categories = {f"L1 {name}": value for name, value in result["L1"].items()}
        categories |= {f"L2 {name}": value for name, value in result["L2"].items()}
        return {**categories, "dpg": result["dpg"]}

    def _item(self, key: str, graph: Mapping[str, Any]) -> Item:
        path = self.folder / f"{key}.png"
        if not path.is_file():
            return Item(key, key, key, "", (), (), f"no {path.name}", graph)
        requests = tuple(
            Request("answer", (Picture(path, crop),), question)
            for crop in self._crops(path)
            for question in graph["qid2question"].values()
        )
        return Item(key, key, key, "", (path,), requests, about=graph)

    def _crops(self, path: Path) -> list[tuple[int, int, int, int]]:
        from PIL import Image

        with Image.open(path) as image:
            width, height = image.size
        across = 1 if self.tiles == 1 else 2
        if width != height or width % across:
            message = f"{path}: expected a square picture of {across} x {across} tiles, got {width} x {height} pixels"
            raise ValueError(message)
        side = width // across
        corners = [(0, 0), (side, 0), (0, side), (side, side)][: self.tiles]
        return [(left, top, left + side, top + side) for left, top in corners]

    def _scored(self, item: Item, average: float, raw: Mapping[str, float]) -> Scored:
        values: dict[str, Any] = {"dpg": average * 100}
        for qid, label in item.about["qid2tuple"].items():
            category = label.split("(")[0].strip()
            for name in (f"L1 {category.split('-')[0].strip()}", f"L2 {category}"):
                values.setdefault(name, []).append(raw[qid] * 100)
        return Scored(values, {"average": average, "tuples": item.about["qid2tuple"], "raw": raw})


def _questions(graph: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        qid: {"dependency": graph["qid2dependency"][qid], "tuple": label} for qid, label in graph["qid2tuple"].items()
    }


def _starts(answers: Sequence[Any], qids: Sequence[str]) -> range:
    return range(0, len(answers), len(qids))
