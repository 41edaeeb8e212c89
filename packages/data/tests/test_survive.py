"""Faults in training, caused one by one: each costs its own row and nothing else."""

import io
import json
from itertools import islice

import numpy as np
import pytest
from PIL import Image as Picture
from PIL import PngImagePlugin

from unipic2_data.errors import DataError
from unipic2_data.images import encode_png
from unipic2_data.loader import TrainLoader
from unipic2_data.manifest import Manifest, ShardWriter
from unipic2_data.patience import Patience
from unipic2_data.pool import Pool
from unipic2_data.quarantine import Quarantine
from unipic2_data.sample import Image, Sample, sample_to_tar
from unipic2_data.sources import Source

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (48, 64, 3), np.uint8)
GOOD = Image(encode_png(PIXELS))
QUICK = Patience(tries=2, pause=0.01, timeout=5, rest=60)


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def write(root, kind, members, *, name="train.tar"):
    """Write samples, as their tar members, between good ones, and return the data set."""
    text = {"captions": ["good"]} if kind == "t2i" else {"instruction": "good"}
    references = [GOOD] if kind == "edit" else []
    with ShardWriter(root, name, "train", kind) as writer:
        for n in range(3):
            writer.add(Sample(f"good{n}", kind, text, GOOD, references))
        for one in members:
            writer.append(one)
        writer.add(Sample("last", kind, text, GOOD, references))
    manifest = Manifest(root, [writer.shard])
    manifest.save()
    return manifest


def epoch(data, log=None, rate=1.0, **options):
    """Return the faults of an epoch by reason, and the batches."""
    count = sum(cell.count for cell in data.cells) if isinstance(data, Pool) else sum(data.counts["train"].values())
    loader = TrainLoader(data, (24, 32), 1, 0, bad_rate=rate, quarantine=log, **options)
    batches = list(islice(loader, count))
    return dict(loader.quarantine.reasons), batches


def t2i(data, key="bad", suffix="png", **meta):
    return sample_to_tar(Sample(key, "t2i", {"captions": ["bad"]} | meta, Image(data, suffix)))


BOMB = Picture.new("1", (20000, 20000))
FAULTS = {
    "picture is unreadable": [
        t2i(encoded(Picture.fromarray(PIXELS), "JPEG")[:900], suffix="jpg"),
        t2i(b"nothing", "bad2"),
    ],
    "picture is empty": [t2i(b"")],
    "picture is larger than any that is read": [t2i(encoded(BOMB))],
    "no text": [t2i(GOOD.data).replace(b'"bad"', b'"   "')],
    "unreadable tar or JSON": [t2i(GOOD.data).replace(b'"bad"', b'"\xff\xfe\xfd"'[:5])],
    "wrong kind": [sample_to_tar(Sample("bad", "edit", {"instruction": "x"}, GOOD, [GOOD]))],
    "target is missing": [sample_to_tar(Sample("bad", "t2i", {"captions": ["x"]}))],
}


@pytest.mark.parametrize("reason", FAULTS)
def test_a_bad_sample_keeps_its_row_and_is_named(tmp_path, reason):
    members = FAULTS[reason]
    reasons, batches = epoch(write(tmp_path, "t2i", members), tmp_path / "log" / "bad.jsonl")
    assert reasons == {reason: len(members)}
    for batch in batches:
        assert batch.weight.item() == (0 if batch.faults else 1)
        assert batch.pixels.isfinite().all()
        assert (batch.pixels.min() == batch.pixels.max()) == bool(batch.faults)
        assert batch.prompts == ([""] if batch.faults else ["good"])
    assert sorted(batch.keys[0] for batch in batches if not batch.faults) == ["good0", "good1", "good2", "last"]
    lines = [json.loads(line) for line in (tmp_path / "log" / "bad.jsonl").read_text().splitlines()]
    assert [line["reason"] for line in lines] == [reason] * len(members)
    assert all(line["message"] and line["key"] and line["time"] for line in lines)
    if reason not in {"unreadable tar or JSON", "wrong kind"}:
        assert {line["key"] for line in lines} <= {"bad", "bad2"}


EDITS = {
    "not one reference": sample_to_tar(Sample("bad", "edit", {"instruction": "x"}, GOOD)),
    "pair with different aspect ratios": sample_to_tar(
        Sample("bad", "edit", {"instruction": "x"}, GOOD, [Image(encode_png(PIXELS[:, :40].copy()))])
    ),
    "picture is unreadable": sample_to_tar(Sample("bad", "edit", {"instruction": "x"}, GOOD, [Image(GOOD.data[:80])])),
    "picture is empty": sample_to_tar(Sample("bad", "edit", {"instruction": "x"}, GOOD, [Image(b"")])),
}


@pytest.mark.parametrize("reason", EDITS)
def test_a_bad_pair_keeps_its_row(tmp_path, reason):
    reasons, batches = epoch(write(tmp_path, "edit", [EDITS[reason]]))
    assert reasons == {reason: 1}
    (bad,) = [batch for batch in batches if batch.faults]
    assert bad.references.shape == bad.pixels.shape
    assert bad.references.min() == bad.references.max()


