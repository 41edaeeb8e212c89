from dataclasses import replace

import numpy as np
import pytest

from unipic2_apps.scheduler import Done, Failed, Preview, Scheduler, Stepped
from unipic2_unified import NotCapableError, Request, RequestError


def run(scheduler, meanwhile=None):
    """Run until nothing is left; ``meanwhile`` maps a number of steps to what is done after them."""
    events, count = [], 0
    while scheduler:
        events += scheduler.step()
        count += 1
        (meanwhile or {}).get(count, lambda: None)()
    return events


def pictures(events):
    return {event.key: event.picture for event in events if isinstance(event, Done)}


def close(left, right):
    return left.size == right.size and np.abs(np.asarray(left).astype(int) - np.asarray(right)).max() <= 1


def test_a_request_alone_and_among_others_is_the_same_picture(model, picture):
    requests = {
        "drawn": Request("a red circle", size=16, steps=4, seed=1),
        "short": Request("a blue square", size=16, steps=2, guidance=1.0, seed=2),
        "edited": Request("make it red", picture(1), "blue", size=16, steps=3, guidance=6.0, seed=3),
        "wide": Request("a circle", size=(16, 24), steps=5, seed=4),
        "late": Request("a red square", size=16, steps=3, seed=5),
        "later": Request("make it blue", picture(2), size=16, steps=2, seed=6),
    }
    scheduler = Scheduler(model, max_rows=4)
    first, second = list(requests)[:4], list(requests)[4:]
    for key in first:
        scheduler.add(key, requests[key], previews=1)
    made = pictures(run(scheduler, {2: lambda: [scheduler.add(key, requests[key]) for key in second]}))
    assert made.keys() == requests.keys()
    for key, request in requests.items():
        assert close(made[key], model.run([request])[0]), key


def test_rows_leave_when_they_are_done_and_the_next_in_line_joins(kontext):
    scheduler = Scheduler(kontext, max_rows=2)
    for key, steps in (("long", 5), ("short", 2), ("next", 2), ("last", 1)):
        scheduler.add(key, Request("x", size=16, steps=steps))
    events = run(scheduler)
    assert list(pictures(events)) == ["short", "next", "long", "last"]
    assert [event.rows for event in events if isinstance(event, Stepped)] == [2, 2, 2, 2, 2]
    assert not len(scheduler)


def test_no_shape_starves(kontext):
    """One of another shape waits for a row at most, though more of the first keep coming."""
    scheduler = Scheduler(kontext, max_rows=2)
    for number in range(3):
        scheduler.add(f"square {number}", Request("x", size=16, steps=3))
    scheduler.add("wide", Request("x", size=(16, 24), steps=3))
    events = []
    for number in range(30):
        scheduler.add(f"more {number}", Request("x", size=16, steps=3))
        events += scheduler.step()
    order = list(pictures(events))
    assert order[:2] == ["square 0", "square 1"]
    assert order.index("wide") <= 4


def test_groups_take_turns(kontext):
    scheduler = Scheduler(kontext)
    scheduler.add("square", Request("x", size=16, steps=3))
    scheduler.add("wide", Request("x", size=(16, 24), steps=3))
    for _ in range(4):
        scheduler.step()
    assert scheduler.running == 2
    assert list(pictures(scheduler.step())) == ["square"]
    assert list(pictures(scheduler.step())) == ["wide"]


def test_cancelled_requests_leave_before_the_next_step(kontext):
    scheduler = Scheduler(kontext, max_rows=3)
    for key in ("a", "b", "c", "d"):
        scheduler.add(key, Request("x", size=16, steps=3, seed=ord(key)))
    scheduler.step()
    scheduler.cancel("b")
    scheduler.cancel("unknown")
    assert (scheduler.running, scheduler.waiting) == (2, 1)
    scheduler.cancel("d")
    events = run(scheduler)
    assert list(pictures(events)) == ["a", "c"]
    assert close(pictures(events)["c"], kontext.run([Request("x", size=16, steps=3, seed=ord("c"))])[0])
    scheduler.add("e", Request("x", size=16, steps=3))
    scheduler.step()
    scheduler.cancel("e")
    assert not scheduler
    assert scheduler.step() == []


def test_previews_come_on_the_way(kontext):
    scheduler = Scheduler(kontext)
    scheduler.add("a", Request("x", size=16, steps=6), previews=2)
    scheduler.add("b", Request("x", size=16, steps=2), previews=3)
    scheduler.add("c", Request("x", size=16, steps=1), previews=3)
    events = run(scheduler)
    kinds = [(event.key, getattr(event, "index", "done")) for event in events if not isinstance(event, Stepped)]
    assert kinds == [("b", 0), ("c", "done"), ("a", 0), ("b", "done"), ("a", 1), ("a", "done")]
    assert all(event.picture.size == (16, 16) for event in events if isinstance(event, Preview))


def test_one_bad_request_costs_the_others_nothing(metaquery, kontext, picture):
    scheduler = Scheduler(metaquery)
    scheduler.add("long", Request("red " * 5000, size=16, steps=2))
    scheduler.add("good", Request("red", size=16, steps=2))
    events = run(scheduler)
    failed = [event for event in events if isinstance(event, Failed)]
    assert [event.key for event in failed] == ["long"]
    assert isinstance(failed[0].error, RequestError)
    assert list(pictures(events)) == ["good"]
    with pytest.raises(ValueError, match="impossible"):
        scheduler.add("odd", Request("x", size=17))
    assert not scheduler


def test_a_batch_that_breaks_leaves_the_others(kontext, monkeypatch):
    scheduler = Scheduler(kontext)
    scheduler.add("square", Request("x", size=16, steps=2))
    scheduler.add("wide", Request("x", size=(16, 24), steps=2))
    step = kontext.step

    def short_of_memory(state):
        if state.latents.shape[-1] != state.latents.shape[-2]:
            raise MemoryError("too large")
        return step(state)

    monkeypatch.setattr(kontext, "step", short_of_memory)
    events = run(scheduler)
    assert [(event.key, str(event.error)) for event in events if isinstance(event, Failed)] == [("wide", "too large")]
    assert list(pictures(events)) == ["square"]


def test_what_the_model_can_not_do_is_refused_at_once(kontext):
    bare = type(kontext)(replace(kontext.parts))
    bare.drop_text_encoders()
    scheduler = Scheduler(bare)
    scheduler.add("a", Request("never read", size=16, steps=1))
    (failed,) = run(scheduler)
    assert isinstance(failed.error, NotCapableError)
    with pytest.raises(ValueError, match="max_rows is 0"):
        Scheduler(kontext, max_rows=0)
