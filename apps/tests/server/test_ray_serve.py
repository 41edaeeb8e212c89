"""Two replicas on this machine, behind Ray Serve's own proxy."""

import shutil
import socket
import tempfile

import httpx2
import pytest

pytest.importorskip("ray", reason="Ray is not installed: it comes with the extra `ray` of unipic2-apps")

import ray
from ray import serve

from unipic2_apps.errors import UsageError
from unipic2_apps.ray_serve import REPLICA_HEADER, app

BODY = {"prompt": "a red circle", "size": "16x16", "num_inference_steps": 2, "seed": 7}
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",  # other tests may fill the machine
    "RAY_enable_metrics_collection": "0",
    # A busy machine is no sign of a fault.
    "RAY_agent_register_timeout_ms": "600000",
    "RAY_worker_register_timeout_seconds": "600",
    "RAY_health_check_failure_threshold": "100",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "300",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "300",
}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"port": "8001"}, "port is not the app's here"),
        ({"checkpont": "x"}, "Did you mean --checkpoint"),
        ({"max_rows": "0"}, "max_rows"),
        ({"min_replicas": 3, "max_replicas": "2"}, "max_replicas is 2, but min_replicas 3"),
    ],
)
def test_arguments_are_checked_before_anything_starts(arguments, said):
    with pytest.raises(UsageError, match=said):
        app(arguments)


def test_arguments_are_those_of_the_command():
    words = {"checkpoint": "x", "max_rows": "4", "max_queue": 5, "lora": ["a:1", "b"], "ai_label": False, "gpus": 0.5}
    built = app({**words, "min_replicas": "0", "max_replicas": 3})._bound_deployment
    model, server, _ = built.init_args
    assert (model.checkpoint, model.lora, server.max_rows, server.ai_label) == ("x", ["a:1", "b"], 4, False)
    assert built.ray_actor_options["num_gpus"] == 0.5
    scaling = built._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas, scaling.target_ongoing_requests) == (0, 3, 4)
    assert built.max_ongoing_requests == 10
    assert app({"min_replicas": 2})._bound_deployment.num_replicas == 2


@pytest.fixture
def url(kontext_folder):
    """The address of two replicas."""
    folder = tempfile.mkdtemp(prefix="ray")  # short: paths of sockets are
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        ray.init(
            num_cpus=2,
            object_store_memory=100 * 2**20,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            _temp_dir=folder,
        )
        try:
            serve.start(http_options={"host": "127.0.0.1", "port": port})
            serve.run(app({"checkpoint": str(kontext_folder), "name": "tiny", "min_replicas": 2, "device": "cpu"}))
            yield f"http://127.0.0.1:{port}"
        finally:
            serve.shutdown()
            ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_two_replicas_answer_alike_and_one_is_enough(url):
    with httpx2.Client(base_url=url, timeout=600) as http:
        made = {}
        while len(made) < 2:
            answer = http.post("/v1/images/generations", json=BODY)
            assert answer.status_code == 200, answer.text
            made.setdefault(answer.headers[REPLICA_HEADER], set()).add(answer.json()["data"][0]["b64_json"])
        assert len(set.union(*made.values())) == 1  # the same seed, the same picture
        assert http.post("/v1/images/generations", json={**BODY, "n": 99}).json()["error"]["code"] == "limit_exceeded"
        streamed = http.post("/v1/images/generations", json={**BODY, "stream": True, "partial_images": 1}).text
        assert "event: image_generation.completed" in streamed
        lost = next(iter(made))
        (name,) = (each for each in ray.util.list_named_actors(all_namespaces=True) if lost in each["name"])
        ray.kill(ray.get_actor(**name))
        for _ in range(4):
            answer = http.post("/v1/images/generations", json=BODY)
            assert answer.status_code == 200, answer.text
            assert answer.headers[REPLICA_HEADER] != lost
            assert {answer.json()["data"][0]["b64_json"]} == made[lost]
