"""Rules for CreateTrainingJob that the service's model doesn't say.

Sources: the API reference's prose, "Use Managed Spot Training" and "Train Using SageMaker AI
Managed Warm Pools" in the developer guide, and messages that users of the service quote.
"""

from collections.abc import Mapping
from typing import Any

from standins.sagemaker.aws_state import AwsState, S3Location
from standins.sagemaker.faults import Faults
from standins.sagemaker.models import check_role
from standins.sagemaker.requests import Request, ValidationError

_LONGEST_RUN = 28 * 24 * 3600  # seconds; StoppingCondition, API reference


def check_training_request(request: Request, state: AwsState, faults: Faults) -> None:
    """Raises ApiError for a request that the service refuses."""
    wanted = request.parameters
    for name in ("AlgorithmSpecification", "ResourceConfig", "StoppingCondition"):
        if wanted.get(name) is None:
            raise ValidationError(f"{name} is required")
    _check_algorithm(wanted["AlgorithmSpecification"])
    _check_resources(wanted["ResourceConfig"])
    _check_stopping_condition(wanted)
    _check_warm_pool(wanted)
    _check_checkpoints(wanted)
    check_role(wanted["RoleArn"], state, faults)
    _check_network(wanted.get("VpcConfig"), request.region, state)
    _check_channels(wanted, request.region, state)


def _check_algorithm(algorithm: Mapping[str, Any]) -> None:
    image, name = algorithm.get("TrainingImage"), algorithm.get("AlgorithmName")
    if bool(image) == bool(name):
        raise ValidationError(
            "You must specify either an algorithm name or a training image, and not both"
        )
    if not algorithm.get("ContainerEntrypoint"):
        raise ValidationError(
            "This stand-in runs no images: AlgorithmSpecification needs a ContainerEntrypoint"
        )
    if algorithm["TrainingInputMode"] == "Pipe":
        raise ValidationError("This stand-in knows no Pipe mode")


def _check_resources(resources: Mapping[str, Any]) -> None:
    if not resources.get("InstanceType") or not resources.get("InstanceCount"):
        raise ValidationError(
            "ResourceConfig needs an InstanceType and an InstanceCount of 1 or more"
        )
    if not resources.get("VolumeSizeInGB"):
        raise ValidationError("ResourceConfig needs a VolumeSizeInGB of 1 or more")


def _check_stopping_condition(wanted: Mapping[str, Any]) -> None:
    condition = wanted["StoppingCondition"]
    runtime = condition.get("MaxRuntimeInSeconds", 24 * 3600)
    wait = condition.get("MaxWaitTimeInSeconds")
    if runtime > _LONGEST_RUN:
        raise ValidationError(
            f"Invalid MaxRuntimeInSeconds. It must be at most {_LONGEST_RUN} seconds"
        )
    if not wanted.get("EnableManagedSpotTraining"):
        if wait is not None:
            raise ValidationError(
                "Invalid MaxWaitTimeInSeconds. It is only supported when "
                "EnableManagedSpotTraining is set to true"
            )
    elif wait is None or wait < runtime:
        raise ValidationError(
            "Invalid MaxWaitTimeInSeconds. It must be present and be greater than or equal to "
            "MaxRuntimeInSeconds when EnableManagedSpotTraining is set to true"
        )


def _check_warm_pool(wanted: Mapping[str, Any]) -> None:
    keep_alive = wanted["ResourceConfig"].get("KeepAlivePeriodInSeconds")
    if keep_alive and wanted.get("EnableManagedSpotTraining"):
        raise ValidationError(
            "KeepAlivePeriodInSeconds is not supported when EnableManagedSpotTraining is set to true"
        )


def _check_checkpoints(wanted: Mapping[str, Any]) -> None:
    path = wanted.get("CheckpointConfig", {}).get("LocalPath", "/opt/ml/checkpoints")
    if not path.startswith("/opt/ml/"):
        raise ValidationError("This stand-in keeps checkpoints below /opt/ml only")


def _check_network(vpc: Mapping[str, Any] | None, region: str, state: AwsState) -> None:
    if vpc is None:
        return
    for subnet in vpc["Subnets"]:
        if not state.has_subnet(region, subnet):
            raise ValidationError(f"The subnet ID '{subnet}' does not exist")
    for group in vpc["SecurityGroupIds"]:
        if not state.has_security_group(region, group):
            raise ValidationError(f"The security group '{group}' does not exist")


def _check_channels(wanted: Mapping[str, Any], region: str, state: AwsState) -> None:
    names = [channel["ChannelName"] for channel in wanted.get("InputDataConfig", [])]
    if len(set(names)) < len(names):
        raise ValidationError(f"Channel names must be unique: {', '.join(names)}")
    for channel in wanted.get("InputDataConfig", []):
        source = channel["DataSource"].get("S3DataSource")
        if source is None or source["S3DataType"] not in ("S3Prefix", "ManifestFile"):
            raise ValidationError("This stand-in takes S3Prefix and ManifestFile channels only")
        location = S3Location.parse(source["S3Uri"])
        _check_terms(source, location)
        bucket_region = state.bucket_region(location.bucket)
        if bucket_region == region and state.has_objects(location):
            continue
        message = (
            f'No S3 objects found under S3 URL "{source["S3Uri"]}" given in input data source. '
            f"Please ensure that the bucket exists in the selected region ({region}), that objects "
            f'exist under that S3 prefix, and that the role "{wanted["RoleArn"]}" has '
            f'"s3:ListBucket" permissions on bucket "{location.bucket}".'
        )
        if bucket_region not in (None, region):
            message += (
                f" Error message from S3: The bucket is in this region: {bucket_region}. "
                "Please use this region to retry the request"
            )
        raise ValidationError(message)


def _check_terms(source: Mapping[str, Any], location: S3Location) -> None:
    """Gated models lie in buckets that are opened to jobs whose request accepts their terms of use."""
    gated = location.bucket.startswith("jumpstart-private-cache-prod-")
    if gated and not source.get("ModelAccessConfig", {}).get("AcceptEula"):
        raise ValidationError(
            f"Access denied to {source['S3Uri']}: the model is gated, and ModelAccessConfig.AcceptEula "
            "of its data source must be true"
        )
