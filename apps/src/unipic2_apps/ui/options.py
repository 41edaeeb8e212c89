"""Options of ``unipic2 ui``.

Without ``from __future__ import annotations``: jsonargparse reads the types.
"""

from dataclasses import dataclass

from jsonargparse.typing import NonNegativeInt

__all__ = ["PageOptions"]


@dataclass(frozen=True)
class PageOptions:
    """The page.

    Args:
        server: Address of a running server, as `unipic2 serve` prints it; by default one is started for the page, with
            the model below, and ends with it.
        api_key: Key of that server; by default $UNIPIC2_API_KEY. Whoever opens the page uses it, and nobody sees it.
        host: Address to listen on; 0.0.0.0 opens the page to the network, to everybody there.
        port: Port to listen on; 0 takes a free one.
    """

    server: str | None = None
    api_key: str | None = None
    host: str = "127.0.0.1"
    port: NonNegativeInt = 7860
