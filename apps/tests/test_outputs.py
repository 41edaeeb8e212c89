import json
from xml.etree import ElementTree

import pytest
from PIL import Image

from unipic2_apps import metadata, outputs, record, sheet
from unipic2_apps.errors import UsageError
from unipic2_apps.tasks import Task

MODEL = {
    "checkpoint": "/somewhere/private/kontext",
    "revision": None,
    "vlm": None,
    "quantization": None,
    "encoder_quantization": None,
    "lora": ["/somewhere/private/style.safetensors:0.5"],
    "t5": True,
    "dtype": "float32",
    "tiling": False,
    "device": "cpu",
    "variant": "kontext",
    "hash": "ab" * 32,
}
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
SOURCE_TYPE = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"


def saved(picture, task, path, **options):
    together = [task, Task("a neighbour's secret")]
    facts = record.build(task, picture, MODEL, together, 0)
    outputs.save(picture, facts, path, **{"ai_label": True, **options})
    return facts


def source_type(path):
    packet = Image.open(path).text[metadata.XMP_KEY]
    return ElementTree.fromstring(packet.strip("\ufeff")).find(f".//{RDF}Description").get(SOURCE_TYPE)


def test_a_picture_knows_its_parameters_and_who_made_it(tmp_path, picture):
    task = Task("a \u732b & <circle>", negative_prompt="blue", seed=7, steps=3)
    facts = saved(picture(1), task, tmp_path / "new" / "a.png")
    text = Image.open(tmp_path / "new" / "a.png").text
    assert text["Software"] == metadata.SOFTWARE
    prompt, negative, rest = text["parameters"].splitlines()
    assert (prompt, negative) == ("a \u732b & <circle>", "Negative prompt: blue")
    assert rest.startswith("Steps: 3, CFG scale: 3.5, Seed: 7, Size: 16x16, Model hash: ababababab, Model: kontext")
    assert source_type(tmp_path / "new" / "a.png").endswith("/digitalsourcetype/trainedAlgorithmicMedia")
    assert json.loads((tmp_path / "new" / "a.json").read_text(encoding="utf-8")) == facts
    inside = metadata.read_parameters(tmp_path / "new" / "a.png")
    assert inside["picture"] == facts["picture"]
    assert inside["result"] == facts["result"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.json", "a.png"]


def test_what_is_passed_on_names_no_paths_and_no_neighbours(tmp_path, picture):
    task = Task("make it red", image="/somewhere/private/photo.png", image_sha256="0" * 64)
    saved(picture(1), task, tmp_path / "a.png")
    assert b"private" not in (tmp_path / "a.png").read_bytes()
    assert b"secret" not in (tmp_path / "a.png").read_bytes()
    inside = metadata.read_parameters(tmp_path / "a.png")
    assert (inside["model"]["checkpoint"], inside["picture"]["image"]) == ("kontext", "photo.png")
    assert source_type(tmp_path / "a.png").endswith("/compositeWithTrainedAlgorithmicMedia")


def test_the_label_can_be_left_out(tmp_path, picture):
    saved(picture(1), Task("a"), tmp_path / "a.png", ai_label=False)
    assert metadata.XMP_KEY not in Image.open(tmp_path / "a.png").text
    assert metadata.read_parameters(tmp_path / "a.png") is not None


def test_names_tell_pictures_apart():
    other = MODEL | {"hash": "cd" * 32}
    tasks = [Task("A red circle!"), Task("A red circle!", steps=3), Task("A red circle!", seed=1), Task("???")]
    names = [entry.path.name for entry in outputs.plan(tasks, "out", MODEL, overwrite=False)]
    assert names[0].startswith("a-red-circle_0_")
    assert names[3].startswith("picture_0_")
    names += [entry.path.name for entry in outputs.plan(tasks[:1], "out", other, overwrite=False)]
    assert len(set(names)) == 5
    moved = [Task("red", image=f"{folder}/photo.png", image_sha256="1") for folder in "ab"]
    assert len(outputs.plan([*moved, moved[0]], "out", MODEL, overwrite=False)) == 1
    (entry,) = outputs.plan(moved[:1], "out", MODEL, overwrite=False)
    assert entry.path.name.startswith("photo_red_0_")


def test_names_stay_short_however_often_a_picture_is_edited(tmp_path):
    image = tmp_path / "start.png"
    for _ in range(5):
        task = Task("\U0001f431\u732b" * 100, image=str(image), image_sha256="1")
        (entry,) = outputs.plan([task], str(tmp_path), MODEL, overwrite=False)
        image = entry.path
        assert len(image.name.encode()) < 200


def test_what_is_there_is_known_by_its_record(tmp_path, picture):
    task, out = Task("a"), str(tmp_path / "a.png")
    assert [entry.done for entry in outputs.plan([task], out, MODEL, overwrite=False)] == [False]
    saved(picture(1), task, tmp_path / "a.png")
    assert [entry.done for entry in outputs.plan([task], out, MODEL, overwrite=False)] == [True]
    assert [entry.done for entry in outputs.plan([task], out, MODEL, overwrite=True)] == [False]
    with pytest.raises(UsageError, match="made with another steps, seed: use --overwrite"):
        outputs.plan([Task("a", seed=1, steps=2)], out, MODEL, overwrite=False)
    with pytest.raises(UsageError, match="made with another model hash"):
        outputs.plan([task], out, MODEL | {"hash": "other"}, overwrite=False)
    (tmp_path / "a.png").unlink()  # interrupted between the record and the picture
    assert [entry.done for entry in outputs.plan([task], out, MODEL, overwrite=False)] == [False]
    (tmp_path / "a.png").write_bytes((tmp_path / "a.json").read_bytes())
    (tmp_path / "a.json").unlink()
    with pytest.raises(UsageError, match="no record beside it"):
        outputs.plan([task], out, MODEL, overwrite=False)


def test_several_pictures_of_one_name_are_numbered(tmp_path):
    entries = outputs.plan([Task("a"), Task("b")], str(tmp_path / "x.png"), MODEL, overwrite=False)
    assert [entry.path.name for entry in entries] == ["x_0.png", "x_1.png"]
    with pytest.raises(UsageError, match="two different pictures are to be called same"):
        outputs.plan([Task("a", name="same"), Task("b", name="same.png")], str(tmp_path), MODEL, overwrite=False)
    with pytest.raises(UsageError, match="expected a folder or a name that ends in"):
        outputs.plan([Task("a")], "x.jpg", MODEL, overwrite=False)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    def fail(file):
        file.write(b"half")
        raise KeyboardInterrupt

    (tmp_path / "a.png").write_bytes(b"before")
    with pytest.raises(KeyboardInterrupt):
        outputs.write(tmp_path / "a.png", fail)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.png", b"before")]
    with pytest.raises(UsageError, match="can't write"):
        outputs.write(tmp_path / "a.png" / "b.png", b"")


def test_records_that_are_none_of_ours(tmp_path, picture):
    picture(1).save(tmp_path / "plain.png")
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "part.json").write_text('{"format": 1, "picture": {}, "model": {"hash": "0"}}')
    for name, message in {
        "plain.png": "holds no parameters",
        "text.png": "can't be read",
        "list.json": "holds no",
    }.items():
        with pytest.raises(UsageError, match=message):
            record.read(tmp_path / name)
    with pytest.raises(UsageError, match="there is no file"):
        record.read(tmp_path / "gone.png")