def test_odd_pictures_are_no_faults(tmp_path):
    picture = Picture.fromarray(PIXELS)
    exif = Picture.Exif()
    exif[0x0112] = 6
    alpha = picture.convert("RGBA")
    alpha.putalpha(128)
    odd = {
        "cmyk": encoded(picture.convert("CMYK"), "JPEG"),
        "grey16": encoded(Picture.fromarray(PIXELS[..., 0].astype(np.uint16) * 257)),
        "alpha": encoded(alpha),
        "palette": encoded(picture.quantize(16)),
        "turned": encoded(picture.transpose(Picture.Transpose.ROTATE_90), "JPEG", exif=exif, quality=95),
        "grey": encoded(picture.convert("L"), "JPEG"),
        "webp": encoded(picture, "WEBP"),
    }
    reasons, batches = epoch(write(tmp_path, "t2i", [t2i(data, key) for key, data in odd.items()]))
    assert reasons == {}
    pixels = {batch.keys[0]: batch.pixels[0] for batch in batches}
    assert (pixels["turned"] - pixels["good0"]).abs().mean() < 0.15
    assert (pixels["cmyk"] - pixels["good0"]).abs().mean() < 0.2
    assert (pixels["alpha"] - (pixels["good0"] + 1) / 2).abs().mean() < 0.02


def test_metadata_that_unpacks_to_megabytes_is_a_fault(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * (2**21), zip=True)
    reasons, _ = epoch(write(tmp_path, "t2i", [t2i(encoded(Picture.fromarray(PIXELS), pnginfo=info))]))
    assert reasons == {"picture is unreadable": 1}


def test_a_truncated_tar_costs_what_lies_beyond_the_cut(tmp_path):
    data = write(tmp_path, "t2i", [])
    tar = tmp_path / "train.tar"
    tar.write_bytes(tar.read_bytes()[: int(data.offsets(data.shards[0])[3, 0]) + 600])
    reasons, batches = epoch(data)
    assert reasons == {"cut off": 1}
    assert sum(float(batch.weight) for batch in batches) == 3


def test_a_shard_that_is_gone_costs_its_samples(tmp_path):
    first, second = (write(tmp_path / name, "t2i", []) for name in "ab")
    pool = Pool.of([Source(str(first.root)), Source(str(second.root))])
    (second.root / "train.tar").unlink()
    reasons, batches = epoch(pool)
    assert reasons == {"shard cannot be read": 4}
    assert sum(float(batch.weight) for batch in batches) == 4


def test_a_damaged_index_costs_its_shard(tmp_path):
    data = write(tmp_path, "t2i", [])
    np.save(tmp_path / "train.idx.npy", np.array([[0, 10**12], [-5, 3], [2**40, 100], [0, 0]]))
    assert epoch(data)[0] == {"damaged index": 4}
    np.save(tmp_path / "train.idx.npy", np.zeros((2, 2), np.int64))
    assert epoch(data)[0] == {"shard cannot be read": 4}


def test_a_server_that_disappears_costs_its_rows_and_comes_back(tmp_path, serve):
    write(tmp_path, "t2i", [])
    server = serve(tmp_path)
    loader = TrainLoader(
        Pool.of([Source(server.address)], patience=Patience(tries=2, pause=0.01, rest=0)), (24, 32), 1, 0, bad_rate=1
    )
    batches = iter(loader)
    assert next(batches).weight == 1
    server.dead = True
    assert [float(next(batches).weight) for _ in range(2)] == [0, 0]
    server.dead = False
    assert [float(next(batches).weight) for _ in range(5)] == [1] * 5
    assert loader.quarantine.reasons == {"shard cannot be read": 2}


def test_others_see_the_same_whatever_is_bad(tmp_path):
    """Beside the bad rows, batches are those of a sound data set."""
    sound = write(tmp_path / "a", "t2i", [t2i(GOOD.data)])
    bad = write(tmp_path / "b", "t2i", [t2i(b"x" * len(GOOD.data))])
    pairs = zip(TrainLoader(sound, 24, 5, 0), TrainLoader(bad, 24, 5, 0, bad_rate=1), range(4), strict=False)
    for one, other, _ in pairs:
        assert one.keys == other.keys
        for row in range(5):
            assert row in other.faults or bool((one.pixels[row] == other.pixels[row]).all())
        assert len(other.faults) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_bad_samples_stop_the_run_with_a_summary(tmp_path, workers):
    data = write(tmp_path, "t2i", [t2i(b""), t2i(b"nothing", "bad2")])
    loader = TrainLoader(data, 24, 6, 0, bad_rate=0.05, num_workers=workers, quarantine=tmp_path / "bad.jsonl")
    with pytest.raises(
        DataError, match=r"6 of 18 samples are bad, more than 5\.000%.*3 x picture is .*3 x picture"
    ) as error:
        for _ in loader:
            pass
    assert "sample bad2" in str(error.value)
    assert str(tmp_path / "bad.jsonl") in str(error.value)
    assert len((tmp_path / "bad.jsonl").read_text().splitlines()) == 6


def test_an_impossible_rate():
    with pytest.raises(DataError, match=r"must be in \[0, 1\], got 2"):
        Quarantine(2)


def test_sizes_in_the_json_that_are_wrong(tmp_path):
    from unipic2_data.buckets import Buckets, BucketSizes

    data = write(tmp_path, "t2i", [t2i(GOOD.data, width=640, height=480)])
    pool = Pool.whole(data, sizes=BucketSizes(Buckets([40, 400]), 8))
    assert {cell.size: cell.count for cell in pool.cells} == {(32, 48): 4, (344, 464): 1}
    reasons, _ = epoch(pool, upscale=False)
    assert reasons == {"smaller than its bucket": 1}
