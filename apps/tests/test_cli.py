import importlib
import os
import re
import resource
import subprocess
import sys

import pytest

from unipic2_apps import cli

LIGHT = "import sys; from unipic2_apps.cli import main; sys.argv[1:] = {words}\ntry: main()\nexcept SystemExit: pass\n"
HEAVY = "assert not {'torch', 'diffusers', 'transformers', 'numpy', 'PIL'} & sys.modules.keys(), 'slow'"


def failure(capsys, *words, code=2):
    with pytest.raises(SystemExit) as caught:
        cli.main(list(words))
    captured = capsys.readouterr()
    assert caught.value.code == code
    assert not captured.out
    assert re.fullmatch(r"error: [^\n]+\n", captured.err)
    return captured.err


def test_help_lists_commands_and_examples(capsys):
    for words in ([], ["--help"], ["-h"], ["help"]):
        cli.main(words)
        shown = capsys.readouterr().out
        assert all(re.search(rf"^  {name} +\w", shown, re.MULTILINE) for name in cli.COMMANDS)
        assert 'unipic2 generate "a red circle' in shown
    cli.main(["--version"])
    assert capsys.readouterr().out.startswith("unipic2 ")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_exists_and_has_help(name, capsys):
    module, _, function = cli.COMMANDS[name].path.partition(":")
    assert callable(getattr(importlib.import_module(module), function))
    cli.main([name, "--help"])
    shown = capsys.readouterr().out
    assert f"usage: unipic2 {name}" in shown
    assert "examples:\n  unipic2 " in shown
    assert "--checkpoint" in shown


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_takes_little_time(name):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code = LIGHT.format(words=[name, "--help"]) + HEAVY
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    # Processor time: a busy machine takes longer by the clock.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.5


def test_unknown_commands(capsys):
    assert "Did you mean generate?" in failure(capsys, "gnerate")
    assert "unknown command '--wrong'" in failure(capsys, "--wrong")


def test_errors_are_one_line(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("UNIPIC2_HOME", str(tmp_path))
    assert "name a checkpoint: --checkpoint FOLDER_OR_HUB_ID" in failure(capsys, "generate", "a circle")
    assert str(tmp_path / "tiny" / "kontext") in failure(capsys, "info")
    assert "there is no prompt" in failure(capsys, "generate")
    assert "steps" in failure(capsys, "generate", "a", "--steps", "0")
    assert "IMAGE is missing" in failure(capsys, "ask")


def test_ctrl_c_is_130(capsys, monkeypatch):
    def interrupted(*_words):
        raise KeyboardInterrupt

    monkeypatch.setattr("unipic2_apps.commands.info.info", interrupted)
    monkeypatch.setattr("unipic2_apps.arguments.call", interrupted)
    assert failure(capsys, "info", code=130) == "error: interrupted\n"


def test_bugs_keep_their_traceback(monkeypatch):
    def broken(*_words):
        msg = "a bug"
        raise ValueError(msg)

    monkeypatch.setattr("unipic2_apps.arguments.call", broken)
    with pytest.raises(ValueError, match="a bug"):
        cli.main(["info"])
