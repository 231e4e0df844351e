"""The stand-in's batch transform jobs: split, batched, joined and filtered as the documentation says."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from serving.transform_site import TransformSite, transform_site
from sf_sagemaker.serving.endpoint import ServedModel
from standins.sagemaker.json_path import select
from standins.sagemaker.service import SageMakerService

JOINED = {"InputFilter": "$[1:]", "JoinSource": "Input", "OutputFilter": "$[0,-1]"}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("$", {"id": 1, "features": [4, 5, 6], "a": {"b": 2}}),
        ("$.features", [4, 5, 6]),
        ("$.features[0]", 4),
        ("$.features[-1]", 6),
        ("$.features[0,2]", [4, 6]),
        ("$.features[1:]", [5, 6]),
        ("$.features[:2]", [4, 5]),
        ("$['id','features']", {"id": 1, "features": [4, 5, 6]}),
        ("$.a.['b']", 2),
        ("$['a']['b']", 2),
    ],
)
def test_paths_select_as_documented(path: str, expected: Any) -> None:
    assert select({"id": 1, "features": [4, 5, 6], "a": {"b": 2}}, path) == expected


@pytest.mark.parametrize(
    ("path", "error"), [("id", ValueError), ("$?", ValueError), ("$.x", KeyError)]
)
def test_paths_that_select_nothing(path: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        select({"id": 1}, path)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TransformSite]:
    folder: Path = tmp_path_factory.mktemp("site")
    with (
        SageMakerService() as service,
        pytest.MonkeyPatch.context() as patch,
        transform_site(service, folder, patch, "standin") as made,
    ):
        yield made


def request(site: TransformSite, name: str, content: bytes, **changes: Any) -> dict[str, Any]:
    """A CreateTransformJob request for one object of CSV."""
    model = ServedModel("houses", 1, "houses-job-1", "s3://x/y", "xgboost")
    site.storage.create(f"in/{name}/rows.csv", content)
    return {
        "TransformJobName": name,
        "ModelName": site.models.ensure_model(model),
        "TransformInput": {
            "DataSource": {
                "S3DataSource": {
                    "S3DataType": "S3Prefix",
                    "S3Uri": site.storage.uri(f"in/{name}") + "/",
                }
            },
            "ContentType": "text/csv",
            "SplitType": "Line",
        },
        "TransformOutput": {
            "S3OutputPath": site.storage.uri(f"out/{name}"),
            "Accept": "text/csv",
            "AssembleWith": "Line",
        },
        "TransformResources": {"InstanceType": "ml.m5.xlarge", "InstanceCount": 1},
        **changes,
    }


def run(site: TransformSite, wanted: dict[str, Any]) -> dict[str, Any]:
    client = site.service.client("sagemaker")
    client.create_transform_job(**wanted)
    site.service.transforms.wait(wanted["TransformJobName"])
    return client.describe_transform_job(TransformJobName=wanted["TransformJobName"])


@pytest.mark.slow
def test_rows_of_csv_are_joined_with_their_predictions(site: TransformSite) -> None:
    rows = b'"a, b",3,0.5,south\nc,2,0.1,\nd,,0.9,north\n'
    ended = run(site, request(site, "csv", rows, DataProcessing=JOINED))
    assert ended["TransformJobStatus"] == "Completed", ended
    assert ended["TransformStartTime"] <= ended["TransformEndTime"]
    lines = site.storage.read("out/csv/rows.csv.out").decode().splitlines()
    assert [line.rpartition(",")[0] for line in lines] == ['"a, b"', "c", "d"]
    assert all(float(line.rpartition(",")[2]) > 0 for line in lines)
    assert site.service.transforms["csv"].invocations == 1


@pytest.mark.slow
def test_one_record_at_a_time(site: TransformSite) -> None:
    rows = b"3,0.5,south\n2,0.1,\n"
    ended = run(site, request(site, "single", rows, BatchStrategy="SingleRecord"))
    assert ended["TransformJobStatus"] == "Completed", ended
    assert site.service.transforms["single"].invocations == 2
    assert len(site.storage.read("out/single/rows.csv.out").splitlines()) == 2


@pytest.mark.slow
def test_a_record_that_is_larger_than_a_payload_fails_the_job(site: TransformSite) -> None:
    rows = b"3,0.5,south\n2,0.1," + b"x" * 2**20
    ended = run(site, request(site, "large", rows, MaxPayloadInMB=1))
    assert ended["TransformJobStatus"] == "Failed"
    assert ended["FailureReason"] == "ClientError: See job logs for more information"
    assert list(site.storage.list("out/large")) == []


def test_requests_that_are_refused(site: TransformSite) -> None:
    client = site.service.client("sagemaker")
    wanted = request(site, "refused", b"3,0.5,south\n")
    source = wanted["TransformInput"]
    for changes, said in (
        ({"ModelName": "no-such-model"}, "Could not find model"),
        ({"TransformInput": {**source, "SplitType": "None"}, "BatchStrategy": "MultiRecord"},
         "BatchStrategy needs a SplitType"),
        ({"MaxPayloadInMB": 30, "MaxConcurrentTransforms": 4}, "must not exceed 100 MB"),
        ({"DataProcessing": JOINED, "TransformInput": {**source, "ContentType": "text/plain"}},
         "the same ContentType and Accept"),
        ({"TransformResources": {"InstanceType": "ml.x1", "InstanceCount": 1}}, "enum value set"),
    ):  # fmt: skip
        with pytest.raises(ClientError, match=said):
            client.create_transform_job(**{**wanted, **changes})
    for operation in (client.describe_transform_job, client.stop_transform_job):
        with pytest.raises(ClientError, match="Could not find requested job with name: refused"):
            operation(TransformJobName="refused")
    assert "refused" not in [job.name for job in site.service.transforms.all()]
