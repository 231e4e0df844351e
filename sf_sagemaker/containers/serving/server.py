"""The server process: it loads the model, asks it its golden rows, and only then takes requests.

On SIGTERM it stops accepting, answers what comes on the connections that are open with the request to
close them, and ends when the last is gone. In a container it ends within the 30 seconds that SageMaker
gives it; under a supervisor, requests have as long as an answer may take.
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
from sf_sagemaker.containers.serving import ANSWER_SECONDS, FAILED, READY
from sf_sagemaker.containers.serving.application import Application
from sf_sagemaker.containers.serving.loading import load

# SageMaker kills a container 30 seconds after SIGTERM. Most idle connections end by themselves before.
_DRAIN_SECONDS = 20.0
_CLOSE_SECONDS = 5  # after that, for what is still under way
_KEEP_ALIVE_SECONDS = 5
_DRAIN_POLL_SECONDS = 0.02
_BACKLOG = 2048


@dataclass(frozen=True)
class Listening:
    """Where requests come from: a port, or the `listener` that a supervisor has opened.

    A supervisor also holds the other end of `supervisor`: there it reads READY or why the model can't
    be served, and when that end closes, this process has no one to serve for. It leaves a server more
    than ANSWER_SECONDS to end.
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
        timeout_graceful_shutdown=_CLOSE_SECONDS,
    )

    def ready() -> None:
        if watched is not None:
            watched.sendall(f"{READY}\n".encode())

    answer_seconds = _DRAIN_SECONDS if watched is None else ANSWER_SECONDS
    _Server(config, application, ready, answer_seconds).run(
        sockets=[listening.listener] if listening.listener is not None else None
    )
    return 0


class _Server(uvicorn.Server):
    """uvicorn closes idle connections at once when it ends, whatever a client is just sending there.

    This one waits for them _DRAIN_SECONDS, and for requests that are under way `answer_seconds`.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        application: Application,
        ready: Callable[[], None],
        answer_seconds: float,
    ) -> None:
        super().__init__(config)
        self._application = application
        self._ready = ready
        self._answer_seconds = answer_seconds

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        self._application.draining = True
        asked_to_end = time.monotonic()
        while self._waited_for(time.monotonic() - asked_to_end):
            await asyncio.sleep(_DRAIN_POLL_SECONDS)
        await super().shutdown(sockets)

    def _waited_for(self, seconds: float) -> bool:
        """Whether there is something to wait for yet, so long after SIGTERM."""
        if seconds < _DRAIN_SECONDS:
            return bool(self.server_state.connections)
        return bool(self.server_state.tasks) and seconds < self._answer_seconds


def _end_with(supervisor: socket.socket) -> None:
    """Ends this process in good order when the supervisor is gone."""
    while supervisor.recv(64):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(ANSWER_SECONDS + _CLOSE_SECONDS)
    os._exit(1)
