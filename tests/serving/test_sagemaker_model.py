"""What Models of SageMaker are requested with, by botocore's own model of the API."""

from pathlib import Path
from typing import Any, NoReturn

import pytest

from sf_sagemaker.aws import Aws
from sf_sagemaker.s3 import S3Storage
from sf_sagemaker.serving.sagemaker_model import Container, SageMakerModels

ROLE = "arn:aws:iam::123456789012:role/training"
IMAGE = "763104351884.dkr.ecr.eu-central-1.amazonaws.com/huggingface-pytorch-tgi-inference:2.0.1"
ARCHIVE = "s3://models/a/model.tar.gz"


def request_of(*containers: Container) -> dict[str, Any]:
    """A CreateModel request that botocore takes."""
    from botocore.session import get_session
    from botocore.validate import validate_parameters

    def fetch(name: str, folder: Path) -> NoReturn:
        raise AssertionError(f"no artifact is needed, and that of {name} was asked for")

    aws = Aws("eu-central-1")
    request = SageMakerModels(aws, S3Storage(aws, "models", "p"), ROLE, fetch).request(
        "incident_triage", containers
    )
    service = get_session().get_service_model("sagemaker")
    validate_parameters(request, service.operation_model("CreateModel").input_shape)
    return request


def test_an_archive_is_named() -> None:
    assert request_of(Container(IMAGE, ARCHIVE))["PrimaryContainer"] == {
        "Image": IMAGE,
        "ModelDataUrl": ARCHIVE,
        "Environment": {},
    }


def test_a_container_without_files_names_none() -> None:
    (first, second) = request_of(Container(IMAGE, ARCHIVE), Container(IMAGE, None))["Containers"]
    assert first["ModelDataUrl"] == ARCHIVE
    assert second == {"Image": IMAGE, "Environment": {}}


@pytest.mark.parametrize(
    "other",
    [Container(IMAGE, "s3://models/b/model.tar.gz"), Container(IMAGE, ARCHIVE, {"SM_NUM_GPUS": "4"}),
     Container(IMAGE + "0", ARCHIVE)],
)  # fmt: skip
def test_the_name_follows_from_what_is_in_it(other: Container) -> None:
    name = request_of(Container(IMAGE, ARCHIVE))["ModelName"]
    assert name == request_of(Container(IMAGE, ARCHIVE))["ModelName"]
    assert name.startswith("incident-triage-")
    assert request_of(other)["ModelName"] != name
