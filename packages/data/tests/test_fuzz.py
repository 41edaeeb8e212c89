"""Whatever bytes come from others: a clean error, or a reason to skip, never another exception, never a hang."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Picture

from unipic2_data.adapters.conversations import Conversations
from unipic2_data.adapters.fields import Fields
from unipic2_data.adapters.formats import default_mappers
from unipic2_data.adapters.places import FolderPlace
from unipic2_data.adapters.record import Record, Skipped
from unipic2_data.adapters.rows import read_rows, row_parts
from unipic2_data.adapters.tar import TarSource
from unipic2_data.batch import Batch
from unipic2_data.convert import Conversion, convert
from unipic2_data.errors import DataError
from unipic2_data.images import decode_rgb, decode_small, encode_png, picture_size, plain_picture
from unipic2_data.loader import TrainLoader
from unipic2_data.manifest import Manifest, ShardWriter
from unipic2_data.notes import Notes
from unipic2_data.pool import Pool
from unipic2_data.quarantine import Fault
from unipic2_data.sample import Image, Sample, document_from_tar, sample_from_tar, sample_to_tar
from unipic2_data.sources import Source
from unipic2_data.storage import LocalFiles
from unipic2_data.table import TABLE, SampleTable
from unipic2_data.tar_stream import tar_samples
from unipic2_data.tars import tar_members

bounded = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

CANONICAL = sample_to_tar(
    Sample("a-1", "edit", {"instruction": "x", "scores": {"s": 1}}, Image(b"t" * 600), [Image(b"r" * 30)])
)


def foreign(style):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=style) as archive:
        for name, data in {"d" * 120 + "/a.jpg": b"j" * 700, "a.txt": b"text", "a.json": b'{"prompt": "p"}'}.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1.5
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()[:8192]


TARS = [CANONICAL + bytes(1024), foreign(tarfile.PAX_FORMAT), foreign(tarfile.GNU_FORMAT)]


@st.composite
def damaged(draw, originals):
    """One of some byte strings with pieces changed, taken out, doubled or cut off."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        length = draw(st.sampled_from([1, 1, 2, 8, 100, 512]))
        act = draw(st.sampled_from(["change", "random", "remove", "double", "cut", "zero"]))
        if act == "change":
            data[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
        elif act == "random":
            data[place : place + length] = draw(st.binary(min_size=length, max_size=length))
        elif act == "remove":
            del data[place : place + length]
        elif act == "double":
            data[place:place] = data[place : place + length]
        elif act == "cut":
            del data[place:]
        else:
            data[place : place + length] = bytes(length)
    return bytes(data)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["", " ", "\ud800"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "bytes", "path", "from", "value"]), inner)
    ),
    max_leaves=8,
)


@bounded
@given(damaged(TARS) | st.binary(max_size=2000))
def test_samples(data):
    document_from_tar(data)
    try:
        sample = sample_from_tar(data, "here")
    except DataError:
        return
    assert isinstance(sample.meta, dict)


@bounded
@given(damaged(TARS) | st.binary(max_size=2000))
def test_members(data):
    found = []
    try:
        for member in tar_members(io.BytesIO(data), "here"):
            found.append(member)
            assert member.start >= 512
            assert member.size >= 0
    except DataError:
        pass
    assert len(found) <= len(data) // 512


@bounded
@given(data=damaged([*TARS, TARS[1] * 2]))
def test_tars_of_samples(tmp_path, data):
    (tmp_path / "x.tar").write_bytes(data)
    for mappers in (default_mappers("tar"), default_mappers("json"), (Fields(target="jpg", text=("prompt",)),)):
        try:
            source = TarSource(tmp_path / "x.tar", mappers)
            found = [one for part in source.parts() for one in source.read(part)]
        except DataError:
            continue
        assert all(isinstance(one, (Record, Skipped)) for one in found)


ROWS = [json.dumps([{"n": n, "text": 'a "b" [c] {d} \\ \u00e9'} for n in range(5)]).encode()]
ROWS.append(b"\n".join(json.dumps({"n": n, "text": "\u00e9"}, ensure_ascii=False).encode() for n in range(5)))


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".txt"])
@bounded
@given(data=damaged(ROWS) | st.binary(max_size=200) | st.text('[]{}":,\\ n1', max_size=60).map(str.encode))
def test_rows(tmp_path, suffix, data):
    file = tmp_path / f"x{suffix}"
    file.write_bytes(data)
    try:
        found = [row for part in row_parts(file, 0) for row in read_rows(file, "x", part, None)]
    except DataError:
        return
    assert all(isinstance(row, Skipped) or isinstance(row[1], dict) for row in found)
    assert len(found) <= max(len(data), 1)


MAPPERS = [
    *default_mappers("json"),
    Conversations(),
    Fields(
        kind="any",
        target="target",
        references=("source",),
        text=("instruction", "a"),
        scores=("scores",),
        metadata=("a",),
    ),
    Fields(kind="qa", references=("source",), text=("instruction",), answer="target", turns="turns"),
    Fields(kind="t2i", target="target", text=("instruction",), annotation="a", group="a", skip={"a": "x"}),
]
NAMES = ["source", "target", "instruction", "scores", "a", "turns", "image", "conversations", "task", "caption"]


