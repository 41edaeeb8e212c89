"""Caches of the shapes world, made with encoders that are simple enough to say what every record must be."""

from collections import Counter

import pytest
import torch

from unipic2_data.cache.build_latents import LatentBuild, PictureEncoder
from unipic2_data.cache.build_text import TextBuild, TextEncoder
from unipic2_data.cache.latents import keys_of
from unipic2_data.cache.portion import Portion
from unipic2_data.cache.read import Cache, CacheConfig
from unipic2_data.errors import DataError
from unipic2_data.images import encode_png
from unipic2_data.loader import eval_batches
from unipic2_data.manifest import Manifest, ShardWriter
from unipic2_data.quarantine import BadSample
from unipic2_data.sample import Image, Sample
from unipic2_data.store import SampleStore
from unipic2_data.transform import Transform

SIZE = (32, 32)


class Encoders:
    """Means of 8x8 blocks as latents, letters as embeddings; counts what is asked of them."""

    def __init__(self, identity: str = "one") -> None:
        self.pictures, self.prompts, self.identity = 0, Counter(), identity

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        self.pictures += len(pixels)
        mean = torch.nn.functional.avg_pool2d(pixels, 8)
        return torch.stack([mean, mean - 5], 1)

    def read(self, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        self.prompts.update(prompts)
        rows = torch.zeros(len(prompts), 80, 4)
        for row, prompt in zip(rows, prompts, strict=True):
            letters = torch.tensor([float(ord(letter)) for letter in prompt]) / 3
            row[: len(prompt), :2] = torch.stack([letters, 10 + letters / 7], 1)
        return rows, rows.sum(1)

    @property
    def picture(self) -> PictureEncoder:
        return PictureEncoder(self.identity, self.encode)

    @property
    def text(self) -> TextEncoder:
        return TextEncoder(self.identity, self.read)


@pytest.fixture
def encoders():
    return Encoders()


@pytest.fixture
def store(world):
    return SampleStore(world, "test")


def portions(store, count=None):
    return [Portion(store, kind, SIZE, range(count or number)) for kind, number in store.counts.items()]


def build(folder, store, encoders, ranks=1, count=40, **options):
    builds = [
        LatentBuild(folder / "latents", portions(store, count), encoders.picture, "float32", **options),
        TextBuild(folder / "text", portions(store, count), encoders.text, "float32"),
    ]
    return [[one.run(rank, ranks) for rank in range(ranks)] for one in builds]


def read(made, samples, flipped=None, size=SIZE):
    """Return latents of targets and of references, stacked."""
    turns = flipped or [False] * len(samples)
    rows = [made.moments(one, size, flipped=turn) for one, turn in zip(samples, turns, strict=True)]
    return [torch.stack(role) for role in zip(*rows, strict=True)]


def cache(folder, transform=Transform.identity, **options):
    return Cache(CacheConfig(str(folder), **{"latents": "float32", "text": "float32"} | options), transform)


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("kind", ["t2i", "edit"])
def test_what_is_read_is_what_the_encoder_says(tmp_path, store, encoders, kind, ranks, monkeypatch):
    monkeypatch.setattr("unipic2_data.cache.build_latents.PART_SAMPLES", 16)
    build(tmp_path, store, encoders, ranks)
    assert encoders.pictures == 40 + 2 * 40, "each picture once"
    made = cache(tmp_path)
    batch = next(eval_batches(store.manifest, "test", kind, SIZE, 40, 40))
    samples = [store.read(kind, index) for index in range(40)]
    targets, *references = read(made, samples)
    assert torch.equal(targets, encoders.encode(batch.pixels))
    assert len(references) == (kind == "edit")
    assert all(torch.equal(one, encoders.encode(batch.references)) for one in references)
    assert made.has_latents
    assert made.encoders == {"latents": "one", "text": "one"}


def test_every_prompt_once_and_the_empty_one(tmp_path, store, encoders):
    build(tmp_path, store, encoders, ranks=2)
    del encoders.prompts[""]
    assert set(encoders.prompts.values()) == {1}
    prompts = ["", *(batch.prompts[0] for batch in eval_batches(store.manifest, "test", "edit", SIZE, 1, 3))]
    embeds, pooled = cache(tmp_path).embeddings(prompts)
    expected = encoders.read(prompts)
    assert torch.equal(embeds, expected[0])
    assert torch.equal(pooled, expected[1])
    with pytest.raises(DataError, match=r"'never seen': the cache .* has no text embeddings for it"):
        cache(tmp_path).embeddings(["never seen"])


def test_flipped_pictures_are_encoded_on_their_own(tmp_path, store, encoders):
    build(tmp_path, store, encoders, count=4, flips=True)
    batch = next(eval_batches(store.manifest, "test", "edit", SIZE, 4, 4))
    samples = [store.read("edit", index) for index in range(4)]
    targets, references = read(cache(tmp_path), samples, [False, True, False, True])
    expected = batch.references.clone()
    expected[1::2] = expected[1::2].flip(-1)
    assert torch.equal(references, encoders.encode(expected))
    assert not torch.equal(targets[1], encoders.encode(batch.pixels)[1])
    build(tmp_path / "plain", store, encoders, count=4)
    with pytest.raises(BadSample, match="mirrored: the cache"):
        read(cache(tmp_path / "plain"), samples, [True] * 4)


def test_a_build_goes_on_where_it_stopped(tmp_path, store, encoders, monkeypatch):
    monkeypatch.setattr("unipic2_data.cache.build_latents.PART_SAMPLES", 16)
    stops = Encoders()
    stops.encode = lambda pixels: (
        (_ for _ in ()).throw(KeyboardInterrupt) if stops.pictures >= 30 else Encoders.encode(stops, pixels)
    )
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, store, stops)
    with pytest.raises(DataError, match="are not finished"):
        cache(tmp_path)
    build(tmp_path, store, encoders, ranks=2)
    assert encoders.pictures == 120 - 32, "two parts were finished"
    again = Encoders()
    reports = build(tmp_path, store, again)
    assert again.pictures == 0
    assert reports[0][0].written == 0
    assert len(cache(tmp_path)._latents) == 120


