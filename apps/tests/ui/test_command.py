import importlib.util
import os
import signal
import socket
import subprocess
import sys

import pytest

from unipic2_apps import cli
from unipic2_apps.errors import UsageError
from unipic2_apps.options import ModelOptions
from unipic2_apps.ui import child

NO_SERVER = "import sys, time\nfrom unipic2_apps.ui import child\nchild._end_with_parent()\ntime.sleep(60)\n"


def failure(capsys, *words):
    with pytest.raises(SystemExit) as caught:
        cli.main(["ui", *words])
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert not captured.out
    return captured.err


def test_options_that_contradict_each_other(capsys, monkeypatch):
    monkeypatch.delenv("UNIPIC2_API_KEY", raising=False)
    address = "http://127.0.0.1:1"
    assert "leave out what is said about another" in failure(capsys, "--server", address, "--checkpoint", "x")
    assert "--api-key is for the server that --server names" in failure(capsys, "--api-key", "x")
    assert "'127.0.0.1' is no address" in failure(capsys, "--server", "127.0.0.1")
    assert "characters that no key has" in failure(capsys, "--server", address, "--api-key", "a\tb")


def test_without_gradio_it_says_what_to_install(capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gradio" else find(name))
    assert "pip install './apps[ui]'" in failure(capsys)


def test_a_port_that_is_taken(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"can't listen on 127.0.0.1:{port}" in failure(capsys, "--port", port)


def test_the_child_gets_the_same_model(monkeypatch):
    model = ModelOptions(checkpoint="a b", lora=["x", "y:0.5"], t5=False, tiling=True, dtype="bfloat16")
    seen = []

    def serve(*, model: ModelOptions):
        """Serve a checkpoint."""
        seen.append(model)

    monkeypatch.setattr("unipic2_apps.server.command.serve", serve)
    cli.main(["serve", *child.words_of(model)])
    assert seen == [model]
    assert child.words_of(ModelOptions()) == []


def test_a_server_that_does_not_start_is_told_in_its_words(monkeypatch, tmp_path):
    monkeypatch.setenv("UNIPIC2_HOME", str(tmp_path))
    said = "import sys; print('loading', file=sys.stderr); print('error: no model', file=sys.stderr); sys.exit(2)"
    monkeypatch.setattr(child, "COMMAND", [sys.executable, "-c", said])
    with pytest.raises(UsageError, match=r"^no model$"), child.server(ModelOptions()):
        pytest.fail("there is no server")


def test_the_child_ends_when_its_parent_is_gone():
    with subprocess.Popen([sys.executable, "-c", NO_SERVER], stdin=subprocess.PIPE, env=os.environ) as process:
        process.stdin.close()
        assert process.wait(60) == -signal.SIGTERM
