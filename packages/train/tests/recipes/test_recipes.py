import pytest
import yaml

from unipic2_train import recipes
from unipic2_train.recipes import RecipeError, merge, resolve


def write(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


def test_layers_are_read_in_order_and_own_keys_come_last(tmp_path):
    write(
        tmp_path,
        low="a: 1\nb: {x: 1, y: 1}\nkeep: 0\n",
        mid="a: 2\nb: {y: 2, z: 2}\n",
        top="layers: [low.yaml, mid.yaml]\nb: {z: 3}\n",
    )
    assert resolve(str(tmp_path / "top.yaml")) == {"a": 2, "b": {"x": 1, "y": 2, "z": 3}, "keep": 0}


def test_layers_of_layers_and_shipped_names(tmp_path):
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub", low="layers: [../base.yaml]\nb: 2\n")
    write(tmp_path, base="a: 1\nb: 1\n", top="layers: [hardware/cpu, sub/low.yaml]\n")
    found = resolve(str(tmp_path / "top.yaml"))
    assert (found["a"], found["b"], found["trainer"]["devices"]) == (1, 2, 1)


@pytest.mark.parametrize(
    ("lower", "upper", "expected"),
    [
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": {"b": 1}}, {"a": None}, {"a": None}),
        ({"a": None}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        ({"a": {"b": 1}}, {"a": {"c": 2}}, {"a": {"b": 1, "c": 2}}),
        (
            {"s": {"class_path": "A", "init_args": {"x": 1}}},
            {"s": {"class_path": "B"}},
            {"s": {"class_path": "B"}},
        ),
        (
            {"s": {"class_path": "A", "init_args": {"x": 1, "y": 1}}},
            {"s": {"class_path": "A", "init_args": {"y": 2}}},
            {"s": {"class_path": "A", "init_args": {"x": 1, "y": 2}}},
        ),
    ],
)
def test_merge(lower, upper, expected):
    before = repr(lower), repr(upper)
    assert merge(lower, upper) == expected
    assert (repr(lower), repr(upper)) == before, "neither is changed"


def test_unknown_names_list_the_known():
    with pytest.raises(RecipeError, match=r"no recipe named 'pretrain/huge'; shipped: .*pretrain/tiny"):
        resolve("pretrain/huge")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\na: 2\n", "keys given twice: a"),
        ("x: {b: 1, b: 2}\n", "keys given twice: b"),
        ("a: [1\n", "not valid YAML"),
        ("- 1\n", "must be a mapping of keys, not list"),
        ("", "must be a mapping of keys, not NoneType"),
        ("layers: [missing.yaml]\n", r"missing\.yaml does not exist"),
        ("layers: [top.yaml]\n", "is a layer of itself"),
        ("layers: tiny\n", "layers must be a list"),
    ],
)
def test_unreadable_recipes(tmp_path, text, says):
    write(tmp_path, top=text)
    with pytest.raises(RecipeError, match=says):
        resolve(str(tmp_path / "top.yaml"))


def test_a_longer_circle(tmp_path):
    write(tmp_path, one="layers: [two.yaml]\n", two="layers: [one.yaml]\n")
    with pytest.raises(RecipeError, match="layer of itself"):
        resolve(str(tmp_path / "one.yaml"))


def test_the_same_layer_twice_is_no_circle(tmp_path):
    write(tmp_path, base="a: 1\n", one="layers: [base.yaml]\n", top="layers: [base.yaml, one.yaml]\n")
    assert resolve(str(tmp_path / "top.yaml")) == {"a": 1}


def test_scientific_numbers_survive_the_way_to_the_parser():
    """PyYAML writes and reads 1e-08 and 4.0e-05 as numbers, not as text."""
    merged = resolve("pretrain/tiny")
    again = yaml.safe_load(yaml.safe_dump(merged))
    assert again == merged
    assert isinstance(again["model"]["optimizer"]["eps"], float)


def test_every_stage_has_its_default():
    from unipic2_train.cli import STAGES

    for stage, entry in STAGES.items():
        assert entry.default in recipes.available(stage)
