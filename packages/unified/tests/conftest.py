"""Tiny real models for the tests of the unified package."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers.utils import logging

torch.set_num_threads(1)
logging.disable_progress_bar()


def _tiny():
    spec = importlib.util.spec_from_file_location("tiny", Path(__file__).with_name("tiny.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def kontext_folder(tmp_path_factory):
    """A Kontext checkpoint. Tests that change it copy it first (``copied``)."""
    folder = tmp_path_factory.mktemp("kontext")
    _tiny().write_kontext(folder)
    return folder


@pytest.fixture(scope="session")
def metaquery_folder(tmp_path_factory):
    """A MetaQuery checkpoint, without its VLM."""
    folder = tmp_path_factory.mktemp("metaquery")
    _tiny().write_metaquery(folder)
    return folder


@pytest.fixture(scope="session")
def vlm_folder(tmp_path_factory):
    """The VLM of the MetaQuery checkpoint."""
    folder = tmp_path_factory.mktemp("vlm")
    _tiny().write_vlm(folder)
    return folder


@pytest.fixture(scope="session")
def other_vlm_folder(tmp_path_factory):
    """A VLM of another hidden size."""
    folder = tmp_path_factory.mktemp("other-vlm")
    _tiny().write_vlm(folder, width=32)
    return folder


@pytest.fixture
def copied(tmp_path):
    """Copy a checkpoint, so that a test may damage it; values replace those of a part's config."""

    def copy(folder, part=None, **values):
        target = Path(shutil.copytree(folder, tmp_path / folder.name))
        if part is not None:
            file = target / part / "config.json"
            file.write_text(json.dumps(json.loads(file.read_text()) | values))
        return target

    return copy


@pytest.fixture(scope="session")
def kontext(kontext_folder):
    """The Kontext checkpoint as a model. Tests that change it load their own."""
    from unipic2_unified import UniPic2

    return UniPic2.from_pretrained(kontext_folder)


@pytest.fixture(scope="session")
def metaquery(metaquery_folder, vlm_folder):
    """The MetaQuery checkpoint as a model. Tests that change it load their own."""
    from unipic2_unified import UniPic2

    return UniPic2.from_pretrained(metaquery_folder, vlm=vlm_folder)


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
