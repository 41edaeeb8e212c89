"""Engines in processes of their own, and the command itself."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import psutil
import pytest

from unipic2_apps.engine.link import in_process
from unipic2_apps.options import ModelOptions

pytestmark = pytest.mark.slow

BODY = {"num_inference_steps": 2}


@pytest.fixture(scope="module")
def served(kontext_folder, serve):
    launch = in_process(ModelOptions(checkpoint=str(kontext_folder)), 8)
    with serve([launch], max_queue=80) as running:
        yield running


def test_many_clients_at_once(served):
    """No error, no growth: the server's memory and the engine's after the load are those before it."""
    client = served.openai

    def one(number):
        size = ("16x16", "24x16")[number % 2]
        made = client.images.generate(prompt=f"prompt {number % 5}", size=size, extra_body={**BODY, "seed": number})
        assert len(made.data) == 1

    with ThreadPoolExecutor(64) as pool:
        list(pool.map(one, range(64)))
        engine = psutil.Process(served.call(lambda: served.pool.pids[0]))
        before = engine.memory_info().rss
        list(pool.map(one, range(128)))
        grown = engine.memory_info().rss - before
    assert grown < 32 * 2**20
    assert served.call(lambda: served.pool.rows) == 0


def test_kill_9_in_the_middle_of_a_request(served):
    """The request is made again, the engine is started again, the next one works."""
    stream = served.openai.images.generate(
        prompt="x", size="16x16", stream=True, partial_images=3, extra_body={"num_inference_steps": 50, "seed": 1}
    )
    next(stream)
    pid = served.call(lambda: served.pool.pids[0])
    os.kill(pid, signal.SIGKILL)
    assert list(stream)[-1].type == "image_generation.completed"
    made = served.openai.images.generate(prompt="x", size="16x16", extra_body=BODY)
    assert len(made.data) == 1
    assert served.call(lambda: served.pool.pids[0]) != pid
    assert served.http.get("/health").json()["restarts"] == 1


def test_the_command_serves_and_finishes_what_runs(kontext_folder):
    command = [sys.executable, "-m", "unipic2_apps", "serve", "--checkpoint", str(kontext_folder), "--port", "0"]
    command += ["--grace", "300"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "serving" in line:
                break
        url = re.search(r"serving tiny-kontext \(kontext: edit, generate\) at (http://127.0.0.1:\d+)", "".join(lines))[
            1
        ]
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        answers = []
        body = {"num_inference_steps": 20}
        asking = threading.Thread(target=lambda: answers.append(client.images.generate(prompt="x", extra_body=body)))
        asking.start()
        while client._client.get(f"{url}/health").json()["queue"] == 0 and not answers:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        asking.join(300)
        assert len(answers) == 1
        process.stderr.read()
        process.wait(300)
