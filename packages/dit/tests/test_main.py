import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from unipic2_dit.__main__ import main


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(verb, *args, **options):
    given = [f"--{name}={value}" for name, value in options.items()]
    main([verb, *given, *args])


def failure(capsys, *args, **options):
    with pytest.raises(SystemExit) as caught:
        run(*args, **options)
    captured = capsys.readouterr()
    assert caught.value.code == 2
    assert not captured.out
    assert "Traceback" not in captured.err
    assert "error: " in captured.err
    return captured.err[captured.err.index("error: ") :]


@pytest.fixture
def image(picture, tmp_path):
    picture.resize((30, 19)).save(tmp_path / "in.png")
    return tmp_path / "in.png"


def test_generate_writes_the_pictures_of_its_seeds(checkpoint, tmp_path, capsys):
    given = {"checkpoint": checkpoint, "prompt": "a red circle", "steps": 2, "size": "24x16"}
    run("generate", **given, seed=4, out="new/both.png", **{"num-images": 2})
    assert capsys.readouterr().out.split() == ["new/both_0.png", "new/both_1.png"]
    run("generate", **given, seed=5, out="alone.png")
    both, alone = (np.asarray(Image.open(tmp_path / name)) for name in ("new/both_1.png", "alone.png"))
    assert alone.shape == (16, 24, 3)
    assert np.abs(both.astype(int) - alone).max() <= 1


def test_edit_keeps_the_size_fits_an_edge_and_gives_the_original_back(checkpoint, image, tmp_path):
    given = {"checkpoint": checkpoint, "prompt": "make it red", "image": image, "steps": 1}
    for options, size in (
        ({}, (32, 20)),
        ({"size": 16}, (16, 12)),
        ({"size": "20x8"}, (20, 8)),
        ({"original-size": "true"}, (30, 19)),
    ):
        run("edit", **given, **options, out="edit.webp")
        assert Image.open(tmp_path / "edit.webp").size == size


def test_the_picture_that_is_edited_matters(checkpoint, image, tmp_path):
    for name, source in (("a.png", image), ("b.png", tmp_path / "white.png")):
        Image.new("RGB", (30, 19), "white").save(tmp_path / "white.png")
        run("edit", checkpoint=checkpoint, prompt="x", image=source, steps=2, out=name)
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


def test_options_reach_the_pipeline(checkpoint, tmp_path):
    made = {}
    for name, options in (
        ("plain", {}),
        ("negative", {"negative-prompt": "blue"}),
        ("guidance", {"guidance": 6.0}),
        ("steps", {"steps": 3}),
        ("no-t5", {"t5": "false"}),
        ("bfloat16", {"dtype": "bfloat16"}),
        ("tiling", {"tiling": "true"}),
    ):
        run("generate", **{"checkpoint": checkpoint, "prompt": "x", "steps": 2, "out": "made.png", **options})
        made[name] = (tmp_path / "made.png").read_bytes()
    assert made["tiling"] == made["plain"]  # one tile is enough for so small a picture
    assert len(set(made.values())) == len(made) - 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": " "}, "the prompt is empty"),
        ({"checkpoint": "/nowhere/at/all"}, "no checkpoint folder /nowhere/at/all"),
        ({"size": "18"}, "nearest is 20"),
        ({"size": "large"}, "neither EDGE nor WIDTHxHEIGHT"),
        ({"size": "16x16x16"}, "neither EDGE nor WIDTHxHEIGHT"),
        ({"size": "4096"}, "from 4 to 48"),
        ({"steps": 0}, "steps"),
        ({"num-images": -1}, "num_images"),
        ({"stepz": 3}, "stepz"),
        ({"ste": 3}, "ste"),
        ({"lora": "nowhere.safetensors"}, "no LoRA file"),
        ({"out": "picture.xyz"}, "end it in .png"),
        ({"out": "/proc/nothing/picture.png", "steps": 1}, "can't write"),
        ({"device": "abacus"}, "device 'abacus' is unknown"),
        ({"device": "cpu", "offload": "true"}, "offload moves models"),
        ({"dtype": "int3"}, "dtype"),
    ],
)
def test_bad_input_is_one_message(checkpoint, capsys, options, message):
    given = {"checkpoint": checkpoint, "prompt": "a red circle", "steps": 1, **options}
    assert message in failure(capsys, "generate", **given)


def test_missing_arguments_and_verbs(checkpoint, capsys):
    assert "prompt" in failure(capsys, "generate", checkpoint=checkpoint)
    assert "paint" in failure(capsys, "paint", checkpoint=checkpoint)


def test_unreadable_images(checkpoint, tmp_path, image, capsys):
    given = {"checkpoint": checkpoint, "prompt": "x"}
    assert "there is no image" in failure(capsys, "edit", **given, image="nowhere.png")
    (tmp_path / "text.png").write_text("not a picture")
    assert "can't be read as an image" in failure(capsys, "edit", **given, image="text.png")
    (tmp_path / "half.png").write_bytes(image.read_bytes()[:-200])
    assert "can't be read as an image" in failure(capsys, "edit", **given, image="half.png")
    assert "can't be read as an image" in failure(capsys, "edit", **given, image=str(tmp_path))
    Image.new("RGB", (400, 1)).save(tmp_path / "line.png")
    assert "too elongated" in failure(capsys, "edit", **given, image="line.png")


def test_checkpoint_errors_are_one_message(checkpoint_copy, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "hf download" in failure(capsys, "generate", checkpoint="Skywork/Nothing", prompt="x")
    (checkpoint_copy / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    assert "are missing" in failure(capsys, "generate", checkpoint=checkpoint_copy, prompt="x")


def test_help_does_not_import_torch():
    code = "import sys; from unipic2_dit.__main__ import main; sys.argv[1:] = ['edit', '--help']\ntry: main()\n"
    code += "except SystemExit: assert not {'torch', 'diffusers', 'transformers'} & sys.modules.keys(), 'slow'"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "100"}
    )
    assert done.returncode == 0, done.stderr
    assert "--original_size" in done.stdout
    assert "Edit a picture by an instruction." in done.stdout
