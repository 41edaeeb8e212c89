import asyncio

import numpy as np
import pytest

import unipic2_vlm as vlm
from unipic2_apps.engine.pool import NoEngineError, Pool, QueueFullError
from unipic2_apps.engine.tasks import Answered, Ask, Make, Picture, Piece, Preview, Refused, Turn, Unusable, write_event
from unipic2_unified import Request


async def all_of(ticket):
    events = []
    while (event := await ticket.next()) is not None:
        events.append(event)
    return events


async def kill(pool):
    """End the engine, and wait until the pool has seen it."""
    restarts = pool.restarts
    pool._engines[0].link.kill()
    while pool.restarts == restarts:
        await asyncio.sleep(0.01)


def with_pool(launches, work, **options):
    """Run ``work(pool)`` over a pool that is stopped afterwards."""

    async def main():
        pool = Pool(launches, **{"max_queue": 16, **options})
        await pool.start()
        try:
            return await asyncio.wait_for(work(pool), 300)
        finally:
            await pool.stop(grace=5)

    return asyncio.run(main())


def test_pictures_come_with_their_seeds(kontext, in_thread):
    async def work(pool):
        made = await all_of(pool.submit(Make("a red circle", (5, 6), steps=2, size=(16, 16), previews=1)))
        return made, dict(pool.facts)

    events, facts = with_pool([in_thread(kontext)], work)
    assert [type(event) for event in events] == [Preview, Preview, Picture, Picture]
    expected = kontext.run([Request("a red circle", size=16, steps=2, seed=seed) for seed in (5, 6)])
    for event in events[2:]:
        assert np.abs(np.asarray(event.picture).astype(int) - np.asarray(expected[event.row])).max() <= 1
    assert facts["variant"] == "kontext"
    assert facts["can"] == ["edit", "generate"]
    assert facts["default_size"] == list(kontext.sizes.default)


def test_answers_come_in_pieces(metaquery, in_thread, picture):
    history = Turn("user", "what is it?", 1), Turn("assistant", "a circle")

    async def work(pool):
        given = {"history": history, "pictures": (picture(2), picture(1))}
        return await all_of(pool.submit(Ask("what colour is it?", 8, **given)))

    *pieces, last = with_pool([in_thread(metaquery)], work)
    turns = [vlm.Turn("user", "what is it?", [picture(2)]), vlm.Turn("assistant", "a circle")]
    expected = metaquery.ask(picture(1), "what colour is it?", history=turns, max_new_tokens=8, stream=True)
    assert all(isinstance(piece, Piece) for piece in pieces)
    assert "".join(piece.text for piece in pieces) == "".join(expected)
    usage = expected.usage
    assert last == Answered(usage.prompt_tokens, usage.answer_tokens, usage.cut)


def test_refusals_say_whose_fault_it_is(kontext, in_thread, monkeypatch):
    async def work(pool):
        tasks = Make("x", (1,), size=(17, 16)), Ask("what?", 8), Make("x", (1, 2), steps=1, size=(16, 24))
        return [await all_of(pool.submit(task)) for task in tasks]

    def broken(latents):
        raise RuntimeError("secret")

    monkeypatch.setattr(kontext, "decode", broken)
    size, capable, engine = with_pool([in_thread(kontext)], work)
    assert size[0].kind == "request"
    assert "impossible" in size[0].message
    assert capable == [Refused("capable", capable[0].message)]
    assert [event.kind for event in engine] == ["engine"]
    assert "secret" not in engine[0].message


def test_a_full_queue_says_when_to_come_back(kontext, in_thread):
    async def work(pool):
        tickets = [pool.submit(Make("x", (1, 2), steps=30, size=(16, 16))) for _ in range(2)]
        with pytest.raises(QueueFullError, match="try again in 1 s") as caught:
            pool.submit(Make("x", (3,)))
        assert caught.value.retry_after == 1
        tickets[0].cancel()
        assert pool.rows == 2
        assert await tickets[0].next() is None
        made = await all_of(pool.submit(Make("x", (3,), steps=1, size=(16, 16))))
        return made, await all_of(tickets[1])

    made, others = with_pool([in_thread(kontext, 1)], work, max_queue=4)
    assert len(made) == 1
    assert [event.row for event in others] == [0, 1]


def test_an_engine_that_dies_is_started_again_and_its_tasks_are_tried_once_more(kontext, in_thread):
    async def work(pool):
        ticket = pool.submit(Make("x", (1, 2), steps=40, size=(16, 16), previews=3))
        events = [await ticket.next()]
        await kill(pool)
        events += await all_of(ticket)
        doomed = pool.submit(Make("x", (1,), steps=5_000, size=(16, 16)))
        for _ in range(2):
            while not (pool.ready and doomed.sent):
                await asyncio.sleep(0.01)
            await kill(pool)
        *_, last = await all_of(doomed)
        after = await all_of(pool.submit(Make("x", (1,), steps=1, size=(16, 16))))
        return events, last, after

    events, last, after = with_pool([in_thread(kontext)], work)
    assert sorted(event.row for event in events if isinstance(event, Picture)) == [0, 1]
    previews = [(event.row, event.index) for event in events if isinstance(event, Preview)]
    assert sorted(previews) == [(row, index) for row in (0, 1) for index in range(3)]
    assert last == Refused("engine", "The engine that worked on it has died. Try again.")
    assert len(after) == 1


def test_stopping_lets_what_runs_finish(kontext, in_thread):
    async def main():
        pool = Pool([in_thread(kontext)], max_queue=4)
        await pool.start()
        ticket = pool.submit(Make("x", (1,), steps=50, size=(16, 16)))
        await asyncio.gather(pool.stop(grace=300), asyncio.sleep(0))
        with pytest.raises(NoEngineError, match="shutting down"):
            pool.submit(Make("x", (1,)))
        return await all_of(ticket)

    assert [type(event) for event in asyncio.run(main())] == [Picture]


def test_stopping_waits_no_longer_than_it_may(kontext, in_thread):
    async def main():
        pool = Pool([in_thread(kontext)], max_queue=4)
        await pool.start()
        ticket = pool.submit(Make("x", (1,), steps=5_000, size=(16, 16)))
        await pool.stop(grace=0.05)
        await pool.stop(grace=0.05)  # a second time is no harm
        return await all_of(ticket)

    assert asyncio.run(main()) == [Refused("engine", "The server was shut down.")]


def test_a_model_that_can_not_be_loaded_is_said_at_once():
    class Broken:
        pid = None

        def __init__(self, connection):
            connection.send_bytes(write_event(Unusable("no such folder")))
            connection.close()

        def kill(self):
            pass

    async def main():
        await Pool([Broken], max_queue=1).start()

    with pytest.raises(NoEngineError, match="no such folder"):
        asyncio.run(main())


def test_tasks_go_to_the_engine_with_the_least_to_do(kontext, in_thread):
    async def work(pool):
        tickets = [pool.submit(Make("x", (number,), steps=20, size=(16, 16))) for number in range(4)]
        shares = [engine.rows for engine in pool._engines]
        for ticket in tickets:
            await all_of(ticket)
        return shares

    # Two models: one thread at a time uses one.
    twin = type(kontext)(kontext.parts)
    assert with_pool([in_thread(kontext), in_thread(twin)], work) == [2, 2]
