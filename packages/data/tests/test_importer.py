import fcntl
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import islice

import numpy as np
import pytest
import webdataset
from PIL import Image

from unipic2_data.adapters.record import Skipped
from unipic2_data.errors import DataError
from unipic2_data.importer import import_source
from unipic2_data.loader import SampleStore, TrainLoader, eval_batches
from unipic2_data.manifest import Manifest
from unipic2_data.randomness import keyed_hash


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
    assert (cat.meta["height"], cat.meta["width"]) == cat.target.size
    with Image.open(photos["cat"]) as image:
        assert np.array_equal(cat.target.pixels, np.asarray(image))
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
        reds[split].add(int(sample.target.pixels[0, 0, 0]))
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
    with pytest.raises(DataError, match=r"nothing to train on in .*: no pictures found\. Name its --format"):
        import_source(tmp_path / "in", tmp_path / "out")
    (tmp_path / "in" / "a.jpg").write_bytes(b"x")
    (tmp_path / "in" / "a.txt").write_text("x")
    with pytest.raises(DataError, match="1 x picture is unreadable"):
        import_source(tmp_path / "in", tmp_path / "out")
    with pytest.raises(DataError, match="expected a folder of pictures"):
        import_source(tmp_path / "absent", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_fields_with_other_names_are_hinted_at(tmp_path, files):
    files.tar(tmp_path / "in" / "x.tar", {"a.jpg": files.picture(1), "a.json": '{"text": "a cat"}'})
    with pytest.raises(DataError, match=r"1 x members or fields missing: txt\. Say with --fields"):
        import_source(tmp_path / "in", tmp_path / "out", format="tar")


def test_large_imports_are_split_into_shards(tmp_path, monkeypatch):
    monkeypatch.setattr("unipic2_data.parts.SHARD_SAMPLES", 4)
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


def digests(root):
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def tars(tmp_path, files):
    """Eight tars of twelve captioned pictures each, one of them unreadable."""
    for shard in range(8):
        members = {}
        for n in range(12):
            members[f"{n:03}.jpg"] = b"no picture" if (shard, n) == (5, 7) else files.picture(100 * shard + n, (64, 48))
            members[f"{n:03}.txt"] = f"picture {n} of {shard}"
        files.tar(tmp_path / "tars" / f"{shard:05}.tar", members)
    return tmp_path / "tars"


def test_processes_change_nothing(tars, tmp_path, monkeypatch):
    monkeypatch.setattr("unipic2_data.parts.SHARD_SAMPLES", 30)
    one = import_source(tars, tmp_path / "one", format="tar", validation_fraction=0.1)
    many = import_source(tars, tmp_path / "many", format="tar", validation_fraction=0.1, workers=2)
    assert one.skipped == many.skipped == [Skipped("00005/007", "picture is unreadable")]
    assert sum(sum(kinds.values()) for kinds in one.manifest.counts.values()) == 95
    assert one.manifest.counts["validation"] == {"t2i": 10}
    assert digests(tmp_path / "one") == digests(tmp_path / "many")
    train = one.manifest.shards_of("train", "t2i")
    assert [shard.path for shard in train] == [f"train/t2i-{number:05d}.tar" for number in range(len(train))]
    assert len(train) == 4  # neighbours that fit into one shard are joined
    one.manifest.verify()
    assert len({sample.key for _, sample in all_samples(one.manifest)}) == 95
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many", "one", "tars"]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_goes_on_after_a_kill(tars, tmp_path, workers, monkeypatch):
    """SIGKILL in the middle: nothing half-made appears, finished parts are kept, the result has the same bytes."""
    monkeypatch.setattr("unipic2_data.parts.SHARD_SAMPLES", 12)
    expected = import_source(tars, tmp_path / "expected", format="tar").manifest.root
    out, work = tmp_path / "out", tmp_path / ".out.import"
    code = (
        "import time, unipic2_data.import_parts as parts\n"
        "plain = parts.convert\n"
        "parts.convert = lambda *words: (time.sleep(0.03), plain(*words))[1]\n"
    )
    run = "from unipic2_data.cli import main\nif __name__ == '__main__':\n    main()"
    script = tmp_path / "slow.py"
    script.write_text(code + run)
    command = [sys.executable, str(script), "import", str(tars), str(out), "--format", "tar", "--workers", workers]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    try:
        while len(list(work.glob("parts/*/done.json"))) < 2:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    finished = {file.parent.name for file in work.glob("parts/*/done.json")}
    kept = {tar.stat().st_ino for name in finished for tar in (work / "parts" / name).glob("train*.tar")}
    assert 2 <= len(finished) < 8
    assert not out.exists()
    with pytest.raises(DataError, match="unfinished work of a command with another seed"):
        import_source(tars, out, format="tar", seed=1)
    report = import_source(tars, out, format="tar")
    assert digests(out) == digests(expected)
    assert kept <= {tar.stat().st_ino for tar in out.rglob("*.tar")}
    assert [one.name for one in report.skipped] == ["00005/007"]
    assert not work.exists()


def test_a_source_that_changed_is_not_gone_on_with(tars, tmp_path, files, monkeypatch):
    monkeypatch.setattr("unipic2_data.importer.survey", interrupt)
    with pytest.raises(KeyboardInterrupt) as stopped:
        import_source(tars, tmp_path / "out", format="tar")
    assert "run the same command again" in stopped.value.__notes__[0]
    monkeypatch.undo()
    files.tar(tars / "00003.tar", {"a.jpg": files.picture(1), "a.txt": "another"})
    with pytest.raises(DataError, match="unfinished work of a command with another source"):
        import_source(tars, tmp_path / "out", format="tar")


def interrupt(*_):
    raise KeyboardInterrupt


def test_one_import_at_a_time(tars, tmp_path):
    (tmp_path / ".out.import").mkdir()
    with (tmp_path / ".out.import" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another process is writing"):
            import_source(tars, tmp_path / "out", format="tar")
        assert (tmp_path / ".out.import").is_dir()


def test_a_validation_group_that_is_unusable_is_replaced(tmp_path, files, monkeypatch):
    """The chosen group's picture is broken: the next one is taken, and only its part is written again."""
    names = [f"{n:02}" for n in range(12)]
    first = min(names, key=lambda name: keyed_hash(0, "validation", f"{name}.jpg"))
    for n, name in enumerate(names):
        files.write(tmp_path / "in" / f"{name}.jpg", b"broken" if name == first else files.picture(n))
        files.write(tmp_path / "in" / f"{name}.txt", name)
    monkeypatch.setattr("unipic2_data.adapters.folder._PART_FILES", 4)
    manifest = import_source(tmp_path / "in", tmp_path / "out", validation_fraction=0.05).manifest
    assert manifest.counts == {"train": {"t2i": 10}, "validation": {"t2i": 1}}


def test_keys_of_several_sources_differ(tmp_path, files):
    for name in ("a", "b"):
        files.write(tmp_path / name / "1.jpg", files.picture(1))
        files.write(tmp_path / name / "1.txt", "x")
    keys = {
        sample.key
        for name in ("a", "b")
        for _, sample in all_samples(import_source(tmp_path / name, tmp_path / f"out-{name}").manifest)
    }
    assert len(keys) == 2


def test_licence_of_row_request_and_preset(tmp_path, files):
    row = {"source": "1.jpg", "target": "2.jpg", "instruction": "x"}
    for n in (1, 2):
        files.write(tmp_path / "in" / f"{n}.jpg", files.picture(n))
    source = files.lines(tmp_path / "in" / "a.jsonl", [row, row | {"licence": "MIT"}])
    manifest = import_source(source, tmp_path / "out", licence="CC0-1.0", validation_fraction=0).manifest
    assert [sample.meta["licence"] for _, sample in all_samples(manifest)] == ["CC0-1.0", "MIT"]


def test_pictures_inside_rows_are_split_too(tmp_path, files):
    """The survey does not read pictures, and still counts their rows."""
    rows = [
        {"source": {"bytes": files.picture(n)}, "target": [{"bytes": files.picture(50 + n)}], "instruction": str(n)}
        for n in range(20)
    ]
    file = files.parquet(tmp_path / "in" / "a.parquet", rows, group=6)
    bars = []

    class Bar:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def update(self, count):
            bars[-1][2] += count

    def progress(what, total, done=0):
        bars.append([what, total, done])
        return Bar()

    report = import_source(file, tmp_path / "out", format="parquet", validation_fraction=0.2, progress=progress)
    assert report.manifest.counts == {"train": {"edit": 16}, "validation": {"edit": 4}}
    assert bars == [["survey", None, 20], ["import", 20, 20]]
