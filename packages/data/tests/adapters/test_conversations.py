from pathlib import Path

import pytest

from unipic2_data.adapters.conversations import Conversations, read_list
from unipic2_data.adapters.places import FolderPlace
from unipic2_data.adapters.record import Skipped
from unipic2_data.errors import DataError


def only(images, human, gpt="<image>"):
    row = {"image": images, "conversations": [{"from": "human", "value": human}, {"from": "gpt", "value": gpt}]}
    (found,) = Conversations().records("row", row, FolderPlace(Path("root")))
    return found


def test_the_last_picture_is_the_target():
    record = only(["a.png", "b.png", "c.png"], "<image>\n<image>\nPut the first into the second.")
    assert (record.kind, record.meta) == ("edit", {"instruction": "Put the first into the second."})
    assert (record.target, record.references) == (Path("root/c.png"), [Path("root/a.png"), Path("root/b.png")])
    assert record.group == "c.png"


@pytest.mark.parametrize("images", [["a.png"], "a.png"])
def test_text_to_image(images):
    record = only(images, "A cat.")
    assert (record.kind, record.meta, record.target) == ("t2i", {"captions": ["A cat."]}, Path("root/a.png"))


def test_an_answer_in_words_is_understanding():
    record = only(["a.png"], "<image>What is it?", "A cat.")
    assert (record.kind, record.meta) == ("qa", {"question": "What is it?", "answer": "A cat."})
    assert (record.target, record.references) == (None, [Path("root/a.png")])


@pytest.mark.parametrize(
    ("images", "human", "reason"),
    [
        ([], "x", "no picture in field 'image'"),
        (None, "x", "no picture in field 'image'"),
        (["a.png", 3], "x", "no picture in field 'image'"),
        (["a.png", "b.png"], "<image> ", "empty instruction"),
        (["a.png"], "<image> edit it", "fewer pictures than the conversation speaks of"),
    ],
)
def test_bad_rows(images, human, reason):
    assert only(images, human) == Skipped("row", reason)


@pytest.mark.parametrize(
    ("conversation", "reason"),
    [
        ([], "empty conversation"),
        ("hello", "empty conversation"),
        ([{"from": "system", "value": "x"}], "conversation is not of human and gpt"),
        (["x"], "conversation is not of human and gpt"),
        ([{"from": "human", "value": 3}], "conversation is not of human and gpt"),
        ([{"from": "human", "value": "x"}] * 2, "conversation of several turns"),
    ],
)
def test_bad_conversations(conversation, reason):
    row = {"image": "a.png", "conversations": conversation}
    assert list(Conversations().records("row", row, FolderPlace(Path()))) == [Skipped("row", reason)]


def test_lists_of_files(tmp_path, files):
    list_ = files.write(tmp_path / "data.txt", "imgs/a,json/a.json,false\n\n/far/b, json/b.jsonl\n")
    assert read_list(list_) == [
        (tmp_path / "json/a.json", tmp_path / "imgs/a"),
        (tmp_path / "json/b.jsonl", Path("/far/b")),
    ]
    with pytest.raises(DataError, match=r"data\.txt:2: expected 'folder of pictures,rows\.json,flag'"):
        read_list(files.write(tmp_path / "data.txt", "imgs,a.json,true\nhello\n"))