def test_sizes_are_known_before(tmp_path, store, encoders):
    latents = LatentBuild(tmp_path / "latents", portions(store), encoders.picture, "bfloat16", flips=True)
    count, size = latents.estimate()
    assert count == 2 * (480 + 2 * 240)
    text = TextBuild(tmp_path / "text", portions(store)[:1], encoders.text)
    prompts, text_size = text.estimate()
    assert not list(tmp_path.iterdir()), "nothing is written"
    latents.run()
    text.run()
    assert sum(file.stat().st_size for file in (tmp_path / "latents/parts").glob("*.bin")) == size
    assert prompts == len(cache(tmp_path, latents="bfloat16", text="bfloat16")._text)
    assert text_size == pytest.approx(
        sum(file.stat().st_size for file in (tmp_path / "text/parts").glob("*.bin")), rel=0.2
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"transform": "another"}, "have transform cover.*, not another"),
        ({"latents": "bfloat16"}, "latents in .* have dtype float32, not bfloat16"),
        ({"text": "float8"}, "text embeddings in .* have dtype float32, not float8"),
    ],
)
def test_another_transform_or_dtype_is_not_read(tmp_path, store, encoders, change, says):
    build(tmp_path, store, encoders, count=2)
    with pytest.raises(DataError, match=says):
        cache(tmp_path, **change)


def test_another_encoder_needs_a_cache_of_its_own(tmp_path, store, encoders):
    build(tmp_path, store, encoders, count=2)
    with pytest.raises(DataError, match="holds latents that were made differently"):
        build(tmp_path, store, Encoders("two"), count=2)


def test_latents_alone_and_text_alone(tmp_path, store, encoders):
    build(tmp_path, store, encoders, count=2)
    assert cache(tmp_path, latents=None).encoders == {"text": "one"}
    latents = cache(tmp_path, text=None)
    assert latents.encoders == {"latents": "one"}
    assert latents.embeddings(["a"]) == (None, None)


