"""Sees one training job through, from its instances to its end, as SageMaker's agents do."""

import itertools
import re
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from boto3.exceptions import S3UploadFailedError
from botocore.exceptions import BotoCoreError, ClientError

from standins.sagemaker import data
from standins.sagemaker import training_job as states
from standins.sagemaker.aws_state import S3Location
from standins.sagemaker.clients import Clients
from standins.sagemaker.container import (
    Host,
    end_hosts,
    environment,
    free_port,
    in_folder,
    lay_out,
)
from standins.sagemaker.faults import Faults, JobFault
from standins.sagemaker.logs import LogDelivery
from standins.sagemaker.settings import Settings
from standins.sagemaker.training_job import TrainingJob
from standins.sagemaker.watchdog import Watchdog

_POLL_SECONDS = 0.04
_REASON_LIMIT = 1024  # characters of FailureReason, API reference
_DAY = 24 * 3600


@dataclass(frozen=True)
class Surroundings:
    """What all jobs of a service share. `slot` waits for instances while its argument allows."""

    folder: Path
    endpoint_url: str
    settings: Settings
    faults: Faults
    clients: Clients
    logs: LogDelivery
    watchdog: Watchdog
    closing: threading.Event
    take_slot: Callable[[Callable[[], bool]], bool]
    give_slot: Callable[[], None]


class _Ended(Exception):
    """The job's end, wherever it was met."""

    def __init__(
        self,
        state: tuple[str, str],
        status: str,
        reason: str | None = None,
        *,
        upload: bool = False,
    ) -> None:
        super().__init__(reason)
        self.state = state
        self.status = status
        self.reason = reason
        self.upload = upload


_STOPPED = (states.STOPPED, "Stopped")


