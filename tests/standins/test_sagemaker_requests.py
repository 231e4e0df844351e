"""What the stand-in refuses, and how."""

from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from standins.sagemaker import SageMakerService
from standins.sagemaker.examples import channel, training_request
from standins.sagemaker.quotas import SPOT, WARM_POOL

Change = Callable[[dict[str, Any]], Any]


def refused(service: SageMakerService, request: dict[str, Any]) -> tuple[str, str]:
    with pytest.raises(ClientError) as error:
        service.client("sagemaker").create_training_job(**request)
    assert len(service.jobs) == 0
    answer = error.value.response["Error"]
    return answer["Code"], answer["Message"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda r: r.update(TrainingJobName="a" * 64),
            "at 'trainingJobName' failed to satisfy constraint: "
            "Member must have length less than or equal to 63",
        ),
        (
            lambda r: r.update(TrainingJobName="house_prices"),
            "Value 'house_prices' at 'trainingJobName' failed to satisfy constraint: "
            "Member must satisfy regular expression pattern: [a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}",
        ),
        (lambda r: r.update(Environment={"A": "x" * 513}), "less than or equal to 512"),
        (lambda r: r.update(Environment={"not-a-name": "x"}), "Map keys must satisfy"),
        (lambda r: r.update(HyperParameters={"a": "x" * 2501}), "less than or equal to 2500"),
        (
            lambda r: r.update(HyperParameters={str(n): "x" for n in range(101)}),
            "at 'hyperParameters' failed to satisfy constraint: "
            "Member must have length less than or equal to 100",
        ),
        (
            lambda r: r["ResourceConfig"].update(InstanceType="ml.m5.huge"),
            "Value 'ml.m5.huge' at 'resourceConfig.instanceType' failed to satisfy constraint: "
            "Member must satisfy enum value set: [",
        ),
        (
            lambda r: r["AlgorithmSpecification"].update(ContainerEntrypoint=["x" * 257]),
            "at 'algorithmSpecification.containerEntrypoint.1.member' failed",
        ),
        (lambda r: r.pop("StoppingCondition"), "StoppingCondition is required"),
        (lambda r: r.pop("ResourceConfig"), "ResourceConfig is required"),
        (lambda r: r["ResourceConfig"].update(InstanceCount=0), "InstanceCount of 1 or more"),
        (lambda r: r["ResourceConfig"].pop("VolumeSizeInGB"), "VolumeSizeInGB of 1 or more"),
        (
            lambda r: r["AlgorithmSpecification"].pop("TrainingImage"),
            "either an algorithm name or a training image",
        ),
        (
            lambda r: r["StoppingCondition"].update(MaxRuntimeInSeconds=29 * 24 * 3600),
            "Invalid MaxRuntimeInSeconds",
        ),
        (
            lambda r: r["StoppingCondition"].update(MaxWaitTimeInSeconds=3600),
            "Invalid MaxWaitTimeInSeconds. It is only supported when "
            "EnableManagedSpotTraining is set to true",
        ),
        (lambda r: r.update(EnableManagedSpotTraining=True), "Invalid MaxWaitTimeInSeconds"),
        (
            lambda r: r.update(
                EnableManagedSpotTraining=True,
                StoppingCondition={"MaxRuntimeInSeconds": 60, "MaxWaitTimeInSeconds": 59},
            ),
            "Invalid MaxWaitTimeInSeconds",
        ),
        (
            lambda r: (
                r["ResourceConfig"].update(KeepAlivePeriodInSeconds=60),
                r.update(
                    EnableManagedSpotTraining=True,
                    StoppingCondition={"MaxRuntimeInSeconds": 60, "MaxWaitTimeInSeconds": 60},
                ),
            ),
            "KeepAlivePeriodInSeconds is not supported",
        ),
        (
            lambda r: r.update(RoleArn="arn:aws:iam::123456789012:role/absent"),
            "Could not assume role arn:aws:iam::123456789012:role/absent. Please ensure that the "
            "role exists and allows principal 'sagemaker.amazonaws.com' to assume the role.",
        ),
        (
            lambda r: r["InputDataConfig"].append(r["InputDataConfig"][0]),
            "Channel names must be unique",
        ),
        (
            lambda r: r["InputDataConfig"].append(channel("train", "s3://training/absent/")),
            'No S3 objects found under S3 URL "s3://training/absent/" given in input data source.',
        ),
        (
            lambda r: r["InputDataConfig"].append(channel("train", "s3://absent-bucket/x")),
            'No S3 objects found under S3 URL "s3://absent-bucket/x"',
        ),
        (
            lambda r: r.update(
                VpcConfig={"Subnets": ["subnet-absent"], "SecurityGroupIds": ["sg-absent"]}
            ),
            "The subnet ID 'subnet-absent' does not exist",
        ),
    ],
)
def test_bad_request_is_refused(service: SageMakerService, change: Change, message: str) -> None:
    request = training_request(service, "bad", "")
    change(request)
    code, told = refused(service, request)
    assert code == "ValidationException"
    assert message in told


