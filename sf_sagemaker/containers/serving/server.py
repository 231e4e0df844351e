"""The server process: it loads the model, asks it its golden rows, and only then takes requests.

On SIGTERM it stops accepting, answers what comes on the connections that are open with the request to
close them, and ends when the last is gone.
"""

import asyncio
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from sf_sagemaker.containers.errors import ContainerError
from sf_sagemaker.containers.serving import FAILED, READY
from sf_sagemaker.containers.serving.application import Application
from sf_sagemaker.containers.serving.loading import load

# SageMaker kills a container 30 seconds after SIGTERM. Idle connections end by themselves before.
_DRAIN_SECONDS = 20.0
_KEEP_ALIVE_SECONDS = 5
_DRAIN_POLL_SECONDS = 0.02
_BACKLOG = 2048


@dataclass(frozen=True)
class Listening:
    """Where requests come from: a port, or the `listener` that a supervisor has opened.

    A supervisor also holds the other end of `supervisor`: there it reads READY or why the model can't
    be served, and when that end closes, this process has no one to serve for.
    """

    host: str
    port: int
    listener: socket.socket | None = None
    supervisor: socket.socket | None = None


def serve(model: Path, version: str, listening: Listening) -> int:
    """Serves the model in a folder until SIGTERM. Returns the exit status: 1 where it can't."""
    watched = listening.supervisor
    if watched is not None:
        threading.Thread(target=_end_with, args=(watched,), daemon=True).start()
    try:
        application = Application(load(model), version)
    except ContainerError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        if watched is not None:
            watched.sendall(f"{FAILED}{error}\n".encode())
        return 1
    config = uvicorn.Config(
        application,
        host=listening.host,
        port=listening.port,
        lifespan="off",
        ws="none",
        access_log=False,
        log_level="warning",
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=5,
    )

    def ready() -> None:
        if watched is not None:
            watched.sendall(f"{READY}\n".encode())

    _Server(config, application, ready).run(
        sockets=[listening.listener] if listening.listener is not None else None
    )
    return 0


class _Server(uvicorn.Server):
    """uvicorn closes idle connections at once when it ends, whatever a client is just sending there."""

    def __init__(
        self, config: uvicorn.Config, application: Application, ready: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._application = application
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        self._application.draining = True
        deadline = time.monotonic() + _DRAIN_SECONDS
        while self.server_state.connections and time.monotonic() < deadline:
            await asyncio.sleep(_DRAIN_POLL_SECONDS)
        await super().shutdown(sockets)


def _end_with(supervisor: socket.socket) -> None:
    """Ends this process in good order when the supervisor is gone."""
    while supervisor.recv(64):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_DRAIN_SECONDS + 5)
    os._exit(1)
