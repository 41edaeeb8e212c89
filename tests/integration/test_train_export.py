"""What a run leaves behind is a model that people can use, and it makes the pictures that it made in training."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import unipic2_dit.__main__
from unipic2_data.loader import eval_batches
from unipic2_data.manifest import Manifest
from unipic2_data.randomness import keyed_normal
from unipic2_dit.checkpoint import load_lora, load_pipeline
from unipic2_dit.pipeline import StableDiffusion3KontextPipeline
from unipic2_train import cli, home

pytestmark = [pytest.mark.slow, pytest.mark.mlflow]

PROBE = "    - class_path: training_probe.KeepPictures\n"
FAST = "model: {optimizer: {learning_rate: 0.05, warmup_steps: 0}, kontext: {sampling: {steps: 3, guidance: 2.0}}}\n"
ADAPTER = (
    "model:\n  optimizer: {learning_rate: 0.05, warmup_steps: 0}\n"
    "  kontext: {adapter: {rank: 2, alpha: 6}, sampling: {steps: 3, guidance: 2.0}}\n"
)
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
LORA = "export/pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def run(workshop):
    recipe = workshop.recipe("exported", steps=5, every=3, keep=1, more=PROBE + FAST)
    return workshop.run_here("pretrain", "--config", recipe, "--run_dir", workshop.folder / "exported")


@pytest.fixture(scope="module")
def adapter(workshop, run):
    recipe = workshop.recipe("adapted", steps=5, every=3, base="finetune/debug", more=PROBE + ADAPTER)
    words = ["--model.kontext.checkpoint", run / "export", "--run_dir", workshop.folder / "adapted"]
    return workshop.run_here("finetune", "--config", recipe, *words)


def pipeline_pictures(pipeline, kind):
    """Pictures of the pipeline for the samples, and from the noise, that the probe took in training."""
    pipeline.set_progress_bar_config(disable=True)
    batch = next(eval_batches(Manifest.load(home.path("home:debug/shapes")), "test", kind, 32, 4, 4))
    pictures = pipeline(
        prompt=batch.prompts,
        image=batch.references,
        latents=keyed_normal(0, batch.keys, [0] * 4, "sampling-noise", (4, 8, 8)),
        num_inference_steps=3,
        guidance_scale=2.0,
        output_type="np",
    ).images
    return np.round(pictures * 255).astype(np.uint8)


def assert_same_pictures(found, expected):
    """Pictures are equal but for rounding.

    In training the VAE runs in channels-last layout, which sums in another order: values move by about 1e-6, so a value
    that lies on the boundary between two grey levels may fall to either side. No more than one level, and rarely.
    """
    assert found.shape == expected.shape
    difference = np.abs(found.astype(int) - expected.astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3
    assert expected.std() > 5, "flat pictures would be equal whatever the model does"


@pytest.mark.parametrize("kind", ["t2i", "edit"])
def test_the_pipeline_makes_the_pictures_of_training(run, kind):
    pipeline = StableDiffusion3KontextPipeline.from_pretrained(run / "export")
    assert_same_pictures(pipeline_pictures(pipeline, kind), np.load(run / f"pictures-{kind}.npy"))


def test_the_strict_loader_takes_it(run):
    assert load_pipeline(run / "export").text_encoder_3 is not None


def test_model_card_and_licence_note(run):
    card = (run / "export" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: diffusers")
    assert "Licence note" in card
    assert "Stability AI" in card
    facts = json.loads((run / "export" / "unipic2.json").read_text())
    assert facts["optimiser_steps"] == 5
    assert facts["data_manifest"] == Manifest.load(home.path("home:debug/shapes")).digest
    assert facts["started_from"] == "home:debug/foundation"
    assert facts["data_manifest"] in card


def test_export_command_gives_the_weights_of_the_run(workshop, run):
    out = workshop.folder / "exported-again"
    done = workshop.succeed("export", run, "--out", out, program="unipic2-train")
    assert str(out) in done.stdout
    assert not (workshop.folder / "mlruns").exists()
    own, again = (load_file(folder / WEIGHTS) for folder in (run / "export", out))
    assert sorted(own) == sorted(again)
    assert [name for name in own if not torch.equal(own[name], again[name])] == []
    assert (out / "README.md").is_file()


def test_export_of_a_folder_that_is_no_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["unipic2-train", "export", str(tmp_path), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "no complete checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def picture(workshop, *words):
    out = workshop.folder / "out.png"
    unipic2_dit.__main__.main([*map(str, words), "--steps", "2", "--out", str(out)])
    with Image.open(out) as opened:
        return np.asarray(opened.convert("RGB"))


def test_the_command_line_generates_edits_and_takes_the_adapter(workshop, run, adapter):
    words = ("--checkpoint", run / "export", "--prompt", "a red circle", "--guidance", 2)
    plain = picture(workshop, "generate", *words)
    assert plain.shape == (64, 64, 3) or plain.shape == (32, 32, 3)
    adapted = picture(workshop, "generate", *words, "--lora", adapter / "export")
    assert np.abs(plain.astype(int) - adapted.astype(int)).max() > 5, "the adapter changes the picture"
    source = workshop.folder / "source.png"
    Image.fromarray(plain).save(source)
    out = workshop.folder / "edited.png"
    edit = ("edit", *words, "--image", source, "--steps", 2, "--out", out)
    workshop.succeed("-m", "unipic2_dit", *edit, program="python")  # one of the three as people start it
    with Image.open(out) as edited:
        assert edited.size == plain.shape[1::-1]


def test_the_adapter_is_small_and_nothing_else(run, adapter):
    with safe_open(adapter / LORA, framework="pt") as weights:
        names = list(weights.keys())
    assert names
    assert all(name.startswith("transformer.") and ".lora_" in name for name in names)
    assert {path.name for path in (adapter / "export").iterdir()} == {
        "README.md", "pytorch_lora_weights.safetensors", "unipic2.json",
    }  # fmt: skip
    assert (adapter / LORA).stat().st_size < (run / "export" / WEIGHTS).stat().st_size / 4


@pytest.mark.parametrize("kind", ["t2i", "edit"])
def test_the_adapter_in_the_pipeline_makes_the_pictures_of_training(run, adapter, kind):
    """Rank 2 with alpha 6: had the file lost its scale, pictures would differ."""
    pipeline = load_pipeline(run / "export")
    plain = pipeline_pictures(pipeline, kind)
    load_lora(pipeline, adapter / "export")
    expected = np.load(adapter / f"pictures-{kind}.npy")
    assert_same_pictures(pipeline_pictures(pipeline, kind), expected)
    assert np.abs(plain.astype(int) - expected.astype(int)).max() > 5
