import pytest

from unipic2_data.adapters.record import Skipped
from unipic2_data.manifest import Manifest
from unipic2_data.parts import PartFolders, Placed, collect
from unipic2_data.sample import Sample, sample_from_tar, sample_to_tar


def sample(key, split="train"):
    return Placed(split, "prompt", sample_to_tar(Sample(key, "prompt", {"captions": [key]})))


def write(work, *parts):
    folders = PartFolders(work)
    for number, part in enumerate(parts):
        folders.write(number, part, note=number)
    return folders, collect(work, folders.shards(range(len(parts))))


def keys(root, shards):
    manifest = Manifest(root, shards)
    manifest.verify()
    found = {}
    for shard in shards:
        data = (root / shard.path).read_bytes()
        pieces = [data[start : start + length] for start, length in manifest.offsets(shard).tolist()]
        found[shard.path] = [sample_from_tar(piece, "here").key for piece in pieces]
    return found


@pytest.mark.parametrize("again", [False, True])
def test_small_parts_become_full_shards(tmp_path, monkeypatch, again):
    monkeypatch.setattr("unipic2_data.parts.SHARD_SAMPLES", 4)
    parts = [
        [sample("a"), sample("v", "validation"), sample("b"), Skipped("x", "broken")],
        [],
        [sample("c"), sample("d")],
        [sample(key) for key in "efghi"],
        [Skipped("y", "broken"), sample("w", "validation")],
    ]
    folders, shards = write(tmp_path, *parts)
    if again:  # as after a kill in the middle of collecting
        shards = collect(tmp_path, folders.shards(range(len(parts))))
    assert keys(tmp_path / "data", shards) == {
        "train/prompt-00000.tar": ["a", "b", "c", "d"],
        "train/prompt-00001.tar": ["e", "f", "g", "h"],
        "train/prompt-00002.tar": ["i"],
        "validation/prompt-00000.tar": ["v", "w"],
    }
    assert folders.skipped(range(5)) == [Skipped("x", "broken"), Skipped("y", "broken")]
    assert folders.finished(2)["note"] == 2
    assert folders.finished(7) is None


def test_a_part_is_written_anew(tmp_path):
    folders, _ = write(tmp_path, [sample("a"), sample("v", "validation")])
    folders.write(0, [sample("b")])
    shards = collect(tmp_path, folders.shards([0]))
    assert keys(tmp_path / "data", shards) == {"train/prompt-00000.tar": ["b"]}
