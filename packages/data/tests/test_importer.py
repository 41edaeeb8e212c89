import hashlib
import io
import json
import shutil
from itertools import islice

import numpy as np
import pytest
import webdataset
from PIL import Image

from unipic2_data.errors import DataError
from unipic2_data.importer import import_source
from unipic2_data.loader import SampleStore, TrainLoader, eval_batches
from unipic2_data.manifest import Manifest


@pytest.fixture
def album(tmp_path, photos):
    """Real photographs of different sizes with captions, and edits of one of them."""
    folder = tmp_path / "album"
    folder.mkdir()
    for name, path in photos.items():
        shutil.copy(path, folder / path.name)
        (folder / path.name).with_suffix(".txt").write_text(f"a photo of the {name}\nthe {name}, again\n")
    with Image.open(photos["coffee"]) as coffee:
        for turned in (90, 180):
            coffee.convert("L").rotate(turned, expand=True).rotate(-turned, expand=True).save(
                folder / f"bw{turned}.png"
            )
    edits = [
        {"source": photos["coffee"].name, "target": f"bw{turned}.png", "instruction": f"remove the colours {turned}"}
        for turned in (90, 180)
    ]
    (folder / "edits.jsonl").write_text("\n".join(map(json.dumps, edits)))
    return folder


def all_samples(manifest):
    for split in manifest.counts:
        store = SampleStore(manifest, split)
        for kind, count in store.counts.items():
            for index in range(count):
                yield split, store.sample(kind, index)


def test_photographs_become_batches(album, tmp_path, photos):
    report = import_source(album, tmp_path / "out", validation_fraction=0.2, licence="CC0-1.0")
    assert report.skipped == []
    counts = report.manifest.counts
    assert sum(counts["train"].values()) + sum(counts["validation"].values()) == len(photos) + 2
    assert counts["validation"]
    samples = {sample.key: sample for _, sample in all_samples(report.manifest)}
    cat = next(sample for key, sample in samples.items() if key.startswith("chelsea"))
    assert cat.texts == ["a photo of the cat", "the cat, again"]
    assert cat.meta["source"] == "import:album"
    assert cat.meta["licence"] == "CC0-1.0"
    assert (cat.meta["height"], cat.meta["width"]) == cat.target.shape[:2]
    with Image.open(photos["cat"]) as image:
        assert np.array_equal(cat.target, np.asarray(image))
    for batch in islice(TrainLoader(report.manifest, (48, 64), 2, 0), 6):
        assert batch.pixels.shape == (2, 3, 48, 64)
        assert all(batch.prompts)
        if batch.kind == "edit":
            gray = batch.pixels.mean(1)
            assert (batch.references.mean(1) - gray).abs().mean() < 0.1  # the same crop of the same picture


def test_plain_files_keep_their_bytes(album, tmp_path, photos):
    manifest = import_source(album, tmp_path / "out", validation_fraction=0).manifest
    store = SampleStore(manifest, "train", ["t2i"])
    stored = {sample.key.split("-")[0]: sample.target for sample in map(store.read, ["t2i"] * 5, range(5))}
    assert stored["rocket"].data == photos["rocket"].read_bytes()
    assert stored["rocket"].suffix == "jpg"
    assert stored["chelsea"].data == photos["cat"].read_bytes()
    assert Image.open(io.BytesIO(stored["camera"].data)).mode == "RGB"


def test_plain_webdataset_reads_the_import(album, tmp_path):
    manifest = import_source(album, tmp_path / "out").manifest
    shard = str(manifest.root / manifest.shards_of("train", "t2i")[0].path)
    dataset = webdataset.WebDataset(shard, shardshuffle=False).decode("rgb8")
    for sample in dataset:
        target = sample.get("target.png", sample.get("target.jpg"))
        assert target.shape == (sample["json"]["height"], sample["json"]["width"], 3)


def test_same_source_same_bytes(album, tmp_path):
    roots = [import_source(album, tmp_path / name).manifest.root for name in ("a", "b")]
    first, second = (
        {p.relative_to(root): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file()}
        for root in roots
    )
    assert first == second


