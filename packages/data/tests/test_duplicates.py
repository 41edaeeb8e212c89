import io
import json

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps

from unipic2_data.adapters.fields import Fields
from unipic2_data.duplicates import find_duplicates, picture_code
from unipic2_data.errors import DataError
from unipic2_data.importer import import_source


def encode(image, kind="JPEG", **options):
    file = io.BytesIO()
    image.convert("RGB").save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def pictures(photos):
    names = ("astronaut", "cat", "coffee", "rocket", "gray")
    return {name: Image.open(photos[name]).convert("RGB") for name in names}


def near(first, second, distance=4):
    (code, colours), (other, other_colours) = picture_code(first), picture_code(second)
    signs = int(np.unpackbits(code ^ other).sum())
    return signs <= distance and np.abs(colours.astype(int) - other_colours).max() <= 12


COPIES = {
    "compressed": lambda image: encode(image, quality=40),
    "half": lambda image: encode(
        image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS), quality=85
    ),
    "stretched a little": lambda image: encode(image.resize((image.width, image.height - 4)), quality=90),
    "webp": lambda image: encode(image, "WEBP", quality=80),
    "sharpened": lambda image: encode(image.filter(ImageFilter.UnsharpMask(1, 60)), quality=90),
    "turned by EXIF": lambda image: encode(image.rotate(90, expand=True), quality=95, exif=turned()),
}
OTHERS = {
    "mirrored": ImageOps.mirror,
    "inverted": ImageOps.invert,
    "other colours": lambda image: Image.merge("RGB", image.split()[::-1]),
    "half of it": lambda image: image.crop((0, 0, image.width // 2, image.height)),
    "covered corner": lambda image: covered(image),
}


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def covered(image):
    image = image.copy()
    image.paste((255, 0, 255), (0, 0, image.width // 3, image.height // 3))
    return image


@pytest.mark.parametrize("copy", COPIES)
def test_copies_are_near(pictures, copy):
    for name, image in pictures.items():
        assert near(encode(image, "PNG"), COPIES[copy](image)), name


@pytest.mark.parametrize("change", OTHERS)
def test_other_pictures_are_not(pictures, change):
    for name, image in pictures.items():
        if (name, change) not in {("gray", "other colours")}:
            assert not near(encode(image, "PNG"), encode(OTHERS[change](image), "PNG")), name


def test_flat_pictures_differ_by_colour():
    flat = [encode(Image.new("RGB", (64, 64), colour), "PNG") for colour in ("red", "green", "black")]
    assert near(flat[0], encode(Image.new("RGB", (48, 48), "red"), quality=70))
    assert not near(flat[0], flat[1])
    assert not near(flat[0], flat[2])


def notes(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("workers", [1, 2])
def test_within_and_across_data_sets(pictures, tmp_path, files, workers):
    for source, copies in (("a", ("PNG", "compressed", "webp")), ("b", ("half", "mirror"))):
        for name, image in pictures.items():
            for copy in copies:
                data = (
                    encode(image, "PNG")
                    if copy == "PNG"
                    else encode(ImageOps.mirror(image))
                    if copy == "mirror"
                    else COPIES[copy](image)
                )
                files.write(tmp_path / source / f"{name}-{copy}.jpg", data)
                files.write(tmp_path / source / f"{name}-{copy}.txt", f"{copy} of {name}")
        import_source(tmp_path / source, tmp_path / f"data-{source}", validation_fraction=0.2)
    roots = [tmp_path / "data-a", tmp_path / "data-b"]
    out = tmp_path / "duplicates.jsonl"
    counts = find_duplicates(roots, out, workers=workers)
    found = notes(out)
    assert len(found) == sum(counts.values())
    # Of each picture one stays in a, and its mirror image in b.
    assert counts == {"data-a": 10, "data-b": 5}
    assert {note["key"].split("-")[0] for note in found} == {note["of"].split("-")[0] for note in found}
    kept = {note["of"] for note in found}
    assert kept.isdisjoint(note["key"] for note in found)
    assert all("mirror" not in note["key"] for note in found)
    assert all(note["distance"] <= 4 and note["reason"] == "near duplicate" for note in found)
    find_duplicates(roots[::-1], tmp_path / "other.jsonl")
    assert sum("half" in note["of"] for note in notes(tmp_path / "other.jsonl")) > 0


def test_edits_are_duplicates_if_all_their_pictures_and_words_are(pictures, tmp_path, files):
    for name, image in pictures.items():
        files.write(tmp_path / "in" / f"{name}.png", encode(image, "PNG"))
        files.write(tmp_path / "in" / f"{name}-copy.jpg", encode(image, quality=60))
        files.write(tmp_path / "in" / f"{name}-inverted.png", encode(ImageOps.invert(image), "PNG"))
    row = {"source": "cat.png", "target": "cat-inverted.png", "instruction": "Invert it."}
    rows = [
        row,
        row | {"source": "cat-copy.jpg", "instruction": "invert   it"},
        row | {"instruction": "make it a negative"},
        row | {"target": "cat-copy.jpg"},
        {"source": "coffee.png", "target": "coffee-inverted.png", "instruction": "Invert it."},
    ]
    source = files.lines(tmp_path / "in" / "edits.jsonl", rows)
    import_source(source, tmp_path / "data", validation_fraction=0)
    find_duplicates([tmp_path / "data"], tmp_path / "out.jsonl")
    (note,) = notes(tmp_path / "out.jsonl")
    assert note["key"] != note["of"]
    assert note["data"] == note["of_data"]


def test_prompts_by_their_words(tmp_path, files):
    source = files.write(tmp_path / "prompts.txt", "A cat.\na dog\na cat\n")
    fields = Fields(kind="prompt", text=("text",))
    import_source(source, tmp_path / "data", format="json", fields=fields, validation_fraction=0)
    assert find_duplicates([tmp_path / "data"], tmp_path / "out.jsonl") == {"data": 1}


@pytest.mark.slow
def test_goes_on_after_an_interruption(world, tmp_path, monkeypatch):
    from unipic2_data import duplicates

    plain, seen = duplicates._describe, []

    def stop(manifests, job):
        seen.append(job[0])
        if len(seen) == 3:
            raise KeyboardInterrupt
        return plain(manifests, job)

    monkeypatch.setattr(duplicates, "_describe", stop)
    with pytest.raises(KeyboardInterrupt):
        find_duplicates([world.root], tmp_path / "out.jsonl")
    monkeypatch.setattr(duplicates, "_describe", lambda *words: seen.append(words[1][0]) or plain(*words))
    find_duplicates([world.root], tmp_path / "out.jsonl", distance=0)
    assert seen == [0, 1, 2, 2, 3, 4, 5, 6, 7]


def test_all_pairs_are_found(tmp_path):
    """Against comparing every pair: random codes, and copies of them with a few changed bits."""
    from unipic2_data.duplicates import _Described, _Search

    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (600, 16), np.uint8)
    for copy in range(300, 600):
        codes[copy] = codes[copy - 300]
        for bit in rng.integers(0, 128, rng.integers(0, 12)):
            codes[copy, bit // 8] ^= 1 << (bit % 8)
    codes = codes[rng.permutation(600)]
    ones = np.ones(600, np.int32)
    search = _Search(_Described(ones, ones, ones.astype(np.uint64), ones, codes, np.zeros((600, 48), np.uint8)), 7)
    search.run()
    distances = np.unpackbits(codes[:, None] ^ codes[None], axis=-1).sum(-1)
    expected = np.array([np.flatnonzero(row[: n + 1] <= 7)[0] for n, row in enumerate(distances)])
    assert np.array_equal(search.of, expected)
    assert 100 < (search.of != np.arange(600)).sum() < 300


def test_distance_out_of_range(world, tmp_path):
    with pytest.raises(DataError, match="distance must be between 0 and 7"):
        find_duplicates([world.root], tmp_path / "out.jsonl", distance=8)
