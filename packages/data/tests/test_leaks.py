import json

import pytest

from unipic2_data.errors import DataError
from unipic2_data.importer import import_source
from unipic2_data.leaks import Prompts, find_leaks

GENEVAL = [  # in the layout of its evaluation_metadata.jsonl
    {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"},
    {
        "tag": "two_object",
        "include": [{"class": "hot dog", "count": 1}, {"class": "dog", "count": 1}],
        "prompt": "a photo of a hot dog and a dog",
    },
    {"tag": "counting", "include": [{"class": "bus", "count": 4}], "exclude": [], "prompt": "a photo of four buses"},
    {"tag": "colors", "include": [{"class": "car", "count": 1, "color": "red"}], "prompt": "a photo of a red car"},
    {
        "tag": "position",
        "include": [{"class": "dog", "count": 1}, {"class": "tv", "count": 1, "position": ["right of", 0]}],
        "prompt": "a photo of a tv right of a dog",
    },
]


@pytest.fixture
def prompts(tmp_path, files):
    return files.lines(tmp_path / "evaluation_metadata.jsonl", GENEVAL)


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("a photo of a bench", "exact"),
        ("A photo of a  BENCH.", "normalised"),
        ("a photo of a tv, right of a dog!", "normalised"),
        ("a photo of an apple", "template"),
        ("a photo of four teddy bears", "template"),
        ("A photo of a purple wine glass right of an apple", "template"),
        ("a photo of a blue sports ball", "template"),
        ("a photo of the cat and the fire hydrant", "template"),
        ("a photo of a castle on a hill in the evening sun", None),
        ("a photo of five buses", None),
        ("an oil painting of a bench", None),
        ("benches", None),
        ("", None),
    ],
)
def test_levels(prompts, text, level):
    found = Prompts.read([prompts]).find(text)
    assert (found and found[0]) == level


def test_templates_are_those_of_the_grammar(prompts):
    templates = {template for _, template in Prompts.read([prompts]).templates}
    assert templates == {
        "a photo of a {}",
        "a photo of a {} and a {}",
        "a photo of four {}",
        "a photo of a {} {}",
        "a photo of a {} right of a {}",
    }


def test_plain_lines_and_given_templates(tmp_path, files):
    known = Prompts.read([files.write(tmp_path / "p.txt", "The sea (at night).\n\n{} in the style of {}\n")])
    assert known.find("the sea at night") == ("normalised", "The sea (at night).")
    assert known.find("A dog in the style of Monet") == ("template", "{} in the style of {}")
    assert known.find("a photo of a dog") is None


def test_notes_about_samples(tmp_path, files, prompts):
    captions = ["a photo of a bench", "a photo of an apple", "something else", "also\na photo of four buses"]
    for n, caption in enumerate(captions):
        files.write(tmp_path / "in" / f"{n}.jpg", files.picture(n))
        files.write(tmp_path / "in" / f"{n}.txt", caption)
    row = {"source": "0.jpg", "target": "1.jpg", "instruction": "x", "caption": "A photo of a red car"}
    files.lines(tmp_path / "in" / "edits.jsonl", [row])
    import_source(tmp_path / "in", tmp_path / "data", validation_fraction=0.25)
    out = tmp_path / "leaks.jsonl"
    assert find_leaks([tmp_path / "data"], [prompts], out) == {"exact": 2, "normalised": 1, "template": 1}
    notes = {note["key"][0]: note for note in map(json.loads, out.read_text().splitlines())}
    assert notes["3"]["text"] == "a photo of four buses"
    assert notes["3"]["reason"] == "benchmark prompt (exact)"
    assert sum(note["prompt"] == "a photo of a red car" for note in map(json.loads, out.read_text().splitlines())) == 1
    assert find_leaks([tmp_path / "data"], [prompts], out, levels=["exact"], workers=2) == {"exact": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no prompts"),
        ('{"text": "x"}\n', r"p\.txt:1: expected a JSON object with a text in 'prompt'"),
        ('a\n{"prompt": 3}\n', r"p\.txt:2: expected"),
        (b"\xff", "cannot read prompts"),
    ],
)
def test_bad_files(tmp_path, files, text, message):
    with pytest.raises(DataError, match=message):
        Prompts.read([files.write(tmp_path / "p.txt", text)])
    with pytest.raises(DataError, match="cannot read prompts"):
        Prompts.read([tmp_path / "absent.txt"])


def test_unknown_level(world, prompts, tmp_path):
    with pytest.raises(DataError, match="unknown level fuzzy"):
        find_leaks([world.root], [prompts], tmp_path / "out", levels=["fuzzy"])
