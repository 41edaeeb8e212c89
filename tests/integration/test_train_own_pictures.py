"""A person's own photographs: import, pre-train and fine-tune on them with the same commands as on shapes."""

import json

import pytest
from PIL import Image

from unipic2_data.manifest import Manifest

pytestmark = [pytest.mark.slow, pytest.mark.mlflow]

CAPTIONS = {
    "astronaut": "an astronaut in an orange suit",
    "coffee": "a cup of coffee on a wooden table",
    "chelsea": "a ginger cat that looks to the side",
    "rocket": "a rocket on its launch pad",
}
CONFIG = ("--trainer.max_steps", 4, "--trainer.val_check_interval", 2, "--data.global_batch", 4)


@pytest.fixture(scope="module")
def photographs():
    """Real photographs of different sizes and shapes."""
    data = pytest.importorskip("skimage.data")
    pictures = {name: Image.fromarray(getattr(data, name)()).convert("RGB") for name in CAPTIONS}
    assert len({picture.size for picture in pictures.values()}) > 1
    return pictures


@pytest.fixture(scope="module")
def captioned(workshop, photographs):
    """A folder a.jpg + a.txt."""
    folder = workshop.folder / "photographs"
    folder.mkdir()
    for name, picture in photographs.items():
        picture.save(folder / f"{name}.jpg", quality=90)
        (folder / f"{name}.txt").write_text(CAPTIONS[name] + "\n")
    return folder


@pytest.fixture(scope="module")
def edits(workshop, photographs):
    """Black-and-white pairs as JSON lines, every picture of another size."""
    folder = workshop.folder / "edits"
    folder.mkdir()
    lines = []
    for name, picture in photographs.items():
        picture.save(folder / f"{name}-color.jpg")
        picture.convert("L").convert("RGB").save(folder / f"{name}-gray.png")
        line = {"source": f"{name}-color.jpg", "target": f"{name}-gray.png", "instruction": "make it black and white"}
        lines.append(json.dumps(line))
    (folder / "edits.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def imported(workshop, source, name, *words):
    out = workshop.folder / name
    workshop.succeed("import", source, out, *words, program="unipic2-data")
    return out


@pytest.fixture(scope="module")
def captions_data(workshop, captioned):
    return imported(workshop, captioned, "captions-data", "--validation-fraction", 0.25)


@pytest.fixture(scope="module")
def pretrained(workshop, captions_data):
    """Pre-trained on captions alone, by the command of the README."""
    folder = workshop.folder / "on-photographs"
    words = ("--config", "pretrain/debug", "--data.path", captions_data, *CONFIG)
    done = workshop.succeed("run", "pretrain", *words, "--run_dir", folder)
    return folder, done.stdout + done.stderr


def test_pretrain_on_captions_alone(workshop, pretrained, captions_data):
    folder, _ = pretrained
    assert Manifest.load(captions_data).counts == {"train": {"t2i": 3}, "validation": {"t2i": 1}}
    assert set(workshop.metrics(folder)["validation/loss_t2i"]) == {2, 4}
    assert (folder / "export" / "model_index.json").is_file()
    with Image.open(folder / "samples" / "step-00000004.png") as grid:
        assert grid.width > 100


def test_what_cannot_be_scored_is_said_once(pretrained):
    folder, said = pretrained
    assert said.count("no ground truth") == 1
    assert not (folder / "scores.md").exists()
    assert "scores at step" not in said


def test_finetune_on_edits_alone(workshop, pretrained, edits):
    data = imported(workshop, edits, "edits-data", "--validation-fraction", 0.25)
    assert Manifest.load(data).counts == {"train": {"edit": 3}, "validation": {"edit": 1}}
    folder = workshop.run_here(
        "finetune",
        *("--config", "finetune/debug", "--data.path", data, *CONFIG),
        *("--model.kontext.checkpoint", pretrained[0] / "export", "--run_dir", workshop.folder / "on-edits"),
    )
    assert set(workshop.losses(folder)) == {1, 2, 4}
    assert set(workshop.metrics(folder)["validation/loss_edit"]) == {2, 4}
    assert (folder / "export" / "pytorch_lora_weights.safetensors").is_file()


def test_both_kinds_at_once_though_one_has_no_validation_sample(workshop, pretrained, captioned, edits):
    """Few samples: the validation split may lack a kind, which then is trained and not validated."""
    both = workshop.folder / "both"
    both.mkdir()
    for file in [*captioned.iterdir(), *edits.iterdir()]:
        (both / file.name).write_bytes(file.read_bytes())
    data = imported(workshop, both, "both-data", "--validation-fraction", 0.1)
    counts = Manifest.load(data).counts
    assert set(counts["train"]) == {"t2i", "edit"}
    assert sum(counts["validation"].values()) == 1
    folder = workshop.run_here(
        "finetune",
        *("--config", "finetune/debug", "--data.path", data, *CONFIG),
        *("--model.kontext.checkpoint", pretrained[0] / "export", "--run_dir", workshop.folder / "on-both"),
    )
    metrics = workshop.metrics(folder)
    assert metrics["train/loss_t2i"]
    assert metrics["train/loss_edit"]
    (validated,) = counts["validation"]
    assert [name for name in metrics if name.startswith("validation/")] == [f"validation/loss_{validated}"]


def test_without_a_validation_split(workshop, captioned):
    data = imported(workshop, captioned, "no-validation", "--validation-fraction", 0)
    folder = workshop.run_here(
        "pretrain",
        *("--config", "pretrain/debug", "--data.path", data, *CONFIG, "--trainer.limit_val_batches", 0),
        *("--run_dir", workshop.folder / "unvalidated"),
    )
    assert (folder / "export").is_dir()