class Runner:
    """One job; `run` returns when it has ended, or when the service closes."""

    def __init__(self, job: TrainingJob, around: Surroundings) -> None:
        self._job = job
        self._around = around
        self._folder = around.folder / job.region / f"{job.name}-{time.monotonic_ns()}"
        self._s3 = around.clients.get("s3", job.region)
        self._metrics = [
            (metric["Name"], re.compile(metric["Regex"]))
            for metric in job.request["AlgorithmSpecification"].get("MetricDefinitions", [])
        ]
        self._deadline = job.created_clock + self._condition("MaxWaitTimeInSeconds", 30 * _DAY)

    def run(self) -> None:
        try:
            end = self._attempts()
        except (ClientError, BotoCoreError, S3UploadFailedError, OSError) as error:
            end = _Ended(states.FAILED, "Failed", f"InternalServerError: {error}"[:_REASON_LIMIT])
        shutil.rmtree(self._folder, ignore_errors=True)
        if not self._around.closing.is_set():
            self._job.end(end.state, end.status, end.reason)

    def _attempts(self) -> _Ended:
        """Starts over after each interruption, and after internal errors as often as was asked."""
        retries = self._job.request.get("RetryStrategy", {}).get("MaximumRetryAttempts", 0)
        for number in itertools.count():
            try:
                self._with_instances(self._folder / str(number))
                self._job.enter(states.INTERRUPTED)
                self._pass(self._around.settings.restart_seconds)
            except _Ended as end:
                is_internal = (end.reason or "").startswith("InternalServerError")
                if not is_internal or retries == 0:
                    return end
                retries -= 1
                self._job.enter(states.RESTARTING)
            self._job.enter(states.STARTING)
        raise AssertionError("attempts are never used up")

    def _with_instances(self, folder: Path) -> None:
        """One attempt; returns where spot instances were interrupted."""
        fault = self._start()
        try:
            self._job.begin()
            self._job.enter(states.DOWNLOADING)
            homes = self._download(folder)
            self._pass(self._around.settings.downloading_seconds)
            self._job.enter(states.TRAINING)
            try:
                self._train(homes, fault)
            except _Ended as end:
                if end.upload:
                    self._upload(homes, folder, end.status)
                raise
        finally:
            self._job.pause()
            self._around.give_slot()

    def _start(self) -> JobFault | None:
        """Waits for instances. The fault is the one that hits the training."""
        job, around = self._job, self._around
        self._pass(around.settings.starting_seconds)
        if not around.take_slot(lambda: not self._is_over()):
            self._check_over()
        fault = around.faults.take_for_job(job.spot)
        if fault is not None and (fault.reason or "").startswith("CapacityError"):
            around.give_slot()
            raise _Ended(states.FAILED, "Failed", fault.reason)
        return fault

    def _download(self, folder: Path) -> list[Path]:
        job = self._job
        homes = [folder / host for host in job.hosts]
        for host, home in zip(job.hosts, homes, strict=True):
            lay_out(job, host, home)
        try:
            for channel in job.request.get("InputDataConfig", []):
                files = data.fetch_channel(self._s3, channel, folder / "downloaded")
                for number, home in enumerate(homes):
                    part = data.deal(files, channel, number, len(homes))
                    data.lay_out_channel(part, home / "input" / "data" / channel["ChannelName"])
                self._check_over()
            if checkpoints := job.request.get("CheckpointConfig"):
                for home in homes:
                    data.fetch_checkpoints(self._s3, checkpoints["S3Uri"], self._checkpoints(home))
        except (ClientError, data.ChannelEmpty) as error:
            reason = f"ClientError: Data download failed:{error}"
            raise _Ended(states.FAILED, "Failed", reason[:_REASON_LIMIT]) from error
        return homes

    def _checkpoints(self, home: Path) -> Path:
        config = self._job.request.get("CheckpointConfig", {})
        return Path(in_folder(config.get("LocalPath", "/opt/ml/checkpoints"), home))

    def _train(self, homes: Sequence[Path], fault: JobFault | None) -> None:
        """Runs the hosts to their end. Returns where spot instances were interrupted."""
        job, settings = self._job, self._around.settings
        job.interruption.clear()
        syncs = []
        if checkpoints := job.request.get("CheckpointConfig"):
            syncs = [
                data.CheckpointSync(self._s3, checkpoints["S3Uri"], self._checkpoints(home))
                for home in homes
            ]
        hosts = self._start_hosts(homes)
        try:
            interrupted = self._watch(hosts, syncs, fault)
        finally:
            # Also a failed host's fellows are told to end; a closing service has no time for them.
            closing = self._around.closing.is_set()
            end_hosts(hosts, 0.0 if closing else settings.stop_grace_seconds)
            if not closing:
                for sync in syncs:
                    sync.upload()
        if not interrupted:
            job.enter(states.UPLOADING)
            self._pass(settings.uploading_seconds)
            raise _Ended(states.COMPLETED, "Completed", upload=True)

    def _start_hosts(self, homes: Sequence[Path]) -> list[Host]:
        job, around = self._job, self._around
        algorithm = job.request["AlgorithmSpecification"]
        command = [*algorithm["ContainerEntrypoint"], *algorithm.get("ContainerArguments", [])]
        port = free_port() if len(homes) > 1 else None
        hosts = []
        for name, home in zip(job.hosts, homes, strict=True):
            stream = f"{job.name}/{name}-{int(time.time() * 1000)}"
            around.logs.open(job.region, stream)
            variables = environment(job, home, port, around.endpoint_url)
            write = self._log_writer(stream)
            hosts.append(Host(command, home, variables, write, around.watchdog))
        return hosts

    def _log_writer(self, stream: str) -> Callable[[str], None]:
        def write(line: str) -> None:
            self._around.logs.write(self._job.region, stream, line)
            for name, regex in self._metrics:
                if found := regex.search(line):
                    value = float(found.group(1))
                    self._job.metrics[name] = (value, datetime.now(UTC))

        return write

    def _watch(
        self, hosts: Sequence[Host], syncs: Sequence[data.CheckpointSync], fault: JobFault | None
    ) -> bool:
        """Waits for the hosts: False where all ended well, True where they were interrupted."""
        job, settings = self._job, self._around.settings
        began = time.monotonic()
        limit = self._condition("MaxRuntimeInSeconds", _DAY) - job.trained_seconds
        synced = began
        while True:
            codes = [host.exit_code() for host in hosts]
            failed = [number for number, code in enumerate(codes) if code]
            if job.stop_requested.is_set():
                raise _Ended(*_STOPPED, upload=True)
            if failed:
                reason = _algorithm_error(hosts[failed[0]], codes[failed[0]])
                raise _Ended(states.FAILED, "Failed", reason, upload=True)
            if all(code == 0 for code in codes):
                return False
            now = time.monotonic()
            if now - began > limit:
                raise _Ended(states.MAX_RUNTIME, "Stopped", upload=True)
            self._check_over()
            if fault is not None and now - began >= fault.after_seconds:
                if fault.reason is not None:
                    raise _Ended(states.FAILED, "Failed", fault.reason)
                return True
            if job.interruption.is_set():
                return True
            if now - synced > settings.checkpoint_sync_seconds:
                for sync in syncs:
                    sync.upload()
                synced = time.monotonic()
            self._around.closing.wait(_POLL_SECONDS)

    def _upload(self, homes: Sequence[Path], folder: Path, status: str) -> None:
        output = self._job.request["OutputDataConfig"]
        target = S3Location.parse(output["S3OutputPath"]).under(self._job.name, "output")
        compress = output.get("CompressionType") != "NONE"
        try:
            models = [home / "model" for home in homes]
            stopped_with_model = status == "Stopped" and data.has_files(models)
            if status == "Completed" or stopped_with_model:
                artifact = data.upload_folders(
                    self._s3, models, target, "model", compress=compress, scratch=folder
                )
                self._job.artifact = artifact.uri
            others = [home / "output" / "data" for home in homes]
            if data.has_files(others):
                data.upload_folders(
                    self._s3, others, target, "output", compress=compress, scratch=folder
                )
        except (ClientError, BotoCoreError, S3UploadFailedError) as error:
            reason = f"ClientError: Artifact upload failed:{error}"
            raise _Ended(states.FAILED, "Failed", reason[:_REASON_LIMIT]) from error

    def _condition(self, name: str, default: float) -> float:
        return self._job.request["StoppingCondition"].get(name, default)

    def _pass(self, seconds: float) -> None:
        """Lets time go by, unless the job is over before."""
        deadline = time.monotonic() + seconds
        self._check_over()
        while (left := deadline - time.monotonic()) > 0:
            self._around.closing.wait(min(left, _POLL_SECONDS))
            self._check_over()

    def _is_over(self) -> bool:
        return (
            self._around.closing.is_set()
            or self._job.stop_requested.is_set()
            or time.monotonic() > self._deadline
        )

    def _check_over(self) -> None:
        if self._around.closing.is_set() or self._job.stop_requested.is_set():
            raise _Ended(*_STOPPED)
        if time.monotonic() > self._deadline:
            raise _Ended(states.MAX_WAIT, "Stopped")


def _algorithm_error(host: Host, code: int | None) -> str:
    end = f", exit code: {code}"
    return f"AlgorithmError: {host.failure()}"[: _REASON_LIMIT - len(end)] + end


def run_job(job: TrainingJob, around: Surroundings) -> None:
    Runner(job, around).run()
