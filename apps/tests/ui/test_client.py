import asyncio
import base64
import socket
import threading
import time
from contextlib import aclosing

import pytest

from unipic2_apps.errors import UsageError
from unipic2_apps.ui.client import PREVIEWS, Client, ServerError, Settings, check_address, mime_of

KEY = "a-key-of-the-tests"
FAST = Settings(size="16x16", steps=4, seed=7)


def pictures(prompt="a red circle", settings=FAST):
    async def draw(client):
        return [each async for each in client.draw(prompt, settings)]

    return draw


def answer(*given):
    async def ask(client):
        return "".join([piece async for piece in client.ask(*given)])

    return ask


def test_the_model_is_known(talk, server, asking_server):
    model = talk(server.url, lambda client: client.model())
    assert (model.name, model.variant, model.can) == ("tiny", "kontext", {"generate", "edit"})
    assert (model.height, model.width) == tuple(server.service.pool.facts["default_size"])
    assert "ask" in talk(f"{asking_server.url}/v1/", lambda client: client.model()).can


def test_pictures_come_with_previews(talk, server):
    shown = talk(server.url, pictures(settings=Settings(size="16x16", steps=4, seed=7, num_images=2)))
    assert sorted((each.row, each.preview) for each in shown if each.preview is not None) == [
        (row, index) for row in range(2) for index in range(PREVIEWS)
    ]
    done = sorted((each for each in shown if each.preview is None), key=lambda each: each.row)
    assert [each.seed for each in done] == [7, 8]
    body = {"seed": 7, "num_inference_steps": 4}
    expected = server.openai.images.generate(prompt="a red circle", size="16x16", n=2, extra_body=body)
    assert [each.data for each in done] == [base64.b64decode(each.b64_json) for each in expected.data]


def test_edits_are_those_of_the_picture(talk, server, picture, as_file):
    async def edit(client):
        return [each async for each in client.edit(as_file(picture(1)), "make it green", Settings(steps=4, seed=7))]

    shown = talk(server.url, edit)
    assert [each.preview for each in shown] == [*range(PREVIEWS), None]
    body = {"seed": 7, "num_inference_steps": 4}
    expected = server.openai.images.edit(image=as_file(picture(1)), prompt="make it green", extra_body=body)
    assert shown[-1].data == base64.b64decode(expected.data[0].b64_json)


def test_questions_know_the_earlier_ones(talk, asking_server, picture, as_file, as_uri):
    def expected(*messages):
        made = asking_server.openai.chat.completions.create(model="tiny", messages=messages)
        return made.choices[0].message.content

    file = as_file(picture(1))
    shown = {"type": "image_url", "image_url": {"url": as_uri(picture(1))}}
    first = {"role": "user", "content": [{"type": "text", "text": "what is it?"}, shown]}
    answered = {"role": "assistant", "content": "red"}
    assert talk(asking_server.url, answer(file, "what is it?")) == expected(first)
    second = talk(asking_server.url, answer(file, "and now?", [("what is it?", "red")]))
    assert second == expected(first, answered, {"role": "user", "content": "and now?"})
    assert talk(asking_server.url, answer(None, "what?")) == expected({"role": "user", "content": "what?"})


def test_a_question_never_becomes_a_picture(talk, asking_server):
    drawn = asking_server.service.metrics.pictures._value.get()
    talk(asking_server.url, answer(None, "draw a red circle"))
    assert asking_server.service.metrics.pictures._value.get() == drawn


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (pictures(prompt=" "), "prompt: it is empty"),
        (pictures(settings=Settings(steps=51)), "num_inference_steps: 51 steps are more than this server allows"),
        (pictures(settings=Settings(size="wide")), "size: "),
        (pictures(settings=Settings(size="17x16")), "multiple"),
        (answer(None, "what?"), "this model can't ask: it is a kontext checkpoint"),
    ],
)
def test_refusals_are_in_the_servers_words(talk, server, asked, said):
    with pytest.raises(ServerError, match=said):
        talk(server.url, asked)


def test_keys(talk, serve, kontext, in_thread):
    with serve([in_thread(kontext)], keys=[KEY]) as locked:
        assert talk(locked.url, lambda client: client.name(), key=KEY) == "tiny"
        with pytest.raises(ServerError, match=r"API key is missing or wrong.*--api-key.*UNIPIC2_API_KEY"):
            talk(locked.url, lambda client: client.model(), key="other")
    with pytest.raises(UsageError, match="characters that no key has"):
        Client("http://127.0.0.1:8000", "a\nkey")


def test_who_leaves_takes_the_rows_along(server):
    async def leave():
        client = Client(server.url)
        async with aclosing(client.draw("x", Settings(size="16x16", steps=50, num_images=4))) as shown:
            await anext(shown)
        await client.close()

    asyncio.run(leave())
    end = time.monotonic() + 60
    while server.call(lambda: server.pool.rows):
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def stranger():
    """A server that gives one answer, whatever it is asked."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answering(reply):
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(reply)

        def start(reply):
            threading.Thread(target=answering, args=(reply,), daemon=True).start()
            return f"http://127.0.0.1:{listening.getsockname()[1]}"

        yield start


def replied(body, status=200, length=None):
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body) if length is None else length}\r\n\r\n{body}".encode()


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (replied("<html>"), r"answers \(200\), but not as a UniPic2 server"),
        (replied('{"data": []}'), r"answers \(200\), but not as a UniPic2 server"),
        (replied("", 302), r"answers \(302\), but not as a UniPic2 server"),
        (replied('{"data"', length=99), "broke before the answer was whole"),
        (b"SSH-2.0-x\r\n", "broke before the answer was whole"),
    ],
)
def test_other_servers_are_told_apart(talk, stranger, reply, said):
    with pytest.raises(ServerError, match=said):
        talk(stranger(reply), lambda client: client.model())


def test_a_server_that_is_not_there(talk):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        url = f"http://127.0.0.1:{gone.getsockname()[1]}"
    with pytest.raises(ServerError, match=f"No server answers at {url}.*`unipic2 serve`"):
        talk(url, lambda client: client.model())


def test_addresses():
    assert check_address(" http://127.0.0.1:8000/v1/ ") == "http://127.0.0.1:8000"
    assert check_address("https://[::1]:1/prefix") == "https://[::1]:1/prefix"
    for address in ("", "host", "ftp://host", "http://", "http://host:x", "http://me@host", "http://host/?a"):
        with pytest.raises(UsageError, match="is no address"):
            check_address(address)


def test_files_are_told_apart(picture, as_file):
    assert [mime_of(as_file(picture(), kind)) for kind in ("PNG", "JPEG", "WEBP")] == ["png", "jpeg", "webp"]
