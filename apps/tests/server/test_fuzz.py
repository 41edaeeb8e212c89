"""Whatever is sent, the answer is no 5xx, and the server goes on."""

import random

import pytest

FORM = {"Content-Type": "multipart/form-data; boundary=frontier"}


def form(image):
    parts = [
        b'Content-Disposition: form-data; name="prompt"\r\n\r\nmake it red',
        b'Content-Disposition: form-data; name="num_inference_steps"\r\n\r\n1',
        b'Content-Disposition: form-data; name="image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n' + image,
    ]
    return b"".join(b"--frontier\r\n" + part + b"\r\n" for part in parts) + b"--frontier--\r\n"


def damaged(body, rng):
    """Return a body with a few bytes or lines deleted, repeated, changed or swapped."""
    pieces = body.split(b"\r\n") if rng.random() < 0.5 else [body[i : i + 1] for i in range(len(body))]
    glue = b"\r\n" if len(pieces) < 50 else b""
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(pieces))
        action = rng.randrange(5)
        if action == 0:
            del pieces[place : place + rng.choice((1, 1, 10))]
        elif action == 1:
            pieces.insert(place, pieces[place])
        elif action == 2:
            pieces[place] = rng.randbytes(rng.randint(0, 4))
        elif action == 3:
            del pieces[place:]
        else:
            pieces.insert(
                place,
                rng.choice(
                    (b"--frontier", b"\r\n", b"\0", b"name=\"\xff\xfe\"; filename*=utf-9''%ff", b"Content-Type: ;;")
                ),
            )
        if not pieces:
            break
    return glue.join(pieces)


def test_damaged_forms(server, picture, as_file):
    body = form(as_file(picture(1, 8, 8)))
    rng = random.Random(0)
    statuses = []
    http = server.http
    assert http.post("/v1/images/edits", content=body, headers=FORM).status_code == 200
    for _ in range(60):
        answer = http.post("/v1/images/edits", content=damaged(body, rng), headers=FORM)
        statuses.append(answer.status_code)
        assert answer.status_code < 500, answer.text
    for kind in (
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=\xff; charset=x",
        "multipart/mixed",
    ):
        answer = http.post("/v1/images/edits", content=body, headers={"Content-Type": kind.encode("latin-1")})
        assert answer.status_code == 400, (kind, answer.text)
    assert http.post("/v1/images/edits", content=body, headers=FORM).status_code == 200
    assert 400 in statuses


@pytest.mark.slow
def test_the_description_against_the_server(server):
    import schemathesis
    from hypothesis import HealthCheck, Phase, settings
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
    called = set()
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(
            max_examples=12,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @__import__("hypothesis").given(case=operation.as_strategy())
        def check(case):
            case.call_and_validate(checks=checks, timeout=120)
            called.add(case.operation.label)

        check()
    assert len(called) == 7
