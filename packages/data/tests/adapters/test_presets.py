"""Every preset on small files in the layout of its data set."""

import json

import pytest

from unipic2_data.adapters.fields import Fields
from unipic2_data.adapters.presets import PRESETS, find_preset
from unipic2_data.errors import DataError
from unipic2_data.importer import import_source
from unipic2_data.loader import SampleStore

PAIR = (24, 16)


@pytest.fixture
def imported(tmp_path):
    """Import a folder by a preset; return its samples in order, and what was skipped."""

    def run(name, source=tmp_path / "in", **options):
        preset = find_preset(name)
        report = import_source(source, tmp_path / "out", preset=preset, validation_fraction=0, **options)
        store = SampleStore(report.manifest, "train")
        samples = [store.read(kind, index) for kind, count in store.counts.items() for index in range(count)]
        assert {sample.meta["source"] for sample in samples} == {f"import:{name}"}
        assert {sample.meta["licence"] for sample in samples} == {preset.licence}
        return samples, report.skipped

    return run


@pytest.mark.parametrize("name", ["blip3o-60k", "blip3o-pretrain", "cc12m"])
def test_tars_of_pictures_and_texts(tmp_path, files, imported, name):
    members = {}
    for n in range(3):
        members[f"0000{n}.jpg"] = files.picture(n)
        members[f"0000{n}.txt"] = f"a photo of {n}"
        if name == "cc12m":
            members[f"0000{n}.json"] = json.dumps({"caption": "alt", "url": "https://example.org", "key": str(n)})
    files.tar(tmp_path / "in" / "sa_000000.tar", members)
    samples, skipped = imported(name)
    assert [sample.meta["captions"] for sample in samples] == [[f"a photo of {n}"] for n in range(3)]
    assert [sample.target.data for sample in samples] == [files.picture(n) for n in range(3)]
    assert skipped == []


def test_text_to_image_2m(tmp_path, files, imported):
    members = {}
    for n in range(2):
        members[f"{n:09}.jpg"] = files.picture(n)
        members[f"{n:09}.json"] = json.dumps({"prompt": f"prompt {n}"})
    files.tar(tmp_path / "in" / "data_512_2M" / "data_000000.tar", members)
    samples, _ = imported("text-to-image-2m")
    assert [sample.meta["captions"] for sample in samples] == [["prompt 0"], ["prompt 1"]]


def test_megalith(tmp_path, files, imported):
    rows = []
    for n in range(3):
        files.write(tmp_path / "in" / "raw" / "00000" / f"{n}.jpg", files.picture(n))
        rows.append({"image": f"00000/{n}.jpg", "annotation": f"00000/{n}.json"})
        if n != 1:
            captions = {"caption_internlm2_short": f"short {n}", "caption_sharecap": "long"}
            files.write(tmp_path / "in" / "captions" / "00000" / f"{n}.json", json.dumps(captions))
    index = files.write(tmp_path / "in" / "megalith10m_all.json", json.dumps(rows))
    samples, skipped = imported("megalith-10m", index, image_root=tmp_path / "in" / "raw")
    assert [sample.meta["captions"] for sample in samples] == [["short 0"], ["short 2"]]
    assert [one.reason for one in skipped] == ["file in field 'annotation': file is missing"]


