"""Encode a recipe's data once, as people do, and train from it: the losses are those of training without a cache."""

import pytest

from unipic2_train import cli

pytestmark = [pytest.mark.slow, pytest.mark.mlflow]


def test_encode_then_train(workshop, capsys):
    recipe = workshop.recipe("cached", steps=4, every=4)
    options = ["--data.cache.path", workshop.folder / "cache", "--data.flip", "0.5", "--data.num_workers", "1"]
    exact = ["--data.cache.latents", "float32", "--data.cache.text", "float32"]
    words = [str(word) for word in ("--config", recipe, *options, *exact)]

    cli._run(["encode", *words, "--sizes_only"])
    assert "text embeddings: " in capsys.readouterr().out
    assert not (workshop.folder / "cache").exists(), "sizes are said before anything is written"
    cli._run(["encode", *words])
    said = capsys.readouterr().out
    assert said.index("in all") < said.index("wrote")
    assert "cache: complete" in said
    cli._run(["encode", *words])
    assert "wrote 0 records" in capsys.readouterr().out, "again: nothing is left to do"

    plain = workshop.run_here("pretrain", "--config", recipe, "--data.flip", 0.5, "--run_dir", workshop.folder / "off")
    cached = workshop.run_here("pretrain", *words, "--run_dir", workshop.folder / "on")
    losses, others = workshop.losses(plain), workshop.losses(cached)
    assert list(losses) == list(others) == [1, 2, 3, 4]
    for step, values in losses.items():
        assert others[step] == pytest.approx(values, rel=1e-3)
