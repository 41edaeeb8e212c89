"""The servers of the tests beside these, and clients of them."""

import asyncio
import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from unipic2_apps.ui.client import Client


def _beside():
    path = Path(__file__).parents[1] / "server" / "conftest.py"
    spec = importlib.util.spec_from_file_location("server_fixtures", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_SERVERS = _beside()
serve, server = _SERVERS.serve, _SERVERS.server
as_file, as_uri = _SERVERS.as_file, _SERVERS.as_uri


@pytest.fixture(scope="session")
def asking_server(serve, metaquery, in_thread):
    """A server of the MetaQuery checkpoint, which answers in a few words."""
    with serve([in_thread(metaquery)], limits=replace(_SERVERS.LIMITS, max_answer=6)) as running:
        yield running


@pytest.fixture(scope="session")
def talk():
    """Have a client talk with a server, in an event loop of its own: give what a function of the client returns."""

    def run(address, function, key=None):
        async def main():
            client = Client(address, key)
            try:
                return await function(client)
            finally:
                await client.close()

        return asyncio.run(main())

    return run