def test_sharegpt_4o_image(tmp_path, files, imported):
    """Two lists in one folder, pictures in tars of parts; a pair of different sizes is left out."""
    made = [{"input_prompt": f"prompt {n}", "output_image": f"image/{n}.png"} for n in range(2)]
    edits = [
        {
            "input_prompt": f"edit {n}",
            "input_image": [f"image/v2v_{n}_in.png"],
            "output_image": f"image/v2v_{n}_out.png",
        }
        for n in range(3)
    ]
    edits[1]["input_image"] = None
    files.write(tmp_path / "in" / "text_to_image.json", json.dumps(made, indent=2))
    files.write(tmp_path / "in" / "text_and_image_to_image.json", json.dumps(edits, indent=2))
    pictures = {f"image/{n}.png": files.picture(n, PAIR, "PNG") for n in range(2)}
    files.tar(tmp_path / "in" / "text_to_image_part_0.tar", pictures)
    for n in range(3):
        pair = {
            f"image/v2v_{n}_in.png": files.picture(10 + n, (16, 24) if n == 2 else PAIR, "PNG"),
            f"image/v2v_{n}_out.png": files.picture(20 + n, PAIR, "PNG"),
        }
        files.tar(tmp_path / "in" / f"text_and_image_to_image_part_{n}.tar", pair)
    samples, skipped = imported("sharegpt-4o-image")
    assert [sample.kind for sample in samples] == ["t2i", "t2i", "edit"]
    assert samples[0].meta["captions"] == ["prompt 0"]
    assert samples[2].meta["instruction"] == "edit 0"
    assert samples[2].references[0].data == files.picture(10, PAIR, "PNG")
    assert {one.name: one.reason for one in skipped} == {
        "text_and_image_to_image.json:2": "no picture in field 'input_image'",
        "text_and_image_to_image.json:3": "source and target have different aspect ratios",
    }


@pytest.mark.parametrize("name", ["uniworld-v1", "gpt-image-edit-1.5m"])
def test_conversations(tmp_path, files, imported, name):
    row = {
        "id": 1,
        "image": ["source/1.jpg", "edited/1.jpg"],
        "conversations": [{"from": "human", "value": "<image>\nMake it snow."}, {"from": "gpt", "value": "<image>"}],
    }
    files.write(tmp_path / "in" / "json" / "edits.json", json.dumps([row]))
    for part in ("source", "edited"):
        files.write(tmp_path / "in" / "images" / part / "1.jpg", files.picture(len(part)))
    list_ = files.write(tmp_path / "in" / "data.txt", "images,json/edits.json,false\n")
    ((sample,), _) = imported(name, list_)
    assert (sample.kind, sample.meta["instruction"]) == ("edit", "Make it snow.")
    assert sample.target.data == files.picture(len("edited"))


@pytest.mark.parametrize("turns", [1, 3])
def test_imgedit(tmp_path, files, imported, turns):
    """An index of Parquet, pictures in a tar that is cut into pieces; the turns of a conversation stay together."""
    folder = "results_x_part0/00094_00030_000304748"
    rows = [
        {"input_images": [f"{folder}/origin_{n}.png"], "output_images": [f"{folder}/result_{n}.png"], "prompt": f"p{n}"}
        for n in range(turns)
    ]
    files.parquet(tmp_path / "in" / "Parquet" / "x_part0.parquet", rows if turns == 1 else [{"data": rows}])
    pictures = {
        f"{folder}/{what}_{n}.png": files.picture(n, PAIR, "PNG") for n in range(turns) for what in ("origin", "result")
    }
    whole = files.tar(tmp_path / "whole.tar", pictures).read_bytes()
    for piece in range(3):
        stop = (piece + 1) * 2500 if piece < 2 else None
        files.write(tmp_path / "in" / "Singleturn" / f"x_part0.tar.split.00{piece}", whole[piece * 2500 : stop])
    samples, skipped = imported("imgedit", tmp_path / "in" / "Parquet", image_tars=tmp_path / "in" / "Singleturn")
    assert [sample.meta["instruction"] for sample in samples] == [f"p{n}" for n in range(turns)]
    assert [sample.meta.get("turn") for sample in samples] == ([None] if turns == 1 else [1, 2, 3])
    assert skipped == []


def inside(files, value):
    return {"bytes": files.picture(value), "path": f"{value}.jpg"}