def test_differences_name_versions_and_machine(picture):
    now = record.build(Task("a"), picture(1), MODEL, [Task("a")], 0)
    assert record.differences(now, now) == []
    then = {"versions": {**now["versions"], "torch": "1.0"}, "machine": {**now["machine"], "threads": 99}}
    assert record.differences(then, now) == [f"torch 1.0 -> {now['versions']['torch']}", "threads 99 -> 1"]


def test_sheets(tmp_path, picture):
    for index in range(3):
        picture(index, 16, 16 + 8 * index).save(tmp_path / f"{index}.png")
    shown = [sheet.Cell("a long caption " * 20, (tmp_path / f"{index}.png",)) for index in range(3)]
    page = sheet.draw(shown, columns=3)
    assert page.width == 3 * (sheet.EDGE + sheet.GAP) + sheet.GAP
    # Enlarged by whole pixels: the first picture's corner is a block of one colour.
    corner = page.crop((sheet.GAP, sheet.GAP, sheet.GAP + 12, sheet.GAP + 12))
    assert corner.getcolors() == [(144, picture(0).getpixel((0, 0)))]
    pairs = [sheet.Cell("edit", (tmp_path / "0.png", tmp_path / "1.png"))] * (sheet.PER_PAGE + 1)
    paths = sheet.write_sheets(pairs, tmp_path / "sheet.png", ai_label=True)
    assert [path.name for path in paths] == ["sheet.png", "sheet_2.png"]
    assert source_type(paths[0]).endswith("/compositeWithTrainedAlgorithmicMedia")


def test_captions_fit():
    from PIL import ImageFont

    font = ImageFont.load_default(12)
    for text in ("word " * 100, "x" * 500, "short"):
        lines = sheet._wrap(text, 192, font)
        assert len(lines) <= sheet.LINES
        assert all(font.getlength(line) <= 192 for line in lines)
    assert sheet._wrap("short", 192, font) == ["short"]
    assert sheet._wrap("word " * 100, 192, font)[-1].endswith("...")
