"""SageMaker's training container contract as a value, and the frame around a training script.

Source: the environment variables of the SageMaker Training Toolkit, and "How Amazon SageMaker
Provides Training Information" in the SageMaker developer guide.
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType
from typing import TypeVar

from sf_sagemaker.containers.errors import ContainerError

_Json = TypeVar("_Json", list, dict)

FAILURE_FILE = "SF_SAGEMAKER_FAILURE_FILE"  # names another one, for a process of several
FAILURE_LIMIT = 1024  # characters of the failure file that reach FailureReason


class InvalidEnvironment(ContainerError):
    """The container's environment lacks something that the contract promises."""


class Stopped(ContainerError):
    """The platform asked the training to stop before it was done."""


@dataclass(frozen=True)
class Environment:
    """What a platform tells a training script. Hyperparameter values are strings.

    `hosts` are in the order of their numbers, the same on each of them. `num_gpus` is None where the
    platform doesn't say.
    """

    model_dir: Path
    output_data_dir: Path
    channels: Mapping[str, Path]
    hyperparameters: Mapping[str, str]
    hosts: tuple[str, ...]
    current_host: str
    num_cpus: int
    num_gpus: int | None = None

    @classmethod
    def read(cls, variables: Mapping[str, str]) -> "Environment":
        """The environment that SM_* variables describe, or else the files of the platform.

        Raises InvalidEnvironment.
        """
        if "SM_MODEL_DIR" not in variables:
            variables = {**_from_files(base_dir(variables)), **variables}
        model_dir = Path(variables.get("SM_MODEL_DIR", base_dir(variables) / "model"))
        prefix = "SM_CHANNEL_"
        hosts = _json(variables, "SM_HOSTS", list, ["algo-1"])
        # algo-10 comes after algo-9, and every host must see the same order.
        ordered = tuple(sorted((str(host) for host in hosts), key=lambda host: (len(host), host)))
        current = variables.get("SM_CURRENT_HOST", ordered[0] if ordered else "")
        if current not in ordered:
            raise InvalidEnvironment(
                f"SM_CURRENT_HOST is {current!r}, which is not among SM_HOSTS: {', '.join(ordered)}"
            )
        cpus = variables.get("SM_NUM_CPUS") or str(os.cpu_count() or 1)
        if not cpus.isdigit() or int(cpus) < 1:
            raise InvalidEnvironment(f"SM_NUM_CPUS is {cpus!r}: expected a positive whole number")
        gpus = variables.get("SM_NUM_GPUS")
        if gpus and not gpus.isdigit():
            raise InvalidEnvironment(f"SM_NUM_GPUS is {gpus!r}: expected a whole number")
        return cls(
            model_dir=model_dir,
            output_data_dir=Path(
                variables.get("SM_OUTPUT_DATA_DIR", model_dir.parent / "output" / "data")
            ),
            channels={
                name.removeprefix(prefix).lower(): Path(value)
                for name, value in variables.items()
                if name.startswith(prefix)
            },
            hyperparameters={
                name: value if isinstance(value, str) else json.dumps(value)
                for name, value in _json(variables, "SM_HPS", dict, {}).items()
                if not name.startswith("sagemaker_")
            },
            hosts=ordered,
            current_host=current,
            num_cpus=int(cpus),
            num_gpus=int(gpus) if gpus else None,
        )

    @property
    def checkpoint_dir(self) -> Path:
        """What the platform keeps in object storage, and gives back to a restarted job."""
        return self.model_dir.parent / "checkpoints"

    @property
    def failure_file(self) -> Path:
        return _failure_file(self.model_dir)

    def channel(self, name: str) -> Path:
        """The folder of an input channel; it may be empty. Raises InvalidEnvironment."""
        if name not in self.channels:
            raise InvalidEnvironment(
                f"the job has no channel {name!r}: it has "
                f"{', '.join(sorted(self.channels)) or 'none'}"
            )
        return self.channels[name]


def base_dir(variables: Mapping[str, str]) -> Path:
    """What the platform keeps its files in: /opt/ml, or what SageMaker's toolkit is told as well."""
    return Path(variables.get("SAGEMAKER_BASE_DIR", "/opt/ml"))


def _from_files(base: Path) -> dict[str, str]:
    """The SM_* variables that SageMaker's toolkit would set, which is not there to do it.

    A program that is started by an entrypoint of its own finds no SM_* variables, only files.
    """
    config = base / "input" / "config"
    try:
        resources = json.loads((config / "resourceconfig.json").read_text())
        channels = json.loads((config / "inputdataconfig.json").read_text())
        hyperparameters = json.loads((config / "hyperparameters.json").read_text())
    except FileNotFoundError:
        return {}
    except json.JSONDecodeError as error:
        raise InvalidEnvironment(f"the files in {config} are not JSON: {error}") from error
    return {
        "SM_MODEL_DIR": str(base / "model"),
        "SM_OUTPUT_DATA_DIR": str(base / "output" / "data"),
        "SM_HOSTS": json.dumps(resources["hosts"]),
        "SM_CURRENT_HOST": resources["current_host"],
        "SM_HPS": json.dumps(hyperparameters),
        **{f"SM_CHANNEL_{name.upper()}": str(base / "input" / "data" / name) for name in channels},
    }


class StopSignal:
    """Whether the platform has asked the script to stop (SIGTERM, 120 seconds before SIGKILL)."""

    def __init__(self) -> None:
        self.requested = False

    def request(self, signum: int, frame: FrameType | None) -> None:
        self.requested = True

    def check(self) -> None:
        """Raises Stopped where a stop was asked for."""
        if self.requested:
            raise Stopped("stopped by SIGTERM before the training was done: no model was written")


def run(main: Callable[[Environment, StopSignal], None]) -> None:
    """Runs a training script's main under the contract.

    An error that reaches the end leaves its message in the failure file and its stack trace on
    stderr, and ends the process with status 1.
    """
    model_dir = Path(os.environ.get("SM_MODEL_DIR", base_dir(os.environ) / "model"))
    failure_file = Path(os.environ.get(FAILURE_FILE) or _failure_file(model_dir))
    failure_file.unlink(missing_ok=True)
    sys.excepthook = partial(_record_failure, failure_file)
    stop = StopSignal()
    signal.signal(signal.SIGTERM, stop.request)
    main(Environment.read(os.environ), stop)


@contextmanager
def failing_unless_finished(environment: Environment, reason: str) -> Iterator[None]:
    """While inside, the failure file holds `reason`, for an end that gives no time to write one."""
    _write_failure(environment.failure_file, reason)
    try:
        yield
    finally:
        environment.failure_file.unlink(missing_ok=True)


def _failure_file(model_dir: Path) -> Path:
    return model_dir.parent / "output" / "failure"


def _record_failure(
    file: Path, kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    message = str(error)
    if not isinstance(error, ContainerError):
        message = f"{kind.__name__}: {message}" if message else kind.__name__
    _write_failure(file, message)
    traceback.print_exception(kind, error, trace)
    sys.stdout.flush()
    sys.stderr.flush()
    # XGBoost's threads, which watch other hosts, may crash an interpreter that shuts down in turn.
    os._exit(1)


def _write_failure(file: Path, message: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(message[:FAILURE_LIMIT])


def _json(variables: Mapping[str, str], name: str, kind: type[_Json], default: _Json) -> _Json:
    text = variables.get(name)
    if not text:
        return default
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidEnvironment(f"{name} is not JSON: {error}") from error
    if not isinstance(value, kind):
        raise InvalidEnvironment(f"{name} is {text[:100]}: expected a JSON {kind.__name__}")
    return value
