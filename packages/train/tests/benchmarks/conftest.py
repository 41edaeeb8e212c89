"""A model folder with random weights, and small stand-ins of the benchmarks' own files."""

import base64
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image


def picture(seed, size=(32, 32)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def png(seed, size=(32, 32)):
    buffer = io.BytesIO()
    picture(seed, size).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def model(foundation, tmp_path_factory):
    """A model folder as a run exports it."""
    from unipic2_train import export
    from unipic2_train.system import FrozenParts, build_transformer

    transformer = build_transformer(foundation, "scratch", seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    folder = tmp_path_factory.mktemp("model") / "export"
    facts = {"run": "pretrain-1", "optimiser_steps": 7, "ema": True}
    export.save_model(folder, transformer, export.trained_values(transformer), FrozenParts(foundation), facts)
    return folder


@pytest.fixture(scope="session")
def official(tmp_path_factory):
    """Each benchmark's own files, three items each."""
    root = tmp_path_factory.mktemp("official")
    (root / "dpg").mkdir()
    for name in ("2", "partiprompts10", "vrd7"):
        (root / "dpg" / f"{name}.txt").write_text(f"a long prompt called {name}\n")
    rows = [
        {"key": f"k{i}", "task_type": group, "instruction": f"do {i}", "instruction_language": language}
        | {"Intersection_exist": True, "input_image": base64.b64encode(png(i, (32, 24))).decode()}
        for i, (group, language) in enumerate([("style_change", "en"), ("ps_human", "en"), ("ps_human", "cn")])
    ]
    (root / "gedit.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "sources" / "animal").mkdir(parents=True)
    edits = {}
    for i, size in enumerate([(32, 32), (40, 24), (32, 32)]):
        picture(10 + i, size).save(root / "sources" / "animal" / f"{i}.png")
        edits[f"{100 + i}"] = {"id": f"animal/{i}.png", "prompt": f"edit {i}", "edit_type": "add"}
    (root / "basic_edit.json").write_text(json.dumps(edits))
    lines = [
        {"prompt": f"{i} cats", "atom_count": 1, "vqa_list": [["cats?", "yes"]], "skills": ["count"]} for i in range(3)
    ]
    (root / "geneval2_data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (root / "gedit2" / "images").mkdir(parents=True)
    with (root / "gedit2" / "metadata.jsonl").open("w") as file:
        for i in range(3):
            picture(20 + i).save(root / "gedit2" / "images" / f"{i}.png")
            line = {"key": f"e{i}", "instruction": f"do {i}", "source_image": f"images/{i}.png"}
            file.write(json.dumps(line) + "\n")
    shapes = root / "shapes"
    items = [
        {"key": "a", "kind": "t2i", "captions": ["a circle"], "width": 32, "height": 32},
        {"key": "b", "kind": "edit", "instruction": "add a ring", "width": 40, "height": 24},
        {"key": "c", "kind": "qa", "question": "how many?", "width": 32, "height": 32},
    ]
    for number, item in enumerate(items):
        folder = shapes / item["kind"] / item["key"]
        folder.mkdir(parents=True)
        for name in ("target",) if item["kind"] == "t2i" else ("source", "target"):
            picture(30 + number, (item["width"], item["height"])).save(folder / f"{name}.png")
    (shapes / "suite.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    return root
