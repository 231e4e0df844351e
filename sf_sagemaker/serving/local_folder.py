"""A local endpoint's folder: what is to be served, what is served, and whether it lives.

    endpoints/<name>/
        lock                     held by the supervisor and its servers, and by nobody once all are gone
        supervising              held by the supervisor alone
        deploying                held by the process that deploys
        port                     the port of the newest deployment that named none
        stop                     there when the endpoint is to end
        status.json              how it is, by the supervisor's account
        supervisor.log           what the supervisor itself had to say
        deployments/NNNNNN/      a model that was to be served; the highest number is the newest
            deployment.json      what was asked for, written last
            code/, model/<job>/  the program and the unpacked artifact
            server.log           what its servers printed

Whether an endpoint is alive is asked of the lock, as with training jobs.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from sf_sagemaker.processes import is_held, replace_text
from sf_sagemaker.serving.endpoint import EndpointState


@dataclass(frozen=True)
class DeploymentRecord:
    """What was asked for. Paths are absolute, `start_timeout` is in seconds.

    `port` 0 is that in use, or else the kept one, or the next that is free.
    """

    version: str
    program_digest: str
    python: str
    entry_point: str
    model: str
    port: int
    start_timeout: float
    environment: dict[str, str]


@dataclass(frozen=True)
class EndpointStatus:
    """How an endpoint is. `number` is the deployment that answers, by the process `server`.

    `failed` is the number of a newer deployment that was given up, and `failure` why. `lost` says why
    the server was started anew, or can't be. `since` is ISO 8601 in UTC.
    """

    state: EndpointState = EndpointState.STARTING
    number: int | None = None
    version: str | None = None
    since: str | None = None
    port: int | None = None
    server: int | None = None
    supervisor: int | None = None
    restarts: int = 0
    failed: int | None = None
    failure: str | None = None
    lost: str | None = None


def now() -> str:
    """The time now, in UTC, as ISO 8601."""
    return datetime.now(UTC).isoformat()


@dataclass(frozen=True)
class EndpointFolder:
    """The folder of one endpoint."""

    path: Path

    @property
    def supervisor_log(self) -> Path:
        return self.path / "supervisor.log"

    def deployment(self, number: int) -> Path:
        return self.path / "deployments" / f"{number:06d}"

    def server_log(self, number: int) -> Path:
        return self.deployment(number) / "server.log"

    def numbers(self) -> list[int]:
        """The deployments that were asked for, oldest first."""
        records = (self.path / "deployments").glob("*/deployment.json")
        return sorted(int(record.parent.name) for record in records)

    def next_number(self) -> int:
        """A number that no deployment has, also of those that never came to be asked for."""
        folders = (self.path / "deployments").glob("[0-9]*")
        return max((int(folder.name) for folder in folders), default=0) + 1

    def record(self, number: int) -> DeploymentRecord:
        return DeploymentRecord(
            **json.loads((self.deployment(number) / "deployment.json").read_text())
        )

    def ask_for(self, number: int, record: DeploymentRecord) -> None:
        """Tells the supervisor of a deployment whose code and model lie there."""
        replace_text(self.deployment(number) / "deployment.json", json.dumps(asdict(record)))

    def status(self) -> EndpointStatus:
        """How the endpoint is, by the supervisor's account. Raises FileNotFoundError before any."""
        fields = json.loads((self.path / "status.json").read_text())
        return EndpointStatus(state=EndpointState(fields.pop("state")), **fields)

    def write_status(self, status: EndpointStatus) -> None:
        replace_text(self.path / "status.json", json.dumps(asdict(status), indent=1))

    def kept_port(self) -> int | None:
        """The port that the endpoint had when nobody named one; None before."""
        try:
            return int((self.path / "port").read_text())
        except FileNotFoundError:
            return None

    def keep_port(self, port: int) -> None:
        replace_text(self.path / "port", str(port))

    def request_stop(self) -> None:
        (self.path / "stop").touch()

    def stop_requested(self) -> bool:
        return (self.path / "stop").exists()

    def clear_stop(self) -> None:
        (self.path / "stop").unlink(missing_ok=True)

    def supervised(self) -> bool:
        """Whether a supervisor lives."""
        return _is_held(self.path / "supervising")

    def alive(self) -> bool:
        """Whether any process of the endpoint lives, be it only to answer its last requests."""
        return _is_held(self.path / "lock")

    def lock(self) -> int | None:
        """The descriptor of the endpoint's lock; None while a process of the endpoint lives."""
        return _acquire(self.path / "lock")

    def supervise(self) -> int | None:
        """The descriptor of the supervisor's lock; None while there is one."""
        return _acquire(self.path / "supervising")

    def forget_before(self, number: int) -> None:
        """Removes the deployments before one."""
        for folder in (self.path / "deployments").glob("[0-9]*"):
            if int(folder.name) < number:
                shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def deploying(self) -> Iterator[None]:
        """Waits until no other process deploys to the endpoint, and keeps others waiting."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "deploying").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _acquire(path: Path) -> int | None:
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _is_held(path: Path) -> bool:
    try:
        return is_held(path)
    except FileNotFoundError:
        return False
