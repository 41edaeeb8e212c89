import pytest

from unipic2_data.errors import DataError
from unipic2_data.importer import import_source
from unipic2_data.loader import SampleStore
from unipic2_data.manifest import Manifest
from unipic2_data.splitting import split_data


@pytest.fixture
def chained(tmp_path, files):
    """Twenty conversations: a -> b -> c, and two edits of a."""
    rows = []
    for n in range(20):
        for part in "abcd":
            files.write(tmp_path / "in" / f"{n}{part}.jpg", files.picture(4 * n + ord(part)))
        rows += [
            {"source": f"{n}{a}.jpg", "target": f"{n}{b}.jpg", "instruction": f"{a} to {b}"}
            for a, b in ("ab", "bc", "ad")
        ]
    rows = rows[::2] + rows[1::2]
    source = files.lines(tmp_path / "in" / "edits.jsonl", rows)
    return import_source(source, tmp_path / "data", validation_fraction=0).manifest


def contents(manifest):
    found = {}
    for split in manifest.counts:
        store = SampleStore(manifest, split)
        for kind, count in store.counts.items():
            for index in range(count):
                sample = store.read(kind, index)
                found[sample.key] = (split, sample)
    return found


@pytest.mark.parametrize("workers", [1, 2])
def test_splits_share_no_picture_and_lose_nothing(chained, tmp_path, workers, monkeypatch):
    monkeypatch.setattr("unipic2_data.parts.SHARD_SAMPLES", 16)
    fractions = {"validation": 0.1, "test": 0.2}
    report = split_data(chained.root, tmp_path / "out", fractions, seed=3, workers=workers)
    assert report.manifest.counts == {"test": {"edit": 12}, "train": {"edit": 42}, "validation": {"edit": 6}}
    before, after = contents(chained), contents(report.manifest)
    assert {key: sample for key, (_, sample) in after.items()} == {key: sample for key, (_, sample) in before.items()}
    pictures = {split: set() for split in report.manifest.counts}
    for split, sample in after.values():
        pictures[split] |= {sample.target.data, sample.references[0].data}
    assert sum(map(len, pictures.values())) == len(set.union(*pictures.values())) == 80
    assert report.manifest.generator["sources"][0]["digest"] == chained.digest


def test_the_seed_chooses(chained, tmp_path):
    roots = [tmp_path / name for name in ("a", "b", "c")]
    for root, seed in zip(roots, (1, 1, 2), strict=True):
        split_data(chained.root, root, {"test": 0.2}, seed=seed)
    chosen = [{key for key, (split, _) in contents(Manifest.load(root)).items() if split == "test"} for root in roots]
    assert chosen[0] == chosen[1]
    assert chosen[0] != chosen[2]


def test_other_splits_stay(world, tmp_path):
    manifest = split_data(world.root, tmp_path / "out", {"more": 0.25}).manifest
    assert {name: manifest.counts[name] for name in ("validation", "test", "heldout")} == {
        name: world.counts[name] for name in ("validation", "test", "heldout")
    }
    more = sum(manifest.counts["more"].values())
    assert 300 <= more < 360
    assert sum(manifest.counts["train"].values()) + more == sum(world.counts["train"].values())


@pytest.mark.parametrize("fractions", [{}, {"test": 0}, {"test": -0.1}, {"a": 0.5, "b": 0.5}])
def test_shares_that_make_no_sense(world, tmp_path, fractions):
    with pytest.raises(DataError, match="shares of splits"):
        split_data(world.root, tmp_path / "out", fractions)
    with pytest.raises(DataError, match="split 'valid' of"):
        split_data(world.root, tmp_path / "out", {"test": 0.1}, split="valid")
    assert list(tmp_path.iterdir()) == []
