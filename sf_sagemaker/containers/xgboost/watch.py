"""Hosts that watch each other: when one of them dies, the others end too.

XGBoost's own connections don't always notice a dead host: the survivors may wait for ever in a
collective step. Here every host holds a connection to the leading one. A process that dies breaks
its connections, whatever it was doing, and a machine that vanishes is found by TCP's keepalive.
"""

import contextlib
import os
import socket
import threading
import time

_LEAVES = b"."  # sent before a connection is closed on purpose
_GRACE = 5.0  # seconds in which a host may find out by itself, and say more about it
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6}  # seconds, seconds, times


class Watch:
    """This host's connections to the others.

    A connection that breaks without a farewell ends this process with status 1, a grace period
    later. The failure file is the business of whoever starts the watch.
    """

    def __init__(self, connections: list[socket.socket]) -> None:
        self._connections = connections
        self._leaving = False
        for connection in connections:
            connection.settimeout(None)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE.items():
                if hasattr(socket, option):
                    connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
            threading.Thread(target=self._wait, args=(connection,), daemon=True).start()

    def leave(self) -> None:
        """Says farewell to the others, and closes the connections."""
        self._leaving = True
        for connection in self._connections:
            # the other side may have left before
            with contextlib.suppress(OSError):
                connection.sendall(_LEAVES)
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _wait(self, connection: socket.socket) -> None:
        try:
            farewell = connection.recv(1)
        except OSError:
            farewell = b""
        if farewell == _LEAVES or self._leaving:
            return
        time.sleep(_GRACE)
        os._exit(1)


def listen(address: str) -> socket.socket:
    """A listening socket of the leading host, at a free port."""
    return socket.create_server((address, 0))


def watch_followers(listener: socket.socket, count: int, timeout: float) -> Watch:
    """The watch of the leading host, once all others have connected. Raises TimeoutError."""
    listener.settimeout(timeout)
    with listener:
        return Watch([listener.accept()[0] for _ in range(count)])


def watch_leader(address: str, port: int, timeout: float) -> Watch:
    """The watch of another host. Raises OSError where the leading host can't be reached."""
    return Watch([socket.create_connection((address, port), timeout=timeout)])
