import openai
import pytest

from unipic2_vlm import Turn

TEXT = {"model": "tiny", "max_tokens": 6}
DRAW = {"modalities": ["image"], "size": "16x16", "num_inference_steps": 2, "seed": 4}


def shown(text, uri):
    return {
        "role": "user",
        "content": [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": uri}}],
    }


def test_questions_about_pictures_are_answered(asking_server, metaquery, picture, as_uri):
    messages = [shown("what colour is it?", as_uri(picture(1)))]
    client = asking_server.openai
    answer = client.chat.completions.create(**TEXT, messages=messages)
    expected = metaquery.ask(picture(1), "what colour is it?", max_new_tokens=6)
    assert answer.choices[0].message.content == expected
    chunks = list(client.chat.completions.create(**TEXT, messages=messages, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected
    assert chunks[-1].choices[0].finish_reason is not None
    assert chunks[0].choices[0].delta.role == "assistant"


def test_answers_can_be_sampled_by_a_seed(asking_server, metaquery):
    given = {
        **TEXT,
        "messages": [{"role": "user", "content": "what is it?"}],
        "temperature": 1.0,
        "top_p": 0.9,
        "seed": 3,
    }
    answers = [asking_server.openai.chat.completions.create(**given).choices[0].message.content for _ in range(2)]
    expected = metaquery.ask(None, "what is it?", max_new_tokens=6, temperature=1.0, top_p=0.9, seed=3)
    assert answers == [expected, expected]


def test_tokens_are_counted(asking_server, metaquery, picture, as_uri):
    given = {**TEXT, "messages": [shown("what colour is it?", as_uri(picture(1)))]}
    client = asking_server.openai
    stock = metaquery.ask(picture(1), "what colour is it?", max_new_tokens=6, stream=True)
    list(stock)
    expected = (stock.usage.prompt_tokens, stock.usage.answer_tokens)
    answer = client.chat.completions.create(**given)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == expected
    assert answer.usage.total_tokens == sum(expected)
    assert answer.choices[0].finish_reason == ("length" if stock.usage.cut else "stop")
    assert client.chat.completions.create(**{**given, "max_tokens": 1}).choices[0].finish_reason == "length"
    *chunks, last = client.chat.completions.create(**given, stream=True, stream_options={"include_usage": True})
    assert (last.choices, last.usage) == ([], answer.usage)
    assert chunks[-1].choices[0].finish_reason == answer.choices[0].finish_reason
    assert all(chunk.usage is None for chunk in chunks)


def test_a_conversation_reaches_the_model_turn_by_turn(asking_server, metaquery, picture, as_uri):
    drawn = {"type": "image_url", "image_url": {"url": as_uri(picture(3))}}
    messages = [
        {"role": "developer", "content": "answer"},
        shown("what is it?", as_uri(picture(1))),
        {"role": "assistant", "content": "a circle", "refusal": None},
        {"role": "user", "content": "draw it"},
        {"role": "assistant", "content": None, "images": [drawn]},
        shown("and it?", as_uri(picture(2))),
    ]
    answer = asking_server.openai.chat.completions.create(**TEXT, messages=messages)
    history = [
        Turn("system", "answer"),
        Turn("user", "what is it?", [picture(1)]),
        Turn("assistant", "a circle"),
        Turn("user", "draw it"),
        Turn("assistant", "", [picture(3)]),
    ]
    expected = metaquery.ask(picture(2), "and it?", history=history, max_new_tokens=6)
    assert answer.choices[0].message.content == expected


@pytest.mark.parametrize("which", ["server", "asking_server"])
def test_words_that_ask_for_a_picture_get_one(which, request, picture, as_uri, opened):
    """Drawn, then edited turn by turn, without a word about modalities."""
    client = request.getfixturevalue(which).openai
    few = {"num_inference_steps": 2, "seed": 4}
    messages = [{"role": "user", "content": "Please draw a circle."}]
    drawn = client.chat.completions.create(model="tiny", messages=messages, extra_body={**few, "size": "24x16"})
    assert drawn.choice == {
        "task": "generate",
        "because": "the last message begins with a request for it",
        "otherwise": 'send modalities: ["text"]',
    }
    assert drawn.usage is None
    message = drawn.choices[0].message
    messages += [{"role": "assistant", "content": None, "images": message.images}]
    messages += [{"role": "user", "content": "now make it red"}]
    edited = client.chat.completions.create(model="tiny", messages=messages, extra_body=few)
    assert edited.choice["task"] == "edit"
    assert "messages[1]" in edited.choice["because"]
    first, second = (opened(each.choices[0].message.images[0]["image_url"]["url"]) for each in (drawn, edited))
    assert first.size == second.size == (24, 16)
    assert first.tobytes() != second.tobytes()
    chunks = list(client.chat.completions.create(model="tiny", messages=messages[:1], stream=True, extra_body=few))
    assert chunks[0].choice["task"] == "generate"
    given = {"model": "tiny", "messages": [shown("make it red", as_uri(picture(1)))], "max_tokens": 2}
    if which == "asking_server":
        answer = client.chat.completions.create(**given, modalities=["text"])
        assert answer.choices[0].message.content is not None
        assert answer.choice["task"] == "text"
    else:
        with pytest.raises(openai.BadRequestError, match=r"for a picture send modalities: ..image"):
            client.chat.completions.create(**given, modalities=["text"])


def test_the_last_picture_of_an_earlier_turn_is_edited(server, picture, as_uri, opened):
    both = shown("these", as_uri(picture(1, 16, 16)))
    both["content"].append({"type": "image_url", "image_url": {"url": as_uri(picture(2, 24, 16))}})
    messages = [both, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "make it red"}]
    few = {"num_inference_steps": 2}
    made = server.openai.chat.completions.create(model="tiny", messages=messages, extra_body=few)
    assert opened(made.choices[0].message.images[0]["image_url"]["url"]).size == (24, 16)
    with pytest.raises(openai.BadRequestError, match="2 pictures were sent; this model edits one at a time"):
        server.openai.chat.completions.create(
            model="tiny", messages=[both], extra_body={**few, "modalities": ["image"]}
        )


@pytest.mark.parametrize("which", ["server", "asking_server"])
def test_pictures_come_when_asked_for(which, request, picture, as_uri, opened):
    client = request.getfixturevalue(which).openai
    drawn = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "a circle"}], extra_body=DRAW
    )
    (image,) = drawn.choices[0].message.images
    assert image["seed"] == 4
    assert opened(image["image_url"]["url"]).size == (16, 16)
    edited = client.chat.completions.create(
        model="tiny",
        messages=[shown("make it red", as_uri(picture(1, 24, 16)))],
        stream=True,
        extra_body={**DRAW, "size": "auto"},
    )
    images = [image for chunk in edited for image in getattr(chunk.choices[0].delta, "images", ())]
    assert [opened(image["image_url"]["url"]).size for image in images] == [(24, 16)]


