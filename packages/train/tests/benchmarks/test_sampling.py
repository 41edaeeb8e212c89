"""Pictures of a benchmark: the same whatever the batch and the number of processes, kept, and never of two models."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from unipic2_train.benchmarks.command import sample
from unipic2_train.benchmarks.manifest import ManifestError
from unipic2_train.benchmarks.sampling import PARTIAL
from unipic2_train.conditioner import ConnectorConfig
from unipic2_train.metaquery import MetaQuery, MetaQueryConfig

QUICK = {"steps": 2, "guidance": 1.5, "device": "cpu"}


@pytest.fixture
def dpg(model, official):
    def run(out, **options):
        return sample("dpg", str(model), out, data=official / "dpg", **(QUICK | options))

    return run


def pictures(folder):
    return {
        path.relative_to(folder).as_posix(): np.array(Image.open(path)).astype(int) for path in folder.rglob("*.png")
    }


def assert_alike(one, other):
    assert one.keys() == other.keys()
    assert one
    assert all(np.abs(one[name] - other[name]).max() <= 1 for name in one)


def test_dpg_is_four_different_tiles(dpg, tmp_path):
    assert dpg(tmp_path / "out").startswith("3 files made, 0 were there")
    made = pictures(tmp_path / "out")
    assert set(made) == {"2.png", "partiprompts10.png", "vrd7.png"}
    for image in made.values():
        assert image.shape == (64, 64, 3)
        tiles = [image[y : y + 32, x : x + 32] for y in (0, 32) for x in (0, 32)]
        assert all((tiles[0] != tile).any() for tile in tiles[1:])
    assert not (tmp_path / "out" / PARTIAL).exists()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*made, "manifest.json"}


def test_pictures_depend_on_neither_batch_nor_processes(dpg, tmp_path, monkeypatch):
    dpg(tmp_path / "one", batch_size=12)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in (1, 0):
        monkeypatch.setenv("RANK", str(rank))
        dpg(tmp_path / "two", batch_size=1)
    assert_alike(pictures(tmp_path / "one"), pictures(tmp_path / "two"))
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    dpg(tmp_path / "other", seed=1)
    assert (pictures(tmp_path / "other")["2.png"] != pictures(tmp_path / "one")["2.png"]).any()


def test_finished_pictures_are_kept(dpg, tmp_path):
    dpg(tmp_path)
    before = pictures(tmp_path)
    (tmp_path / "vrd7.png").unlink()
    times = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.png")}
    assert dpg(tmp_path, limit=2).startswith("0 files made, 2 were there")
    assert dpg(tmp_path).startswith("1 files made, 2 were there")
    assert times.items() <= {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.png")}.items()
    assert_alike(before, pictures(tmp_path))


def test_the_manifest_says_what_decides_about_pixels(dpg, model, tmp_path):
    dpg(tmp_path, negative_prompt="blurry", limit=1)
    said = json.loads((tmp_path / "manifest.json").read_text())
    assert said["model"]["checkpoint"] == str(model)
    assert len(said["model"]["sha256"]) == 64
    assert said["model"]["ema"] is True
    wanted = {"steps": 2, "guidance": 1.5, "negative_prompt": "blurry", "dynamics": "euler", "default_size": [32, 32]}
    assert said["sampler"] == said["sampler"] | wanted
    assert said["sampler"]["scheduler_config"]["shift"] == 3.0
    assert said["seed"] == 0
    assert said["prompts"] | {"prompts": 3, "tiles": 4, "official_counts": {"prompts": 1065}} == said["prompts"]
    assert len(said["prompts"]["sha256"]) == 64
    (maker,) = said["made_by"]
    assert {"torch", "diffusers"} <= set(maker["versions"])
    assert maker["git_revision"]


def test_a_folder_is_never_of_two_models(dpg, tmp_path):
    dpg(tmp_path, limit=1)
    with pytest.raises(ManifestError, match=r"sampler\.steps: 2 then, 3 now"):
        dpg(tmp_path, limit=1, steps=3)
    with pytest.raises(ManifestError, match="seed: 0 then, 5 now"):
        dpg(tmp_path, limit=1, seed=5)
    file = tmp_path / "manifest.json"
    file.write_text(file.read_text().replace('"sha256": "', '"sha256": "0', 1))
    with pytest.raises(ManifestError, match="sha256"):
        dpg(tmp_path, limit=1)


def test_a_model_that_moved_is_the_same_model(dpg, model, official, tmp_path):
    import shutil

    dpg(tmp_path / "out", limit=1)
    shutil.copytree(model, tmp_path / "moved")
    sample("dpg", str(tmp_path / "moved"), tmp_path / "out", data=official / "dpg", limit=1, **QUICK)


def test_another_version_of_the_code_is_noted(dpg, tmp_path):
    dpg(tmp_path, limit=1)
    said = json.loads((tmp_path / "manifest.json").read_text())
    said["made_by"][0]["git_revision"] = "older"
    (tmp_path / "manifest.json").write_text(json.dumps(said))
    dpg(tmp_path, limit=1)
    makers = json.loads((tmp_path / "manifest.json").read_text())["made_by"]
    assert len(makers) == 2
    assert makers[0]["git_revision"] == "older"


def test_geneval_is_scored_as_it_is_written(model, tmp_path):
    from unipic2_evals.runs import Options
    from unipic2_evals.runs.geneval import GenEvalRun

    sample("geneval", str(model), tmp_path / "out", limit=2, samples=1, **QUICK)
    items = GenEvalRun(tmp_path / "out", Options(samples=1)).items()
    assert [item.key for item in items] == ["00000/0", "00001/0"]
    assert not any(item.missing for item in items)


def test_gedit_keeps_sources_beside_edits(model, official, tmp_path):
    out = tmp_path / "mymodel"
    sample("gedit", str(model), out, data=official / "gedit.jsonl", language="en", **QUICK)
    folder = out / "fullset" / "ps_human" / "en"
    assert {path.name for path in folder.iterdir()} == {"k1.png", "k1_SRCIMG.png"}
    assert Image.open(folder / "k1_SRCIMG.png").size == (32, 24)
    assert (np.array(Image.open(folder / "k1.png")) != np.array(Image.open(folder / "k1_SRCIMG.png"))).any()


def test_edits_of_several_sizes(model, official, tmp_path):
    data = {"data": official / "basic_edit.json", "sources": official / "sources"}
    sample("imgedit", str(model), tmp_path / "out", **data, **QUICK)
    sizes = {name: image.shape[:2] for name, image in pictures(tmp_path / "out").items()}
    assert sizes == {"100.png": (32, 32), "101.png": (24, 40), "102.png": (32, 32)}


def test_lists_are_written_when_all_pictures_are_there(model, official, tmp_path):
    from unipic2_evals import gedit2, geneval2

    sample("geneval2", str(model), tmp_path / "g2", data=official / "geneval2_data.jsonl", **QUICK)
    prompts = geneval2.read_prompts(official / "geneval2_data.jsonl")
    found = geneval2.read_image_paths(tmp_path / "g2" / geneval2.IMAGE_PATHS, prompts)
    assert all(path.is_file() for path in found)
    gallery = tmp_path / "gallery"
    sample("gedit2", str(model), gallery / "mymodel", data=official / "gedit2", **QUICK)
    results = gedit2.read_results(gallery / "mymodel_generation_results.jsonl")
    assert results == {f"e{i}": gallery / "mymodel" / f"e{i}.png" for i in range(3)}


def test_shapesbench_gets_pictures_beside_its_truth(model, official, tmp_path):
    out = tmp_path / "out"
    sample("shapes", str(model), out, data=official / "shapes", **QUICK)
    found = {path.relative_to(out).as_posix() for path in out.rglob("*.*")}
    numbers = {f"t2i/a/{number:05}.png" for number in range(4)}
    assert {"suite.jsonl", "t2i/a/target.png", "t2i/a/vae.png", *numbers} <= found
    assert {"edit/b/source.png", "edit/b/target.png", "edit/b/00000.png", "edit/b/vae.png"} <= found
    assert not any(name.startswith("qa/") and name.endswith("0.png") for name in found), "this model answers nothing"
    assert Image.open(out / "t2i/a/00000.png").size == (32, 32)
    assert Image.open(out / "edit/b/00000.png").size == (40, 24)


@pytest.fixture(scope="module")
def metaquery(model, small_vlm, tmp_path_factory):
    """An export of `joint`: the same DiT behind a VLM and a connector."""
    sizes = ConnectorConfig(4, 16, 32, 1, 2, positions="mrope")
    config = MetaQueryConfig(str(model), str(small_vlm.start), connector=sizes)
    folder = tmp_path_factory.mktemp("metaquery") / "export"
    system = MetaQuery(config, "both", "both", torch.device("cpu"))
    system.export(folder, {"run": "joint-1", "ema": True}, write=True)
    return folder


def test_a_unified_model_makes_pictures_with_its_vlm(metaquery, small_vlm, official, tmp_path):
    given = {"data": official / "gedit.jsonl", "language": "en", **QUICK}
    sample("gedit", str(metaquery), tmp_path / "mymodel", vlm=str(small_vlm.start), **given)
    folder = tmp_path / "mymodel" / "fullset" / "ps_human" / "en"
    assert (np.array(Image.open(folder / "k1.png")) != np.array(Image.open(folder / "k1_SRCIMG.png"))).any()
    said = json.loads((tmp_path / "mymodel" / "manifest.json").read_text())["model"]
    assert (said["run"], len(said["vlm_sha256"])) == ("joint-1", 64)
    with pytest.raises(ValueError, match="is a MetaQuery checkpoint, which is used with the VLM"):
        sample("gedit", str(metaquery), tmp_path / "other", **given)


def test_a_part_of_a_size_is_completed_by_the_picture_s_own(model, official, tmp_path):
    data = {"data": official / "basic_edit.json", "sources": official / "sources"}
    sample("imgedit", str(model), tmp_path / "out", height=16, **data, **QUICK)
    sizes = {name: image.shape[:2] for name, image in pictures(tmp_path / "out").items()}
    assert sizes == {"100.png": (16, 32), "101.png": (16, 40), "102.png": (16, 32)}


def test_batches_are_as_large_as_asked_for_and_of_one_size():
    from unipic2_evals.pictures import Embedded
    from unipic2_train.benchmarks.sampling import _batches
    from unipic2_train.benchmarks.suite import Work

    plain = [Work(str(number), "p", f"{number}.png") for number in range(200)]
    assert [len(batch) for batch in _batches(plain, 80)] == [80, 80, 40]
    pictures = [Embedded(data) for data in (png_of(8, 8), png_of(8, 16))]
    edits = [Work(str(number), "p", f"{number}.png", source=pictures[number % 2]) for number in range(10)]
    batches = list(_batches(edits, 3))
    assert [len(batch) for batch in batches] == [3, 3, 2, 2]
    assert all(len({source.size for _, source in batch}) == 1 for batch in batches)


def png_of(width, height):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()
