import json
import shutil

import numpy as np
import pytest

from unipic2_data.errors import DataError
from unipic2_data.images import encode_png
from unipic2_data.manifest import Manifest, ShardWriter
from unipic2_data.sample import Image, Sample
from unipic2_data.verify import verify


def picture(height=8, width=8):
    return Image(encode_png(np.zeros((height, width, 3), np.uint8)))


def t2i(key, image=None, **meta):
    return Sample(key, "t2i", {"captions": ["x"]} | meta, image or picture())


def edit(key, target=None, *references):
    return Sample(key, "edit", {"instruction": "x"}, target or picture(), list(references))


def make(root, *shards):
    written = []
    for number, samples in enumerate(shards):
        with ShardWriter(root, f"train/{number}.tar", "train", samples[0].kind) as writer:
            for sample in samples:
                writer.add(sample)
        written.append(writer.shard)
    manifest = Manifest(root, written)
    manifest.save()
    return manifest


@pytest.mark.parametrize("workers", [1, 2])
def test_a_sound_data_set(world, workers):
    ticks = []

    class Bar:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def update(self, count):
            ticks.append(count)

    report = verify(world.root, workers=workers, progress=lambda *_: Bar())
    assert report.damages == []
    assert report.samples == sum(ticks) == sum(sum(kinds.values()) for kinds in world.counts.values())
    assert str(report).endswith("no damage")


@pytest.mark.parametrize(
    ("sample", "damage"),
    [
        (t2i("broken", Image(b"no picture")), "train/0.tar, sample broken: target is unreadable"),
        (t2i("empty", Image(b"")), "train/0.tar, sample empty: target is empty"),
        (t2i("sized", height=8, width=9), "train/0.tar, sample sized: target has 8x8 pixels, its JSON says 9x8"),
        (Sample("bare", "t2i", {"captions": ["x"]}), "train/0.tar, sample bare: no target"),
        (edit("alone"), "train/0.tar, sample alone: no reference"),
        (
            edit("pair", picture(), picture(8, 16)),
            "train/0.tar, sample pair: mismatched pair: ref_0 has 16x8 pixels, target 8x8",
        ),
        (edit("half", picture(), Image(b"x")), "train/0.tar, sample half: ref_0 is unreadable"),
    ],
)
def test_every_damage_of_a_sample_is_named(tmp_path, sample, damage):
    make(tmp_path, [sample], [t2i("good")])
    report = verify(tmp_path)
    assert damage in report.damages
    assert report.samples == 2
    assert str(report).startswith(f"{len(report.damages)} damages in 2 samples:\n")


def test_pictures_may_be_left_out(tmp_path):
    make(tmp_path, [t2i("broken", Image(b"no picture"))])
    assert verify(tmp_path, pictures=False).damages == []


def test_a_sample_of_another_kind_or_without_text(tmp_path):
    manifest = make(tmp_path, [t2i("k1"), t2i("k2")])
    tar = tmp_path / manifest.shards[0].path
    data = tar.read_bytes().replace(b'"kind":"t2i"', b'"kind":"edi"', 1)
    tar.write_bytes(data.replace(b'"captions":["x"]', b'"captions":[" "]'))
    damages = verify(tmp_path).damages
    assert "train/0.tar: checksum differs" in damages
    assert any("sample 'k1' has version 1 and kind 'edi'" in damage for damage in damages)
    assert "train/0.tar, sample k2: no text" in damages
    assert len(damages) == 3


def test_missing_files(tmp_path):
    make(tmp_path, [t2i("a")], [t2i("b")], [t2i("c")])
    (tmp_path / "train" / "0.tar").unlink()
    (tmp_path / "train" / "1.idx.npy").unlink()
    np.save(tmp_path / "train" / "2.idx.npy", np.zeros((3, 2), np.int64))
    damages = verify(tmp_path).damages
    assert damages[0] == "train/0.tar: No such file or directory"
    assert damages[1].startswith("train/1.idx.npy: unreadable index")
    assert damages[2] == "train/2.idx.npy: expected 1 samples, found a table of shape (3, 2)"


def test_a_truncated_tar(tmp_path):
    manifest = make(tmp_path, [t2i(f"k{n}") for n in range(9)])
    tar = tmp_path / manifest.shards[0].path
    start = int(manifest.offsets(manifest.shards[0])[5, 0])
    tar.write_bytes(tar.read_bytes()[: start + 600])
    assert verify(tmp_path).damages == [
        f"train/0.tar: {start + 600} bytes, expected {manifest.shards[0].bytes}",
        "train/0.tar, sample 5: cut off",
        "train/0.tar: 4 samples are cut off",
    ]


def test_duplicate_keys_are_named_with_their_places(tmp_path):
    make(tmp_path, [t2i("a"), t2i("b")], [t2i("c"), t2i("a"), t2i("a")])
    assert verify(tmp_path).damages == [
        "train/0.tar, sample 0 and train/1.tar, sample 1 and train/1.tar, sample 2: key a appears 3 times"
    ]


def test_wrong_counts(tmp_path):
    make(tmp_path, [t2i("a")])
    document = json.loads((tmp_path / "manifest.json").read_text())
    document["counts"]["train"]["t2i"] = 2
    (tmp_path / "manifest.json").write_text(json.dumps(document))
    assert verify(tmp_path).damages == [
        "manifest.json: counts {'train': {'t2i': 2}}, but its shards have {'train': {'t2i': 1}}"
    ]


def test_no_data_set(tmp_path):
    with pytest.raises(DataError, match="no data set at"):
        verify(tmp_path)


def test_garbage_in_an_index_is_no_crash(tmp_path, world):
    shutil.copytree(world.root, tmp_path / "copy")
    shard = world.shards_of("train", "t2i")[0]
    table = world.offsets(shard)
    table[0], table[1] = (-5, 100), (3, -7)
    table[2] += 512
    np.save(tmp_path / "copy" / shard.index, table)
    damages = verify(tmp_path / "copy").damages
    assert len([damage for damage in damages if shard.path in damage]) >= 3
