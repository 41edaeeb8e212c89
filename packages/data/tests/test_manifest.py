import json
import shutil

import numpy as np
import pytest
import webdataset

from unipic2_data.errors import DataError
from unipic2_data.manifest import Manifest, ShardWriter, new_folder
from unipic2_data.sample import Image, Sample


@pytest.fixture
def data(tmp_path):
    with ShardWriter(tmp_path, "train/t2i-0.tar", "train", "t2i") as writer:
        for n in range(5):
            writer.add(Sample(f"k{n}", "t2i", {"captions": [f"text {n}"]}, Image(bytes([n]))))
    manifest = Manifest(tmp_path, [writer.shard])
    manifest.save()
    return manifest


def test_load_and_verify(data):
    again = Manifest.load(data.root)
    assert again == Manifest.load(data.root / "manifest.json")
    assert again.shards == data.shards
    assert again.counts == {"train": {"t2i": 5}}
    assert again.digest == data.digest
    again.verify()


def test_offsets_point_at_samples(data):
    offsets = data.offsets(data.shards[0])
    bytes_ = (data.root / data.shards[0].path).read_bytes()
    assert offsets.shape == (5, 2)
    for n, (start, length) in enumerate(offsets):
        assert bytes_[start : start + 7] == f"k{n}.json".encode()
        assert start + length <= len(bytes_) - 1024


def test_plain_webdataset_reads_the_shards(data):
    shard = str(data.root / data.shards[0].path)
    samples = list(webdataset.WebDataset(shard, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [f"k{n}" for n in range(5)]
    assert samples[3]["target.png"] == b"\x03"
    assert json.loads(samples[3]["json"]) == {"version": 1, "kind": "t2i", "captions": ["text 3"]}


def test_missing_shard_is_named(data):
    (data.root / data.shards[0].path).unlink()
    with pytest.raises(DataError, match=r"1 missing: train/t2i-0\.tar"):
        Manifest.load(data.root)


def test_cut_shard_is_named(data):
    tar = data.root / data.shards[0].path
    tar.write_bytes(tar.read_bytes()[:-512])
    with pytest.raises(DataError, match=r"1 of the wrong size: train/t2i-0\.tar"):
        Manifest.load(data.root)


def test_flipped_byte_is_found(data):
    tar = data.root / data.shards[0].path
    content = bytearray(tar.read_bytes())
    content[700] ^= 1
    tar.write_bytes(content)
    with pytest.raises(DataError, match="checksum differs"):
        Manifest.load(data.root).verify()


def test_damaged_index(data):
    np.save(data.root / data.shards[0].index, np.zeros((3, 2), np.int64))
    with pytest.raises(DataError, match="expected 5 samples"):
        Manifest.load(data.root).verify()
    (data.root / data.shards[0].index).write_bytes(b"")
    with pytest.raises(DataError, match="unreadable index"):
        data.offsets(data.shards[0])


def test_empty_split_and_missing_kind(data):
    with pytest.raises(DataError, match=r"split 'test' of .* is empty; the data set has train \(5\)"):
        data.kinds("test")
    with pytest.raises(DataError, match="has no 'edit' samples; it has t2i"):
        data.shards_of("train", "edit")


def test_no_manifest(tmp_path):
    with pytest.raises(DataError, match="no data set at"):
        Manifest.load(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 1, "shards": [{}], "generator": {}, "packages": {}}'])
def test_unreadable_manifest(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match="not a readable manifest"):
        Manifest.load(tmp_path)


def test_other_manifest_version(tmp_path):
    (tmp_path / "manifest.json").write_text('{"version": 9, "shards": [], "generator": {}, "packages": {}}')
    with pytest.raises(DataError, match="version 9"):
        Manifest.load(tmp_path)


def test_a_moved_data_set_still_loads(data, tmp_path_factory):
    target = tmp_path_factory.mktemp("elsewhere") / "data"
    shutil.copytree(data.root, target)
    assert Manifest.load(target).counts == data.counts


def test_writer_leaves_nothing_after_an_error(tmp_path):
    def write() -> None:
        with ShardWriter(tmp_path, "a.tar", "train", "t2i") as writer:
            writer.add(Sample("k", "edit", {"instruction": "x"}))

    with pytest.raises(DataError, match="of kind edit"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_new_folder_appears_at_the_end_or_not_at_all(tmp_path):
    with new_folder(tmp_path / "deep" / "out") as folder:
        (folder / "file").write_text("x")
        assert not (tmp_path / "deep" / "out").exists()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    with pytest.raises(DataError, match="not empty"), new_folder(tmp_path / "deep" / "out"):
        pass
    assert (tmp_path / "deep" / "out" / "file").read_text() == "x"
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "other"):
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
