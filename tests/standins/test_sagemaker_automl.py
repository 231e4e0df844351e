"""AutoML jobs of the stand-in, as a client of AWS sees them."""

import io
import uuid
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import ClientError

from standins.sagemaker.service import SageMakerService

ROWS = {"input": ["red fruit", "yellow fruit"] * 10, "output": ["apple", "banana"] * 10}


def request(service: SageMakerService, rows: Any = None, **config: Any) -> dict[str, Any]:
    """A request, with its data in a bucket of its own: CSV where `rows` are bytes."""
    bucket = service.create_bucket(f"automl-{uuid.uuid4().hex[:8]}")
    content = io.BytesIO()
    pq.write_table(pa.table(rows if isinstance(rows, dict) else ROWS), content)
    is_csv = isinstance(rows, bytes)
    body = rows if is_csv else content.getvalue()
    service.client("s3").put_object(
        Bucket=bucket, Key=f"data/rows.{'csv' if is_csv else 'parquet'}", Body=body
    )
    source = {"S3DataType": "S3Prefix", "S3Uri": f"s3://{bucket}/data/"}
    kind = "text/csv;header=present" if is_csv else "x-application/vnd.amazon+parquet"
    return {
        "AutoMLJobName": f"job-{uuid.uuid4().hex[:8]}",
        "AutoMLJobInputDataConfig": [
            {
                "ChannelType": "training",
                "ContentType": kind,
                "DataSource": {"S3DataSource": source},
            }
        ],
        "OutputDataConfig": {"S3OutputPath": f"s3://{bucket}/out"},
        "AutoMLProblemTypeConfig": {"TextGenerationJobConfig": config},
        "RoleArn": service.role_arn,
        "Tags": [{"Key": "team", "Value": bucket}],
    }


def create(service: SageMakerService, wanted: dict[str, Any]) -> str:
    service.client("sagemaker").create_auto_ml_job_v2(**wanted)
    return wanted["AutoMLJobName"]


@pytest.mark.parametrize(
    "rows", [None, b"input,output\nred fruit,apple\nyellow fruit,banana\n"], ids=["Parquet", "CSV"]
)
def test_a_job_goes_its_way_to_a_model(service: SageMakerService, rows: bytes | None) -> None:
    wanted = request(service, rows)
    name = create(service, wanted)
    job = service.automl.wait(name)
    assert job.status == "Completed", job.failure_reason
    answer = service.client("sagemaker").describe_auto_ml_job_v2(AutoMLJobName=name)
    [container] = answer["BestCandidate"]["InferenceContainers"]
    bucket, _, key = container["ModelDataUrl"].removeprefix("s3://").partition("/")
    assert service.client("s3").head_object(Bucket=bucket, Key=key)["ContentLength"] > 100
    [candidate] = service.client("sagemaker").list_candidates_for_auto_ml_job(AutoMLJobName=name)[
        "Candidates"
    ]
    assert candidate["CandidateSteps"] == answer["BestCandidate"]["CandidateSteps"]
    found = service.client("resourcegroupstaggingapi").get_resources(
        ResourceTypeFilters=["sagemaker:automl-job"],
        TagFilters=[{"Key": "team", "Values": [bucket]}],
    )["ResourceTagMappingList"]
    assert [one["ResourceARN"] for one in found] == [job.arn]


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"BaseModelName": "Llama2-7B"}, "end-user license agreement"),
        ({"BaseModelName": "Llama2-7B", "ModelAccessConfig": {"AcceptEula": False}}, "license"),
        ({"CompletionCriteria": {"MaxCandidates": 2}}, "MaxCandidates must be 1"),
        ({"TextGenerationHyperParameters": {"batchSize": "65"}}, "Invalid value 65"),
        ({"TextGenerationHyperParameters": {"loraRank": "8"}}, "hyperparameter loraRank"),
    ],
)
def test_what_is_refused(service: SageMakerService, config: dict[str, Any], says: str) -> None:
    with pytest.raises(ClientError, match=says):
        create(service, request(service, **config))


def test_names_are_used_once_whatever_their_case(service: SageMakerService) -> None:
    wanted = request(service)
    create(service, wanted)
    with pytest.raises(ClientError, match="ResourceInUse"):
        create(service, {**wanted, "AutoMLJobName": wanted["AutoMLJobName"].upper()})
    with pytest.raises(ClientError, match="ResourceNotFound"):
        service.client("sagemaker").describe_auto_ml_job_v2(AutoMLJobName="never-was")


@pytest.mark.parametrize(
    ("rows", "config", "says"),
    [
        ({"prompt": ["a"], "completion": ["b"]}, {}, "exactly two columns"),
        ({**ROWS, "key": [1] * 20}, {}, "exactly two columns"),
        ({"input": ["a"] * 1001, "output": ["b"] * 1001}, {}, "1001 rows, the limit is 1000"),
        ({"input": ["a" * 9000] * 3, "output": ["b"] * 3}, {"BaseModelName": "Mistral7B"},
         "3 of 3 rows exceed the context of 2048"),
    ],
)  # fmt: skip
def test_what_fails(
    service: SageMakerService, rows: dict[str, Any], config: dict[str, Any], says: str
) -> None:
    job = service.automl.wait(create(service, request(service, rows, **config)))
    assert job.status == "Failed"
    assert says in (job.failure_reason or "")
    assert job.training_job is None


def test_a_job_that_has_ended_can_not_be_stopped(service: SageMakerService) -> None:
    service.settings.starting_seconds = 30
    name = create(service, request(service))
    client = service.client("sagemaker")
    client.stop_auto_ml_job(AutoMLJobName=name)
    assert service.automl.wait(name).secondary == "Stopped"
    with pytest.raises(ClientError, match="is in status Stopped"):
        client.stop_auto_ml_job(AutoMLJobName=name)
