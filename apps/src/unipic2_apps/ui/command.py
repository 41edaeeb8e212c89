"""``unipic2 ui``.

Without ``from __future__ import annotations``: the signature is the command line.
"""

import asyncio
import importlib.util
import os
import signal
import socket
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from unipic2_apps.errors import UsageError
from unipic2_apps.listening import address, bind, say
from unipic2_apps.options import ModelOptions
from unipic2_apps.ui.options import PageOptions

if TYPE_CHECKING:
    from unipic2_apps.ui.client import Client

__all__ = ["ui"]

TERMINATED = 128 + signal.SIGTERM


def ui(*, page: PageOptions, model: ModelOptions) -> None:
    """Open a web page to draw, edit and ask: it shows previews, compares before and after, and keeps a history.

    The page is a client of a server. Name one that runs with --server; without, one is started with the model below,
    and ends with the page.

    Args:
        page: The page.
        model: The model of the server that is started.
    """
    _check(page, model)
    from unipic2_apps.ui.child import server
    from unipic2_apps.ui.client import Client

    key = page.api_key or os.environ.get("UNIPIC2_API_KEY", "").strip()
    client = None if page.server is None else Client(page.server, key)
    signal.signal(signal.SIGTERM, _terminated)
    with ExitStack() as stack:
        listening = stack.enter_context(bind(page.host, page.port))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="unipic2-ui-")))
        if client is None:
            say("starting a server ...")
            client = Client(stack.enter_context(server(model)))
        asyncio.run(_run(listening, folder, client, page.host))


def _check(page: PageOptions, model: ModelOptions) -> None:
    if importlib.util.find_spec("gradio") is None:
        msg = "the page needs gradio, which is not installed: pip install './apps[ui]', or 'unipic2-apps[ui]'."
        raise UsageError(msg)
    if page.server is not None and model != ModelOptions():
        msg = f"--server {page.server} has a model already: leave out what is said about another, such as --checkpoint."
        raise UsageError(msg)
    if page.server is None and page.api_key:
        msg = "--api-key is for the server that --server names; the one that is started for the page needs none."
        raise UsageError(msg)


async def _run(listening: socket.socket, folder: Path, client: "Client", host: str) -> None:
    pictures, cache = folder / "pictures", folder / "cache"
    pictures.mkdir()
    # Before Gradio is imported: its copies of pictures go when the page ends, and it reports to nobody.
    os.environ["GRADIO_TEMP_DIR"] = str(cache)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import uvicorn

    from unipic2_apps.ui.history import Histories, Shelf
    from unipic2_apps.ui.tab import Context
    from unipic2_apps.ui.web import create_page, is_local

    app = create_page(Context(client, Shelf(pictures), Histories()), host)
    # Open pages hold a connection each, which nothing but their end ends.
    config = uvicorn.Config(app, log_level="warning", server_header=False, timeout_graceful_shutdown=1)
    if not is_local(host):
        say(f"warning: {host} is open to the network: everybody who reaches it may use the page and its server.")

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            say(f"the page is at {address(listening)}, over the server at {client.address}")

    try:
        await Server(config).serve(sockets=[listening])
    finally:
        await client.close()


def _terminated(*_signal: Any) -> NoReturn:
    raise SystemExit(TERMINATED)  # so that what was started ends, too
