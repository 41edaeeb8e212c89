import numpy as np
import pytest
from PIL import Image as Picture

from unipic2_data.adapters.fields import Fields
from unipic2_data.filtering import Filter, filter_data
from unipic2_data.importer import import_source
from unipic2_data.leaks import find_leaks
from unipic2_data.manifest import Manifest, ShardWriter
from unipic2_data.sample import Image, Sample
from unipic2_data.stats import collect_stats, plot_stats


@pytest.fixture
def edits(tmp_path, files):
    rows = []
    for n in range(12):
        size = (40, 20) if n % 3 else (20, 40)
        for name in (f"{n}.jpg", f"{n}-edited.jpg"):
            files.write(tmp_path / "in" / name, files.picture(n, size))
        row = {"source": f"{n}.jpg", "target": f"{n}-edited.jpg", "instruction": " ".join(["word"] * (n + 1))}
        rows.append(row | {"task": "add" if n < 4 else "remove", "scores": {"sc": n}, "licence": "MIT"})
    rows[0].pop("licence")
    source = files.lines(tmp_path / "in" / "edits.jsonl", rows)
    return import_source(source, tmp_path / "edits", validation_fraction=0.25).manifest


@pytest.mark.parametrize("workers", [1, 2])
def test_counts_and_numbers(edits, workers):
    stats = collect_stats(edits.root, workers=workers)
    assert stats.samples == 12
    assert stats.counts["kind"] == {"edit": 12}
    assert stats.counts["task"] == {"add": 4, "remove": 8}
    assert stats.counts["licence"] == {"MIT": 11, "not said": 1}
    assert stats.counts["source"] == {"import:edits.jsonl": 12}
    assert sorted(stats.numbers) == ["aspect", "height", "references", "score sc", "texts", "width", "words"]
    assert stats.numbers["words"].tolist() == list(range(1, 13))
    assert stats.numbers["score sc"].tolist() == list(range(12))
    assert np.unique(stats.numbers["aspect"]).tolist() == [0.5, 2]
    document = stats.to_json()
    assert document["numbers"]["words"] == {
        "count": 12,
        "mean": 6.5,
        "0%": 1,
        "5%": 1.55,
        "50%": 6.5,
        "95%": 11.45,
        "100%": 12,
    }
    text = str(stats)
    assert "task: remove 8, add 4" in text
    assert [line.split()[:2] for line in text.splitlines() if line.startswith("score")] == [["score", "sc"]]


def test_damage_is_counted_and_stops_nothing(tmp_path, files):
    """One sample is unreadable, another has no text; leaks and filters go on as well."""
    roots = [tmp_path / name for name in "ab"]
    for root in roots:
        with ShardWriter(root, "train.tar", "train", "t2i") as writer:
            for n in range(4):
                meta = {"captions": [f"caption {n}"], "height": 16, "width": 24}
                writer.add(Sample(f"k{n}", "t2i", meta, Image(files.picture(n), "jpg")))
        Manifest(root, [writer.shard]).save()
    tar = roots[0] / "train.tar"
    tar.write_bytes(tar.read_bytes().replace(b'"caption 1"]', b'"caption 1"}').replace(b"caption 2", b" " * 9))
    stats = collect_stats(roots[0])
    assert (stats.samples, stats.damaged) == (4, 2)
    assert stats.counts["kind"] == {"t2i": 4}
    assert stats.numbers["words"].tolist() == [2, 2]
    assert str(stats).startswith("4 samples, 2 of them damaged: see `unipic2-data verify`\n")
    prompts = files.write(tmp_path / "prompts.txt", "caption 1\ncaption 3\n")
    assert find_leaks([roots[0]], [prompts], tmp_path / "leaks.jsonl")["exact"] == 1
    report = filter_data(roots, tmp_path / "out", Filter())
    assert report.manifest.generator["skipped"] == {"sample is unreadable": 1}
    assert report.manifest.counts == {"train": {"t2i": 7}}


def test_the_plot_shows_something(edits, tmp_path):
    pytest.importorskip("matplotlib")
    plot_stats(collect_stats(edits.root), tmp_path / "stats.png", "edits")
    with Picture.open(tmp_path / "stats.png") as image:
        assert image.width >= 1000
        assert len(image.convert("L").getcolors(256)) > 20


def test_shapes_and_prompts(world, tmp_path, files):
    stats = collect_stats(world.root)
    assert stats.counts["licence"] == {"CC0-1.0": stats.samples}
    assert stats.numbers["width"].tolist() == [32] * stats.samples
    prompts = files.write(tmp_path / "prompts.txt", "one\ntwo words\n")
    manifest = import_source(
        prompts, tmp_path / "out", format="json", fields=Fields(kind="prompt", text=("text",)), validation_fraction=0
    ).manifest
    numbers = collect_stats(manifest.root).numbers
    assert numbers["words"].tolist() == [1, 2]
    assert "width" not in numbers
