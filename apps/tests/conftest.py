"""Tiny real checkpoints of both kinds for the tests of the apps."""

import importlib.util
import os
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers.utils import logging

torch.set_num_threads(1)
logging.disable_progress_bar()


def _tiny():
    path = Path(__file__).parents[2] / "packages" / "unified" / "tests" / "tiny.py"
    spec = importlib.util.spec_from_file_location("tiny", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def kontext_folder(tmp_path_factory):
    """A Kontext checkpoint."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny-kontext"
    _tiny().write_kontext(folder)
    return folder


@pytest.fixture(scope="session")
def vlm_folder(tmp_path_factory):
    """The VLM of the MetaQuery checkpoint."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny-vlm"
    _tiny().write_vlm(folder)
    return folder


@pytest.fixture(scope="session")
def metaquery_folder(tmp_path_factory, vlm_folder):
    """A MetaQuery checkpoint with its VLM inside."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny-metaquery"
    _tiny().write_metaquery(folder)
    (folder / "vlm").symlink_to(vlm_folder, target_is_directory=True)
    return folder


@pytest.fixture(scope="session")
def kontext(kontext_folder):
    """The Kontext checkpoint as a model. Tests that change it load their own."""
    from unipic2_unified import UniPic2

    return UniPic2.from_pretrained(kontext_folder)


@pytest.fixture(scope="session")
def metaquery(metaquery_folder):
    """The MetaQuery checkpoint as a model. Tests that change it load their own."""
    from unipic2_unified import UniPic2

    return UniPic2.from_pretrained(metaquery_folder)


@pytest.fixture(params=["kontext", "metaquery"])
def model(request):
    """Both kinds of models."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def picture():
    """Draw a seeded picture without any symmetry."""

    def draw(seed=0, width=16, height=16):
        rng = torch.Generator().manual_seed(seed)
        return Image.fromarray(torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=rng).numpy())

    return draw


class ThreadRunner:
    """An engine in a thread. To kill it, its connection is cut."""

    pid = None

    def __init__(self, connection, model, max_rows):
        self._socket = socket.socket(fileno=os.dup(connection.fileno()))
        self._thread = threading.Thread(target=self._run, args=(connection, model, max_rows), daemon=True)
        self._thread.start()

    def kill(self):
        with suppress(OSError):  # it has ended
            self._socket.shutdown(socket.SHUT_RDWR)

    def _run(self, connection, model, max_rows):
        try:
            from unipic2_apps.engine.worker import Worker

            Worker(connection, model, max_rows=max_rows).run()
        finally:
            self.kill()
            connection.close()


@pytest.fixture(scope="session")
def in_thread():
    """Make what starts an engine in a thread."""
    return lambda model, max_rows=4: lambda connection: ThreadRunner(connection, model, max_rows)


@pytest.fixture
def held(kontext):
    """The Kontext checkpoint as a model that takes no more steps than it is allowed, and notes the rows of each."""

    class Held(type(kontext)):
        changed, allowed, stepped = threading.Condition(), 0, []

        def step(self, state):
            with self.changed:
                self.changed.wait_for(lambda: len(self.stepped) < self.allowed)
                self.stepped.append(len(state.latents))
            return super().step(state)

        def allow(self, steps=10**9):
            with self.changed:
                self.allowed += steps
                self.changed.notify()

    model = Held(kontext.parts)
    yield model
    model.allow()


@pytest.fixture(scope="session")
def until():
    """Wait until something is so."""

    def wait(condition):
        end = time.monotonic() + 300
        while not condition():
            assert time.monotonic() < end, "it never was so"
            time.sleep(0.01)

    return wait
