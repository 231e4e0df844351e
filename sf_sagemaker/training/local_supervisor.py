"""The process that sees a local training job through: `python -m … <job folder> <lock descriptor>`.

It leaves the process that started it, lays out what a training container has in /opt/ml for each
host, starts the hosts, waits for them, makes model.tar.gz and records how it ended. It stands in
for SageMaker's own agents, so it follows what is said of them under "How Amazon SageMaker AI
Processes Training Output" and "Use Your Own Training Algorithms" in SageMaker's developer guide.

The hosts share a process group with a watchdog that kills the group once this process is gone,
whatever ended it: no host outlives its job, and the job's lock is free only after the last of them.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from sf_sagemaker.processes import leave_caller
from sf_sagemaker.training.archive import write_archive
from sf_sagemaker.training.local_folder import JobFolder, JobRecord, Status, now
from sf_sagemaker.training.platform import FailureKind, JobStatus

_POLL_SECONDS = 0.05
_FAILURE_REASON_LIMIT = 1024  # characters; FailureReason of DescribeTrainingJob, SageMaker API


def main(folder: Path, lock: int) -> None:
    """Supervises the job in `folder` from a process of its own; returns in that process only."""
    supervise(JobFolder(folder), lock, leave_caller())


def supervise(folder: JobFolder, lock: int, interrupted: Callable[[], bool]) -> None:
    """Runs the job to its end. `interrupted` tells that this process was asked to end."""
    record = folder.record()
    status = Status()
    folder.write_status(status)
    try:
        with _process_group() as group:
            hosts = _start_hosts(folder, record, lock, group)
            status = replace(status, secondary="Training", started_at=now())
            folder.write_status(status)
            status = _wait_for_hosts(folder, record, status, hosts, interrupted)
        # The group is gone: nothing writes to the model folders any more.
        if not status.status.ended:
            status = replace(status, secondary="Uploading")
            folder.write_status(status)
            pack([folder.host(host) / "model" for host in record.hosts], folder.artifact)
            status = status.ended(JobStatus.COMPLETED, "Completed")
    except OSError as error:
        doing = {"Starting": "start the job", "Uploading": "write the model's artifact"}
        reason = f"could not {doing.get(status.secondary, 'run the job')}: {error}"
        status = status.ended(JobStatus.FAILED, "Failed", reason)
    folder.write_status(status)


@contextmanager
def _process_group() -> Iterator[int]:
    """The id of a process group whose members are killed at the end, or when this process dies.

    A watchdog leads the group and reads a pipe that only this process can write: the pipe ends when
    this process does. As a member of the group, the watchdog keeps its id from being used again.
    """
    reading, writing = os.pipe()
    watchdog = os.fork()
    if watchdog == 0:
        os.setpgid(0, 0)
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, signal.SIG_IGN)
        os.close(writing)
        os.read(reading, 1)
        os.killpg(0, signal.SIGKILL)
    os.close(reading)
    with suppress(PermissionError):
        os.setpgid(watchdog, watchdog)
    try:
        yield watchdog
    finally:
        os.close(writing)
        os.waitpid(watchdog, 0)


def _start_hosts(
    folder: JobFolder, record: JobRecord, lock: int, group: int
) -> dict[str, subprocess.Popen[bytes]]:
    folder.logs.mkdir()
    folder.artifact.parent.mkdir()
    tracker = _tracker(record)
    homes = {host: lay_out(folder, record, host) for host in record.hosts}
    arguments: list[str] = []
    for name, value in record.hyperparameters.items():
        arguments += [f"--{name}", value]
    processes = {}
    for host, home in homes.items():
        with folder.log(host).open("ab") as log:
            processes[host] = subprocess.Popen(
                [record.python, record.entry_point, *arguments],
                cwd=folder.code,
                env={**os.environ, **_environment(record, host, home), **tracker},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(lock,),
                process_group=group,
            )
    return processes


def _tracker(record: JobRecord) -> dict[str, str]:
    """Where the hosts of a distributed job meet: a port of this machine that was free just now."""
    if len(record.hosts) == 1:
        return {}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return {"SF_SAGEMAKER_TRACKER_URI": "127.0.0.1", "SF_SAGEMAKER_TRACKER_PORT": str(port)}


def lay_out(folder: JobFolder, record: JobRecord, host: str) -> Path:
    """Makes what a container finds in /opt/ml on `host`, and gives that folder.

    The files of channels are hard links where the file system has them, so that they don't go away
    under a job that reads them.
    """
    home = folder.host(host)
    for part in ("input/config", "input/data", "model", "output/data"):
        (home / part).mkdir(parents=True)
    checkpoints = Path(record.checkpoints)
    checkpoints.mkdir(parents=True, exist_ok=True)
    (home / "checkpoints").symlink_to(checkpoints)

    number = record.hosts.index(host)
    for channel in record.channels:
        root = home / "input" / "data" / channel.name
        root.mkdir()
        for path, source in channel.by_host[number]:
            target = root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source, target)
            except OSError:
                target.symlink_to(source)

    config = home / "input" / "config"
    for name, content in {
        "hyperparameters": record.hyperparameters,
        "inputdataconfig": _input_data_config(record),
        "resourceconfig": _resource_config(record, host),
    }.items():
        (config / f"{name}.json").write_text(json.dumps(content, indent=2))
    return home


def _input_data_config(record: JobRecord) -> dict[str, dict[str, str]]:
    return {
        channel.name: {
            "TrainingInputMode": "File",
            "S3DistributionType": "ShardedByS3Key" if channel.sharded else "FullyReplicated",
            "RecordWrapperType": "None",
        }
        for channel in record.channels
    }


def _resource_config(record: JobRecord, host: str) -> dict[str, object]:
    return {
        "current_host": host,
        "current_instance_type": record.instance_type,
        "hosts": list(record.hosts),
        "network_interface_name": "lo",
    }


def _environment(record: JobRecord, host: str, home: Path) -> dict[str, str]:
    """What SageMaker's training toolkit sets for a script, and the job's own environment on top.

    No GPUs are counted: the libraries that stand for the images here are built for CPUs.
    """
    cpus = max(1, (os.cpu_count() or 1) // len(record.hosts))
    data = home / "input" / "data"
    channels = {channel.name: str(data / channel.name) for channel in record.channels}
    training = {
        "channel_input_dirs": channels,
        "current_host": host,
        "hosts": list(record.hosts),
        "hyperparameters": record.hyperparameters,
        "input_config_dir": str(home / "input" / "config"),
        "input_data_config": _input_data_config(record),
        "input_dir": str(home / "input"),
        "job_name": record.name,
        "model_dir": str(home / "model"),
        "module_name": Path(record.entry_point).stem,
        "network_interface_name": "lo",
        "num_cpus": cpus,
        "num_gpus": 0,
        "output_data_dir": str(home / "output" / "data"),
        "output_dir": str(home / "output"),
        "resource_config": _resource_config(record, host),
        "user_entry_point": record.entry_point,
    }
    return {
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(cpus)),
        # Threads that wait for one another by spinning take three times as long on a busy machine.
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
        "TRAINING_JOB_NAME": record.name,
        "SM_CHANNELS": json.dumps(sorted(channels)),
        "SM_CURRENT_HOST": host,
        "SM_HOSTS": json.dumps(record.hosts),
        "SM_HPS": json.dumps(record.hyperparameters),
        "SM_INPUT_CONFIG_DIR": training["input_config_dir"],
        "SM_INPUT_DIR": training["input_dir"],
        "SM_MODEL_DIR": training["model_dir"],
        "SM_MODULE_NAME": training["module_name"],
        "SM_NETWORK_INTERFACE_NAME": "lo",
        "SM_NUM_CPUS": str(cpus),
        "SM_NUM_GPUS": "0",
        "SM_OUTPUT_DATA_DIR": training["output_data_dir"],
        "SM_OUTPUT_DIR": training["output_dir"],
        "SM_TRAINING_ENV": json.dumps(training),
        "SM_USER_ENTRY_POINT": record.entry_point,
        **{f"SM_CHANNEL_{name.upper()}": path for name, path in channels.items()},
        **{f"SM_HP_{name.upper()}": value for name, value in record.hyperparameters.items()},
        **record.environment,
    }


def _wait_for_hosts(
    folder: JobFolder,
    record: JobRecord,
    status: Status,
    hosts: dict[str, subprocess.Popen[bytes]],
    interrupted: Callable[[], bool],
) -> Status:
    """Waits until no host runs. The status is as it was when all of them ended well."""
    deadline = time.monotonic() + record.max_runtime_seconds

    def stop_reason() -> str | None:
        if folder.stop_requested():
            return "Stopped"
        if interrupted():
            return "Interrupted"
        return "MaxRuntimeExceeded" if time.monotonic() > deadline else None

    while True:
        running = [process for process in hosts.values() if process.poll() is None]
        stopped = stop_reason() if running else None
        if stopped is not None:
            stopping = "Stopping" if stopped == "Stopped" else stopped
            folder.write_status(replace(status, status=JobStatus.STOPPING, secondary=stopping))
            _terminate(running, record.grace_seconds)
            return status.ended(JobStatus.STOPPED, stopped)
        failed = {host: process for host, process in hosts.items() if process.returncode}
        if failed:
            reason = _failure_reason(folder, failed)
            _terminate(running, record.grace_seconds)
            # A signal may come from anywhere, for example from a machine that is out of memory.
            by_itself = any(process.returncode > 0 for process in failed.values())
            kind = FailureKind.ALGORITHM if by_itself else None
            return status.ended(JobStatus.FAILED, "Failed", reason, kind)
        if not running:
            return status
        time.sleep(_POLL_SECONDS)


def _terminate(processes: Sequence[subprocess.Popen[bytes]], grace_seconds: float) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + grace_seconds
    for process in processes:
        try:
            process.wait(max(0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _failure_reason(folder: JobFolder, failed: dict[str, subprocess.Popen[bytes]]) -> str:
    for host in failed:
        with suppress(FileNotFoundError):
            text = (folder.host(host) / "output" / "failure").read_text(errors="replace").strip()
            if text:
                return text[:_FAILURE_REASON_LIMIT]
    host, process = next(iter(failed.items()))
    code = process.returncode
    if code < 0:
        return f"{host} was killed by signal {-code} ({signal.Signals(-code).name})"
    return f"{host} exited with code {code} and left no failure file"


def pack(folders: Sequence[Path], target: Path) -> None:
    """Writes the files of all folders as one gzipped tar: all of it, or none.

    The same files give the same bytes. Where two folders have a file of one name, the first wins.
    Raises OSError, with nothing left behind, where it can't be written.
    """
    files: dict[str, Path] = {}
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file():
                files.setdefault(path.relative_to(folder).as_posix(), path)
    aside = target.with_name(f".{target.name}.partial")
    try:
        with aside.open("wb") as raw:
            write_archive(files, raw)
            raw.flush()
            os.fsync(raw.fileno())
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
