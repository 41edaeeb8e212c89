import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unipic2_apps import making
from unipic2_apps.cli import main


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(kontext_folder, capsys):
    """Run a command on the Kontext checkpoint and return its exit code, stdout and stderr."""

    def call(*words, checkpoint=kontext_folder):
        capsys.readouterr()
        given = [] if checkpoint is None else ["--checkpoint", str(checkpoint)]
        code = 0
        try:
            main([*map(str, words), *given])
        except SystemExit as caught:
            code = caught.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def pngs(folder):
    return sorted(path for path in folder.rglob("*.png"))


def same(left, right):
    return np.array_equal(np.asarray(Image.open(left)), np.asarray(Image.open(right)))


def test_generate_makes_the_pictures_of_its_seeds(run, kontext, tmp_path):
    code, out, err = run("generate", "a red circle", "-n", 2, "--steps", 2, "--size", "24x16", "--seed", 4, "--sheet")
    assert (code, err) == (0, "")
    made = [tmp_path / line for line in out.split()]
    assert [path.name[:15] for path in made] == ["a-red-circle_4_", "a-red-circle_5_", "pictures_sheet."]
    expected = kontext.generate("a red circle", images_per_prompt=2, steps=2, size=(16, 24), seed=4)
    for path, picture in zip(made, expected, strict=False):
        assert np.abs(np.asarray(Image.open(path)).astype(int) - np.asarray(picture)).max() <= 1
    facts = json.loads(made[0].with_suffix(".json").read_text())
    assert facts["picture"] | {"prompt": "a red circle", "seed": 4, "steps": 2, "size": "24x16"} == facts["picture"]
    assert facts["model"]["hash"] == kontext.info()["hash"]
    assert facts["batch"]["size"] == 2


def test_the_checkpoint_of_the_demo_is_the_default(run, kontext_folder, tmp_path, monkeypatch):
    (tmp_path / "home" / "tiny").mkdir(parents=True)
    (tmp_path / "home" / "tiny" / "kontext").symlink_to(kontext_folder, target_is_directory=True)
    monkeypatch.setenv("UNIPIC2_HOME", str(tmp_path / "home"))
    assert run("generate", "a circle", "--steps", 1, "-o", "x.png", checkpoint=None) == (0, "x.png\n", "")
    code, _, err = run("generate", "a square", "--steps", 1, "-o", "x.png", checkpoint=None)
    assert code == 2
    assert "made with another prompt: use --overwrite" in err
    assert run("generate", "a square", "--steps", 1, "-o", "x.png", "--overwrite", checkpoint=None)[0] == 0


def test_what_is_there_is_left_alone_and_the_rest_is_the_same_as_without_an_interruption(run, tmp_path, monkeypatch):
    (tmp_path / "prompts.txt").write_text("a\nb\nc\nd\ne\n")
    words = ["generate", "--prompts", "prompts.txt", "--steps", 1, "--size", 16, "--batch-size", 2]
    assert run(*words, "--out", "whole")[0] == 0
    assert run(*words, "--out", "part")[0] == 0
    whole, part = pngs(tmp_path / "whole"), pngs(tmp_path / "part")
    assert [path.name for path in whole] == [path.name for path in part]
    part[1].unlink()  # half of the first batch
    part[4].with_suffix(".json").unlink()  # as if the record had been lost
    part[4].unlink()
    kept = {path: path.stat().st_mtime_ns for path in part if path.exists()}
    batches, make_batch = [], making.make_batch
    monkeypatch.setattr(making, "make_batch", lambda *given: batches.append(len(given[1])) or make_batch(*given))
    code, out, err = run(*words, "--out", "part")
    assert (code, len(out.split()), err) == (0, 2, "3 of 5 were there already\n")
    assert batches == [2, 1]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert all(same(*pair) for pair in zip(whole, part, strict=True))


