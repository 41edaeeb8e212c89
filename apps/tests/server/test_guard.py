import pytest

from unipic2_apps.server.guard import RateLimit
from unipic2_apps.server.options import ServerOptions


def test_a_bucket_fills_again():
    limit = RateLimit(2)
    assert [limit.wait("a", 0), limit.wait("a", 0)] == [0, 0]
    assert limit.wait("a", 0) == 30
    assert limit.wait("b", 0) == 0
    assert limit.wait("a", 15) == 15
    assert limit.wait("a", 30) == 0
    assert limit.wait("a", 1000) == 0


def test_clients_are_forgotten_when_there_are_too_many():
    limit = RateLimit(1)
    for number in range(10_010):
        limit.wait(str(number), 0)
    assert len(limit._clients) == 10_000


@pytest.fixture(scope="module")
def guarded(kontext, in_thread, serve):
    options = ServerOptions(rate_limit=6, cors_origin=["https://page.example"], grace=5)
    with serve([in_thread(kontext)], options=options, keys=["first", "s\u00e9cond"]) as running:
        yield running


def bearer(key):
    return {"Authorization": f"Bearer {key}".encode()}


def test_keys(guarded):
    http = guarded.http
    assert http.get("/v1/models", headers=bearer("first")).status_code == 200
    assert http.get("/v1/models", headers=bearer("s\u00e9cond")).status_code == 200
    for wrong in (
        {},
        bearer("fir"),
        bearer("first2"),
        {"Authorization": "Bearer"},
        {"Authorization": "first"},
        {"Authorization": "Basic first"},
    ):
        answer = http.get("/v1/models", headers=wrong)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    for path in ("/metrics", "/v1/models/tiny", "/unknown"):
        assert http.get(path).status_code == 401
    for path in ("/health", "/docs", "/openapi.json"):
        assert http.get(path).status_code == 200


def test_rates_are_of_a_key(guarded):
    http = guarded.http
    answers = (http.get("/v1/models", headers=bearer("first")) for _ in range(100))
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(refused.headers["Retry-After"]) <= 10
    assert http.get("/v1/models", headers=bearer("s\u00e9cond")).status_code == 200


def test_only_named_pages_may_use_it_from_a_browser(guarded, server):
    origin = {"Origin": "https://page.example"}
    assert guarded.http.get("/health", headers=origin).headers["Access-Control-Allow-Origin"] == origin["Origin"]
    other = guarded.http.get("/health", headers={"Origin": "https://other.example"})
    assert "Access-Control-Allow-Origin" not in other.headers
    assert "Access-Control-Allow-Origin" not in server.http.get("/health", headers=origin).headers


@pytest.mark.parametrize("chunked", [False, True])
def test_bodies_that_are_too_large(server, picture, chunked):
    body = b"--x\r\nContent-Disposition: form-data; name=a; filename=a\r\n\r\n" + b" " * 2**20
    for path, kind in (
        ("/v1/images/generations", "application/json"),
        ("/v1/images/edits", "application/json"),
        ("/v1/images/edits", "multipart/form-data; boundary=x"),
        ("/v1/chat/completions", "application/json"),
    ):
        content = (body[start : start + 2**16] for start in range(0, len(body), 2**16)) if chunked else body
        answer = server.http.post(path, content=content, headers={"Content-Type": kind})
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
