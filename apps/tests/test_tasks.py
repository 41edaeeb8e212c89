import json

import pytest

from unipic2_apps import tasks
from unipic2_apps.errors import UsageError
from unipic2_apps.options import PictureOptions
from unipic2_apps.tasks import Task


def test_words_and_files_become_tasks(tmp_path):
    (tmp_path / "a.txt").write_text("\ufeffa red circle\n\n  a blue square  \n", encoding="utf-8")
    options = PictureOptions(seed=5, num_images=2, size="24x16", steps=3)
    made = tasks.prompts(["a cat"], tmp_path / "a.txt", options)
    assert [(task.prompt, task.seed) for task in made] == [
        (prompt, seed) for prompt in ("a cat", "a red circle", "a blue square") for seed in (5, 6)
    ]
    assert {(task.size, task.steps) for task in made} == {("24x16", 3)}


def test_lines_of_jsonl_go_before_options(tmp_path):
    rows = [{"prompt": "a", "seed": 9, "size": 32, "guidance": 2, "name": "first"}, {"prompt": "b"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    first, second = tasks.prompts([], tmp_path / "a.jsonl", PictureOptions(steps=4))
    assert first == Task("a", seed=9, size="32", guidance=2.0, steps=4)
    assert first.name == "first"
    assert second == Task("b", steps=4)
    numbered = tasks.prompts([], tmp_path / "a.jsonl", PictureOptions(num_images=2))
    assert [task.name for task in numbered] == ["first_0", "first_1", "", ""]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is not JSON"),
        ('"a"', "line 2 is not an object with the key prompt"),
        ('{"seed": 3}', "line 2 is not an object with the key prompt"),
        ('{"prompt": "a", "sed": 3}', "unknown key 'sed'"),
        ('{"prompt": "a", "seed": "3"}', "line 2: seed is '3', expected int"),
        ('{"prompt": "a", "steps": true}', "line 2: steps is True, expected int"),
        ('{"prompt": "a", "name": "../b"}', "line 2: name is '../b'"),
        ('{"prompt": " "}', "the prompt is empty"),
        ('{"prompt": "a", "size": "big"}', "size 'big' is neither"),
        ('{"prompt": "a", "image": "b.png"}', "use `unipic2 edit --prompts"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, message):
    file = tmp_path / "a.jsonl"
    file.write_text(f'{{"prompt": "good"}}\n{line}\n')
    with pytest.raises(UsageError) as caught:
        tasks.prompts([], file, PictureOptions())
    assert message in str(caught.value)


def test_bad_files_are_named(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    for name, message in {
        "a.txt": "can't be read as UTF-8",
        "no.txt": "can't be read",
        "a.csv": "neither .txt",
    }.items():
        with pytest.raises(UsageError, match=message):
            tasks.prompts([], tmp_path / name, PictureOptions())
    with pytest.raises(UsageError, match="there is no prompt"):
        tasks.prompts([], None, PictureOptions())


def test_folders_of_images(tmp_path, picture):
    for name in ("b.png", "a.JPG", "c.txt"):
        picture(1).save(tmp_path / name, format="PNG")
    options = PictureOptions(steps=2)
    made = tasks.edits(str(tmp_path), ["red", "blue"], None, options, original_size=True)
    assert [(task.image, task.prompt) for task in made] == [
        (str(tmp_path / name), text) for name in ("a.JPG", "b.png") for text in ("red", "blue")
    ]
    assert all(task.original_size and len(task.image_sha256) == 64 for task in made)
    (tmp_path / "edits.jsonl").write_text('{"prompt": "green", "image": "b.png", "steps": 7}')
    (edit,) = tasks.edits("", [], tmp_path / "edits.jsonl", options, original_size=False)
    assert (edit.image, edit.steps) == (str(tmp_path / "b.png"), 7)
    (tmp_path / "texts.txt").write_text("green\nwhite")
    for_all = tasks.edits(str(tmp_path / "b.png"), [], tmp_path / "texts.txt", options, original_size=False)
    assert [task.prompt for task in for_all] == ["green", "white"]


def test_missing_images_are_named(tmp_path):
    def edits(image, *words, file=None):
        return tasks.edits(image, words, file, PictureOptions(), original_size=False)

    (tmp_path / "empty").mkdir()
    (tmp_path / "a.jsonl").write_text('{"prompt": "red"}')
    (tmp_path / "b.jsonl").write_text('{"prompt": "red", "image": "gone.png"}')
    for call, message in [
        (lambda: edits("no.png", "red"), "there is no image no.png"),
        (lambda: edits("no.png"), "say how to edit no.png"),
        (lambda: edits(""), "name an image and an instruction"),
        (lambda: edits(str(tmp_path / "empty"), "red"), "has no images"),
        (lambda: edits("", file=tmp_path / "a.jsonl"), "not every line of .* names an image"),
        (lambda: edits("", file=tmp_path / "b.jsonl"), "there is no image .*gone.png"),
    ]:
        with pytest.raises(UsageError, match=message):
            call()


def test_images_that_can_not_be_read(tmp_path, picture):
    picture(1).save(tmp_path / "good.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:200])
    (tmp_path / "text.png").write_text("hello")
    for name in ("cut.png", "text.png"):
        with pytest.raises(UsageError, match="can't be read as an image"):
            tasks.open_image(tmp_path / name)
    assert tasks.open_image(tmp_path / "good.png").size == (16, 16)


def test_facts_round_trip():
    task = Task("a", image="b.png", image_sha256="0" * 64, size="16", steps=2, guidance=1.5, seed=3, name="x")
    assert Task.from_facts(task.facts()) == task
    for wrong in ({"prompt": "a"}, task.facts() | {"colour": 3}, task.facts() | {"steps": "2"}):
        with pytest.raises(UsageError, match="not those of a picture of this version"):
            Task.from_facts(wrong)


def test_words_that_are_no_text():
    with pytest.raises(UsageError, match="not valid UTF-8"):
        tasks.prompts(["a \udcff"], None, PictureOptions())