def test_bad_samples_are_skipped_counted_and_listed(album, tmp_path, photos):
    (album / "empty.txt").write_text(" ")
    shutil.copy(photos["cat"], album / "empty.png")
    (album / "broken.jpg").write_bytes(photos["rocket"].read_bytes()[:2000])
    (album / "broken.txt").write_text("half a rocket")
    Image.new("RGB", (50, 90)).save(album / "tall.png")
    lines = [
        {"source": "tall.png", "target": "bw90.png", "instruction": "make it wide"},
        {"source": "absent.png", "target": "bw90.png", "instruction": "find it"},
        {"source": "bw90.png", "target": "bw90.png", "instruction": ""},
    ]
    with (album / "edits.jsonl").open("a") as file:
        file.write("\n" + "\n".join(map(json.dumps, lines)))
    report = import_source(album, tmp_path / "out", validation_fraction=0)
    reasons = {skipped.name: skipped.reason for skipped in report.skipped}
    assert reasons == {
        "empty.png": "empty caption",
        "broken.jpg": "picture is unreadable",
        "edits.jsonl:3": "source and target have different aspect ratios",
        "edits.jsonl:4": "picture is missing",
        "edits.jsonl:5": "empty instruction",
    }
    text = str(report)
    assert "wrote 7" in text
    assert "skipped 5" in text
    assert "1 x picture is unreadable: broken.jpg" in text
    listed = [json.loads(line) for line in (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()]
    assert {one["name"]: one["reason"] for one in listed} == reasons
    assert report.manifest.generator["skipped"]["picture is missing"] == 1


def test_edits_of_one_target_stay_in_one_split(tmp_path):
    for name in range(10):
        Image.new("RGB", (8, 8), (name, 0, 0)).save(tmp_path / f"{name}.png")
    lines = [
        {"source": f"{n}.png", "target": f"{(n + 1) % 10}.png", "instruction": f"edit {k}"}
        for n in range(10)
        for k in range(3)
    ]
    (tmp_path / "edits.jsonl").write_text("\n".join(map(json.dumps, lines)))
    manifest = import_source(tmp_path / "edits.jsonl", tmp_path / "out", validation_fraction=0.3).manifest
    assert manifest.counts == {"train": {"edit": 21}, "validation": {"edit": 9}}
    reds = {"train": set(), "validation": set()}
    for split, sample in all_samples(manifest):
        reds[split].add(int(sample.target[0, 0, 0]))
    assert not reds["train"] & reds["validation"]
    keys = [sample.key for _, sample in all_samples(manifest)]
    assert len(set(keys)) == 30


def test_small_data_still_gets_a_validation_sample(album, tmp_path):
    manifest = import_source(album, tmp_path / "out", validation_fraction=0.01).manifest
    assert sum(manifest.counts["validation"].values()) == 1


def test_image_root_and_turned_pictures(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :20] = 255
    Image.fromarray(pixels).save(images / "turned.jpg", exif=exif, quality=95)
    Image.fromarray(np.rot90(pixels, -1).copy()).save(images / "upright.png")
    line = {"source": "turned.jpg", "target": "upright.png", "instruction": "nothing"}
    (tmp_path / "e.jsonl").write_text(json.dumps(line))
    manifest = import_source(tmp_path / "e.jsonl", tmp_path / "out", image_root=images, validation_fraction=0).manifest
    (batch,) = eval_batches(manifest, "train", "edit", (40, 20), 1)
    assert (batch.pixels - batch.references).abs().max() < 0.1


@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_bad_fraction(tmp_path, fraction):
    with pytest.raises(DataError, match="validation fraction"):
        import_source(tmp_path, tmp_path / "out", validation_fraction=fraction)


def test_nothing_usable(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match=r"nothing to train on in .*: no pictures found"):
        import_source(tmp_path / "in", tmp_path / "out")
    (tmp_path / "in" / "a.jpg").write_bytes(b"x")
    (tmp_path / "in" / "a.txt").write_text("x")
    with pytest.raises(DataError, match="1 x picture is unreadable"):
        import_source(tmp_path / "in", tmp_path / "out")
    with pytest.raises(DataError, match="expected a folder of pictures"):
        import_source(tmp_path / "absent", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_large_imports_are_split_into_shards(tmp_path, monkeypatch):
    monkeypatch.setattr("unipic2_data.importer._SHARD_SAMPLES", 4)
    for n in range(10):
        Image.new("RGB", (4, 4), (n, 0, 0)).save(tmp_path / f"{n}.png")
        (tmp_path / f"{n}.txt").write_text(str(n))
    manifest = import_source(tmp_path, tmp_path / "out", validation_fraction=0).manifest
    assert [(shard.path, shard.samples) for shard in manifest.shards] == [
        ("train/t2i-00000.tar", 4),
        ("train/t2i-00001.tar", 4),
        ("train/t2i-00002.tar", 2),
    ]
    Manifest.load(tmp_path / "out").verify()
    assert len({sample.key for _, sample in all_samples(manifest)}) == 10
