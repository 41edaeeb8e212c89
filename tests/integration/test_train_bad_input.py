"""Bad input: one clear message, no traceback, a non-zero exit, nothing half-written. Every case is really caused.

A process of its own, as people start it, is given to one case of each kind: what is answered before anything heavy is
imported, a refused recipe, a run that fails on its way, Ctrl-C, a full disk. The others call what the console script
calls, which saves the imports.
"""

import json
import os
import resource
import shutil
import signal
import time

import pytest
from safetensors.torch import load_file, save_file

from unipic2_data.loader import SampleStore
from unipic2_data.manifest import Manifest, ShardWriter
from unipic2_data.sample import Sample
from unipic2_train import cli, home
from unipic2_train.tracking import find_checkpoint

slow = pytest.mark.slow
PRETRAIN = ("run", "pretrain", "--config", "pretrain/debug")


def refused(workshop, *words, code=2):
    """Run a command that has to be refused; return what it said."""
    done = workshop.command(*words)
    assert done.returncode == code, (done.returncode, done.stdout[-2000:], done.stderr[-4000:])
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    return done.stderr[done.stderr.index("error: ") :]


@pytest.fixture
def refused_here(workshop, capsys):
    """Refuse a command in this process: what the console script calls, without its imports."""

    def refused(*words):
        with pytest.raises(SystemExit) as ended:
            cli._exit(cli._lightning, list(map(str, words)))
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert said.count("error: ") == 1, said
        return said[said.index("error: ") :]

    return refused


@pytest.fixture
def nothing_new(workshop):
    """After the test there is no new run and nothing half-written."""
    before = set(workshop.folder.iterdir())
    yield
    assert set(workshop.folder.iterdir()) - before == set()
    assert not list(workshop.home.rglob("*.partial"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("run", "pretrian"), ["no stage or workflow named 'pretrian'", "pretrain", "foundation"]),
        (("run", "pretrain", "--config", "pretrain/huge"), ["no recipe named 'pretrain/huge'", "pretrain/tiny"]),
        (("run", "pretrain", "--config", "missing.yaml"), ["missing.yaml does not exist"]),
        (("run", "pretrain", "--config"), ["--config needs a recipe", "pretrain/demo"]),
        (("run", "pretrain", "train"), ["unknown action 'train'", "fit, validate, test"]),
        (("run", "foundation", "--presets", "tiny"), ["--preset NAME"]),
        (("run", "foundation", "--preset", "huge"), ["no recipe named 'home/huge'"]),
        (("deploy", "me"), ["lightning deploy", "lightning-sdk", "lightning run"]),
    ],
)
@pytest.mark.usefixtures("nothing_new")
def test_answered_before_anything_heavy(workshop, words, says):
    started = time.monotonic()
    message = refused(workshop, *words)
    assert [part for part in says if part not in message] == []
    assert time.monotonic() - started < 60


@slow
@pytest.mark.usefixtures("nothing_new")
def test_an_unknown_key_is_named(workshop):
    assert "chekpoint" in refused(workshop, *PRETRAIN, "--model.kontext.chekpoint", "x")


@slow
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--trainer.max_step", "3"), "max_step"),  # an abbreviation of max_steps
        (("--run_di", "x"), "run_di"),
        (("--data.global_batch", "many"), "global_batch"),
        (("--data.tasks", "{poem: 1}"), "tasks names 'poem'"),
        (("leftover",), "unknown action 'leftover'"),
        (("--resume", "nowhere"), "nowhere holds no complete checkpoint"),
        (("--data.path", "nowhere"), "no data set at nowhere"),
        (("--data.path", "home:debug/poems"), "home:debug/poems does not exist"),
        (("--model.kontext.checkpoint", "home:debug"), "home:PRESET/THING"),
    ],
)
@pytest.mark.usefixtures("nothing_new")
def test_abbreviations_and_wrong_values(refused_here, words, says):
    words = words if words == ("leftover",) else ("--config", "pretrain/debug", *words)
    assert says in refused_here("run", "pretrain", *words)


