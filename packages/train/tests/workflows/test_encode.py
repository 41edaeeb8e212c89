"""Encode once, train from it: the loss of training without a cache, and nothing that other encoders made."""

import shutil
from itertools import islice
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn

from unipic2_data.cache.build_latents import LatentBuild
from unipic2_data.cache.build_text import TextBuild
from unipic2_data.cache.portion import Portion
from unipic2_data.cache.read import CacheConfig
from unipic2_data.errors import DataError
from unipic2_train import encoding
from unipic2_train.conditioner import ConnectorConfig
from unipic2_train.datamodule import ShardData
from unipic2_train.metaquery import MetaQuery, MetaQueryConfig
from unipic2_train.objectives.flow_matching import FlowMatchingConfig, flow_matching_loss
from unipic2_train.system import FrozenParts
from unipic2_train.workflows.encode import Part, run


def data_of(shapes, **options):
    made = ShardData(str(shapes), size=32, global_batch=8, **options)
    made.trainer = SimpleNamespace(
        world_size=1,
        global_rank=0,
        accumulate_grad_batches=1,
        global_step=0,
        state=SimpleNamespace(fn=TrainerFn.FITTING),
        default_root_dir="unused",
    )
    made.setup("fit")
    return made


@pytest.fixture(scope="module")
def encode(frozen, shapes, tmp_path_factory):
    """Return a function that makes a cache; each half is encoded once for each dtype."""
    halves = tmp_path_factory.mktemp("halves")
    portions = Portion.of(data_of(shapes).training_pool(None), (32, 32))

    def make(latents, text):
        folder = tmp_path_factory.mktemp("cache")
        if latents and not (halves / latents).exists():
            LatentBuild(halves / latents, portions, encoding.picture_encoder(frozen.vae), latents, flips=True).run()
        if text and not (halves / f"text-{text}").exists():
            TextBuild(halves / f"text-{text}", portions, encoding.text_encoder(frozen), text).run()
        for name, half in (("latents", latents), ("text", text and f"text-{text}")):
            if half:
                (folder / name).symlink_to(halves / half)
        return CacheConfig(str(folder), latents, text)

    return make


def losses(frozen, transformer, data, posterior_seed=None):
    """Return the losses of four training steps' batches, and their gradients' norms."""
    found = []
    for batch in islice(data.train_dataloader(), 4):
        encoded = frozen.encode(batch, posterior_seed)
        loss = flow_matching_loss(transformer, encoded, FlowMatchingConfig(text_dropout=0.3), shift=3.0, seed=0).loss
        loss.backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in transformer.parameters() if p.grad is not None])
        transformer.zero_grad()
        found += [loss.item(), norm.item()]
    return torch.tensor(found)


@pytest.mark.parametrize(
    ("latents", "text", "tolerance"),
    [
        ("float32", "float32", 1e-5),
        ("bfloat16", "bfloat16", 2e-2),
        ("bfloat16", "float8", 6e-2),
        (None, "float32", 1e-5),
        ("float32", None, 1e-5),
    ],
)
def test_training_on_a_cache_has_the_loss_of_training_without(
    frozen, transformer, shapes, encode, latents, text, tolerance
):
    cached = losses(frozen, transformer, data_of(shapes, cache=encode(latents, text), flip=0.5))
    torch.testing.assert_close(
        cached, losses(frozen, transformer, data_of(shapes, flip=0.5)), rtol=tolerance, atol=tolerance
    )


def test_posterior_draws_are_the_same_with_and_without_a_cache(frozen, transformer, shapes, encode):
    cached = losses(frozen, transformer, data_of(shapes, cache=encode("float32", None)), posterior_seed=1)
    plain = losses(frozen, transformer, data_of(shapes), posterior_seed=1)
    torch.testing.assert_close(cached, plain, rtol=1e-5, atol=1e-5)
    assert (plain - losses(frozen, transformer, data_of(shapes))).abs().max() > 1e-4


