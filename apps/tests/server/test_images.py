import base64
import json
import socket

import numpy as np
import openai
import pytest
from PIL import Image

from unipic2_apps.server.options import LimitOptions
from unipic2_unified import Request

STEPS = {"num_inference_steps": 2}


def close(left, right):
    return left.size == right.size and np.abs(np.asarray(left).astype(int) - np.asarray(right)).max() <= 1


def test_the_stock_client_makes_pictures(server, kontext, opened):
    made = server.openai.images.generate(
        prompt="a red circle",
        n=2,
        size="24x16",
        extra_body={**STEPS, "seed": 5, "guidance_scale": 2.0, "negative_prompt": "blue"},
    )
    assert [item.seed for item in made.data] == [5, 6]
    assert (made.size, made.output_format) == ("24x16", "png")
    for item in made.data:
        alone = Request("a red circle", negative_prompt="blue", size=(16, 24), steps=2, guidance=2.0, seed=item.seed)
        assert close(opened(item.b64_json), kontext.run([alone])[0])


def test_the_used_seed_makes_the_picture_again(server, opened):
    first = server.openai.images.generate(prompt="x", size="16x16", extra_body=STEPS).data[0]
    again = server.openai.images.generate(prompt="x", size="16x16", extra_body={**STEPS, "seed": first.seed}).data[0]
    assert close(opened(first.b64_json), opened(again.b64_json))


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_formats(server, kind, opened):
    client = server.openai
    made = client.images.generate(prompt="x", size="16x16", output_format=kind, output_compression=80, extra_body=STEPS)
    picture = opened(made.data[0].b64_json)
    assert picture.format.lower() == kind
    assert b"digitalsourcetype/trainedAlgorithmicMedia" in base64.b64decode(made.data[0].b64_json)
    made = client.images.generate(
        prompt="x", size="16x16", response_format="url", extra_body={**STEPS, "output_format": kind}
    )
    assert made.data[0].url.startswith(f"data:image/{kind};base64,")


def test_the_stock_client_edits(server, kontext, picture, as_file, opened):
    source = picture(1, 16, 24)
    expected = kontext.run([Request("make it red", source, steps=2, seed=3)])[0]
    for image in (("a.png", as_file(source), "image/png"), [as_file(source)]):
        made = server.openai.images.edit(image=image, prompt="make it red", extra_body={**STEPS, "seed": "3"})
        assert made.data[0].seed == 3
        assert close(opened(made.data[0].b64_json), expected)


def test_edits_in_json(server, kontext, picture, as_uri, opened):
    body = {"prompt": "make it red", "images": [{"image_url": as_uri(picture(1))}], "seed": 3, "size": "16x16", **STEPS}
    made = server.http.post("/v1/images/edits", json=body).json()
    expected = kontext.run([Request("make it red", picture(1), size=(16, 16), steps=2, seed=3)])[0]
    assert close(opened(made["data"][0]["b64_json"]), expected)


def test_a_stream_brings_partial_pictures(server, picture, as_file, opened):
    events = list(
        server.openai.images.generate(
            prompt="x", size="16x16", stream=True, partial_images=2, extra_body={"num_inference_steps": 6, "seed": 1}
        )
    )
    assert [event.type for event in events] == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert [event.partial_image_index for event in events[:2]] == [0, 1]
    assert events[2].seed == 1
    assert events[2].usage.total_tokens == 0
    assert all(opened(event.b64_json).size == (16, 16) for event in events)
    events = list(server.openai.images.edit(image=as_file(picture(1)), prompt="x", stream=True, extra_body=STEPS))
    assert [event.type for event in events] == ["image_edit.completed"]


