"""The process that keeps a local endpoint answering: `python -m … <folder> <lock descriptor>`.

It owns the listening socket, and hands it to a server process (`containers/serving`) for each
deployment. A new server loads its model and answers its golden rows before it accepts its first
connection on that socket; only then is the one before it told to end, which it does once its
connections are answered. So the address never changes and no connection is refused: while a server is
started anew, connections wait in the socket's queue.

A server that dies or stops answering /ping is started anew, also while a new deployment starts. Servers
end when this process does.
"""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from sf_sagemaker.containers.serving import ANSWER_SECONDS, FAILED, READY
from sf_sagemaker.processes import leave_caller
from sf_sagemaker.serving.endpoint import EndpointState
from sf_sagemaker.serving.local_folder import (
    DeploymentRecord,
    EndpointFolder,
    EndpointStatus,
    now,
)

HEALTH_SECONDS = 2.0  # between two pings
END_SECONDS = ANSWER_SECONDS + 10  # from SIGTERM to SIGKILL: servers need some to close

_HOST = "127.0.0.1"
_POLL_SECONDS = 0.05
_BACKLOG = 2048
_FIRST_PORT = 8090  # of those that an endpoint gets that names none
_PORTS = 1000
_PING_TIMEOUT = 2.0
_MISSED_PINGS = 3  # in a row, after which a server that lives counts as hung
_LONGEST_PAUSE = 10.0  # between two starts of a server that dies again and again
_SETTLED_SECONDS = 10.0  # a server that lived so long didn't die of its start


def main(folder: Path, lock: int) -> None:
    """Supervises the endpoint in `folder` from a process of its own; returns in that process only."""
    endpoint = EndpointFolder(folder)
    if endpoint.supervise() is None:
        sys.exit(f"{folder} has a supervisor already")
    Supervisor(endpoint, lock, leave_caller()).run()


@dataclass
class _Server:
    """A server process of a deployment. `control` is this end of the socket between the two."""

    number: int
    record: DeploymentRecord
    listener: socket.socket
    process: subprocess.Popen[bytes]
    control: socket.socket
    started: float = field(default_factory=time.monotonic)
    message: bytes = b""
    ended_at: float | None = None

    def ready(self) -> bool:
        """Whether it accepts connections; reads what it has said meanwhile."""
        with suppress(BlockingIOError, ConnectionResetError):
            while part := self.control.recv(4096):
                self.message += part
        return self.message.decode(errors="replace").startswith(READY)

    def why_failed(self, folder: EndpointFolder) -> str:
        """What it said of its failure, or what is known of its end."""
        said = self.message.decode(errors="replace").strip()
        if said.startswith(FAILED):
            return said.removeprefix(FAILED)
        return f"{_end_of(self.process)}; {folder.server_log(self.number)} may say why"

    def terminate(self) -> None:
        """Asks it to answer what it has, and to end."""
        if self.ended_at is None:
            self.ended_at = time.monotonic()
            self.process.terminate()

    def gone(self) -> bool:
        """Whether it has ended; kills it where it takes too long."""
        if self.process.poll() is not None:
            self.control.close()
            return True
        if self.ended_at is not None and time.monotonic() - self.ended_at > END_SECONDS:
            self.process.kill()
        return False


