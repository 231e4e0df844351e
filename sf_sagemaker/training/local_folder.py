"""A local training job's folder: what lies where, how far it is, and whether anything of it lives.

    training-jobs/<name>/
        lock                 held by the processes of the job, and by nobody once they are gone
        job.json             what was asked for; written once, it claims the name
        status.json          how far it is
        stop                 there when somebody asked for the job to stop
        code/                the program
        hosts/algo-N/        what a training container has in /opt/ml, for each host
        log/algo-N.log       what a host printed
        messages.jsonl       what the program reported to Dagster
        output/model.tar.gz  the model
        supervisor.log       what the supervising process itself had to say

Whether a job is alive is asked of the lock, never of a process id: the kernel frees a flock when
the last process that holds it is gone, however it went, and process ids are used again.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from sf_sagemaker.processes import is_held, replace_text
from sf_sagemaker.training.platform import JobNameTaken, JobStatus

_CLAIM_POLL_SECONDS = 0.01


@dataclass(frozen=True)
class ChannelFiles:
    """A channel's files by host: for each host, pairs of the path in the channel and the source."""

    name: str
    sharded: bool
    by_host: tuple[tuple[tuple[str, str], ...], ...]


@dataclass(frozen=True)
class JobRecord:
    """What was asked for. Times are ISO 8601 in UTC; paths are absolute; durations are seconds."""

    name: str
    digest: str
    created_at: str
    entry_point: str
    python: str
    instance_type: str
    hosts: tuple[str, ...]
    hyperparameters: dict[str, str]
    environment: dict[str, str]
    channels: tuple[ChannelFiles, ...]
    checkpoints: str
    max_runtime_seconds: float
    grace_seconds: float
    model: str = ""
    partition: str = ""
    tags: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    @staticmethod
    def from_json(text: str) -> "JobRecord":
        fields = json.loads(text)
        channels = tuple(
            ChannelFiles(
                channel["name"],
                channel["sharded"],
                tuple(
                    tuple((path, source) for path, source in files) for files in channel["by_host"]
                ),
            )
            for channel in fields.pop("channels")
        )
        return JobRecord(channels=channels, hosts=tuple(fields.pop("hosts")), **fields)


@dataclass(frozen=True)
class Status:
    """How far a job is. `secondary` is SecondaryStatus of DescribeTrainingJob, SageMaker API.

    `failure_kind` is a FailureKind's value, where the cause of a failure is known.
    """

    status: JobStatus = JobStatus.IN_PROGRESS
    secondary: str = "Starting"
    started_at: str | None = None
    ended_at: str | None = None
    failure_reason: str | None = None
    failure_kind: str | None = None

    def ended(
        self,
        status: JobStatus,
        secondary: str,
        reason: str | None = None,
        kind: str | None = None,
    ) -> "Status":
        return replace(
            self,
            status=status,
            secondary=secondary,
            ended_at=now(),
            failure_reason=reason,
            failure_kind=kind,
        )


def now() -> str:
    """The time now, in UTC, as ISO 8601."""
    return datetime.now(UTC).isoformat()


@dataclass(frozen=True)
class JobFolder:
    """The folder of one job."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def code(self) -> Path:
        return self.path / "code"

    @property
    def logs(self) -> Path:
        return self.path / "log"

    @property
    def messages(self) -> Path:
        return self.path / "messages.jsonl"

    @property
    def artifact(self) -> Path:
        return self.path / "output" / "model.tar.gz"

    @property
    def supervisor_log(self) -> Path:
        return self.path / "supervisor.log"

    def host(self, host: str) -> Path:
        """What /opt/ml is in a container."""
        return self.path / "hosts" / host

    def log(self, host: str) -> Path:
        return self.logs / f"{host}.log"

    def claimed(self) -> bool:
        """Whether a job of this name exists."""
        return (self.path / "job.json").exists()

    @contextmanager
    def claim(self, record: JobRecord) -> Iterator[int]:
        """Creates the job, and gives the descriptor of its lock, locked and open while in context.

        A process that inherits the descriptor holds the lock on. Raises JobNameTaken where the job
        exists.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._lock_for_claim(lock)
            # The lock keeps other creators out, so that nothing is replaced here.
            replace_text(self.path / "job.json", record.to_json())
            yield lock
        finally:
            os.close(lock)

    def _lock_for_claim(self, lock: int) -> None:
        while not self.claimed():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # Another creator is about to claim the name, or to die trying.
                time.sleep(_CLAIM_POLL_SECONDS)
            else:
                break
        if self.claimed():
            raise JobNameTaken(
                f"training job {self.name} exists in {self.path}: names are never used twice"
            )

    def record(self) -> JobRecord:
        """What was asked for. Raises FileNotFoundError where no such job was created."""
        return JobRecord.from_json((self.path / "job.json").read_text())

    def status(self) -> Status:
        """How far the job is, by its own account."""
        try:
            fields = json.loads((self.path / "status.json").read_text())
        except FileNotFoundError:
            return Status()
        return Status(status=JobStatus(fields.pop("status")), **fields)

    def write_status(self, status: Status) -> None:
        replace_text(self.path / "status.json", json.dumps(asdict(status), indent=2))

    def alive(self) -> bool:
        """Whether any process of the job lives. Raises FileNotFoundError for a deleted job."""
        return is_held(self.path / "lock")

    def request_stop(self) -> None:
        (self.path / "stop").touch()

    def stop_requested(self) -> bool:
        return (self.path / "stop").exists()