def test_what_is_not_honoured_is_named(server):
    answer = server.openai.images.with_raw_response.generate(
        prompt="x", size="16x16", quality="high", style="vivid", user="me", background="transparent", extra_body=STEPS
    )
    assert answer.headers["X-Ignored-Fields"] == "background, quality, style, user"
    assert (
        "X-Ignored-Fields"
        not in server.http.post("/v1/images/generations", json={"prompt": "x", "size": "16x16", **STEPS}).headers
    )


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ({}, "invalid_value", "prompt: Field required"),
        ({"prompt": " "}, "invalid_value", "empty"),
        ({"prompt": "x" * 201}, "prompt_too_long", "201 characters are more than 200"),
        ({"prompt": "x", "negative_prompt": "x" * 201}, "prompt_too_long", "negative_prompt"),
        ({"prompt": "x", "colour": 1}, "unknown_field", "colour: this field is unknown"),
        ({"prompt": "x", "\ud800": 1}, "invalid_value", ""),
        ({"prompt": "a \ud800"}, "invalid_value", "prompt: it holds half of a surrogate pair"),
        ({"prompt": "x", "n": 0}, "invalid_value", "n: "),
        ({"prompt": "x", "n": 5}, "limit_exceeded", "5 pictures are more than this server allows, which is 4"),
        ({"prompt": "x", "num_inference_steps": 51}, "limit_exceeded", "51 steps"),
        ({"prompt": "x", "size": "large"}, "invalid_value", "size"),
        ({"prompt": "x", "size": "64x64"}, "limit_exceeded", "4096 pixels"),
        ({"prompt": "x", "size": "17x16"}, "invalid_request", "width 17 is impossible"),
        ({"prompt": "x", "size": "17x16", "stream": True}, "invalid_request", "width 17 is impossible"),
        ({"prompt": "x", "seed": -1}, "invalid_value", "seed"),
        ({"prompt": "x", "seed": 2**63 - 1, "n": 2}, "invalid_request", "seed"),
        ({"prompt": "x", "guidance_scale": float("inf")}, "invalid_value", "guidance_scale"),
        ({"prompt": "x", "output_format": "gif"}, "invalid_value", "output_format"),
        ([], "invalid_value", ""),
    ],
)
def test_bad_requests_are_told_how_to_mend(server, body, code, message):
    answer = server.http.post(
        "/v1/images/generations", content=json.dumps(body), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["type"]) == (code, "invalid_request_error")
    assert message in error["message"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, b"1" * 10_000])
def test_bodies_that_are_no_json(server, content):
    for path in ("generations", "edits"):
        answer = server.http.post(f"/v1/images/{path}", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["message"]


def test_the_client_knows_the_errors(server):
    with pytest.raises(openai.NotFoundError) as caught:
        server.openai.images.generate(prompt="x", model="dall-e-3")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="this field is unknown"):
        server.openai.images.generate(prompt="x", model="tiny", extra_body={"unknown": 1})


@pytest.mark.parametrize(
    ("files", "data", "code"),
    [
        ({}, {"prompt": "x"}, "invalid_content_type"),
        ({"other": b"x"}, {"prompt": "x"}, "invalid_value"),
        ({"image": b"not a picture"}, {"prompt": "x"}, "invalid_image"),
        ({"image": b""}, {"prompt": "x"}, "invalid_image"),
        ({"image": None}, {}, "invalid_value"),
        ({"image": None}, {"prompt": "x", "n": "many"}, "invalid_value"),
        ({"image": None}, {"prompt": "x", "colour": "red"}, "unknown_field"),
        ({"image": None}, {"prompt": ["x", "y"]}, "invalid_value"),
        ({"image": None, "mask": None}, {"prompt": "x"}, "mask_not_supported"),
        ({"image": None, "image[]": None}, {"prompt": "x"}, "too_many_images"),
        ({"image": ("a.html", b"<html>", "text/html")}, {"prompt": "x"}, "invalid_image"),
    ],
)
def test_bad_forms_are_refused(server, picture, as_file, files, data, code):
    files = {name: as_file(picture(1)) if value is None else value for name, value in files.items()}
    answer = server.http.post("/v1/images/edits", files=files, data=data)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code), answer.text


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"images": []}, "missing_image"),
        ({"mask": "data:image/png;base64,AAAA"}, "mask_not_supported"),
        ({"images": [{"image_url": "http://127.0.0.1/secret.png"}]}, "invalid_image"),
        ({"images": [{"image_url": "file:///etc/passwd"}]}, "invalid_image"),
        ({"images": [{"image_url": "/etc/passwd"}]}, "invalid_image"),
        ({"images": [{"image_url": "data:image/png;base64,@@"}]}, "invalid_image"),
        ({"images": [{"image_url": "data:text/html;base64,AAAA"}]}, "invalid_image"),
        ({"images": [{"file_id": "file-1"}]}, "invalid_value"),
        ({"images": None}, "invalid_value"),
    ],
)
def test_bad_json_edits_are_refused(server, picture, as_uri, change, code):
    body = {"prompt": "x", "images": [{"image_url": as_uri(picture(1))}], **change}
    answer = server.http.post("/v1/images/edits", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code), answer.text