@bounded
@given(row=st.dictionaries(st.sampled_from(NAMES), json_values, max_size=8))
def test_any_row(tmp_path, row):
    for mapper in MAPPERS:
        mapper.applies(row)
        if isinstance(mapper, Conversations) and "conversations" not in row:
            continue
        for found in mapper.records("row", row, FolderPlace(tmp_path)):
            assert isinstance(found, (Record, Skipped))
            if isinstance(found, Record):
                try:
                    sample_to_tar(convert(found, Conversion("fuzz")))
                except DataError:
                    continue


def pictures():
    pixels = np.arange(16 * 24 * 3, dtype=np.uint8).reshape(16, 24, 3)
    found = [encode_png(pixels)]
    exif = Picture.Exif()
    exif[0x0112] = 6
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"):
        file = io.BytesIO()
        Picture.fromarray(pixels).save(file, kind, **({"exif": exif} if kind in {"PNG", "JPEG", "WEBP"} else {}))
        found.append(file.getvalue())
    return found


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(bounded, max_examples=200)
@given(damaged(pictures()) | st.binary(max_size=100))
def test_pictures(data):
    for read in (decode_rgb, plain_picture, picture_size, lambda data: decode_small(data, 8)):
        try:
            read(data)
        except DataError:
            continue


MANIFEST = json.dumps(
    {
        "version": 1,
        "generator": {},
        "packages": {},
        "shards": [{"path": "a", "index": "b", "split": "s", "kind": "t2i", "samples": 1, "bytes": 1, "sha256": "x"}],
    }
).encode()


@bounded
@given(data=damaged([MANIFEST]) | json_values.map(lambda value: json.dumps(value).encode()))
def test_manifests(tmp_path, data):
    (tmp_path / "manifest.json").write_bytes(data)
    with pytest.raises(DataError):
        Manifest.load(tmp_path)


@bounded
@given(data=damaged([b'{"key": "k", "x": 1}\n{"key": "l"}\n']) | st.binary(max_size=100))
def test_notes(tmp_path, data):
    (tmp_path / "notes.jsonl").write_bytes(data)
    try:
        notes = Notes([Path(tmp_path / "notes.jsonl")])
    except DataError:
        return
    notes.of("data", "k")


@bounded
@given(damaged([*TARS, TARS[0][:-1024] * 3 + bytes(1024), TARS[1] + TARS[2]]) | st.binary(max_size=2000))
def test_streamed_tars(data):
    found = list(tar_samples(io.BytesIO(data).read, "here"))
    assert all(isinstance(one, (Sample, Fault)) for one in found)
    assert len(found) <= len(data) // 512 + 2


PICTURE = Image(encode_png(np.zeros((8, 8, 3), np.uint8)))
PAIR = sample_to_tar(Sample("a-1", "edit", {"instruction": ["x", "y"], "height": 8, "width": 8}, PICTURE, [PICTURE]))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(bounded, max_examples=50)
@given(pieces=st.lists(damaged([PAIR]), min_size=2, max_size=2))
def test_training_on_damaged_samples(tmp_path, pieces):
    """Whatever the bytes of a sample are: a batch of full size, and a reason for each row without weight."""
    with ShardWriter(tmp_path, "train.tar", "train", "edit") as writer:
        for piece in (PAIR, *pieces):
            writer.append(piece)
    writer.shard.samples = 3
    Manifest(tmp_path, [writer.shard]).save()
    batches = [next(iter(TrainLoader(Manifest.read(tmp_path), 8, 3, 0, bad_rate=1)))]
    (tmp_path / TABLE).unlink(missing_ok=True)
    assert len(Pool.of([Source(str(tmp_path), min_side=4)]).cells) == 1  # the table of damaged samples
    batches.append(
        next(iter(TrainLoader(Pool.of([Source(str(tmp_path / "train.tar"), kind="edit")]), 8, 3, 0, bad_rate=1)))
    )
    for batch in batches:
        assert isinstance(batch, Batch)
        assert batch.pixels.shape == batch.references.shape == (3, 3, 8, 8)
        assert batch.pixels.isfinite().all()
        assert [row for row in range(3) if batch.weight[row] == 0] == sorted(batch.faults)


@settings(bounded, max_examples=50)
@given(data=st.data())
def test_tables(tmp_path, data):
    with ShardWriter(tmp_path, "train.tar", "train", "edit") as writer:
        writer.append(PAIR)
    manifest = Manifest(tmp_path, [writer.shard])
    SampleTable.build(manifest).save(manifest)
    original = (tmp_path / TABLE).read_bytes()
    (tmp_path / TABLE).write_bytes(data.draw(damaged([original])))
    table = SampleTable.load(manifest, LocalFiles(tmp_path))
    assert table is None or len(table) == 1
