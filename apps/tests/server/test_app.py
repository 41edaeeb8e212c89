import time

import openai
import pytest

from unipic2_apps.engine.tasks import Unusable, write_event


def test_the_model_is_listed(server):
    (model,) = server.openai.models.list().data
    assert (model.id, model.owned_by) == ("tiny", "unipic2")
    assert model.facts["can"] == ["edit", "generate"]
    assert server.openai.models.retrieve("tiny").id == "tiny"
    answer = server.http.get("/v1/models/other")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


def test_health(server):
    health = server.http.get("/health").json()
    assert health["status"] == "ok"
    assert (health["engines"], health["ready"], health["queue"]) == (1, 1, 0)


def test_metrics(server):
    server.openai.images.generate(prompt="x", size="16x16", extra_body={"num_inference_steps": 2})
    server.http.get("/nowhere/secret-path")
    text = server.http.get("/metrics").text
    assert 'unipic2_requests_total{route="/v1/images/generations",status="200"}' in text
    assert "unipic2_step_rows_bucket" in text
    assert "unipic2_engines_ready 1.0" in text
    assert "unipic2_engine_restarts_total 0.0" in text
    assert "secret-path" not in text


def test_errors_have_one_shape(server):
    for answer, status, code in (
        (server.http.get("/nowhere"), 404, "not_found"),
        (server.http.get("/v1/images/generations"), 405, "method_not_allowed"),
        (
            server.http.post("/v1/images/edits", content=b"x", headers={"Content-Type": "text/plain"}),
            400,
            "invalid_content_type",
        ),
    ):
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert answer.json()["error"]["code"] == code


def test_the_description_is_whole(server):
    described = server.http.get("/openapi.json").json()
    assert set(described["paths"]) == {
        "/v1/images/generations",
        "/v1/images/edits",
        "/v1/chat/completions",
        "/v1/models",
        "/v1/models/{name}",
        "/health",
        "/metrics",
    }
    bodies = described["paths"]["/v1/images/edits"]["post"]["requestBody"]["content"]
    assert set(bodies) == {"multipart/form-data", "application/json"}
    assert "422" not in str(described["paths"])
    assert server.http.get("/docs").status_code == 200


def test_a_server_without_an_engine_says_so(kontext, in_thread, serve):
    first = [in_thread(kontext)]

    class Gone:
        pid = None

        def __init__(self, connection):
            connection.send_bytes(write_event(Unusable("the folder is gone")))
            connection.close()

        def kill(self):
            pass

    with serve([lambda connection: (first.pop() if first else Gone)(connection)]) as server:
        server.call(lambda: server.pool._engines[0].link.kill())
        while not server.call(lambda: server.pool._engines[0].broken):
            time.sleep(0.01)
        answer = server.http.get("/health")
        assert (answer.status_code, answer.json()["error"]["type"]) == (503, "server_error")
        with pytest.raises(openai.InternalServerError) as caught:
            server.openai.images.generate(prompt="x")
        assert caught.value.code == "engine_unavailable"
        assert caught.value.response.headers["Retry-After"]
