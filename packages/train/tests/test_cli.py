"""The command line up to where heavy libraries begin, and what it puts together."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from unipic2_train import cli, recipes

BIN = Path(sys.executable).parent


def lightning(*words, **options):
    command = [str(BIN / "lightning"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, **options)


@pytest.fixture
def refused(capsys):
    def run(command, *words):
        with pytest.raises(SystemExit) as ended:
            cli._exit(command, list(words))
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        return said

    return run


@pytest.mark.parametrize(
    "words", [[], ["--help"], ["run", "--help"], ["run"], ["run", "foundation", "--help"], ["run", "encode", "--help"]]
)
def test_help_imports_nothing_heavy(words):
    code = (
        "import sys; from unipic2_train import cli; cli._lightning(sys.argv[1:]);"
        "heavy = {'torch', 'lightning', 'mlflow', 'diffusers', 'transformers', 'jsonargparse'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_help_lists_stages_workflows_and_recipes(capsys):
    cli._lightning(["run", "--help"])
    said = capsys.readouterr().out
    for name in (*cli.STAGES, *cli.WORKFLOWS, *recipes.available()):
        assert name in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "pretrian"], "no stage or workflow named 'pretrian'; known: vae, vlm, pretrain"),
        (["run", "pretrain", "train"], "unknown action 'train' after `run pretrain`; known: fit, validate, test"),
        (["run", "pretrain", "--config"], "--config needs a recipe"),
        (["run", "pretrain", "--config", "--trainer.max_steps"], "no recipe named '--trainer.max_steps'"),
        (["run", "foundation", "tiny"], "takes only --preset NAME"),
        (["login"], "`lightning login` is a command of lightning-sdk, which is not installed"),
    ],
)
def test_usage_errors(refused, words, says):
    assert says in refused(cli._lightning, *words)


def test_unknown_verb_of_unipic2_train(refused):
    assert "unknown verb 'deploy'; known: run, export, sample, reproduce" in refused(cli._main, "deploy")


def test_run_model_is_fabric():
    done = lightning("run", "model", "--help")
    assert done.returncode == 0, done.stderr
    assert "SCRIPT" in done.stdout
    assert "--accelerator" in done.stdout


def merged(words, stage="pretrain"):
    first, text, *rest = cli._layered(stage, words)
    assert first == "--config"
    return yaml.safe_load(text), rest


def test_recipes_are_layered_and_flags_stay_behind_them(tmp_path):
    (tmp_path / "mine.yaml").write_text("data: {size: 16}\n")
    config, rest = merged(
        [
            "--data.size=8",
            "--config",
            "pretrain/debug",
            "--print_config",
            f"--config={tmp_path / 'mine.yaml'}",
            "--x",
            "1",
        ]
    )
    assert config["data"]["size"] == 16
    assert config["data"]["path"] == "home:debug/shapes"
    assert rest == ["--data.size=8", "--x", "1", "--print_config"]


def test_the_default_recipe():
    assert merged([])[0] == recipes.resolve("pretrain/tiny")
    assert merged([], stage="finetune")[0] == recipes.resolve("finetune/tiny")


@pytest.mark.parametrize("style", ["--resume={}", "--resume {}"])
@pytest.mark.parametrize("target", ["run", "run/checkpoints/step-00000002"])
def test_a_resumed_run_brings_its_own_configuration(tmp_path, style, target):
    (tmp_path / target).mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text("data: {size: 24}\n")
    words = style.format(tmp_path / target).split()
    config, rest = merged(words)
    assert config == {"data": {"size": 24}}
    assert rest == words


def test_unexpected_errors_keep_their_traceback():
    def broken(_):
        raise KeyError("a defect")

    with pytest.raises(KeyError):
        cli._exit(broken, [])


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (OSError(28, "No space left"), 2)])
def test_exit_codes(error, code, capsys):
    def fail(_):
        raise error

    with pytest.raises(SystemExit) as ended:
        cli._exit(fail, [])
    assert ended.value.code == code
    assert capsys.readouterr().err.strip()


@pytest.mark.parametrize("preset", ["debug", "tiny", "small"])
def test_the_foundation_has_a_vlm(monkeypatch, capsys, preset):
    monkeypatch.setattr(cli.home, "provide", lambda reference: reference)
    cli._run_workflow("foundation", ["--preset", preset])
    assert capsys.readouterr().out.split() == [f"home:{preset}/foundation", f"home:{preset}/vlm"]
