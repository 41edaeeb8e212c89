"""What lmms-eval asks is answered. The class itself needs lmms-eval, and is tested where that is installed."""

import sys
from importlib.metadata import entry_points
from types import SimpleNamespace

import pytest
from PIL import Image

from unipic2_evals import lmms_plugin

MODULE = """
def build():
    return lambda images, prompt: f"{prompt} {[image.shape for image in images]}"
"""


@pytest.fixture
def factory(tmp_path, monkeypatch):
    (tmp_path / "lmms_test_model.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "lmms_test_model:build"
    sys.modules.pop("lmms_test_model", None)


def test_factory_answers(factory):
    answerer = lmms_plugin.Answerer(factory)
    assert answerer([Image.new("L", (4, 2))], "what?", 16) == "what? [(2, 4, 3)]"


def test_server_is_told_the_length():
    pytest.importorskip("urllib3")
    answerer = lmms_plugin.Answerer(url="http://127.0.0.1:1/v1", model="m", revision="r")
    assert answerer._served(128).options.max_tokens == 128


@pytest.mark.parametrize("given", [{}, {"url": "http://x/v1"}, {"factory": "a:b", "url": "u", "model": "m"}])
def test_neither_nor_both_is_refused(given):
    with pytest.raises(ValueError, match=r"expected model_args factory=MODULE:FUNCTION, or url="):
        lmms_plugin.Answerer(**given)


@pytest.mark.parametrize("path", ["nowhere_at_all:f", "json:nothing", "json"])
def test_unknown_factory_is_refused(path):
    with pytest.raises(ValueError, match="expected MODULE:FUNCTION"):
        lmms_plugin.Answerer(path)


def test_unknown_attribute():
    with pytest.raises(AttributeError, match="nothing"):
        _ = lmms_plugin.nothing


def test_entry_point_is_declared():
    (point,) = entry_points(group="lmms_eval.models", name="unipic2")
    assert point.load() is lmms_plugin.manifest


def test_lmms_eval_finds_and_runs_the_model(factory):
    pytest.importorskip("lmms_eval")
    from lmms_eval.models.registry_v2 import ModelRegistryV2

    registry = ModelRegistryV2()
    registry.load_entrypoint_manifests()
    model = registry.get_model_class("unipic2")(factory=factory, batch_size=1, device="cpu")
    model.task_dict = {"task": {"test": [{"image": Image.new("RGB", (4, 2))}]}}
    arguments = ("what?", {"max_new_tokens": 16}, lambda row: [row["image"]], 0, "task", "test")
    assert model.generate_until([SimpleNamespace(args=arguments)]) == ["what? [(2, 4, 3)]"]
    with pytest.raises(NotImplementedError):
        model.loglikelihood([])
