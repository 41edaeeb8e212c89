import numpy as np
import pytest

from unipic2_data.errors import DataError
from unipic2_data.filtering import Filter, ScoreRule
from unipic2_data.images import encode_png
from unipic2_data.indexing import index_folder
from unipic2_data.manifest import Manifest, ShardWriter
from unipic2_data.sample import Image, Sample
from unipic2_data.scan import scan
from unipic2_data.sources import Source, open_source
from unipic2_data.storage import LocalFiles
from unipic2_data.table import TABLE, SampleTable


def picture(height, width):
    return Image(encode_png(np.zeros((height, width, 3), np.uint8)))


@pytest.fixture
def data(tmp_path):
    shards = []
    samples = {
        "t2i": [
            {"captions": ["x"], "height": 20, "width": 30, "licence": "MIT", "scores": {"quality": 7, "sc": 0.5}},
            {"captions": ["x"], "licence": "CC-BY-4.0", "scores": {"quality": 5}},
            {"captions": ["x"], "height": "20", "width": None, "licence": 3, "scores": "none"},
            {"captions": ["x"], "height": 70000, "width": 90, "scores": {"quality": True, "sc": "high"}},
        ],
        "qa": [{"question": "?", "answer": "!", "reference_sizes": [{"height": 11, "width": 12}]}],
        "prompt": [{"captions": ["x"], "licence": "MIT"}],
    }
    for kind, ones in samples.items():
        with ShardWriter(tmp_path, f"train/{kind}.tar", "train", kind) as writer:
            for n, meta in enumerate(ones):
                target = picture(16, 40) if kind == "t2i" else None
                writer.add(Sample(f"{kind}{n}", kind, meta, target, [picture(8, 8)] if kind == "qa" else []))
        shards.append(writer.shard)
    manifest = Manifest(tmp_path, shards)
    manifest.save()
    return manifest


def test_columns(data):
    table = SampleTable.build(data)
    assert table.sizes.tolist() == [[20, 30], [16, 40], [16, 40], [65535, 90], [11, 12], [0, 0]]
    assert table.licences == ["CC-BY-4.0", "MIT"]
    assert table.licence.tolist() == [1, 0, -1, -1, -1, 1]
    assert np.array_equal(table.scores["quality"], [7, 5, np.nan, 1, np.nan, np.nan], equal_nan=True)
    assert np.array_equal(table.scores["sc"], [0.5] + [np.nan] * 5, equal_nan=True)


@pytest.mark.slow
def test_the_same_bytes_from_any_number_of_processes(data):
    SampleTable.build(data).save(data)
    one = (data.root / TABLE).read_bytes()
    SampleTable.build(data, workers=2).save(data)
    assert (data.root / TABLE).read_bytes() == one


def test_a_table_is_kept_beside_the_manifest_and_not_used_for_another(data):
    source = open_source(Source(str(data.root)))
    assert SampleTable.load(source.manifest, source.index) is None
    table = source.table()
    again = SampleTable.load(source.manifest, source.index)
    assert again.sizes.tolist() == table.sizes.tolist()
    assert again.scores.keys() == table.scores.keys()
    data.generator = {"command": "another"}
    data.save()
    assert SampleTable.load(Manifest.read(data.root), source.index) is None


@pytest.mark.parametrize("content", [b"", b"PK", bytes(1000)])
def test_a_damaged_table_is_made_again(data, content):
    source = open_source(Source(str(data.root)))
    whole = source.table()
    (data.root / TABLE).write_bytes(content or (data.root / TABLE).read_bytes()[:300])
    assert len(source.table()) == len(whole)
    assert SampleTable.load(source.manifest, source.index) is not None


def test_a_folder_for_reading_only(data, monkeypatch):
    def refuse(*args):
        raise PermissionError

    monkeypatch.setattr(SampleTable, "save", refuse)
    assert len(open_source(Source(str(data.root))).table()) == 6


def test_behind_a_server_the_table_must_be_there(data, serve):
    source = open_source(Source(serve(data.root).address))
    with pytest.raises(DataError, match=r"`unipic2-data table DATA`"):
        source.table()
    SampleTable.build(data).save(data)
    assert len(source.table()) == 6


def test_damaged_samples_have_no_size(data):
    tar = data.root / "train" / "t2i.tar"
    content = tar.read_bytes()
    tar.write_bytes(content.replace(b'{"version":1', b'{"version"!1', 1)[: len(content) // 2])
    table = SampleTable.build(data)
    assert table.sizes[0].tolist() == table.sizes[3].tolist() == [0, 0]
    assert table.sizes[1].tolist() == [16, 40]


def test_commands_that_write_data_make_the_table(tmp_path, files):
    files.tar(tmp_path / "a.tar", {"1.jpg": files.picture(1, (24, 16)), "1.txt": "x"})
    manifest = index_folder(tmp_path).manifest
    table = SampleTable.load(manifest, LocalFiles(tmp_path))
    assert table.sizes.tolist() == [[16, 24]]


@pytest.mark.parametrize(
    "wanted",
    [
        Filter(),
        Filter((ScoreRule.parse("quality>=6"),)),
        Filter((ScoreRule.parse("quality<6"), ScoreRule.parse("sc>0"))),
        Filter(licences=("CC-*",)),
        Filter(licences=("MIT",), min_side=30),
        Filter(min_side=17),
        Filter(max_aspect=1.6),
        Filter((ScoreRule.parse("quality>=1"),), 18, 3, ("MIT",)),
    ],
)
def test_filters_decide_as_they_do_on_samples(data, wanted):
    shard = data.shards_of("train", "t2i")[0]
    samples = [one.sample for one in scan(data, shard)]
    for sample in samples:  # what is no number or text counts as missing in the table
        sample.meta["scores"] = {
            name: value
            for name, value in (sample.meta["scores"].items() if isinstance(sample.meta["scores"], dict) else ())
            if not isinstance(value, str)
        }
        if not isinstance(sample.meta.get("licence"), str):
            sample.meta.pop("licence", None)
        if not isinstance(sample.meta.get("height"), int):
            sample.meta.pop("height", None)
    reasons = [wanted.reason(sample) for sample in samples]
    kept, counted = wanted.keep(SampleTable.build(data).rows(slice(0, 4)))
    assert kept.tolist() == [reason is None for reason in reasons]
    assert dict(counted) == {reason: reasons.count(reason) for reason in reasons if reason}