def test_draws_have_the_posterior_s_mean_and_spread(frozen, batch):
    edits = batch("edit", 4)
    moments = torch.stack([torch.full((4, 2, 64, 64), 3.0), torch.full((4, 2, 64, 64), -2.0)], 1)
    drawn = encoding.draw(moments, edits, 0)
    assert drawn.mean().item() == pytest.approx(3.0, abs=0.01)
    assert drawn.std().item() == pytest.approx(torch.tensor(-1.0).exp().item(), rel=0.02)
    assert torch.equal(drawn, encoding.draw(moments, edits, 0))
    assert not torch.equal(drawn, encoding.draw(moments, edits, 1))


def test_what_other_encoders_made_is_refused(foundation, frozen, transformer, shapes, encode):
    cache = encode("float32", "float32")
    for what in ("latents", "text"):
        other = FrozenParts(foundation)
        weights = other.vae if what == "latents" else other.text.text_encoder_2
        with torch.no_grad():
            next(weights.parameters()).mul_(1.001)
        batch = next(iter(data_of(shapes, cache=cache).train_dataloader()))
        with pytest.raises(ValueError, match=f"cached {what} were made by other encoders"):
            other.encode(batch)
        frozen.encode(batch)


def test_another_tokenizer_or_length_is_another_encoder(foundation, frozen):
    other = FrozenParts(foundation)
    assert other.identity("text") == frozen.identity("text") != frozen.identity("latents")
    other = FrozenParts(foundation)
    other.text.t5_length -= 1
    assert other.identity("text") != frozen.identity("text")
    other = FrozenParts(foundation)
    other.text.tokenizer.add_tokens(["new"])
    assert other.identity("text") != frozen.identity("text")


def test_a_cache_of_another_size_stops_the_run(frozen, shapes, encode):
    data = data_of(shapes, cache=encode("bfloat16", None))
    data.size, data.bad_rate = 16, 0.0
    with pytest.raises(DataError, match=r"at 16x16: the cache .* Encode again"):
        list(islice(data.train_dataloader(), 8))


def behind_vlm(recipe, foundation, shapes, cache, *words):
    """Encode what a recipe of connector or joint trains on."""
    given = {"data.path": shapes, "data.cache.path": cache, "model.metaquery.checkpoint": foundation}
    run(["--config", recipe, *(str(word) for key, value in given.items() for word in (f"--{key}", value)), *words])


def test_behind_a_vlm_pictures_are_encoded_alone(foundation, transformer, shapes, small_vlm, tmp_path):
    words = ("--data.cache.latents", "float32", "--data.cache.text", "null")
    behind_vlm("connector/debug", foundation, shapes, tmp_path / "cache", *words)
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"latents"}
    weights = tmp_path / "model"
    shutil.copytree(foundation, weights)
    transformer.save_pretrained(weights / "transformer")
    sizes = ConnectorConfig(4, 16, 32, 1, 2, positions="mrope")
    config = MetaQueryConfig(str(weights), str(small_vlm.start), connector=sizes)
    system = MetaQuery(config, "connector", "both", torch.device("cpu"))
    cache = CacheConfig(str(tmp_path / "cache"), "float32", None)
    found = []
    for data in (data_of(shapes, tasks={"t2i": 1}, cache=cache), data_of(shapes, tasks={"t2i": 1})):
        with torch.no_grad():
            found.append([system.training_loss(batch).loss for batch in islice(data.train_dataloader(), 2)])
    torch.testing.assert_close(*map(torch.stack, found), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("recipe", "words", "says"),
    [
        ("connector/debug", (), "a VLM reads the prompts for queries that are trained.*--data.cache.text null"),
        ("joint/debug", ("--data.cache.text", "null"), "model.reference is both: the VLM reads the pictures of edits"),
    ],
)
def test_what_the_vlm_reads_is_not_encoded(foundation, shapes, tmp_path, recipe, words, says):
    with pytest.raises(DataError, match=says):
        behind_vlm(recipe, foundation, shapes, tmp_path / "cache", *words)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, Part(0, 1, 0)),
        ({"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1"}, Part(9, 16, 1)),
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "3"}, Part(3, 4, 3)),
    ],
)
def test_launchers_say_which_process_this_is(monkeypatch, variables, expected):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Part.of_environment() == expected
