"""Ports that are held by binding them, so that nobody else can take them meanwhile."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def held_port() -> Iterator[int]:
    """A port of this machine that a server of ours may listen at.

    The kernel gives a bound port to nobody who asks for any free one. A server that names this one
    can have it all the same: both sockets have SO_REUSEADDR, and only the server's listens.
    """
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@contextmanager
def address_of_nobody() -> Iterator[str]:
    """An http address that refuses every connection: nobody listens there."""
    with held_port() as port:
        yield f"http://127.0.0.1:{port}"
