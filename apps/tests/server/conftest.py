"""Servers in this process: real HTTP, a real model, and the engine in a thread instead of a process of its own."""

import asyncio
import base64
import io
import socket
import threading
from contextlib import contextmanager
from functools import cached_property

import httpx2
import openai
import pytest
import uvicorn
from PIL import Image

from unipic2_apps.engine.pool import Pool
from unipic2_apps.server.app import create_app
from unipic2_apps.server.command import KEEP_ALIVE
from unipic2_apps.server.options import LimitOptions, ServerOptions
from unipic2_apps.server.service import Service

LIMITS = LimitOptions(
    max_images=4, max_steps=50, max_pixels=48 * 48, max_input_pixels=64 * 64, max_prompt=200, max_body=1
)


class Server:
    """A running server."""

    def __init__(self):
        self.started = threading.Event()
        self.url = self.pool = self.service = self.app = self.loop = self.server = None

    @cached_property
    def openai(self):
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=300)

    @cached_property
    def http(self):
        return httpx2.Client(base_url=self.url, timeout=300)

    def call(self, function):
        """Run a function in the server's event loop."""

        async def called():
            return function()

        return asyncio.run_coroutine_threadsafe(called(), self.loop).result(60)


@contextmanager
def serving(launches, *, name="tiny", options=None, limits=LIMITS, keys=(), hook=None, fetcher=None, max_queue=16):
    running = Server()

    async def main():
        running.loop = asyncio.get_running_loop()
        running.pool = Pool(launches, max_queue=max_queue)
        await running.pool.start()
        running.service = Service(running.pool, name, limits=limits, hook=hook, fetcher=fetcher)
        running.pool.on_step = running.service.metrics.on_step
        running.app = create_app(running.service, options or ServerOptions(grace=5), keys=keys)
        bound = socket.socket()
        bound.bind(("127.0.0.1", 0))
        running.url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        running.server = uvicorn.Server(uvicorn.Config(running.app, log_level="warning", timeout_keep_alive=KEEP_ALIVE))
        await running.server.serve(sockets=[bound])

    def run():
        try:
            asyncio.run(main())
        finally:
            running.started.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while not (running.server and running.server.started) and not running.started.wait(0.01):
        pass
    assert running.server is not None, "the server did not start"
    try:
        yield running
    finally:
        running.server.should_exit = True
        thread.join(60)


@pytest.fixture(scope="session")
def serve():
    """Run a server as long as a context lasts."""
    return serving


@pytest.fixture(scope="session")
def server(kontext, in_thread):
    """A server of the Kontext checkpoint."""
    with serving([in_thread(kontext)]) as running:
        yield running


@pytest.fixture(scope="session")
def asking_server(metaquery, in_thread):
    """A server of the MetaQuery checkpoint."""
    with serving([in_thread(metaquery)]) as running:
        yield running


@pytest.fixture(scope="session")
def as_file():
    """Save a picture."""

    def save(picture, kind="PNG"):
        file = io.BytesIO()
        picture.save(file, format=kind)
        return file.getvalue()

    return save


@pytest.fixture(scope="session")
def as_uri(as_file):
    """Make a data URI of a picture."""
    return lambda picture: "data:image/png;base64," + base64.b64encode(as_file(picture)).decode()


@pytest.fixture(scope="session")
def opened():
    """Open a picture that was sent as base64, or as a data URI."""
    return lambda text: Image.open(io.BytesIO(base64.b64decode(text.rpartition(",")[2])))
