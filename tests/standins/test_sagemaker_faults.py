"""Faults on demand and limits on rates, as boto3's clients see them."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError

from standins.sagemaker import SageMakerService
from standins.sagemaker.clients import make_client
from standins.sagemaker.examples import training_request
from standins.sagemaker.service import ACCESS_KEY


def code(call: Callable[[], Any]) -> str:
    with pytest.raises(ClientError) as error:
        call()
    return error.value.response["Error"]["Code"]


def impatient(service: SageMakerService, name: str) -> Any:
    """A client that tries once."""
    return make_client(service.endpoint_url, name, service.region, ACCESS_KEY, attempts=1)


def test_throttling_as_each_service_words_it(service: SageMakerService) -> None:
    for operation in ("DescribeTrainingJob", "ListBuckets", "GetCallerIdentity", "DescribeVpcs"):
        service.faults.throttle(operation)
    assert service.faults.left() == [
        "DescribeTrainingJob x1",
        "ListBuckets x1",
        "GetCallerIdentity x1",
        "DescribeVpcs x1",
    ]
    sagemaker = impatient(service, "sagemaker")

    def describe() -> Any:
        return sagemaker.describe_training_job(TrainingJobName="x")

    assert code(describe) == "ThrottlingException"
    assert code(impatient(service, "s3").list_buckets) == "SlowDown"
    assert code(impatient(service, "sts").get_caller_identity) == "Throttling"
    assert code(impatient(service, "ec2").describe_vpcs) == "RequestLimitExceeded"
    assert service.faults.left() == []
    assert code(describe) == "ValidationException"


def test_throttling_and_500s_are_overcome_by_retries(service: SageMakerService) -> None:
    service.faults.throttle("ListBuckets")
    service.faults.internal_error("ListBuckets")
    service.client("s3").list_buckets()
    assert [call.status for call in service.calls.of("ListBuckets")] == [503, 500, 200]


def test_denied_calls(service: SageMakerService) -> None:
    service.faults.deny("PutObject", where=lambda request: request.parameters["Bucket"] == "mine")
    service.faults.deny("DescribeTrainingJob")
    service.create_bucket("mine")
    service.create_bucket("yours")
    s3, sagemaker = service.client("s3"), service.client("sagemaker")
    s3.put_object(Bucket="yours", Key="x", Body=b"")
    assert code(lambda: s3.put_object(Bucket="mine", Key="x", Body=b"")) == "AccessDenied"
    described = code(lambda: sagemaker.describe_training_job(TrainingJobName="x"))
    assert described == "AccessDeniedException"


def test_expired_credentials(service: SageMakerService) -> None:
    service.faults.expire_credentials()
    sagemaker, s3, sts = (service.client(name) for name in ("sagemaker", "s3", "sts"))
    assert code(sagemaker.list_training_jobs) == "ExpiredTokenException"
    assert code(s3.list_buckets) == "ExpiredToken"
    assert code(sts.get_caller_identity) == "ExpiredToken"


def test_lost_answer_is_that_of_a_created_job(service: SageMakerService) -> None:
    service.faults.lose_answer("CreateTrainingJob")
    request = training_request(service, "unheard", "")
    with pytest.raises(ConnectionClosedError):
        impatient(service, "sagemaker").create_training_job(**request)
    assert service.jobs.wait("unheard").status == "Completed"
    (call,) = service.calls.of("CreateTrainingJob")
    assert (call.status, call.answered) == (200, False)

    # A client that retries by itself is told that its own job is in the way.
    service.faults.lose_answer("CreateTrainingJob")
    request = training_request(service, "unheard-again", "")
    retrying = service.client("sagemaker")
    assert code(lambda: retrying.create_training_job(**request)) == "ResourceInUse"


def test_lost_request_is_not_carried_out(service: SageMakerService) -> None:
    service.faults.lose_request("CreateTrainingJob")
    request = training_request(service, "lost", "")
    client = impatient(service, "sagemaker")
    with pytest.raises(ConnectionClosedError):
        client.create_training_job(**request)
    client.create_training_job(**request)


def test_new_job_is_unknown_for_a_while(service: SageMakerService) -> None:
    service.settings.hidden_seconds = 0.5
    sagemaker = service.client("sagemaker")
    request = training_request(service, "hidden", "")
    sagemaker.create_training_job(**request)

    def describe() -> Any:
        return sagemaker.describe_training_job(TrainingJobName="hidden")

    assert code(describe) == "ValidationException"
    assert code(lambda: sagemaker.create_training_job(**request)) == "ResourceInUse"
    time.sleep(0.6)
    assert describe()["TrainingJobName"] == "hidden"


def test_rates_are_limited_by_buckets_of_tokens(service: SageMakerService) -> None:
    service.limits.set("DescribeTrainingJob", per_second=0.5, burst=3)
    sagemaker = impatient(service, "sagemaker")

    def describe() -> str:
        return code(lambda: sagemaker.describe_training_job(TrainingJobName="x"))

    passed, throttled = "ValidationException", "ThrottlingException"
    assert [describe() for _ in range(5)] == [passed] * 3 + [throttled] * 2
    time.sleep(2.1)
    assert [describe() for _ in range(2)] == [passed, throttled]


def test_delayed_answer(service: SageMakerService) -> None:
    service.faults.delay("ListBuckets", seconds=0.3)
    began = time.monotonic()
    service.client("s3").list_buckets()
    assert time.monotonic() - began > 0.3


def test_capacity_error_fails_the_next_job_only(service: SageMakerService) -> None:
    service.faults.capacity_error()
    sagemaker = service.client("sagemaker")
    for name in ("without-capacity", "with-capacity"):
        sagemaker.create_training_job(**training_request(service, name, ""))
        service.jobs.wait(name)
    job = sagemaker.describe_training_job(TrainingJobName="without-capacity")
    assert job["FailureReason"] == (
        "CapacityError: Unable to provision requested ML compute capacity. "
        "Please retry using a different ML instance type."
    )
    assert "TrainingStartTime" not in job
    assert service.jobs["with-capacity"].status == "Completed"


def test_internal_failure_of_a_running_job(service: SageMakerService) -> None:
    service.faults.internal_failure(after_seconds=0.2)
    request = training_request(service, "internal", "import time; time.sleep(60)")
    service.client("sagemaker").create_training_job(**request)
    job = service.jobs.wait("internal", timeout=20)
    assert job.failure_reason == (
        "InternalServerError: We encountered an internal error. Please try again."
    )


def test_artifact_can_be_removed(service: SageMakerService) -> None:
    request = training_request(service, "bare", "")
    service.client("sagemaker").create_training_job(**request)
    service.jobs.wait("bare")
    key = "models/bare/output/model.tar.gz"
    s3 = service.client("s3")
    s3.head_object(Bucket="training", Key=key)
    service.jobs.remove_artifact("bare")
    assert code(lambda: s3.head_object(Bucket="training", Key=key)) == "404"


def test_job_can_go_away_while_it_runs(service: SageMakerService) -> None:
    sagemaker = service.client("sagemaker")
    request = training_request(service, "gone", "import time; time.sleep(60)")
    sagemaker.create_training_job(**request)
    service.jobs["gone"].wait_for("Training")
    service.jobs.forget("gone")
    described = code(lambda: sagemaker.describe_training_job(TrainingJobName="gone"))
    assert described == "ValidationException"