@slow
@pytest.mark.usefixtures("nothing_new")
def test_unknown_key_in_a_recipe_file(refused_here, tmp_path):
    (tmp_path / "mine.yaml").write_text("layers: [pretrain/debug]\nmodel: {kontext: {objective: {txt_dropout: 0.1}}}\n")
    assert "txt_dropout" in refused_here("run", "pretrain", "--config", tmp_path / "mine.yaml")


@slow
@pytest.mark.usefixtures("nothing_new")
def test_missing_shards_are_named(refused_here, tmp_path):
    data = shutil.copytree(home.path("home:debug/shapes"), tmp_path / "data")
    gone = sorted(data.rglob("train/*.tar"))[0]
    gone.unlink()
    message = refused_here(*PRETRAIN, "--data.path", data)
    assert gone.relative_to(data).as_posix() in message


def write_data(folder, captions, *, splits):
    """Write text-to-image samples with these captions into every one of the splits."""
    target = SampleStore(Manifest.load(home.path("home:debug/shapes")), "train", ["t2i"]).read("t2i", 0).target
    shards = []
    for split in splits:
        with ShardWriter(folder, f"{split}/t2i-00000.tar", split, "t2i") as writer:
            for number, caption in enumerate(captions):
                writer.add(Sample(f"{split}-{number}", "t2i", {"captions": [caption]}, target))
        shards.append(writer.shard)
    Manifest(folder, shards, {}, {}).save()
    return folder


@slow
@pytest.mark.usefixtures("nothing_new")
def test_an_empty_training_split_is_named(refused_here, tmp_path):
    data = write_data(tmp_path / "data", ["a red circle"], splits=["validation"])
    message = refused_here(*PRETRAIN, "--data.path", data)
    assert "split 'train'" in message
    assert "is empty" in message


@slow
def test_an_empty_validation_split_is_named(workshop, refused_here, tmp_path):
    data = write_data(tmp_path / "data", ["a red circle"] * 8, splits=["train"])
    message = refused_here(*PRETRAIN, "--data.path", data, "--run_dir", workshop.folder / "not-validated")
    assert "validation split" in message
    assert "--trainer.limit_val_batches 0" in message


@slow
def test_a_prompt_without_text_is_named(workshop, tmp_path):
    data = write_data(tmp_path / "data", ["a red circle"] * 7 + ["blank it"], splits=["train", "validation"])
    shard = data / "train" / "t2i-00000.tar"  # our writer refuses such a sample; others' may not
    content = shard.read_bytes()
    assert content.count(b"blank it") == 1
    shard.write_bytes(content.replace(b"blank it", b"        "))
    message = refused(workshop, *PRETRAIN, "--data.path", data, "--run_dir", workshop.folder / "without-text")
    assert "sample train-7" in message
    assert "needs a text in 'captions'" in message


@pytest.fixture(scope="module")
def run(workshop):
    """A short finished run."""
    return workshop.run_here("pretrain", "--config", "pretrain/debug", "--run_dir", workshop.folder / "short")


def started_from(model):
    return ("--model.kontext.checkpoint", model, "--model.kontext.init", "checkpoint")


@slow
def test_a_model_folder_of_another_preset(workshop, refused_here, run, tmp_path):
    """A transformer of one preset with the config of another."""
    model = shutil.copytree(run / "export", tmp_path / "model")
    config = model / "transformer" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "num_layers": 3, "in_channels": 8}))
    message = refused_here(*PRETRAIN, *started_from(model), "--run_dir", workshop.folder / "other-preset")
    assert "transformer_blocks.2." in message, "missing weights are listed"
    assert "wrongly shaped" in message
    assert "pos_embed.proj.weight" in message


