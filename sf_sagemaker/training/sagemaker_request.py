"""A training job as a CreateTrainingJob request. Limits are those of SageMaker's API reference."""

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sf_sagemaker.training.job import InvalidTrainingJob, TrainingJob
from sf_sagemaker.training.sagemaker_code import ARCHIVE

TAG_PREFIX = "sf_sagemaker:"
CODE_CHANNEL = "code"
PIPES_CHANNEL = "dagster"
_CONTEXT = "context.json"
CONTEXT_PATH = f"/opt/ml/input/data/{PIPES_CHANNEL}/{_CONTEXT}"
# Instances with disks of their own, which encrypt what is on them by a key of theirs.
_LOCAL_STORAGE = re.compile(r"ml\.(g\d|p3dn|p[4-9]|trn\d|[a-z]+\d+[a-z]*d[a-z]*\.)")
_LONGEST_WAIT = timedelta(days=28)
_HYPERPARAMETERS = 100
_HYPERPARAMETER_LENGTH = 2500
_ENVIRONMENT = 100
_ENVIRONMENT_LENGTH = 512
_ENTRYPOINT_LENGTH = 256
_TAGS = 50
_TAG_VALUE_LENGTH = 256
_CHANNELS = 20


@dataclass(frozen=True)
class Input:
    """An input channel: an address in S3, a folder with its closing slash or a single object.

    `accept_eula` opens a gated model, whose terms of use somebody has accepted.
    """

    channel: str
    uri: str
    sharded: bool = False
    accept_eula: bool = False


@dataclass(frozen=True)
class Network:
    """The subnets and security groups that a job's hosts are in."""

    subnets: tuple[str, ...]
    security_groups: tuple[str, ...]

    @staticmethod
    def of(subnets: Sequence[str], security_groups: Sequence[str]) -> "Network | None":
        """None without subnets."""
        return Network(tuple(subnets), tuple(security_groups)) if subnets else None


def training_request(
    job: TrainingJob,
    name: str,
    environment: Mapping[str, str],
    *,
    role_arn: str,
    project: str,
    inputs: Sequence[Input],
    output_uri: str,
    checkpoint_uri: str,
    network: Network | None,
    kms_key: str | None,
) -> dict[str, Any]:
    """The request. Raises InvalidTrainingJob for what the service would refuse."""
    limits = job.limits
    resources: dict[str, Any] = {
        "InstanceType": limits.instance_type,
        "InstanceCount": job.instance_count,
        "VolumeSizeInGB": limits.volume_gb,
    }
    stopping = {"MaxRuntimeInSeconds": _seconds(limits.max_runtime)}
    output = {"S3OutputPath": output_uri}
    if limits.spot:
        longest = min(2 * limits.max_runtime, _LONGEST_WAIT)
        stopping["MaxWaitTimeInSeconds"] = _seconds(limits.max_wait or longest)
    if limits.keep_alive is not None:
        resources["KeepAlivePeriodInSeconds"] = _seconds(limits.keep_alive)
    if kms_key is not None:
        output["KmsKeyId"] = kms_key
        if not has_own_disks(limits.instance_type):
            resources["VolumeKmsKeyId"] = kms_key
    request = {
        "TrainingJobName": name,
        "RoleArn": role_arn,
        # No metric definitions: the service is reported to refuse them for its own images.
        "AlgorithmSpecification": {
            "TrainingImage": job.image,
            "TrainingInputMode": "File",
            "ContainerEntrypoint": ["/bin/sh", "-c", _command(job.program.entry_point)],
        },
        "HyperParameters": dict(job.hyperparameters),
        "Environment": {**environment, "PYTHONUNBUFFERED": "1"},
        "InputDataConfig": [_channel(one) for one in inputs],
        "OutputDataConfig": output,
        "CheckpointConfig": {"S3Uri": checkpoint_uri},
        "ResourceConfig": resources,
        "StoppingCondition": stopping,
        "EnableManagedSpotTraining": limits.spot,
        "EnableNetworkIsolation": limits.network_isolation,
        "Tags": [{"Key": key, "Value": value} for key, value in _tags(job, project).items()],
    }
    if network is not None:
        request["VpcConfig"] = {
            "Subnets": list(network.subnets),
            "SecurityGroupIds": list(network.security_groups),
        }
    _check(request)
    return request


def has_own_disks(instance_type: str) -> bool:
    """Whether an instance has disks that encrypt by a key of theirs, and takes no other."""
    return _LOCAL_STORAGE.match(instance_type) is not None


def context_key(name: str) -> str:
    """The storage key of a job's Pipes context, which it gets as an input channel."""
    return f"training-jobs/{name}/{PIPES_CHANNEL}/{_CONTEXT}"


def project_tag(project: str) -> dict[str, str]:
    """The tag that all jobs of a deployment have in common."""
    return {f"{TAG_PREFIX}project": project}


def _tags(job: TrainingJob, project: str) -> dict[str, str]:
    return {
        **job.tags,
        **project_tag(project),
        f"{TAG_PREFIX}model": job.model,
        f"{TAG_PREFIX}partition": job.partition,
    }


def _command(entry_point: str) -> str:
    """Unpacks the code and becomes the program, which so hears of a stop itself."""
    return (
        "mkdir -p /opt/ml/code && "
        f"tar -xzf /opt/ml/input/data/{CODE_CHANNEL}/{ARCHIVE} -C /opt/ml/code && "
        f"cd /opt/ml/code && exec python3 /opt/ml/code/{shlex.quote(entry_point)}"
    )


def _channel(one: Input) -> dict[str, Any]:
    source: dict[str, Any] = {
        "S3DataType": "S3Prefix",
        "S3Uri": one.uri,
        "S3DataDistributionType": "ShardedByS3Key" if one.sharded else "FullyReplicated",
    }
    if one.accept_eula:
        source["ModelAccessConfig"] = {"AcceptEula": True}
    return {
        "ChannelName": one.channel,
        "InputMode": "File",
        "DataSource": {"S3DataSource": source},
    }


def _seconds(duration: timedelta) -> int:
    return math.ceil(duration.total_seconds())


def _check(request: Mapping[str, Any]) -> None:
    command = request["AlgorithmSpecification"]["ContainerEntrypoint"][-1]
    _at_most(len(command), _ENTRYPOINT_LENGTH, "characters in the command that starts the program")
    _at_most(
        len(request["InputDataConfig"]), _CHANNELS, "channels, those of code and Pipes included"
    )
    _at_most(len(request["HyperParameters"]), _HYPERPARAMETERS, "hyperparameters")
    for name, value in request["HyperParameters"].items():
        _at_most(len(value), _HYPERPARAMETER_LENGTH, f"characters in hyperparameter {name}")
    _at_most(len(request["Environment"]), _ENVIRONMENT, "environment variables")
    for name, value in request["Environment"].items():
        _at_most(len(value), _ENVIRONMENT_LENGTH, f"characters in environment variable {name}")
    _at_most(len(request["Tags"]), _TAGS, "tags")
    for tag in request["Tags"]:
        _at_most(len(tag["Value"]), _TAG_VALUE_LENGTH, f"characters in tag {tag['Key']}")


def _at_most(found: int, most: int, what: str) -> None:
    if found > most:
        raise InvalidTrainingJob(f"{found} {what}: SageMaker takes {most} at most")
