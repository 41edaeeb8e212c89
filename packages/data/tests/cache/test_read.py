"""The training loader on a cache: the same batches, with latents and embeddings in place of pixels."""

from itertools import islice

import pytest
import torch

from unipic2_data.cache.build_latents import LatentBuild, PictureEncoder
from unipic2_data.cache.build_text import TextBuild, TextEncoder
from unipic2_data.cache.portion import Portion
from unipic2_data.cache.read import Cache, CacheConfig
from unipic2_data.errors import DataError
from unipic2_data.loader import TrainLoader
from unipic2_data.pool import Pool
from unipic2_data.transform import Transform

SIZE = (32, 32)


def encode(pixels):
    mean = torch.nn.functional.avg_pool2d(pixels, 8)
    return torch.stack([mean, mean - 5], 1)


def read(prompts):
    rows = torch.tensor([[float(len(prompt)), 1.0] for prompt in prompts])
    return rows[:, None, :].expand(-1, 3, -1), rows


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    """A cache of a part of the world's validation split: 40 samples of each kind are missing."""
    folder = tmp_path_factory.mktemp("cache")
    portions = Portion.of(Pool.whole(world, "validation"), SIZE)
    short = [Portion(one.store, one.kind, SIZE, range(len(one.indices) - 40)) for one in portions]
    LatentBuild(folder / "latents", short, PictureEncoder("one", encode), "float32", flips=True).run()
    TextBuild(folder / "text", portions, TextEncoder("two", read), "float32").run()
    return folder


@pytest.fixture
def cache(folder):
    return Cache(CacheConfig(str(folder), "float32", "float32"), Transform.identity)


def batches(world, count, **options):
    return list(islice(TrainLoader(world, 32, 8, 0, split="validation", bad_rate=1.0, **options), count))


@pytest.mark.parametrize(("flip", "workers"), [(0.0, 0), (0.5, 0), (0.5, 2)])
def test_a_cached_batch_is_the_encoded_batch(world, cache, flip, workers):
    plain = batches(world, 20, flip=flip)
    for batch, made in zip(plain, batches(world, 20, flip=flip, encoded=cache, num_workers=workers), strict=True):
        assert (batch.keys, batch.prompts, batch.kind) == (made.keys, made.prompts, made.kind) or made.faults
        assert made.pixels is made.references is None
        good = [row for row in range(8) if row not in made.faults]
        assert torch.equal(made.latents[good], encode(batch.pixels)[good])
        assert (made.reference_latents is None) == (batch.references is None)
        if batch.references is not None:
            assert torch.equal(made.reference_latents[good], encode(batch.references)[good])
        assert torch.equal(made.prompt_embeds, read(made.prompts)[0])
        assert torch.equal(made.pooled, read(made.prompts)[1])
        assert made.encoders == {"latents": "one", "text": "two"}


def test_some_are_mirrored_and_others_at_another_visit(world):
    whole, turned = (batches(world, 60, flip=flip, tasks={"edit": 1}) for flip in (0.0, 0.5))
    visits = {}
    for plain, some in zip(whole, turned, strict=True):
        for row, key in enumerate(plain.keys):
            same = [
                torch.equal(a[row], b[row])
                for a, b in ((plain.pixels, some.pixels), (plain.references, some.references))
            ]
            mirrored = [
                torch.equal(a[row].flip(-1), b[row])
                for a, b in ((plain.pixels, some.pixels), (plain.references, some.references))
            ]
            assert all(same) or all(mirrored), "a pair is mirrored together"
            visits.setdefault(key, []).append(all(mirrored) and not all(same))
    share = sum(map(sum, visits.values())) / sum(map(len, visits.values()))
    assert 0.3 < share < 0.7
    assert any(len(set(seen)) == 2 for seen in visits.values())


def test_what_is_not_in_the_cache_is_bad_and_stops_the_run(world, cache):
    made = batches(world, 100, encoded=cache)
    faults = [(batch, row, fault) for batch in made for row, fault in batch.faults.items()]
    assert {fault.reason for _, _, fault in faults} == {"not in the cache"}
    for batch, row, _ in faults:
        assert batch.weight[row] == 0
        assert not batch.latents[row].any()
    with pytest.raises(DataError, match=r"not in the cache.* Encode again"):
        list(islice(TrainLoader(world, 32, 8, 0, split="validation", encoded=cache), 100))


def test_text_alone_leaves_the_pixels(world, folder):
    text = Cache(CacheConfig(str(folder), None, "float32"), Transform.identity)
    for batch, made in zip(batches(world, 2), batches(world, 2, encoded=text), strict=True):
        assert torch.equal(batch.pixels, made.pixels)
        assert made.latents is None
        assert made.encoders == {"text": "two"}
        assert made.prompt_embeds.shape == (8, 3, 2)
