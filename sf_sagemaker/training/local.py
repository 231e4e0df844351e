"""Training jobs as processes of this machine, under SageMaker's container contract.

`create` claims the job's name, writes down what was asked for and leaves the rest to a supervisor
(`local_supervisor`) that lives on when the caller ends. Everything else here reads the job's folder
(`local_folder`), so any process on this machine can follow, adopt or stop a job.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from importlib import metadata
from pathlib import Path

from sf_sagemaker.containers.llm.base_model_name import BaseModelName
from sf_sagemaker.errors import SfSagemakerError
from sf_sagemaker.processes import start_supervisor
from sf_sagemaker.storage import KeyMissing, LocalStorage
from sf_sagemaker.training.archive import unpack_archive
from sf_sagemaker.training.errors import BaseModelRefused
from sf_sagemaker.training.job import (
    RUN_TAG,
    Channel,
    InvalidTrainingJob,
    Limits,
    TrainingJob,
    check_job,
)
from sf_sagemaker.training.local_folder import (
    ChannelFiles,
    JobFolder,
    JobRecord,
    Status,
    now,
)
from sf_sagemaker.training.platform import (
    ArtifactMissing,
    FailureKind,
    GivenBaseModel,
    JobDescription,
    JobNotFound,
    JobStatus,
    LogLine,
    Pacing,
    TaggedJob,
)

# The libraries whose versions can change what a framework's training gives.
_LIBRARIES = {
    "xgboost": ("xgboost-cpu", "numpy", "pyarrow"),
    "llm": ("torch", "transformers", "peft", "numpy"),
}
_SUPERVISOR = "sf_sagemaker.training.local_supervisor"


class SupervisorNotStarted(SfSagemakerError):
    """A job whose name is taken, but that never ran."""


class LibrariesMissing(SfSagemakerError):
    """A framework whose libraries are not installed here."""


class LocalTrainingPlatform:
    """Runs each host of a job as a process of this machine.

    `python` is the interpreter that programs run under, `environment` is for the processes of every
    job. A host that is told to stop has `grace_seconds` to end before it is killed; SageMaker gives
    it 120.
    """

    pacing = Pacing()
    bills = False

    def __init__(
        self,
        storage: LocalStorage,
        *,
        python: str = sys.executable,
        grace_seconds: float = 120,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.storage = storage
        self.environment = dict(environment or {})
        self.python = python
        self.grace_seconds = grace_seconds

    def image(
        self, framework: str, instance_type: str | None = None, custom: str | None = None
    ) -> str:
        """The versions of Python and of the framework's libraries here, which stand for an image.

        Raises LibrariesMissing.
        """
        libraries = _LIBRARIES[framework]
        try:
            versions = [f"{library}-{metadata.version(library)}" for library in libraries]
        except metadata.PackageNotFoundError as error:
            raise LibrariesMissing(
                f"training with {framework} needs {', '.join(libraries)}, and {error.name} is not "
                "installed: `make install` installs it all, or `pip install 'sf_sagemaker[llm]'`"
            ) from None
        return " ".join([f"python-{sys.version_info.major}.{sys.version_info.minor}", *versions])

    def base_model(self, name: str, limits: Limits, *, accept_eula: bool) -> GivenBaseModel:
        """A folder, a package, or a model of the hub, which the program finds itself.

        Raises BaseModelRefused.
        """
        if BaseModelName.parse(name).kind in ("s3", "jumpstart"):
            raise BaseModelRefused(
                f"base_model is {name!r}: jobs on this machine have no such input; name a hub id, a "
                "folder or package:<name>, or train on SageMaker (SF_SAGEMAKER_DEPLOYMENT=aws)"
            )
        return GivenBaseModel(name)

    def create(self, job: TrainingJob, name: str, environment: Mapping[str, str]) -> None:
        """Starts a job and returns; the job outlives this process.

        Raises JobNameTaken, KeyMissing for a channel without files, InvalidTrainingJob for a job
        that could not be laid out, and OSError where the folder can't be written.
        """
        check_job(job)
        if job.external:
            raise InvalidTrainingJob(
                f"channel {job.external[0].name!r}: jobs on this machine read their own storage only"
            )
        record = JobRecord(
            name=name,
            digest=job.digest,
            created_at=now(),
            entry_point=job.program.entry_point,
            python=self.python,
            instance_type=job.limits.instance_type,
            hosts=tuple(f"algo-{number}" for number in range(1, job.instance_count + 1)),
            hyperparameters=dict(job.hyperparameters),
            environment={**self.environment, **environment},
            channels=tuple(self._files(channel, job.instance_count) for channel in job.channels),
            checkpoints=str(self.storage.path(job.checkpoint_key)),
            max_runtime_seconds=job.limits.max_runtime.total_seconds(),
            grace_seconds=self.grace_seconds,
            model=job.model,
            partition=job.partition,
            tags=dict(job.tags),
        )
        folder = self._folder(name)
        with folder.claim(record) as lock:
            job.program.copy_to(folder.code)
            _start_supervisor(folder, lock)

    def describe(self, name: str) -> JobDescription:
        folder, record = self._existing(name)
        status = _status(folder)
        completed = status.status is JobStatus.COMPLETED
        return JobDescription(
            name=name,
            status=status.status,
            secondary_status=status.secondary,
            created_at=datetime.fromisoformat(record.created_at),
            started_at=_time(status.started_at),
            ended_at=_time(status.ended_at),
            failure_reason=status.failure_reason,
            failure_kind=FailureKind(status.failure_kind) if status.failure_kind else None,
            instance_type=record.instance_type,
            instance_count=len(record.hosts),
            artifact_uri=folder.artifact.as_uri() if completed else None,
            log=str(folder.log(record.hosts[0]) if len(record.hosts) == 1 else folder.logs),
        )

    def stop(self, name: str) -> None:
        if not self.describe(name).status.ended:
            self._folder(name).request_stop()

    def read_log(self, name: str, cursor: str | None) -> tuple[Sequence[LogLine], str | None]:
        """The whole lines after the cursor; once the job has ended, a last unfinished one too.

        Raises JobNotFound.
        """
        # Asked before reading: after the end, nothing is written any more.
        ended = self.describe(name).status.ended
        folder, record = self._existing(name)
        offsets: dict[str, int] = json.loads(cursor) if cursor else {}
        lines: list[LogLine] = []
        for host in record.hosts:
            try:
                with folder.log(host).open("rb") as file:
                    file.seek(offsets.get(host, 0))
                    content = file.read()
            except FileNotFoundError:
                continue
            if not ended:
                content = content[: content.rfind(b"\n") + 1]
            offsets[host] = offsets.get(host, 0) + len(content)
            text = content.decode(errors="replace").removesuffix("\n")
            if content:
                lines += [LogLine(host, line.removesuffix("\r")) for line in text.split("\n")]
        return lines, json.dumps(offsets)

    def has_artifact(self, name: str) -> bool:
        return self._folder(name).artifact.is_file()

    def fetch_artifact(self, name: str, folder: Path) -> Path:
        """Unpacks the job's model.tar.gz as `folder/<name>`, where it stays for the next call.

        Raises JobNotFound, ArtifactMissing, or ArtifactCorrupt with nothing left behind.
        """
        artifact = self._existing(name)[0].artifact
        target = folder / name
        if target.is_dir():
            return target
        try:
            with artifact.open("rb") as raw:
                unpack_archive(raw, target, str(artifact))
        except FileNotFoundError:
            raise ArtifactMissing(
                f"{artifact} is gone, although training job {name} completed; materialize the "
                "model again to train anew"
            ) from None
        return target

    def jobs_of_runs(self, run_ids: Sequence[str]) -> Sequence[TaggedJob]:
        jobs = []
        for path in sorted(self.storage.path("training-jobs").glob("*/job.json")):
            record = JobFolder(path.parent).record()
            run_id = record.tags.get(RUN_TAG)
            if run_id is not None and run_id in run_ids:
                jobs.append(TaggedJob(record.name, record.model, record.partition, run_id))
        return jobs

    def message_path(self, name: str) -> Path:
        """The file to which a job of that name reports, whether or not it exists yet."""
        return self._folder(name).messages

    def _folder(self, name: str) -> JobFolder:
        return JobFolder(self.storage.path(f"training-jobs/{name}"))

    def _existing(self, name: str) -> tuple[JobFolder, JobRecord]:
        folder = self._folder(name)
        try:
            return folder, folder.record()
        except FileNotFoundError:
            raise JobNotFound(f"no training job {name} in {folder.path.parent}") from None

    def _files(self, channel: Channel, hosts: int) -> ChannelFiles:
        root = self.storage.path(channel.key)
        if root.is_file():
            files = [(root.name, str(root))]
        else:
            keys = self.storage.list(channel.key)
            paths = [self.storage.path(key) for key in keys]
            files = [(path.relative_to(root).as_posix(), str(path)) for path in paths]
        if not files:
            raise KeyMissing(
                f"channel {channel.name!r} has no files: {root} is empty or doesn't exist"
            )
        sharded = channel.distribution == "sharded"
        by_host = [files[number::hosts] if sharded else files for number in range(hosts)]
        return ChannelFiles(channel.name, sharded, tuple(tuple(part) for part in by_host))


def _start_supervisor(folder: JobFolder, lock: int) -> None:
    """Starts the supervisor in a session of its own, holding the lock; returns once it lives."""
    status = start_supervisor(_SUPERVISOR, folder.path, lock, folder.supervisor_log)
    if status != 0:
        raise SupervisorNotStarted(
            f"the supervisor of training job {folder.name} ended with code {status} "
            f"before it started the job; {folder.supervisor_log} says why"
        )


def _status(folder: JobFolder) -> Status:
    """The job's state now, seen from outside. Raises JobNotFound for a job that was deleted."""
    status = folder.status()
    if status.status.ended:
        return status
    try:
        alive = folder.alive()
    except FileNotFoundError:
        raise JobNotFound(f"training job {folder.name} was deleted") from None
    if not alive:
        # Read again: it may have ended, and let go of the lock, in between.
        status = folder.status()
        return status if status.status.ended else _bury(folder, status)
    if status.status is JobStatus.IN_PROGRESS and folder.stop_requested():
        return replace(status, status=JobStatus.STOPPING, secondary="Stopping")
    return status


def _bury(folder: JobFolder, status: Status) -> Status:
    """Records that a job ended without a word."""
    if folder.supervisor_log.exists():
        reason = f"the supervising process died; {folder.supervisor_log} may say why"
    else:
        reason = "the process that created the job ended before it had started it"
    status = status.ended(JobStatus.FAILED, "Failed", reason)
    # A full disk may be what it died of; the next look comes to the same end.
    with suppress(OSError):
        folder.write_status(status)
    return status


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
