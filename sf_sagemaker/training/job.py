"""A training job as a value: what decides its result, and the name that follows from it."""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Literal

from sf_sagemaker.errors import SfSagemakerError

NAME_LIMIT = 63  # CreateTrainingJob, SageMaker API reference: TrainingJobName
RUN_TAG = "sf_sagemaker:run"  # among a job's tags: the Dagster run that asked for it
_DIGEST_LENGTH = 10
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class InvalidTrainingJob(SfSagemakerError):
    """A job that no platform could run."""

    permanent = True


@dataclass(frozen=True)
class Program:
    """The code that a job runs: files by their path in the code folder, and the script to start.

    The entry point lies at the root of the code folder, as SageMaker's script mode wants it.
    """

    entry_point: str
    files: Mapping[str, Path]

    def __post_init__(self) -> None:
        if self.entry_point not in self.files:
            raise InvalidTrainingJob(
                f"entry point {self.entry_point!r} is not among the program's files: "
                f"{', '.join(sorted(self.files))}"
            )

    def copy_to(self, folder: Path) -> None:
        """Lays the files out in a code folder."""
        for name, source in self.files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)

    @property
    def digest(self) -> str:
        """Hex digest over the entry point and the paths and contents of all files."""
        digest = hashlib.sha256(self.entry_point.encode())
        for name in sorted(self.files):
            content = self.files[name].read_bytes()
            digest.update(f"\0{name}\0{len(content)}\0".encode())
            digest.update(content)
        return digest.hexdigest()


@dataclass(frozen=True)
class Channel:
    """An input channel: a prefix in object storage, whole on each host or one part a host.

    `key` is a prefix of the storage (a folder), or a single key. With `sharded`, the sorted keys
    under it are dealt to the hosts in turn, as SageMaker's ShardedByS3Key does.
    """

    name: str
    key: str
    distribution: Literal["replicated", "sharded"] = "replicated"


@dataclass(frozen=True)
class ExternalChannel:
    """An input channel from outside the storage, whole on each host: an address that ends with a
    slash, or of a single object.

    `identity` changes when the content does, and stands for it in the job's digest. `accept_eula`
    says that somebody has accepted the terms of use of a gated model.
    """

    name: str
    uri: str
    identity: str
    accept_eula: bool = False


def dataset_channels(folder: str) -> tuple[Channel, ...]:
    """The channels of a dataset's folder: training rows a shard a host, all else whole on each."""
    return (
        Channel("train", f"{folder}/train", "sharded"),
        Channel("validation", f"{folder}/validation"),
        Channel("test", f"{folder}/test"),
        Channel("manifest", f"{folder}/manifest.json"),
    )


@dataclass(frozen=True)
class Limits:
    """What a job may use. Nothing here changes the result, so nothing here is in the digest.

    With `spot`, the job waits for capacity and runs for `max_wait` at most. `keep_alive` is how long
    its machines stay for the next job. `subnets` and `security_groups` go together; with
    `default_subnets` they are those of the account's default network. `price_per_hour` is of one
    instance, and `max_cost` bounds what a run's jobs can cost, in the same currency. `settings` is the
    group of attributes that they are from, as messages name it. Locally, only `max_runtime` has an
    effect.
    """

    instance_type: str = "ml.m5.xlarge"
    max_runtime: timedelta = timedelta(hours=1)
    spot: bool = False
    max_wait: timedelta | None = None
    volume_gb: int = 30
    keep_alive: timedelta | None = None
    subnets: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()
    default_subnets: bool = False
    network_isolation: bool = False
    kms_key: str | None = None
    price_per_hour: float | None = None
    max_cost: float | None = None
    settings: str = "compute"


@dataclass(frozen=True)
class TrainingJob:
    """A training of one model on one dataset.

    `image` names the container image by digest, or the library versions that stand for it locally.
    `tags` are for reading the job. Attempts of one `checkpoint_series` resume one another.
    """

    model: str
    partition: str
    program: Program
    image: str
    dataset_fingerprint: str
    channels: tuple[Channel, ...]
    hyperparameters: Mapping[str, str]
    seed: int
    instance_count: int = 1
    limits: Limits = field(default_factory=Limits)
    tags: Mapping[str, str] = field(default_factory=dict)
    checkpoint_series: str = "any"
    external: tuple[ExternalChannel, ...] = ()

    @property
    def digest(self) -> str:
        """Ten hex digits over everything that decides the result, and nothing else."""
        deciding = {
            "model": self.model,
            "partition": self.partition,
            "program": self.program.digest,
            "image": self.image,
            "dataset": self.dataset_fingerprint,
            "channels": sorted((channel.name, channel.distribution) for channel in self.channels),
            "hyperparameters": dict(self.hyperparameters),
            "seed": self.seed,
            "instance_count": self.instance_count,
        }
        if self.external:
            deciding["external"] = sorted((one.name, one.identity) for one in self.external)
        return short_digest(deciding)

    @property
    def checkpoint_key(self) -> str:
        """The storage prefix of checkpoints, shared by the attempts of a series: they train the same."""
        return f"checkpoints/{self.model}/{self.partition}/{self.digest}/{self.checkpoint_series}"

    def anew(self, asked_at: datetime) -> "TrainingJob":
        """The same training, which resumes no checkpoint but those of its own retries."""
        return replace(self, checkpoint_series=asked_at.strftime("%Y%m%dT%H%M%S"))

    def name(self, attempt: int) -> str:
        """The name of the job's attempt (from 1), 63 characters at most. Raises InvalidTrainingJob."""
        return attempt_name(self.model, self.partition, self.digest, attempt, NAME_LIMIT)


def attempt_name(model: str, partition: str, digest: str, attempt: int, limit: int) -> str:
    """The name of a job's attempt: letters, digits and hyphens, `limit` characters at most.

    A long model name is cut; the digest, which covers it whole, keeps the name unique.
    Raises InvalidTrainingJob for an attempt below 1.
    """
    if attempt < 1:
        raise InvalidTrainingJob(f"attempts count from 1, not {attempt}")
    tail = f"-{partition}-{digest}-{attempt}"
    head = model.replace("_", "-")[: limit - len(tail)].rstrip("-")
    return head + tail


def short_digest(deciding: Mapping[str, object]) -> str:
    """Ten hex digits over everything that decides a job's result."""
    canonical = json.dumps(deciding, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:_DIGEST_LENGTH]


def check_job(job: TrainingJob) -> None:
    """Raises InvalidTrainingJob for a job that no platform could lay out for its hosts."""
    if job.instance_count < 1:
        raise InvalidTrainingJob(f"instance_count must be 1 or more, not {job.instance_count}")
    channels = [channel.name for channel in (*job.channels, *job.external)]
    if len(set(channels)) < len(channels):
        raise InvalidTrainingJob(f"two channels of one name: {', '.join(channels)}")
    for path in job.program.files:
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts:
            raise InvalidTrainingJob(f"program file {path!r} must be relative, without '..'")
    for kind, names in {
        "channel": channels,
        "hyperparameter": job.hyperparameters,
    }.items():
        for name in names:
            if not _NAME.fullmatch(name):
                raise InvalidTrainingJob(
                    f"{kind} name {name!r} must start with a letter or digit and go on with "
                    "letters, digits, '.', '_' and '-'"
                )
