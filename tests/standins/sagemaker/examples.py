"""Small training jobs for tests: a script in S3, and a request that runs it."""

from collections.abc import Mapping
from typing import Any

from standins.sagemaker.service import SageMakerService


def channel(
    name: str, uri: str, *, sharded: bool = False, kind: str = "S3Prefix"
) -> dict[str, Any]:
    distribution = "ShardedByS3Key" if sharded else "FullyReplicated"
    source = {"S3DataType": kind, "S3Uri": uri, "S3DataDistributionType": distribution}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}, "InputMode": "File"}


def training_request(
    service: SageMakerService,
    name: str,
    script: str,
    *,
    bucket: str = "training",
    channels: Mapping[str, Any] | None = None,
    instances: int = 1,
    max_runtime: int = 60,
    **changes: Any,
) -> dict[str, Any]:
    """The parameters of a CreateTrainingJob that runs a Python script from the channel `code`.

    The bucket is made where it is missing; `changes` replace parameters of the request.
    """
    if service.state.bucket_region(bucket) is None:
        service.create_bucket(bucket)
    key = f"code/{name}/train.py"
    service.client("s3").put_object(Bucket=bucket, Key=key, Body=script.encode())
    code = channel("code", f"s3://{bucket}/{key}")
    request = {
        "TrainingJobName": name,
        "RoleArn": service.role_arn,
        "AlgorithmSpecification": {
            "TrainingImage": "123456789012.dkr.ecr.us-east-1.amazonaws.com/xgboost:3.2-0",
            "TrainingInputMode": "File",
            "ContainerEntrypoint": [
                "/bin/sh",
                "-c",
                "exec python3 /opt/ml/input/data/code/train.py",
            ],
        },
        "InputDataConfig": [code, *(channels or {}).values()],
        "OutputDataConfig": {"S3OutputPath": f"s3://{bucket}/models/"},
        "ResourceConfig": {
            "InstanceType": "ml.m5.large",
            "InstanceCount": instances,
            "VolumeSizeInGB": 10,
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": max_runtime},
    }
    return request | changes