def picture(value, size=32):
    return Image(encode_png(torch.full((size, size, 3), value, dtype=torch.uint8).numpy()))


def write(folder, *samples):
    with ShardWriter(folder, "train.tar", "train", samples[0].kind) as writer:
        for sample in samples:
            writer.add(sample)
    Manifest(folder, [writer.shard]).save()
    return SampleStore(Manifest.load(folder), "train")


def test_two_edits_of_one_target_never_collide(tmp_path, encoders):
    """One target, two references; and one pair under two instructions; and one key in two kinds."""
    target = picture(200)
    one = Sample("one", "edit", {"instruction": "x"}, target, [picture(10)])
    two = Sample("two", "edit", {"instruction": "y"}, target, [picture(90)])
    same = Sample("same", "edit", {"instruction": "z"}, target, [picture(10)])
    t2i = Sample("one", "t2i", {"captions": ["c"]}, target)
    keys = [key for sample in (one, two, same, t2i) for key in keys_of(sample, SIZE)]
    assert len(set(keys)) == 7
    store = write(tmp_path / "data", one, two, same)
    build(tmp_path, store, encoders, count=3)
    targets, references = read(cache(tmp_path), [one, two, same])
    assert torch.equal(targets[0], targets[1])
    assert references[:, 0].mean((1, 2, 3)).tolist() == pytest.approx([v / 127.5 - 1 for v in (10, 90, 10)])


@pytest.mark.parametrize(
    "changed",
    [
        Sample("one", "edit", {"instruction": "x"}, picture(201), [picture(10)]),
        Sample("one", "edit", {"instruction": "x"}, picture(200), [picture(11)]),
        Sample("other", "edit", {"instruction": "x"}, picture(200), [picture(10)]),
    ],
)
def test_a_picture_that_was_replaced_is_not_found(tmp_path, encoders, changed):
    store = write(tmp_path / "data", Sample("one", "edit", {"instruction": "x"}, picture(200), [picture(10)]))
    build(tmp_path, store, encoders, count=1)
    with pytest.raises(BadSample, match=r"sample \w+ at 32x32: the cache .* has no latents for it") as error:
        cache(tmp_path).moments(changed, SIZE)
    assert error.value.fault.reason == "not in the cache"
    with pytest.raises(BadSample, match="at 64x32: the cache"):
        cache(tmp_path).moments(store.read("edit", 0), (32, 64))


def test_new_captions_and_samples_cost_what_is_new(tmp_path, encoders):
    old = [Sample(f"k{n}", "t2i", {"captions": [f"caption {n}"]}, picture(n)) for n in range(4)]
    build(tmp_path, write(tmp_path / "old", *old), encoders, count=4)
    new = [*old, Sample("k4", "t2i", {"captions": ["caption 0"]}, picture(4))]
    new[1].meta["captions"] = ["another caption", "caption 1"]
    again = Encoders()
    reports = build(tmp_path, write(tmp_path / "new", *new), again, count=5)
    assert again.pictures == 1
    assert set(again.prompts) == {"", "another caption"}
    assert [reports[0][0].written, reports[0][0].kept] == [1, 4]


def test_damaged_samples_are_left_out_and_named(tmp_path, encoders):
    good = Sample("good", "t2i", {"captions": ["a"]}, picture(1))
    store = write(tmp_path / "data", good, Sample("broken", "t2i", {"captions": ["b"]}, Image(b"nothing")))
    ((report,), _) = build(tmp_path, store, encoders, count=2)
    assert report.written == 1
    assert "1 damaged samples left out: sample broken of" in str(report)
    assert "unreadable image" in str(report)


def test_the_error_of_storing_is_said(tmp_path, store, encoders):
    text = {}
    for dtype in ("float32", "bfloat16", "float8"):
        text[dtype] = TextBuild(tmp_path / dtype, portions(store)[:1], encoders.text, dtype).run()
    assert text["float32"].error.relative == 0
    assert 0 < text["bfloat16"].error.relative < 0.004 < text["float8"].error.relative < 0.04
    assert "relative error of storing them" in str(text["float8"])
