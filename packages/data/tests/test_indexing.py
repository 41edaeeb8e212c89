import hashlib
import io
import tarfile

import numpy as np
import pytest

from unipic2_data.adapters.record import Skipped
from unipic2_data.errors import DataError
from unipic2_data.indexing import index_folder
from unipic2_data.loader import SampleStore, TrainLoader
from unipic2_data.manifest import Manifest, ShardWriter
from unipic2_data.sample import Image, Sample
from unipic2_data.verify import verify


@pytest.fixture
def foreign(tmp_path, files):
    """Three tars as img2dataset writes them."""
    folder = tmp_path / "tars"
    for shard in range(3):
        members = {}
        for n in range(5):
            key = f"{shard:05}{n:04}"
            members |= {
                f"{key}.jpg": files.picture(10 * shard + n),
                f"{key}.txt": f"caption {key}",
                f"{key}.json": "{}",
            }
        files.tar(folder / ("validation" if shard == 2 else "deep") / f"{shard:05}.tar", members)
    return folder


def digests(folder):
    return {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.rglob("*.tar"))}


@pytest.mark.parametrize("workers", [1, 2])
def test_foreign_tars_are_trained_on_as_they_are(foreign, files, workers):
    before = digests(foreign)
    report = index_folder(foreign, workers=workers)
    assert str(report) == "read 15 samples, wrote 15 (train: 10 t2i; validation: 5 t2i), skipped 0"
    assert digests(foreign) == before
    store = SampleStore(Manifest.load(foreign), "train")
    sample = store.sample("t2i", 7)
    assert (sample.key, sample.texts) == ("000010002", ["caption 000010002"])
    assert store.read("t2i", 7).target.data == files.picture(12)
    batch = next(iter(TrainLoader(Manifest.load(foreign), (16, 24), 4, 0)))
    assert batch.pixels.shape == (4, 3, 16, 24)
    assert verify(foreign).damages == []
    assert not (foreign / ".index").exists()
    with pytest.raises(DataError, match="is a data set already"):
        index_folder(foreign)


def test_the_order_does_not_depend_on_processes(foreign, tmp_path):
    one = index_folder(foreign).manifest.shards
    (foreign / "manifest.json").unlink()
    assert index_folder(foreign, workers=2).manifest.shards == one


def test_canonical_shards_get_their_index_back(world, tmp_path):
    shard = world.shards_of("test", "edit")[0]
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "x.tar").write_bytes((world.root / shard.path).read_bytes())
    manifest = index_folder(tmp_path).manifest
    assert manifest.counts == {"test": {"edit": shard.samples}}
    assert np.array_equal(manifest.offsets(manifest.shards[0]), world.offsets(shard))
    assert manifest.shards[0].sha256 == shard.sha256


def test_kinds_in_one_tar(tmp_path, files):
    picture = Image(files.picture(1), "jpg")
    data = b""
    for kind, samples in {
        "t2i": [Sample(f"t{n}", "t2i", {"captions": ["x"]}, picture) for n in range(2)],
        "edit": [Sample("e", "edit", {"instruction": "x"}, picture, [picture])],
    }.items():
        with ShardWriter(tmp_path, f"{kind}.tar", "train", kind) as writer:
            for sample in samples:
                writer.add(sample)
        data += (tmp_path / f"{kind}.tar").read_bytes()[:-1024]
    files.write(tmp_path / "mixed" / "a.tar", data + bytes(1024))
    manifest = index_folder(tmp_path / "mixed").manifest
    assert manifest.counts == {"train": {"t2i": 2, "edit": 1}}
    assert SampleStore(manifest, "train").read("edit", 0).key == "e"


def test_what_cannot_be_used_is_left_out_and_named(tmp_path, files):
    picture = files.picture(1)
    members = {
        "a.jpg": picture,
        "a.txt": "good",
        "broken.jpg": picture[:200],
        "broken.txt": "x",
        "mute.jpg": picture,
        "apart.jpg": picture,
        "b.jpg": picture,
        "b.txt": "good",
        "apart.txt": "x",
        "blank.jpg": picture,
        "blank.txt": " ",
        "last.jpg": picture,
        "last.txt": "x" * 5000,
    }
    file = files.tar(tmp_path / "x.tar", members)
    data = file.read_bytes()
    file.write_bytes(data[: data.index(b"x" * 5000) + 700])
    report = index_folder(tmp_path)
    assert report.manifest.counts == {"train": {"t2i": 2}}
    reasons = {one.name: one.reason for one in report.skipped}
    cut = reasons.popitem()
    assert reasons == {
        "x.tar/broken": "target is unreadable",
        "x.tar/mute": "no readable sample",
        "x.tar/apart": "members of the sample are apart",
        "x.tar/blank": "no text",
        "x.tar/last": "cut off",
    }
    assert cut[1] == "tar is damaged"
    assert Skipped("x.tar/apart", "no readable sample") in report.skipped
    assert len(SampleStore(report.manifest, "train").sample("t2i", 1).texts) == 1


def test_a_damaged_header_costs_its_own_sample_alone(tmp_path, files):
    members = {f"{n}.{s}": files.picture(n) if s == "jpg" else "x" for n in range(5) for s in ("jpg", "txt")}
    file = files.tar(tmp_path / "x.tar", members)
    file.write_bytes(file.read_bytes().replace(b"2.jpg", b"2!jpg"))
    report = index_folder(tmp_path)
    store = SampleStore(report.manifest, "train")
    assert [store.sample("t2i", number).key for number in range(4)] == ["0", "1", "3", "4"]
    assert [one.reason for one in report.skipped] == ["no readable sample", "tar is damaged"]


def test_keys_that_repeat_are_refused(tmp_path, files):
    for name in ("a", "b"):
        files.tar(tmp_path / f"{name}.tar", {"1.jpg": files.picture(1), "1.txt": name})
    with pytest.raises(DataError, match=r"1 samples in the tars of .*--format tar"):
        index_folder(tmp_path)
    assert not (tmp_path / "manifest.json").exists()


def test_goes_on_where_it_stopped(foreign, monkeypatch):
    seen = []

    def stop(folder, split, tar):
        seen.append(tar.name)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return plain(folder, split, tar)

    from unipic2_data import indexing

    plain = indexing._index_tar
    monkeypatch.setattr(indexing, "_index_tar", stop)
    with pytest.raises(KeyboardInterrupt):
        index_folder(foreign)
    assert index_folder(foreign).manifest.counts["train"] == {"t2i": 10}
    assert seen == ["00000.tar", "00001.tar", "00002.tar", "00002.tar"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "no tars at"),
        (
            lambda folder: (folder / "a.tar.000").write_bytes(b"x") and (folder / "a.tar.001").write_bytes(b"x"),
            "join them",
        ),
        (lambda folder: (folder / "a.tar").write_bytes(bytes(1024)), "no usable samples .* they are empty"),
    ],
)
def test_nothing_to_index(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(DataError, match=message):
        index_folder(tmp_path)


def test_folders_with_dots_and_odd_members(tmp_path, files):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in {"README": b"x", "v1.0/a.jpg": files.picture(1), "v1.0/a.txt": b"x"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    files.write(tmp_path / "a.tar", file.getvalue())
    report = index_folder(tmp_path)
    assert SampleStore(report.manifest, "train").read("t2i", 0).key == "v1.0/a"
    assert [one.name for one in report.skipped] == ["a.tar/README"]