def test_ctrl_c_leaves_whole_pictures(run, tmp_path, monkeypatch):
    make_batch = making.make_batch

    def interrupt_the_second(model, tasks, *rest):
        if tasks[0].prompt == "b":
            raise KeyboardInterrupt
        return make_batch(model, tasks, *rest)

    monkeypatch.setattr(making, "make_batch", interrupt_the_second)
    code, out, err = run("generate", "a", "b", "--steps", 1, "--size", 16, "--batch-size", 1)
    assert (code, err) == (130, "error: interrupted\n")
    assert [path.suffix for path in sorted((tmp_path / "pictures").iterdir())] == [".json", ".png"]
    assert out.split() == [str(path.relative_to(tmp_path)) for path in pngs(tmp_path)]


def test_edit_a_folder_in_which_one_picture_is_broken(run, picture, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    picture(1, 30, 19).save(folder / "a.png")
    (folder / "b.png").write_text("no picture")
    picture(2, 16, 16).save(folder / "c.jpg")
    words = ["edit", folder, "make it red", "--steps", 1, "--original-size", "--out", "out", "--sheet"]
    code, out, err = run(*words)
    assert code == 2
    assert err.startswith("error: 1 of 3 pictures could not be made, all others were. The first: ")
    assert "b.png can't be read as an image" in err
    made = [tmp_path / line for line in out.split()]
    assert [path.name[:14] for path in made] == ["a_make-it-red_", "c_make-it-red_"]
    assert [Image.open(path).size for path in made] == [(30, 19), (16, 16)]
    (folder / "b.png").unlink()
    code, out, err = run(*words)
    assert (code, out, err) == (0, "out_sheet.png\n", "2 of 2 were there already\n")


def test_replay_makes_the_same_picture_bit_for_bit(run, tmp_path, picture):
    picture(3).save(tmp_path / "in.png")
    assert run("edit", "in.png", "red", "blue", "--steps", 2, "--guidance", 5, "--out", "x")[0] == 0
    first, second = pngs(tmp_path / "x")
    for file in (first, second.with_suffix(".json")):
        code, out, err = run("replay", file, checkpoint=None)
        assert (code, err) == (0, "")
        assert out.endswith("_replay.png\nthe same picture, bit for bit\n")
        assert same(out.split()[0], file.with_suffix(".png"))


def test_a_picture_alone_is_enough_to_replay_it(run, tmp_path, kontext_folder):
    assert run("generate", "a circle", "--steps", 1, "--size", 16, "--out", "a.png")[0] == 0
    (tmp_path / "a.json").unlink()
    code, _, err = run("replay", "a.png", checkpoint=None)
    assert (code, err) == (2, f"error: the checkpoint {kontext_folder.name} is not there: pass --checkpoint.\n")
    code, out, _ = run("replay", "a.png", "--out", "again.png")
    assert (code, out) == (0, "again.png\nthe same picture, bit for bit\n")
    assert "is not taken" in run("replay", "a.png", "--out", "again.png")[2]


def test_replay_says_what_differs(run, tmp_path, picture):
    picture(3).save(tmp_path / "in.png")
    assert run("edit", "in.png", "red", "--steps", 1, "--out", "a.png")[0] == 0
    facts = json.loads((tmp_path / "a.json").read_text())
    facts["versions"]["torch"], facts["result"]["pixels_sha256"] = "1.0", "0"
    (tmp_path / "a.json").write_text(json.dumps(facts))
    code, out, _ = run("replay", "a.png", checkpoint=None)
    assert code == 1
    assert "not the same bits: pixels differ by at most 0 of 255; torch 1.0 -> " in out
    (tmp_path / "a.json").write_text(json.dumps(facts | {"model": facts["model"] | {"hash": "0" * 64}}))
    code, _, err = run("replay", "a.json", checkpoint=None)
    assert code == 2
    assert "was made by the weights 0000000000, but " in err
    picture(4).save(tmp_path / "in.png")
    code, _, err = run("replay", "a.png", checkpoint=None)
    assert code == 2
    assert "is not the picture that was edited: name that with --image" in err


def test_a_metaquery_checkpoint_does_the_same(run, metaquery_folder, tmp_path, picture):
    picture(3).save(tmp_path / "in.png")
    few = ["--steps", 1, "--size", 16]
    assert run("generate", "a circle", "a square", *few, "--out", "x", checkpoint=metaquery_folder)[0] == 0
    assert run("edit", "in.png", "make it red", *few, "--out", "x/edit.png", checkpoint=metaquery_folder)[0] == 0
    made = pngs(tmp_path / "x")
    assert len(made) == 3
    for file in made:
        assert run("replay", file, checkpoint=None)[1].endswith("the same picture, bit for bit\n")


def test_adapters_add_up_and_are_replayed(run, tmp_path, kontext_folder):
    from peft import LoraConfig, get_peft_model_state_dict
    from safetensors.torch import save_file

    from unipic2_dit.checkpoint import load_transformer

    torch.manual_seed(0)
    transformer = load_transformer(kontext_folder)
    config = LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    transformer.add_adapter(config)
    adapter = {f"transformer.{name}": value for name, value in get_peft_model_state_dict(transformer).items()}
    (tmp_path / "style").mkdir()
    save_file(adapter, tmp_path / "style" / "pytorch_lora_weights.safetensors")
    words = ["generate", "a circle", "--steps", 1, "--size", 16, "--out"]
    for out, more in {"none": [], "one": ["--lora", "style"], "more": ["--lora", "style", "--lora=style:0.5"]}.items():
        assert run(*words, f"{out}.png", *more)[0] == 0
    assert not same(tmp_path / "none.png", tmp_path / "one.png")
    assert not same(tmp_path / "one.png", tmp_path / "more.png")
    facts = json.loads((tmp_path / "more.json").read_text())
    assert facts["model"]["lora"] == [f"{tmp_path / 'style'}:1.0", f"{tmp_path / 'style'}:0.5"]
    err = run(*words, "more.png", "--lora", "style", "--lora=style:2")[2]
    assert "made with another model hash, model lora weights" in err
    assert run("replay", "more.png", checkpoint=None)[1].endswith("the same picture, bit for bit\n")


@pytest.mark.slow
def test_processes_interrupted_and_replayed(kontext_folder, tmp_path):
    command = [str(Path(sys.executable).parent / "unipic2")]
    # The second picture is never done.
    rows = [{"prompt": "a", "steps": 20}, {"prompt": "b", "steps": 10**6}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ["generate", "--prompts", "rows.jsonl", "--checkpoint", kontext_folder, "--batch-size", "1"]
    options = {
        "cwd": tmp_path,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
        # Started in the background, the tests may ignore Ctrl-C, and so would their children: a terminal's do not.
        "preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    }
    process = subprocess.Popen([*command, *words], **options)
    first = process.stdout.readline().strip()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (130, "error: interrupted\n")
    assert [str(path.relative_to(tmp_path)) for path in pngs(tmp_path)] == [first]
    assert not list((tmp_path / "pictures").glob(".*"))
    done = subprocess.run([*command, "replay", first], check=False, timeout=300, **options)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("the same picture, bit for bit\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--size", "18"], "nearest is 20"),
        (["--guidance", "-2"], "guidance is -2.0"),
        (["--seed", "-1"], "seed is -1"),
        (["--lora", "nowhere.safetensors:0.5"], "no LoRA file nowhere.safetensors"),
        (["--vlm", "nowhere"], "is no MetaQuery checkpoint"),
        (["--device", "abacus"], "device 'abacus' is unknown"),
        (["--device", "cuda:99"], "there is no device cuda:99"),
        (["--out", "/proc/nothing"], "can't write"),
    ],
)
def test_bad_input_is_one_line(run, words, message):
    code, out, err = run("generate", "a", "--steps", "1", *words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