@slow
def test_a_model_folder_with_missing_weights(workshop, refused_here, run, tmp_path):
    model = shutil.copytree(run / "export", tmp_path / "model")
    file = model / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    del weights["proj_out.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    words = (*started_from(model), "--run_dir", workshop.folder / "missing-weights")
    assert "proj_out.weight" in refused_here(*PRETRAIN, *words)


@slow
def test_a_training_checkpoint_of_another_preset(workshop, refused_here, run):
    message = refused_here("run", "pretrain", "--resume", run, "--model.kontext.architecture", '{"num_layers": 3}')
    assert "does not fit this recipe's model" in message
    assert "missing kontext.transformer.transformer_blocks.2." in message
    assert workshop.status(run) == "FAILED"
    assert find_checkpoint(run).is_dir(), "the run can still be resumed"


@slow
@pytest.mark.usefixtures("nothing_new")
def test_a_run_is_not_written_into_another(refused_here, run):
    message = refused_here(*PRETRAIN, "--run_dir", run)
    assert "holds a run already" in message
    assert "--resume" in message


@slow
def test_ctrl_c_leaves_a_run_that_can_be_resumed(workshop, tmp_path):
    folder = workshop.folder / "interrupted"
    words = ("--run_dir", folder, "--trainer.max_steps", 4000, "--trainer.val_check_interval", 4000)
    process = workshop.start(*PRETRAIN, *words, start_new_session=True)
    end = time.monotonic() + 240
    while not (folder / "checkpoints" / "step-00000004").is_dir():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "no checkpoint in time"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err[-3000:]
    assert "Traceback" not in err
    last = find_checkpoint(folder)
    assert f"go on with --resume {folder}" in out + err
    assert str(last) in out + err
    assert not [path for path in folder.rglob("*") if path.name.endswith(".partial")]
    assert workshop.status(folder) == "FAILED"

    step = int(last.name.removeprefix("step-"))
    workshop.run_here("pretrain", "--resume", folder, "--trainer.max_steps", step + 2)
    assert find_checkpoint(folder).name == f"step-{step + 2:08d}"
    assert workshop.status(folder) == "FINISHED"


@slow
def test_ctrl_c_before_the_first_checkpoint_says_so(workshop):
    folder = workshop.folder / "interrupted-early"
    recipe = workshop.recipe("early", steps=4000, every=4000)
    process = workshop.start("run", "pretrain", "--config", recipe, "--run_dir", folder, start_new_session=True)
    seen = ""
    while "training:" not in seen:  # the progress bar ends no line
        assert process.poll() is None, seen
        seen += process.stderr.read(1)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err[-3000:]
    assert "no checkpoint had been written yet" in out + err
    assert "Traceback" not in err
    assert not list((folder / "checkpoints").glob("*"))


@slow
def test_a_disk_that_fills_up_during_a_run(workshop):
    """From some step on no file may grow beyond 100 kB; a checkpoint is larger, and so is MLflow's store."""
    folder = workshop.folder / "disk-full"
    recipe = workshop.recipe("disk", steps=4000, every=4)
    process = workshop.start("run", "pretrain", "--config", recipe, "--run_dir", folder, start_new_session=True)
    end = time.monotonic() + 240
    while not (folder / "checkpoints" / "step-00000004").is_dir():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "no checkpoint in time"
        time.sleep(0.02)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100_000, 100_000))
    _, err = process.communicate(timeout=240)
    assert process.returncode == 2, err[-4000:]
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, err[-4000:]
    assert "could not write the checkpoint" in errors[0]
    assert "EFBIG" in errors[0]
    assert "checkpoints written before are intact" in errors[0]
    assert not list(folder.rglob("*.partial"))

    last = int(find_checkpoint(folder).name.removeprefix("step-"))
    workshop.run_here("pretrain", "--resume", folder, "--trainer.max_steps", last + 1)
    assert workshop.status(folder) == "FINISHED"
