"""Where a command that serves can be reached: its port, its address, and what it says of itself in the terminal."""

import socket
import sys

from unipic2_apps.errors import UsageError

__all__ = ["address", "bind", "say"]


def bind(host: str, port: int) -> socket.socket:
    """Take the port at once, so that a model isn't loaded for nothing.

    Args:
        host: An IPv4 or IPv6 address, or a name.
        port: The port; 0 for any that is free.

    Raises:
        UsageError: The port is taken or impossible, or the host isn't this machine's.
    """
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except (OSError, OverflowError) as error:
        bound.close()
        msg = f"can't listen on {host}:{port} ({error}): choose another --port or --host."
        raise UsageError(msg) from error
    return bound


def address(bound: socket.socket) -> str:
    """Return the address of a bound socket, as a browser takes it."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def say(text: str) -> None:
    """Print a line for whoever started the command."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - a command's own words