def test_omniedit(tmp_path, files, imported):
    row = {
        "omni_edit_id": "task_obj_add_1",
        "task": "addition",
        "src_img": inside(files, 1),
        "edited_img": inside(files, 2),
        "edited_prompt_list": ["Add a cat.", "Add a ginger cat to the left of the sofa."],
        "width": 24,
        "height": 16,
        "sc_score_1": 9.0,
        "sc_score_2": 8.0,
        "sc_reasoning": "fine",
        "pq_score": 8.5,
        "pq_reasoning": "fine",
        "o_score": 8.7,
    }
    files.parquet(tmp_path / "in" / "data" / "train-00000-of-00571.parquet", [row])
    ((sample,), _) = imported("omniedit")
    assert sample.meta["instruction"] == row["edited_prompt_list"]
    assert sample.meta["scores"] == {"sc_score_1": 9.0, "sc_score_2": 8.0, "pq_score": 8.5, "o_score": 8.7}
    assert sample.meta["task"] == "addition"
    assert (sample.meta["width"], sample.meta["reference_sizes"]) == (24, [{"height": 16, "width": 24}])


def test_ultraedit(tmp_path, files, imported):
    row = {
        "source_image": inside(files, 1),
        "edited_image": inside(files, 2),
        "mask_image": inside(files, 3),
        "edit_prompt": "make it snow",
        "source_caption": "x",
    }
    files.parquet(tmp_path / "in" / "FreeForm_0-00000.parquet", [row])
    ((sample,), _) = imported("ultraedit")
    assert sample.meta["instruction"] == "make it snow"
    assert (sample.references[0].data, sample.target.data) == (files.picture(1), files.picture(2))


def test_nhr_edit(tmp_path, files, imported):
    row = {
        "sample_id": "1",
        "source_image": inside(files, 1),
        "edited_image": inside(files, 2),
        "edit_instruction": "Add a cat.",
        "augmented_instructions": ["Put a cat there.", "Add a cat."],
        "category": "Add object",
        "style": "photo",
    }
    files.parquet(tmp_path / "in" / "data" / "train-00000.parquet", [row, row | {"augmented_instructions": None}])
    (sample, plain), _ = imported("nhr-edit")
    assert sample.meta["instruction"] == ["Add a cat.", "Put a cat there."]
    assert (sample.meta["task"], plain.meta["instruction"]) == ("Add object", "Add a cat.")
    assert (sample.references[0].data, sample.target.data) == (files.picture(1), files.picture(2))


def test_hq_edit_goes_both_ways(tmp_path, files, imported):
    row = {
        "input": "a field",
        "input_image": inside(files, 1),
        "edit": "make it snow",
        "inverse_edit": "melt the snow",
        "output": "a snowy field",
        "output_image": inside(files, 2),
    }
    files.parquet(tmp_path / "in" / "train-00000.parquet", [row])
    (there, back), _ = imported("hq-edit")
    assert (there.meta["instruction"], there.meta["caption"]) == ("make it snow", "a snowy field")
    assert (back.meta["instruction"], back.meta["caption"]) == ("melt the snow", "a field")
    assert (back.references[0].data, back.target.data) == (there.target.data, there.references[0].data)
    assert there.key != back.key


def test_seed_data_edit_leaves_broken_folders_out(tmp_path, files, imported):
    rows = [
        {"source_image": f"20240330_315P_1323turns/Data/{n}/a.jpg", "target_image": f"{n}.jpg", "instruction": "x"}
        for n in (207, 208, 212, 213)
    ]
    for row in rows:
        files.write(tmp_path / "in" / row["source_image"], files.picture(1))
        files.write(tmp_path / "in" / row["target_image"], files.picture(2))
    rows.append({"source_image": "1.jpg", "instruction_1": "x"})
    list_ = files.lines(tmp_path / "in" / "annotations.jsonl", rows)
    samples, skipped = imported("seed-data-edit", list_)
    assert len(samples) == 2
    assert [one.reason for one in skipped] == [
        "known defect in field 'source_image'",
        "known defect in field 'source_image'",
        "fields missing: instruction, target_image",
    ]