class Supervisor:
    """One endpoint. `current` answers, one of those in `starting` is to follow it, those in `ending` finish.

    `starting` has at most the newest deployment, and the one in service where its server was lost.
    `listener` is the socket of the deployment that answers, or did before its server was lost.
    """

    def __init__(self, folder: EndpointFolder, lock: int, interrupted: Callable[[], bool]) -> None:
        self._folder = folder
        self._lock = lock
        self._interrupted = interrupted
        self._status = EndpointStatus(supervisor=os.getpid())
        self._listener: socket.socket | None = None
        self._current: _Server | None = None
        self._starting: list[_Server] = []
        self._ending: list[_Server] = []
        self._handled = 0
        self._deaths = 0  # in a row
        self._not_before = 0.0
        self._pings = ThreadPoolExecutor(1)
        self._ping: Future[bool] | None = None
        self._next_ping = 0.0
        self._missed = 0

    def run(self) -> None:
        """Until the endpoint is stopped, has nothing to serve, or this process is asked to end."""
        self._resume()
        while True:
            if self._folder.stop_requested():
                self._end(EndpointState.STOPPED)
                return
            if self._interrupted():
                self._write(lost="its supervisor was told to end")
                self._end(EndpointState.FAILED)
                return
            if not self._folder.path.exists():
                self._end(None)
                return
            self._take_up_deployment()
            self._look_at_starting()
            self._look_at_current()
            self._look_at_ending()
            if self._current is None and not self._starting and self._status.number is None:
                self._end(EndpointState.FAILED)
                return
            time.sleep(_POLL_SECONDS)

    def _resume(self) -> None:
        """Takes up what a supervisor that died has left, in case nothing newer can be served."""
        try:
            before = self._folder.status()
        except FileNotFoundError:
            before = self._status
        if before.number is not None and before.state is not EndpointState.STOPPED:
            with suppress(OSError):  # the port is taken by now, or the deployment is gone
                self._folder.record(before.number)
                self._listener = self._listen(before.port or 0)
                self._status = replace(
                    before, state=EndpointState.RESTARTING, server=None, supervisor=os.getpid()
                )
        self._write()

    def _take_up_deployment(self) -> None:
        newest = max(self._folder.numbers(), default=0)
        if newest <= self._handled:
            return
        self._handled = newest
        for server in [server for server in self._starting if not self._is_in_service(server)]:
            self._abandon(server)
        record = self._folder.record(newest)
        try:
            self._starting.append(self._start(newest, record, self._listen(record.port)))
        except OSError as error:
            where = f"{_HOST}:{record.port}" if record.port else _HOST
            self._give_up(newest, f"the server can't be started on {where}: {error}")
        else:
            self._write(state=self._state())

    def _listen(self, port: int) -> socket.socket:
        """The socket in use where its port is the one, or else a new one; 0 is any port."""
        if self._listener is not None and port in (0, self._listener.getsockname()[1]):
            return self._listener
        if port:
            return _listener(port)
        for free in self._candidates():
            with suppress(OSError):  # somebody else has it
                return _listener(free)
        return _listener(0)

    def _candidates(self) -> Iterator[int]:
        """The port that the endpoint had before, and then those from the first on."""
        kept = self._folder.kept_port()
        if kept is not None:
            yield kept
        yield from range(_FIRST_PORT, _FIRST_PORT + _PORTS)

    def _start(self, number: int, record: DeploymentRecord, listener: socket.socket) -> _Server:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs, self._folder.server_log(number).open("ab") as log:
            process = subprocess.Popen(
                [
                    *(record.python, record.entry_point),
                    *("--model", record.model, "--version", record.version),
                    *("--listen-fd", str(listener.fileno())),
                    *("--supervisor-fd", str(theirs.fileno())),
                ],
                cwd=self._folder.deployment(number) / "code",
                env={**os.environ, **record.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(listener.fileno(), theirs.fileno(), self._lock),
            )
        return _Server(number, record, listener, process, ours)

    def _look_at_starting(self) -> None:
        for server in [*self._starting]:
            if server.ready():
                self._switch_to(server)
                return
            if server.process.poll() is not None:
                server.ready()  # reads its last words
                self._starting.remove(server)
                self._failed_to_start(server, server.why_failed(self._folder))
                server.control.close()
            elif time.monotonic() - server.started > server.record.start_timeout:
                self._abandon(server)
                seconds = server.record.start_timeout
                self._failed_to_start(
                    server,
                    f"the model wasn't ready within {seconds:g} s; "
                    f"{self._folder.server_log(server.number)} may say why",
                )

    def _abandon(self, server: _Server) -> None:
        """Ends a server that is starting; it may have become ready just now, and be answering."""
        self._starting.remove(server)
        server.terminate()
        self._ending.append(server)

    def _is_in_service(self, server: _Server) -> bool:
        """Whether it is a server of the deployment that answers, or did before its server was lost."""
        return server.number == self._status.number

    def _switch_to(self, server: _Server) -> None:
        before, self._current = self._current, server
        self._starting.remove(server)
        if before is not None:
            before.terminate()
            self._ending.append(before)
        for older in [other for other in self._starting if other.number < server.number]:
            self._abandon(older)
        if self._listener is not None and self._listener is not server.listener:
            self._listener.close()
        self._listener = server.listener
        self._missed, self._next_ping = 0, time.monotonic() + HEALTH_SECONDS
        restarted = self._is_in_service(server)
        self._write(
            state=EndpointState.UPDATING,  # until it is alone
            number=server.number,
            version=server.record.version,
            since=self._status.since if restarted else now(),
            port=server.listener.getsockname()[1],
            server=server.process.pid,
            restarts=self._status.restarts if restarted else 0,
            failed=self._status.failed if restarted else None,
            failure=self._status.failure if restarted else None,
            lost=self._status.lost if restarted else None,
        )

    def _failed_to_start(self, server: _Server, reason: str) -> None:
        if self._is_in_service(server):
            self._pause(server)
            self._write(state=EndpointState.FAILED, lost=f"it can't be started anew: {reason}")
        else:
            self._give_up(server.number, reason)

    def _give_up(self, number: int, reason: str) -> None:
        self._write(state=self._state(), failed=number, failure=reason)

    def _state(self) -> EndpointState:
        """How the endpoint is, now that a deployment starts or was given up."""
        if self._status.number is None:
            return EndpointState.STARTING if self._starting else EndpointState.FAILED
        if self._current is None:  # its server is being started anew, or can't be
            return self._status.state
        return EndpointState.UPDATING if self._starting else EndpointState.IN_SERVICE

    def _look_at_current(self) -> None:
        server = self._current
        if server is None:
            self._start_anew()
            return
        if server.process.poll() is not None:
            self._lost(server, _end_of(server.process))
        elif self._hung():
            server.process.kill()
            server.process.wait()
            self._lost(server, f"the server missed {_MISSED_PINGS} pings in a row and was killed")

    def _lost(self, server: _Server, reason: str) -> None:
        server.control.close()
        self._current = None
        self._pause(server)
        self._write(
            state=EndpointState.RESTARTING,
            restarts=self._status.restarts + 1,
            lost=reason,
            server=None,
        )

    def _start_anew(self) -> None:
        """The deployment that answered before its server was lost, unless it is on its way."""
        number = self._status.number
        listener = self._listener
        if number is None or listener is None or any(map(self._is_in_service, self._starting)):
            return
        if time.monotonic() < self._not_before:
            return
        try:
            self._starting.append(self._start(number, self._folder.record(number), listener))
        except OSError as error:
            self._not_before = time.monotonic() + _LONGEST_PAUSE
            self._write(state=EndpointState.FAILED, lost=f"it can't be started anew: {error}")

    def _pause(self, server: _Server) -> None:
        """Waits longer each time before a server is started anew that dies early."""
        lived = time.monotonic() - server.started
        self._deaths = 0 if lived > _SETTLED_SECONDS else self._deaths + 1
        pause = min(0.1 * 4**self._deaths, _LONGEST_PAUSE) if self._deaths else 0.0
        self._not_before = time.monotonic() + pause

    def _hung(self) -> bool:
        """Whether the endpoint has missed its pings, which go out every HEALTH_SECONDS."""
        if self._ping is not None:
            if not self._ping.done():
                return False
            self._missed = 0 if self._ping.result() else self._missed + 1
            self._ping, self._next_ping = None, time.monotonic() + HEALTH_SECONDS
        elif time.monotonic() >= self._next_ping and self._status.port:
            self._ping = self._pings.submit(ping, self._status.port)
        return self._missed >= _MISSED_PINGS

    def _look_at_ending(self) -> None:
        self._ending = [server for server in self._ending if not server.gone()]
        alone = self._current is not None and not self._starting and not self._ending
        if alone and self._status.state is EndpointState.UPDATING:
            self._settle()

    def _settle(self) -> None:
        """Nothing but the current server is left of what was before."""
        self._write(state=EndpointState.IN_SERVICE)
        self._folder.forget_before(self._status.number or 0)

    def _end(self, state: EndpointState | None) -> None:
        """Ends every server, and says so first, unless the endpoint's folder is gone."""
        if state is not None:
            self._write(state=state, server=None)
        for server in (*filter(None, [self._current]), *self._starting):
            server.terminate()
            self._ending.append(server)
        while self._ending:
            self._ending = [server for server in self._ending if not server.gone()]
            time.sleep(_POLL_SECONDS)
        self._pings.shutdown(wait=False)

    def _write(self, **changes: object) -> None:
        self._status = replace(self._status, **changes)  # pyright: ignore[reportArgumentType]
        with suppress(FileNotFoundError):  # of a folder that was just deleted
            self._folder.write_status(self._status)


def _listener(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((_HOST, port))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def ping(port: int, timeout: float = _PING_TIMEOUT) -> bool:
    """Whether a server on this machine answers GET /ping with 200."""
    connection = http.client.HTTPConnection(_HOST, port, timeout=timeout)
    try:
        connection.request("GET", "/ping", headers={"Connection": "close"})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _end_of(process: subprocess.Popen[bytes]) -> str:
    code = process.returncode
    if code is not None and code < 0:
        return f"the server was killed by signal {-code} ({signal.Signals(-code).name})"
    return f"the server ended with code {code}"


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