def test_a_checkpoint_without_a_vlm_says_what_is_needed(server, picture, as_uri):
    for messages in ([{"role": "user", "content": "what is it?"}], [shown("what?", as_uri(picture(1)))]):
        for stream in (False, True):
            with pytest.raises(
                openai.BadRequestError, match=r"kontext checkpoint.*a MetaQuery checkpoint answers"
            ) as caught:
                server.openai.chat.completions.create(**TEXT, messages=messages, stream=stream)
            assert caught.value.code == "model_not_capable"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"messages": []}, "invalid_value"),
        ({"messages": [{"role": "user", "content": ""}]}, "invalid_value"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "invalid_value"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "invalid_value"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "invalid_value"),
        ({"messages": [shown("x", "https://host/x.png")]}, "invalid_image"),
        ({"messages": [shown("x", "file:///etc/passwd")], **DRAW}, "invalid_image"),
        ({"max_tokens": 5000}, "limit_exceeded"),
        ({"n": 2}, "invalid_value"),
        ({"temperature": -1}, "invalid_value"),
        ({"top_p": 0}, "invalid_value"),
        ({"modalities": ["audio"]}, "invalid_value"),
        ({"stream_options": {"include": True}}, "unknown_field"),
        ({"unheard_of": 1}, "unknown_field"),
        ({"model": "gpt"}, "model_not_found"),
    ],
)
def test_bad_chats_are_refused(asking_server, change, code):
    body = {**TEXT, "messages": [{"role": "user", "content": "x"}], **change}
    answer = asking_server.http.post("/v1/chat/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404 if code == "model_not_found" else 400, code)


def test_questions_that_are_too_long_are_refused(metaquery, in_thread, serve):
    from unipic2_apps.server.options import LimitOptions

    with serve([in_thread(metaquery)], limits=LimitOptions(max_prompt=10**6)) as server:
        body = {**TEXT, "messages": [{"role": "user", "content": "red " * 50_000}]}
        for stream in (False, True):
            answer = server.http.post("/v1/chat/completions", json={**body, "stream": stream})
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request"), answer.text


def test_what_chat_does_not_honour_is_named(asking_server):
    answer = asking_server.openai.chat.completions.with_raw_response.create(
        **TEXT, messages=[{"role": "user", "content": "x"}], presence_penalty=1.0, stop=["."]
    )
    assert answer.headers["X-Ignored-Fields"] == "presence_penalty, stop"


def test_moderation_judges_whole_answers(metaquery, in_thread, serve):
    seen = []

    def hook(judged):
        seen.append((judged.stage, judged.text))
        return "no" if judged.stage == "after" and len(seen) > 2 else None

    with serve([in_thread(metaquery)], hook=hook) as server:
        given = {**TEXT, "messages": [{"role": "user", "content": "what is it?"}]}
        answer = server.openai.chat.completions.create(**given).choices[0].message.content
        assert seen == [("before", "what is it?"), ("after", answer)]
        for stream in (True, False):
            with pytest.raises(openai.BadRequestError, match="no"):
                server.openai.chat.completions.create(**given, stream=stream)
