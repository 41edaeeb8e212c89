import json

import pytest

from unipic2_data.errors import DataError
from unipic2_data.filtering import Filter, ScoreRule, filter_data
from unipic2_data.importer import import_source
from unipic2_data.indexing import index_folder
from unipic2_data.loader import SampleStore
from unipic2_data.manifest import Manifest, ShardWriter
from unipic2_data.notes import data_id
from unipic2_data.sample import Image, Sample, sample_to_tar
from unipic2_data.show import choose, contact_sheet, page
from unipic2_data.stats import collect_stats
from unipic2_data.table import SampleTable


@pytest.fixture
def edits(tmp_path, files):
    """Six edits with scores 0 to 5; licences, sizes and aspect ratios differ."""
    sizes = [(40, 40), (80, 40), (120, 40), (64, 64), (64, 80), (30, 20)]
    rows = []
    for n, size in enumerate(sizes):
        for name in (f"{n}.jpg", f"{n}-new.jpg"):
            files.write(tmp_path / "in" / name, files.picture(10 * n + len(name), size))
        licence = {"licence": ["MIT", "CC-BY-4.0", "CC-BY-NC-4.0"][n % 3]} if n < 5 else {}
        row = {"source": f"{n}.jpg", "target": f"{n}-new.jpg", "instruction": f"edit {n}"}
        rows.append(row | licence | ({"scores": {"sc": n, "pq": 5 - n}} if n != 3 else {}))
    source = files.lines(tmp_path / "in" / "edits.jsonl", rows)
    return import_source(source, tmp_path / "edits", validation_fraction=0).manifest


def samples(manifest):
    found = {}
    for split in manifest.counts:
        store = SampleStore(manifest, split)
        found |= {
            sample.key: sample
            for kind, count in store.counts.items()
            for sample in map(store.read, [kind] * count, range(count))
        }
    return found


def kept(manifest):
    return sorted(int(sample.meta["instruction"].split()[1]) for sample in samples(manifest).values())


