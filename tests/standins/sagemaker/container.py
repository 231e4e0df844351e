"""The hosts of a job: each a folder laid out as /opt/ml, and a process in its own group.

Paths below /opt/ml in the request's entrypoint are those of the folder, and SAGEMAKER_BASE_DIR,
which SageMaker's own toolkit reads, names it. Only the first process hears of a stop, as in a
container; all are gone once it is.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from standins.sagemaker.requests import EXECUTION_ROLE_KEY
from standins.sagemaker.training_job import TrainingJob
from standins.sagemaker.watchdog import Watchdog

_BASE = re.compile(r"/opt/ml(?![\w-])")


def in_folder(text: str, home: Path) -> str:
    """A container's path, or a line with such paths, as it is for the host with that folder."""
    return _BASE.sub(str(home), text)


def lay_out(job: TrainingJob, host: str, home: Path) -> None:
    """Makes what a container finds in /opt/ml, but for the data of the channels."""
    for part in ("input/config", "input/data", "model", "output/data", "code"):
        (home / part).mkdir(parents=True)
    channels = {
        channel["ChannelName"]: {
            "TrainingInputMode": channel.get(
                "InputMode", job.request["AlgorithmSpecification"]["TrainingInputMode"]
            ),
            "S3DistributionType": channel["DataSource"]["S3DataSource"].get(
                "S3DataDistributionType", "FullyReplicated"
            ),
            "RecordWrapperType": channel.get("RecordWrapperType", "None"),
            **({"ContentType": channel["ContentType"]} if channel.get("ContentType") else {}),
        }
        for channel in job.request.get("InputDataConfig", [])
    }
    group = {
        "instance_group_name": "homogeneousCluster",
        "instance_type": job.instance_type,
        "hosts": job.hosts,
    }
    resources = {
        "current_host": host,
        "current_instance_type": job.instance_type,
        "current_group_name": group["instance_group_name"],
        "hosts": job.hosts,
        "instance_groups": [group],
        "network_interface_name": "lo",
    }
    for name, content in {
        "hyperparameters": job.request.get("HyperParameters", {}),
        "inputdataconfig": channels,
        "resourceconfig": resources,
    }.items():
        (home / "input" / "config" / f"{name}.json").write_text(json.dumps(content))


def environment(
    job: TrainingJob, home: Path, tracker_port: int | None, endpoint_url: str
) -> dict[str, str]:
    """The variables of a host: the request's, the service's own, and none of this process's.

    Without network isolation, AWS can be reached, as the job's execution role.
    """
    variables = {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "TRAINING_JOB_NAME": job.name,
        "TRAINING_JOB_ARN": job.arn,
        "AWS_REGION": job.region,
        "SAGEMAKER_BASE_DIR": str(home),
    }
    if not job.request.get("EnableNetworkIsolation"):
        variables |= {
            "AWS_ENDPOINT_URL": endpoint_url,
            "AWS_ACCESS_KEY_ID": EXECUTION_ROLE_KEY,
            "AWS_SECRET_ACCESS_KEY": "secret of a stand-in",
        }
    if tracker_port is not None:
        variables |= {
            "SF_SAGEMAKER_TRACKER_URI": "127.0.0.1",
            "SF_SAGEMAKER_TRACKER_PORT": str(tracker_port),
        }
    return variables | dict(job.request.get("Environment", {}))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Host:
    """A running host. `write` is called with each line of its log, from another thread."""

    def __init__(
        self,
        command: Sequence[str],
        home: Path,
        variables: Mapping[str, str],
        write: Callable[[str], None],
        watchdog: Watchdog,
    ) -> None:
        self.home = home
        self._watchdog = watchdog
        self._process: subprocess.Popen[bytes] | None = None
        self._not_started: int | None = None
        try:
            self._process = subprocess.Popen(
                [in_folder(part, home) for part in command],
                cwd=home,
                env=dict(variables),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        except OSError as error:
            write(f"exec: {command[0]}: {error.strerror}")
            self._not_started = 126 if isinstance(error, PermissionError) else 127
            return
        watchdog.guard(self._process.pid)
        assert self._process.stdout is not None
        self._reader = threading.Thread(
            target=_read, args=(self._process.stdout, write), name=f"log of {home}", daemon=True
        )
        self._reader.start()

    def exit_code(self) -> int | None:
        """As a container's: 128 and the signal's number where a signal ended it."""
        if self._process is None:
            return self._not_started
        code = self._process.poll()
        return 128 - code if code is not None and code < 0 else code

    def failure(self) -> str:
        """The text of the failure file; empty where there is none."""
        with suppress(FileNotFoundError):
            return (self.home / "output" / "failure").read_text(errors="replace")
        return ""

    def terminate(self) -> None:
        if self._process is not None:
            self._process.terminate()

    def end(self) -> None:
        """Kills whatever is left of the host, and waits for its last log lines."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._watchdog.release(self._process.pid)
        self._reader.join()


def end_hosts(hosts: Sequence[Host], grace_seconds: float) -> None:
    """SIGTERM, and SIGKILL for those that are still there after the time of grace."""
    for host in hosts:
        host.terminate()
    deadline = time.monotonic() + grace_seconds
    while time.monotonic() < deadline and any(host.exit_code() is None for host in hosts):
        time.sleep(0.02)
    for host in hosts:
        host.end()


def _read(stream: IO[bytes], write: Callable[[str], None]) -> None:
    with stream:
        for line in stream:
            write(line.decode(errors="replace").rstrip("\r\n"))
