import threading
import time

import pytest

from unipic2_train import home, recipes


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIPIC2_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def made(monkeypatch):
    """Replace what takes minutes to make by a file; return the folders that were made."""
    made = []

    def build(target, recipe):
        made.append(target)
        target.mkdir()
        time.sleep(0.05)
        (target / "seed").write_text(str(recipe["seed"]))

    monkeypatch.setitem(home._BUILDERS, "shapes", build)
    return made


def test_made_once_and_said(here, made, capsys):
    first = home.provide("home:debug/shapes")
    assert home.provide("home:debug/shapes") == first == home.path("home:debug/shapes")
    assert len(made) == 1
    assert first.parent == here / "debug"
    assert (first / "seed").read_text() == "0"
    assert capsys.readouterr().err.count(f"first use: making home:debug/shapes at {first}") == 1


def test_two_at_once_make_it_once(here, made):
    threads = [threading.Thread(target=home.provide, args=("home:debug/shapes",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_a_changed_recipe_makes_another(here, made, monkeypatch):
    before = home.provide("home:debug/shapes")
    resolve = recipes.resolve
    changed = resolve("home/debug")
    changed["shapes"]["seed"] = 5
    monkeypatch.setattr(recipes, "resolve", lambda name: changed if name == "home/debug" else resolve(name))
    after = home.provide("home:debug/shapes")
    assert after != before
    assert (before / "seed").read_text() == "0"
    assert (after / "seed").read_text() == "5"


def test_the_foundation_depends_on_the_recipe_of_its_autoencoder_and_data(here, monkeypatch):
    before = home.path("home:debug/foundation")
    resolve = recipes.resolve
    for name, change in (("vae/debug", {"trainer": {"max_steps": 5}}), ("home/debug", {"shapes": {"seed": 5}})):
        with monkeypatch.context() as patch:
            patch.setattr(
                recipes,
                "resolve",
                lambda asked, name=name, change=change: (
                    recipes.merge(resolve(asked), change) if asked == name else resolve(asked)
                ),
            )
            assert home.path("home:debug/foundation") != before, name
    assert home.path("home:debug/foundation") == before


@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_the_vlm_of_a_preset_sees_a_token_for_each_of_the_dit_s(here, preset):
    made, recipe = recipes.resolve(f"home/{preset}"), recipes.resolve(f"vlm/{preset}")
    assert home.path(f"home:{preset}/vlm").name.startswith("vlm-")
    edge = made["shapes"]["size"]
    assert recipe["data"]["size"] == edge
    in_dit = made["foundation"]["transformer"]["sample_size"] // made["foundation"]["transformer"]["patch_size"]
    assert edge // (2 * recipe["model"]["vlm"].get("patch_size", 4)) == in_dit


def test_a_source_may_be_anything(here):
    assert home.source("owner/name") == "owner/name"
    (here / "debug" / "kontext").mkdir(parents=True)
    assert home.source("home:debug/kontext") == here / "debug" / "kontext"


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failure_leaves_nothing_partial(here, monkeypatch, error):
    def fail(target, recipe):
        target.mkdir()
        (target / "half").write_text("half")
        raise error

    monkeypatch.setitem(home._BUILDERS, "shapes", fail)
    with pytest.raises(type(error)):
        home.provide("home:debug/shapes")
    assert [path for path in here.rglob("*") if path.suffix != ".lock" and path.name != "debug"] == []


def test_what_a_killed_process_left_is_removed_first(here, made):
    target = home.path("home:debug/shapes")
    left = target.with_name(f".{target.name}.partial")
    left.mkdir(parents=True)
    (left / "half").write_text("half")
    assert [path.name for path in home.provide("home:debug/shapes").iterdir()] == ["seed"]
    assert not left.exists()


def test_publish_replaces(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
    home.publish(tmp_path / "old", tmp_path / "target")
    home.publish(tmp_path / "new", tmp_path / "target")
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["new"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old", "target"]


@pytest.mark.parametrize("thing", ["kontext", "poems"])
def test_a_model_that_nobody_made(here, thing):
    with pytest.raises(home.HomeError, match="does not exist yet"):
        home.path(f"home:debug/{thing}")


@pytest.mark.parametrize("reference", ["home:", "home:debug", "home:/shapes"])
def test_malformed(here, reference):
    with pytest.raises(home.HomeError, match="home:PRESET/THING"):
        home.path(reference)


def test_an_unknown_preset_lists_the_known(here):
    with pytest.raises(home.HomeError, match=r"home:huge/shapes: .*home/tiny"):
        home.path("home:huge/shapes")


def test_plain_paths_stay(tmp_path):
    assert home.path(str(tmp_path)) == tmp_path


def test_references_are_found_at_any_depth():
    config = {"a": "home:x/y", "b": [{"c": ("home:z/w", 3)}], "d": "no home:here", "e": None}
    assert sorted(home.references(config)) == ["home:x/y", "home:z/w"]


def test_the_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("UNIPIC2_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert home.folder() == tmp_path / "unipic2"
