"""The stand-in for Bedrock refuses what Bedrock refuses."""

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from standins.sagemaker.bedrock import Written
from standins.sagemaker.fixtures import service, shared_service
from standins.sagemaker.service import SageMakerService

__all__ = ["service", "shared_service"]

MODEL = "anthropic.claude-3-haiku-20240307-v1:0"


def converse(service: SageMakerService, *turns: str, **changes: Any) -> dict[str, Any]:
    messages = [
        {"role": ("user", "assistant")[number % 2], "content": [{"text": text}]}
        for number, text in enumerate(turns)
    ]
    request = {
        "modelId": MODEL,
        "messages": messages,
        "inferenceConfig": {"maxTokens": 3},
        **changes,
    }
    return service.client("bedrock-runtime").converse(**request)


def code_of(error: pytest.ExceptionInfo[ClientError]) -> str:
    return error.value.response["Error"]["Code"]


def test_answers_are_counted_and_cut(service: SageMakerService) -> None:
    service.bedrock.model = lambda heard: Written(f"{len(heard.messages)} messages, and more")
    answer = converse(service, "one", "two", "three words here")
    assert answer["output"]["message"]["content"] == [{"text": "3 messages,"}]
    assert answer["stopReason"] == "max_tokens"
    assert answer["usage"] == {"inputTokens": 5 + 9, "outputTokens": 3, "totalTokens": 17}
    assert service.bedrock.billed == {"input": 14, "output": 3}


@pytest.mark.parametrize(
    ("turns", "changes"),
    [
        (("one", "two"), {}),
        ((" ",), {}),
        (("one",), {"modelId": "not a model"}),
        (("one",), {"inferenceConfig": {"temperature": 2.0}}),
        ((), {"messages": [{"role": "assistant", "content": [{"text": "one"}]}]}),
    ],
)
def test_what_the_api_forbids(
    service: SageMakerService, turns: tuple[str, ...], changes: dict[str, Any]
) -> None:
    with pytest.raises(ClientError) as error:
        converse(service, *turns, **changes)
    assert code_of(error) == "ValidationException"
    assert service.bedrock.billed == {"input": 0, "output": 0}


def batch(service: SageMakerService, records: int, **changes: Any) -> str:
    body = [
        {
            "recordId": f"{number:011d}",
            "modelInput": {
                "anthropic_version": "bedrock-2023-05-31",
                "max_tokens": 3,
                "messages": [{"role": "user", "content": [{"type": "text", "text": "one"}]}],
            },
        }
        for number in range(records)
    ]
    if service.state.bucket_region("questions") is None:
        service.create_bucket("questions")
        service.create_role("batches", "bedrock.amazonaws.com")
    service.client("s3").put_object(
        Bucket="questions", Key="in.jsonl", Body="\n".join(map(json.dumps, body)).encode()
    )
    request = {
        "jobName": "a-batch",
        "roleArn": f"arn:aws:iam::{service.account}:role/batches",
        "modelId": MODEL,
        "clientRequestToken": changes.pop("token", "a-token"),
        "inputDataConfig": {"s3InputDataConfig": {"s3Uri": "s3://questions/in.jsonl"}},
        "outputDataConfig": {"s3OutputDataConfig": {"s3Uri": "s3://questions/out/"}},
        **changes,
    }
    return service.client("bedrock").create_model_invocation_job(**request)["jobArn"]


def ended(service: SageMakerService, arn: str) -> dict[str, Any]:
    (job,) = [one for one in service.bedrock.batches() if one.arn == arn]
    assert job.finished.wait(10)
    return service.client("bedrock").get_model_invocation_job(jobIdentifier=arn)


def test_a_batch_with_too_few_records_fails(service: SageMakerService) -> None:
    job = ended(service, batch(service, 99, token="few"))
    assert job["status"] == "Failed"
    assert "less records (99) than the required minimum of: 100" in job["message"]


def test_a_token_creates_one_job(service: SageMakerService) -> None:
    first = batch(service, 100, token="same")
    assert batch(service, 100, token="same") == first
    assert batch(service, 100, token="other") != first
    assert ended(service, first)["status"] == "Completed"
    with pytest.raises(ClientError) as error:
        service.client("bedrock").stop_model_invocation_job(jobIdentifier=first)
    assert code_of(error) == "ConflictException"
    listing = service.client("bedrock").get_paginator("list_model_invocation_jobs")
    pages = list(listing.paginate(nameContains="a-bat"))
    assert len(pages) > 1
    assert first in [one["jobArn"] for page in pages for one in page["invocationJobSummaries"]]


@pytest.mark.parametrize(
    "changes",
    [
        {"jobName": "no spaces allowed"},
        {"timeoutDurationInHours": 169},
        {"roleArn": "arn:aws:iam::123456789012:role/nobody"},
        {"outputDataConfig": {"s3OutputDataConfig": {"s3Uri": "s3://elsewhere/out/"}}},
    ],
)
def test_batches_that_are_refused(service: SageMakerService, changes: dict[str, Any]) -> None:
    with pytest.raises(ClientError) as error:
        batch(service, 100, token="refused", **changes)
    assert code_of(error) == "ValidationException"