@pytest.mark.parametrize(
    ("wanted", "left", "reasons"),
    [
        (Filter(), [0, 1, 2, 3, 4, 5], {}),
        (
            Filter(scores=(ScoreRule("sc", ">=", 2), ScoreRule("pq", ">", 0.5))),
            [2, 4],
            {"score sc is not >= 2": 2, "no score sc": 1, "score pq is not > 0.5": 1},
        ),
        (Filter(licences=("MIT", "CC-BY-4*")), [0, 1, 3, 4], {"licence CC-BY-NC-4.0": 1, "no licence": 1}),
        (Filter(min_side=64), [3, 4], {"shorter side is below 64 pixels": 4}),
        (Filter(max_aspect=1.5), [0, 3, 4, 5], {"aspect ratio is above 1.5": 2}),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_what_stays(edits, tmp_path, wanted, left, reasons, workers):
    report = filter_data([edits.root], tmp_path / "out", wanted, workers=workers)
    assert kept(report.manifest) == left
    assert report.manifest.generator["skipped"] == reasons
    before = samples(edits)
    assert all(sample == before[key] for key, sample in samples(report.manifest).items())
    assert report.manifest.generator["sources"][0]["digest"] == edits.digest


def test_dropped_by_notes(edits, tmp_path, files):
    keys = sorted(samples(edits))
    notes = [
        {"data": data_id(edits), "key": keys[0], "reason": "near duplicate"},
        {"data": "another", "key": keys[1], "reason": "near duplicate"},
        {"key": keys[2]},
    ]
    drop = files.lines(tmp_path / "drop.jsonl", notes)
    report = filter_data([edits.root], tmp_path / "out", Filter(), drop=[drop])
    assert sorted(samples(report.manifest)) == [keys[1], *keys[3:]]
    assert report.manifest.generator["skipped"] == {"dropped": 1, "near duplicate": 1}
    assert all(f"({keys[0]})" in one.name or f"({keys[2]})" in one.name for one in report.skipped)


def test_notes_are_written_into_samples(edits, tmp_path, files):
    keys = {sample.meta["instruction"]: key for key, sample in samples(edits).items()}
    notes = [
        {"key": keys["edit 1"], "scores": {"judge": 9, "sc": 8}},
        {"key": keys["edit 1"], "instruction": ["a better one", "edit 1"]},
        {"key": keys["edit 2"], "scores": {"judge": 3}, "licence": "CC0-1.0"},
    ]
    file = files.lines(tmp_path / "notes.jsonl", notes)
    wanted = Filter(scores=(ScoreRule("judge", ">", 0),))
    after = samples(filter_data([edits.root], tmp_path / "add", wanted, notes=[file]).manifest)
    assert set(after) == {keys["edit 1"], keys["edit 2"]}
    first, before = after[keys["edit 1"]], samples(edits)[keys["edit 1"]]
    assert first.meta["scores"] == {"sc": 8, "pq": 4, "judge": 9}
    assert first.meta["instruction"] == ["edit 1", "a better one"]
    assert (first.target, first.references) == (before.target, before.references)
    assert after[keys["edit 2"]].meta["licence"] == "CC0-1.0"
    replaced = filter_data([edits.root], tmp_path / "replace", wanted, notes=[file], texts="replace").manifest
    assert samples(replaced)[keys["edit 1"]].meta["instruction"] == ["a better one", "edit 1"]


def test_several_data_sets_become_one(edits, tmp_path):
    report = filter_data([edits.root, edits.root], tmp_path / "out", Filter())
    assert report.manifest.counts == {"train": {"edit": 12}}
    found = samples(report.manifest)
    assert len(found) == 12
    for key, sample in samples(edits).items():
        (other,) = [name for name in found if name.startswith(key) and name != key]
        assert found[other].target == sample.target
        assert len(other) <= 80


def test_odd_fields_of_others_stop_nothing(tmp_path, files):
    """Tars of someone else's tools, whose JSON holds other things under names that are known here."""
    odd = [
        {"scores": ["x"], "height": "16", "width": 24, "licence": 3},
        {"scores": {"q": "good"}, "height": 0, "width": 0, "licence": None},
        {"scores": {"q": 10**400}, "reference_sizes": [3], "licence": ["MIT"]},
        {"scores": {"q": 7}, "height": 16, "width": 24, "licence": "MIT"},
    ]
    with ShardWriter(tmp_path / "data", "train.tar", "train", "t2i") as writer:
        for n, meta in enumerate(odd):
            writer.add(Sample(f"k{n}", "t2i", {"captions": ["x"]} | meta, Image(files.picture(n), "jpg")))
    manifest = Manifest(tmp_path / "data", [writer.shard])
    manifest.save()
    stats = collect_stats(manifest.root)
    assert stats.numbers["score q"].tolist() == [7]
    assert stats.numbers["width"].tolist() == [24]
    table = SampleTable.build(manifest)
    assert table.sizes.tolist() == [[16, 24]] * 4
    shown = choose(manifest.root, split="train")
    contact_sheet(shown, tmp_path / "sheet.png")
    page(shown, tmp_path / "index.html", "odd")
    assert (tmp_path / "index.html").read_text().count("<b>score q</b> 7") == 1
    wanted = Filter((ScoreRule("q", ">", 1),), min_side=16, licences=("MIT",))
    assert [wanted.reason(sample) for sample in shown] == ["no score q"] * 3 + [None]
    assert wanted.keep(table)[0].tolist() == [False, False, False, True]
    sizes = Filter(min_side=17)
    assert [sizes.reason(sample) for sample in shown] == ["shorter side is below 17 pixels"] * 4


def test_unknown_images_are_kept_when_json_changes(tmp_path, files):
    """A picture of a role that this version does not know, as of a later preference pair."""
    plain = sample_to_tar(Sample("k", "t2i", {"captions": ["x"]}, Image(files.picture(1), "jpg")))
    extra = sample_to_tar(Sample("k", "t2i", {"captions": ["x"]}, Image(b"rejected", "jpg")))
    rejected = extra[1024:].replace(b"k.target.jpg", b"k.reject.jpg")
    checksum = sum(rejected[:148]) + sum(rejected[156:512]) + 8 * 32
    rejected = rejected[:148] + b"%06o\0 " % checksum + rejected[156:]
    with ShardWriter(tmp_path / "data", "train.tar", "train", "t2i") as writer:
        writer.append(plain + rejected)
    Manifest(tmp_path / "data", [writer.shard]).save()
    note = files.lines(tmp_path / "notes.jsonl", [{"key": "k", "scores": {"x": 1}}])
    manifest = filter_data([tmp_path / "data"], tmp_path / "out", Filter(), notes=[note]).manifest
    data = (manifest.root / manifest.shards[0].path).read_bytes()
    assert b"k.reject.jpg" in data
    assert b"rejected" in data
    assert next(iter(samples(manifest).values())).meta["scores"] == {"x": 1}


def test_sizes_of_foreign_tars_come_from_the_pictures(tmp_path, files):
    members = {"a.jpg": files.picture(1, (64, 32)), "a.txt": "a", "b.jpg": files.picture(2, (64, 48)), "b.txt": "b"}
    files.tar(tmp_path / "tars" / "x.tar", members)
    index_folder(tmp_path / "tars")
    manifest = filter_data([tmp_path / "tars"], tmp_path / "out", Filter(min_side=40)).manifest
    assert list(samples(manifest)) == ["b"]
    note = files.lines(tmp_path / "notes.jsonl", [{"key": "b", "scores": {"x": 1}}])
    with pytest.raises(DataError, match="not in the canonical form"):
        filter_data([tmp_path / "tars"], tmp_path / "noted", Filter(), notes=[note])


def test_unreadable_samples_are_left_out_and_the_others_stay(edits, tmp_path):
    shard = edits.shards[0]
    offsets = edits.offsets(shard)
    tar = edits.root / shard.path
    data = bytearray(tar.read_bytes())
    data[int(offsets[2, 0]) + 512] = ord("!")
    tar.write_bytes(data)
    report = filter_data([edits.root], tmp_path / "out", Filter())
    assert report.manifest.generator["skipped"] == {"sample is unreadable": 1}
    assert len(samples(report.manifest)) == 5


def test_nothing_left(edits, tmp_path):
    with pytest.raises(DataError, match="nothing to train on in edits: 6 x shorter side"):
        filter_data([edits.root], tmp_path / "out", Filter(min_side=4000))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("sc>=7", ScoreRule("sc", ">=", 7)),
        (" clip score < -0.25 ", ScoreRule("clip score", "<", -0.25)),
        ("a<=1", ScoreRule("a", "<=", 1)),
    ],
)
def test_rules(text, rule):
    assert ScoreRule.parse(text) == rule


@pytest.mark.parametrize("text", ["", "sc", "sc=7", ">=7", "sc>=", "sc>=1.2.3"])
def test_no_rules(text):
    with pytest.raises(DataError, match="is no rule about a score"):
        ScoreRule.parse(text)


def test_the_request_is_kept(edits, tmp_path):
    manifest = filter_data([edits.root], tmp_path / "out", Filter(min_side=30, licences=("MIT",))).manifest
    assert manifest.generator["filter"] == {"scores": [], "min_side": 30, "max_aspect": None, "licences": ["MIT"]}
    assert manifest.generator["command"] == "filter"
    assert json.dumps(manifest.generator)
