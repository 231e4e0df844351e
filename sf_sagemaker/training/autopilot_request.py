"""A fine-tuning by Autopilot as a CreateAutoMLJobV2 request. Limits are those of the API reference."""

import math
import re
from datetime import timedelta
from typing import Any

from sf_sagemaker.training.autopilot_job import AutopilotJob
from sf_sagemaker.training.autopilot_models import DEFAULT_BASE_MODEL, needs_eula
from sf_sagemaker.training.job import InvalidTrainingJob
from sf_sagemaker.training.sagemaker_request import TAG_PREFIX, Network, project_tag

_PARQUET = "x-application/vnd.amazon+parquet"
_BASE_MODEL = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9])*")
_VALUE = re.compile(r"[a-zA-Z0-9._-]{0,16}")


def automl_request(
    job: AutopilotJob,
    name: str,
    *,
    role_arn: str,
    project: str,
    training_uri: str,
    validation_uri: str | None,
    output_uri: str,
    network: Network | None,
    kms_key: str | None,
) -> dict[str, Any]:
    """The request. Raises InvalidTrainingJob for what the service would refuse."""
    _check(job)
    criteria = {
        # One is what the service supports for text generation.
        "MaxCandidates": 1,
        "MaxAutoMLJobRuntimeInSeconds": _seconds(job.limits.max_runtime),
    }
    if job.max_candidate_runtime is not None:
        criteria["MaxRuntimePerTrainingJobInSeconds"] = _seconds(job.max_candidate_runtime)
    generation: dict[str, Any] = {"CompletionCriteria": criteria}
    if job.base_model is not None:
        generation["BaseModelName"] = job.base_model
    if job.hyperparameters:
        generation["TextGenerationHyperParameters"] = dict(job.hyperparameters)
    if job.accept_eula:
        generation["ModelAccessConfig"] = {"AcceptEula": True}
    output = {"S3OutputPath": output_uri}
    if kms_key is not None:
        output["KmsKeyId"] = kms_key
    channels = [_channel("training", training_uri)]
    if validation_uri is not None:
        channels.append(_channel("validation", validation_uri))
    tags = {
        **job.tags,
        **project_tag(project),
        f"{TAG_PREFIX}model": job.model,
        f"{TAG_PREFIX}partition": job.partition,
    }
    request: dict[str, Any] = {
        "AutoMLJobName": name,
        "RoleArn": role_arn,
        "AutoMLJobInputDataConfig": channels,
        "OutputDataConfig": output,
        "AutoMLProblemTypeConfig": {"TextGenerationJobConfig": generation},
        "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
    }
    if network is not None:
        request["SecurityConfig"] = {
            "VpcConfig": {
                "Subnets": list(network.subnets),
                "SecurityGroupIds": list(network.security_groups),
            }
        }
    return request


def _check(job: AutopilotJob) -> None:
    base_model = job.base_model or DEFAULT_BASE_MODEL
    if len(base_model) > 256 or not _BASE_MODEL.fullmatch(base_model):
        raise InvalidTrainingJob(
            f"base model {base_model!r}: a name has up to 256 letters, digits and hyphens"
        )
    if needs_eula(base_model) and not job.accept_eula:
        raise InvalidTrainingJob(
            f"{base_model} has terms of use (an EULA): read them, and set autopilot.accept_eula to true"
        )
    for name, value in job.hyperparameters.items():
        if not _VALUE.fullmatch(value):
            raise InvalidTrainingJob(
                f"hyperparameter {name} is {value!r}: up to 16 letters, digits and . _ -"
            )


def _channel(kind: str, uri: str) -> dict[str, Any]:
    return {
        "ChannelType": kind,
        "ContentType": _PARQUET,
        "CompressionType": "None",
        "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": uri}},
    }


def _seconds(duration: timedelta) -> int:
    return math.ceil(duration.total_seconds())