def test_a_full_queue_is_429(held, in_thread, serve):
    held.allow(12)  # up to the first preview
    with serve([in_thread(held, 1)], max_queue=2) as server:
        stream = server.openai.images.generate(
            prompt="x", n=2, size="16x16", stream=True, partial_images=3, extra_body={"num_inference_steps": 50}
        )
        next(iter(stream))
        with pytest.raises(openai.RateLimitError) as caught:
            server.openai.images.generate(prompt="x")
        assert caught.value.code == "queue_full"
        assert int(caught.value.response.headers["Retry-After"]) >= 1
        stream.close()
        held.allow()


def test_rows_of_clients_that_leave_are_free(held, in_thread, serve, until):
    """One leaves in the middle of a stream, one while it waits for its answer."""
    body = {"prompt": "x", "n": 4, "size": "16x16", "num_inference_steps": 400}
    held.allow(100)  # up to the first previews
    with serve([in_thread(held)], limits=LimitOptions(max_images=4, max_steps=400)) as server:

        def rows():
            return server.call(lambda: server.pool.rows)

        streamed = {**body, "stream": True, "partial_images": 3}
        with server.http.stream("POST", "/v1/images/generations", json=streamed) as answer:
            chunks = answer.iter_raw()  # kept: a dropped iterator closes the connection
            next(chunks)
            assert rows() == 4
        until(lambda: rows() == 0)
        with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as waiting:
            content = json.dumps(body).encode()
            head = f"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n"
            waiting.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + content)
            until(lambda: rows() == 4)
        until(lambda: rows() == 0)
        held.allow()
        made = server.openai.images.generate(prompt="x", size="16x16", extra_body=STEPS)
        assert len(made.data) == 1
        assert server.service.metrics.pictures._value.get() == 1
    # An engine that went on with what nobody waits for would have had no row free before.
    assert held.stepped.count(4) < 400
    assert held.stepped[-2:] == [1, 1]


def test_moderation_sees_what_comes_in_and_what_goes_out(kontext, in_thread, serve, picture, as_file):
    seen = []

    def hook(judged):
        seen.append((judged.stage, judged.text, [each.size for each in judged.pictures]))
        if judged.text == "broken":
            raise RuntimeError
        if "forbidden" in judged.text or (judged.stage == "after" and judged.text == "outcome"):
            return "not here"
        return None

    with serve([in_thread(kontext)], hook=hook) as server:
        client = server.openai
        client.images.edit(image=as_file(picture(1, 24, 16)), prompt="fine", extra_body=STEPS)
        assert seen == [("before", "fine", [(24, 16)]), ("after", "fine", [(24, 16)])]
        for prompt in ("forbidden", "outcome"):
            for stream in (False, True):
                with pytest.raises(openai.BadRequestError, match="not here") as caught:
                    client.images.generate(prompt=prompt, stream=stream, size="16x16", extra_body=STEPS)
                assert caught.value.code == "moderation_blocked"
        with pytest.raises(openai.InternalServerError, match="moderation of this server does not work"):
            client.images.generate(prompt="broken")
        assert server.call(lambda: server.pool.rows) == 0


def test_what_breaks_in_a_stream_is_an_event(kontext, in_thread, serve):
    made = []

    def hook(judged):
        made.extend(judged.pictures)
        return "too late" if len(made) > 1 else None

    with serve([in_thread(kontext)], hook=hook) as server:
        stream = server.openai.images.generate(
            prompt="x", size="16x16", stream=True, partial_images=1, extra_body={"num_inference_steps": 4}
        )
        assert next(stream).type == "image_generation.partial_image"
        with pytest.raises(openai.APIError, match="too late"):
            next(stream)


def test_transparent_and_turned_pictures(server, kontext, opened, as_file):
    clear = Image.new("RGBA", (16, 24), (255, 0, 0, 0))
    made = server.openai.images.edit(image=as_file(clear), prompt="x", extra_body={**STEPS, "seed": 1})
    white = kontext.run([Request("x", Image.new("RGB", (16, 24), "white"), steps=2, seed=1)])[0]
    assert close(opened(made.data[0].b64_json), white)
