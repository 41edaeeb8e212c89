"""Every shipped recipe parses against its stage's signature: an unknown key, class or value anywhere is an error."""

import pytest

from unipic2_train import recipes
from unipic2_train.cli import STAGES, WORKFLOWS, parse_recipe

RECIPES = sorted(recipes.folder().rglob("*.yaml"))
NAMES = [path.relative_to(recipes.folder()).with_suffix("").as_posix() for path in RECIPES]


@pytest.mark.parametrize("path", RECIPES, ids=NAMES)
def test_recipe_parses(path):
    parse_recipe(path)


def test_the_recipes_that_the_commands_name_are_shipped():
    assert {entry.default for entry in STAGES.values()} <= set(NAMES)
    assert {f"home/{entry.default}" for entry in WORKFLOWS.values()} <= set(NAMES)
    assert {"pretrain/demo", "pretrain/tiny-t2i", "pretrain/small"} <= set(NAMES)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("model: {kontext: {chekpoint: x}}", "chekpoint"),
        ("trainer: {max_stepz: 3}", "max_stepz"),
        ("data: {sizes: 3}", "sizes"),
        ("modle: {seed: 1}", "modle"),
    ],
)
def test_a_recipe_with_an_unknown_key_would_be_noticed(tmp_path, monkeypatch, capsys, text, key):
    """The check of this file can fail."""
    file = tmp_path / "pretrain" / "wrong.yaml"
    file.parent.mkdir()
    file.write_text(f"layers: [pretrain/tiny]\n{text}\n")
    shipped = recipes.folder()
    monkeypatch.setattr(recipes, "folder", lambda: tmp_path)
    monkeypatch.setattr(
        recipes, "_find", lambda name, base: file if name == "pretrain/wrong" else shipped / f"{name}.yaml"
    )
    with pytest.raises(SystemExit) as ended:
        parse_recipe(file)
    assert ended.value.code == 2
    assert key in capsys.readouterr().err


def test_layers_alone_are_not_runnable_names_by_accident():
    """Groups are stages, ``home``, or layers; a misspelt folder would be taken for a layer."""
    assert {name.split("/")[0] for name in NAMES} <= {*STAGES, "home", "stage", "model", "data", "hardware", "debug"}