def test_all_that_the_model_forbids_is_told_at_once(service: SageMakerService) -> None:
    request = training_request(service, "bad", "", TrainingJobName="a_b", Environment={"1": ""})
    _, message = refused(service, request)
    assert message.startswith("2 validation errors detected: ")


def test_role_must_trust_sagemaker(service: SageMakerService) -> None:
    other = service.create_role("for-lambda", principal="lambda.amazonaws.com")
    _, message = refused(service, training_request(service, "bad", "", RoleArn=other))
    assert "allows principal 'sagemaker.amazonaws.com'" in message


def test_role_that_may_not_be_passed(service: SageMakerService) -> None:
    service.faults.forbid_passing(service.role_arn)
    code, message = refused(service, training_request(service, "bad", ""))
    assert code == "AccessDeniedException"
    assert f"is not authorized to perform: iam:PassRole on resource: {service.role_arn}" in message


def test_data_in_another_region_is_refused(service: SageMakerService) -> None:
    service.create_bucket("in-ireland", "eu-west-1")
    service.client("s3", "eu-west-1").put_object(Bucket="in-ireland", Key="x", Body=b"x")
    request = training_request(service, "bad", "")
    request["InputDataConfig"].append(channel("train", "s3://in-ireland/x"))
    _, message = refused(service, request)
    assert "The bucket is in this region: eu-west-1." in message


def test_subnets_and_security_groups_that_exist_are_taken(service: SageMakerService) -> None:
    ec2 = service.client("ec2")
    vpc = {
        "Subnets": [ec2.describe_subnets()["Subnets"][0]["SubnetId"]],
        "SecurityGroupIds": [ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]],
    }
    request = training_request(service, "bad", "", VpcConfig=vpc, TrainingJobName="a_b")
    assert "subnet" not in refused(service, request)[1]
    request["VpcConfig"]["SecurityGroupIds"] = ["sg-absent"]
    request["TrainingJobName"] = "good"
    assert "The security group 'sg-absent' does not exist" in refused(service, request)[1]


@pytest.mark.parametrize(
    ("use", "changes"),
    [
        ("training job usage", {}),
        (
            SPOT,
            {
                "EnableManagedSpotTraining": True,
                "StoppingCondition": {"MaxRuntimeInSeconds": 60, "MaxWaitTimeInSeconds": 60},
            },
        ),
    ],
)
def test_quota_of_zero(service: SageMakerService, use: str, changes: dict[str, Any]) -> None:
    request = training_request(service, "bad", "", instances=2, **changes)
    request["ResourceConfig"]["InstanceType"] = "ml.p3.2xlarge"
    service.quotas.set("ml.p3.2xlarge", 0, use)
    code, message = refused(service, request)
    assert code == "ResourceLimitExceeded"
    assert message.startswith(
        f"The account-level service limit 'ml.p3.2xlarge for {use}' is 0 Instances, with current "
        "utilization of 0 Instances and a request delta of 2 Instances."
    )


def test_warm_pools_need_a_quota_of_their_own(service: SageMakerService) -> None:
    request = training_request(service, "bad", "")
    request["ResourceConfig"]["KeepAlivePeriodInSeconds"] = 60
    code, message = refused(service, request)
    assert code == "ResourceLimitExceeded"
    assert f"'ml.m5.large for {WARM_POOL}' is 0 Instances" in message


def test_service_quotas_tell_the_quotas(service: SageMakerService) -> None:
    service.quotas.set("ml.m5.large", 7)
    client = service.client("service-quotas")
    pages = client.get_paginator("list_service_quotas").paginate(ServiceCode="sagemaker")
    quotas = {quota["QuotaName"]: quota for page in pages for quota in page["Quotas"]}
    quota = quotas["ml.m5.large for training job usage"]
    assert quota["Value"] == 7
    assert quotas["ml.m5.large for training warm pool usage"]["Value"] == 0
    code = quota["QuotaCode"]
    assert client.get_service_quota(ServiceCode="sagemaker", QuotaCode=code)["Quota"] == quota