def test_pico_banana(tmp_path, files, imported):
    files.write(tmp_path / "in" / "images" / "1.png", files.picture(1, kind="PNG"))
    source = files.write(tmp_path / "openimages" / "a.jpg", files.picture(2))
    row = {
        "open_image_input_url": "https://example.org/a_o.jpg",
        "text": "Make it snow, please.",
        "summarized_text": "make it snow",
        "edit_type": "weather",
        "output_image": "images/1.png",
    }
    raw = files.lines(tmp_path / "in" / "sft.jsonl", [row])
    with pytest.raises(DataError, match="img2dataset"):
        imported("pico-banana-400k", raw)
    rows = [row | {"local_input_image": str(source)}, row | {"local_input_image": None}]
    mapped = files.lines(tmp_path / "in" / "mapped.jsonl", rows)
    ((sample,), skipped) = imported("pico-banana-400k", mapped)
    assert sample.meta["instruction"] == ["Make it snow, please.", "make it snow"]
    assert sample.meta["task"] == "weather"
    assert [one.reason for one in skipped] == ["no picture in field 'local_input_image'"]


def test_metaquery_instruct(tmp_path, files, imported):
    one = {"source_images": [inside(files, 1)], "target_image": inside(files, 2), "prompt": "x"}
    two = one | {"source_images": [inside(files, 1), inside(files, 3)]}
    files.parquet(tmp_path / "in" / "a.parquet", [one, two])
    samples, skipped = imported("metaquery-instruct")
    assert len(samples) == 1
    assert [one.reason for one in skipped] == ["more than 1 reference"]


@pytest.mark.parametrize("name", ["x2i2", "x2i"])
def test_omnigen2_rows(tmp_path, files, imported, name):
    for value in (1, 2, 3):
        files.write(tmp_path / "in" / "images" / f"{value}.jpg", files.picture(value))
    rows = [
        {"task_type": "edit", "instruction": "x", "input_images": ["1.jpg"], "output_image": "2.jpg"},
        {"task_type": "compose", "instruction": "y", "input_images": ["1.jpg", "3.jpg"], "output_image": "2.jpg"},
        {"task_type": "t2i", "instruction": "z", "output_image": "2.jpg"},
    ]
    files.lines(tmp_path / "in" / "jsons" / "edit.jsonl", rows)
    samples, skipped = imported(
        name, tmp_path / "in" / "jsons", image_root=tmp_path / "in" / "images", max_references=2
    )
    assert [(sample.kind, sample.meta["task"], len(sample.references)) for sample in samples] == [
        ("t2i", "t2i", 0),
        ("edit", "edit", 1),
        ("edit", "compose", 2),
    ]
    assert skipped == []


def test_prompts_of_flow_grpo(tmp_path, files, imported):
    row = {"tag": "counting", "include": [{"class": "cat", "count": 2}], "exclude": [], "prompt": "a photo of two cats"}
    files.lines(tmp_path / "in" / "geneval" / "train_metadata.jsonl", [row])
    files.write(tmp_path / "in" / "ocr" / "train.txt", 'a sign that says "open"\n')
    first, second = imported("flow-grpo")[0]
    assert (first.kind, first.meta["captions"], first.meta["task"]) == ("prompt", [row["prompt"]], "counting")
    assert first.meta["metadata"] == {key: row[key] for key in ("tag", "include", "exclude")}
    assert second.meta["captions"] == ['a sign that says "open"']


@pytest.mark.parametrize("name", ["laion6m-recap", "redcaps5m-recap"])
def test_sets_of_addresses(name):
    with pytest.raises(DataError, match=r"holds addresses and captions, not pictures.*img2dataset"):
        find_preset(name)


def test_names():
    with pytest.raises(DataError, match="no preset named 'omni'; there are blip3o-60k,"):
        find_preset("omni")
    assert len({preset.name for preset in PRESETS}) == len(PRESETS)
    assert "CC-BY-NC-4.0" in str(find_preset("hq-edit"))
    assert isinstance(find_preset("omniedit").mappers[0], Fields)
