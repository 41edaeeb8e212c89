import pickle

import pytest
from PIL import Image

from unipic2_apps.engine import tasks, wire


def test_tasks_travel(picture):
    make = tasks.Make("a \u2603 \ud800", (1, 2), 3, 0.5, size=(16, 24), previews=2, pictures=(picture(1, 5, 7),))
    ask = tasks.Ask("what?", 8, 0.5, 0.9, 2**40, pictures=(picture(1), picture(2).convert("RGBA")))
    history = (tasks.Turn("user", "what?", 1), tasks.Turn("assistant", "that", 0))
    more = tasks.Ask("and?", 8, history=history, pictures=(picture(1), picture(2)))
    for task in (make, ask, more, tasks.Make("x", (0,))):
        header, blobs = wire.unpack(tasks.write_task(7, task))
        assert header["number"] == 7
        assert tasks.read_task(header, blobs) == task
    assert (make.rows, ask.rows) == (2, 1)
    assert more.words == "what?\nthat\nand?"


def test_events_travel(picture):
    events = [
        tasks.Preview(1, 2, picture(1)),
        tasks.Picture(0, picture(2, 3, 5)),
        tasks.Piece("a piece"),
        tasks.Answered(30, 4, True),
        tasks.Refused("request", "no"),
        tasks.Ready({"can": ["edit"]}),
        tasks.Unusable("broken"),
        tasks.Stepped(4, 0.5),
    ]
    for number, event in enumerate(events):
        message = tasks.write_event(event, number)
        assert tasks.read_event(message) == (number, event)
        with pytest.raises(pickle.UnpicklingError):
            pickle.loads(message)


def test_pictures_are_pixels(picture):
    facts, blob = wire.from_picture(picture(1, 5, 7))
    assert facts == {"mode": "RGB", "size": [5, 7]}
    assert len(blob) == 3 * 5 * 7
    with pytest.raises(AssertionError):
        wire.from_picture(Image.new("P", (2, 2)))
