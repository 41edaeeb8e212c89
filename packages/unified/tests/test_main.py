import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from unipic2_unified.__main__ import main


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(verb, *args, **options):
    main([verb, *(f"--{name}={value}" for name, value in options.items()), *args])


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
    picture(5, 30, 19).save(tmp_path / "in.png")
    return tmp_path / "in.png"


def test_generate_writes_the_pictures_of_its_seeds(kontext_folder, kontext, tmp_path, capsys):
    given = {"checkpoint": kontext_folder, "prompt": "a red circle", "steps": 2, "size": "24x16"}
    run("generate", **given, seed=4, out="new/both.png", **{"num-images": 2, "tiling": "true"})
    assert capsys.readouterr().out.split() == ["new/both_0.png", "new/both_1.png"]
    made = np.asarray(Image.open(tmp_path / "new" / "both_1.png"))
    expected = kontext.generate("a red circle", steps=2, size=(16, 24), seed=5)[0]
    assert np.abs(made.astype(int) - np.asarray(expected)).max() <= 1


def test_edit_and_ask_with_a_vlm(metaquery_folder, vlm_folder, metaquery, image, tmp_path, capsys):
    given = {"checkpoint": metaquery_folder, "vlm": vlm_folder, "image": image}
    run("edit", **given, prompt="make it red", steps=1, out="edit.webp", **{"original-size": "true"})
    assert Image.open(tmp_path / "edit.webp").size == (30, 19)
    capsys.readouterr()
    run("ask", **given, question="what colour is the circle", **{"max-new-tokens": 4})
    expected = metaquery.ask(Image.open(image), "what colour is the circle", max_new_tokens=4)
    assert capsys.readouterr().out == f"{expected}\n"
    run("ask", **{**given, "image": json.dumps([str(image), str(image)])}, question="what", max_new_tokens=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": " "}, "the prompt is empty"),
        ({"checkpoint": "/nowhere/at/all"}, "no checkpoint folder /nowhere/at/all"),
        ({"size": "18"}, "nearest is 20"),
        ({"size": "large"}, "neither EDGE nor WIDTHxHEIGHT"),
        ({"guidance": "-2"}, "guidance is -2.0"),
        ({"seed": "-1"}, "seed is -1"),
        ({"steps": 0}, "steps"),
        ({"stepz": 3}, "stepz"),
        ({"lora": "nowhere.safetensors"}, "no LoRA file"),
        ({"lora": '["nowhere.safetensors"]'}, "no LoRA file"),
        ({"vlm": "nowhere"}, "is no MetaQuery checkpoint"),
        ({"out": "picture.xyz"}, "end it in .png"),
        ({"out": "/proc/nothing/picture.png"}, "can't write"),
        ({"device": "abacus"}, "device 'abacus' is unknown"),
        ({"device": "cpu", "offload": "true"}, "offload moves encoders"),
    ],
)
def test_bad_input_is_one_message(kontext_folder, capsys, options, message):
    given = {"checkpoint": kontext_folder, "prompt": "a red circle", "steps": 1, **options}
    assert message in failure(capsys, "generate", **given)


def test_what_a_checkpoint_can_not_do_is_one_message(kontext_folder, metaquery_folder, image, capsys):
    asked = {"question": "what is it", "image": image}
    assert "can't ask: it is a Kontext checkpoint" in failure(capsys, "ask", checkpoint=kontext_folder, **asked)
    assert "is a MetaQuery checkpoint, which is used with" in failure(
        capsys, "ask", checkpoint=metaquery_folder, **asked
    )
    assert "there is no image" in failure(capsys, "ask", checkpoint=kontext_folder, question="what", image="no.png")
    assert "the question is empty" in failure(capsys, "ask", checkpoint=kontext_folder, question="")


def test_help_does_not_import_torch():
    code = "import sys; from unipic2_unified.__main__ import main; sys.argv[1:] = ['ask', '--help']\ntry: main()\n"
    code += "except SystemExit: assert not {'torch', 'diffusers', 'transformers'} & sys.modules.keys(), 'slow'"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "100"}
    )
    assert done.returncode == 0, done.stderr
    assert "--max_new_tokens" in done.stdout
    assert "Answer a question" in done.stdout
