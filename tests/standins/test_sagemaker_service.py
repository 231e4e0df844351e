"""The stand-in as a whole: what it records, keeps and ends, and the services around SageMaker."""

import json
import threading
import urllib.request
from typing import Any

import pytest
from botocore.exceptions import ClientError

from standins.sagemaker import SageMakerService
from standins.sagemaker.examples import training_request


def test_calls_are_recorded_in_order(service: SageMakerService) -> None:
    service.create_bucket("recorded")
    s3 = service.client("s3")
    s3.put_object(Bucket="recorded", Key="a/b.txt", Body=b"x")
    s3.list_objects_v2(Bucket="recorded", Prefix="a/")
    with pytest.raises(ClientError):
        s3.head_object(Bucket="recorded", Key="absent")
    service.client("sts").get_caller_identity()
    service.client("ec2").describe_subnets(Filters=[{"Name": "default-for-az", "Values": ["true"]}])

    put, listed, head, identity, subnets = list(service.calls)[1:]
    assert (put.service, put.operation, put.status) == ("s3", "PutObject", 200)
    assert (put.parameters["Bucket"], put.parameters["Key"]) == ("recorded", "a/b.txt")
    assert (listed.operation, listed.parameters["Prefix"]) == ("ListObjectsV2", "a/")
    assert (head.operation, head.status) == ("HeadObject", 404)
    assert (identity.service, identity.operation) == ("sts", "GetCallerIdentity")
    assert subnets.parameters["Filters"] == [{"Name": "default-for-az", "Values": ["true"]}]
    assert service.calls.count("PutObject", Bucket="recorded") == 1
    assert service.calls.counts()["s3:HeadObject"] == 1


def test_calls_of_jobs_are_kept_apart(service: SageMakerService) -> None:
    request = training_request(service, "apart", "print('x')")
    service.client("sagemaker").create_training_job(**request)
    service.jobs.wait("apart")
    service.flush_logs()
    assert service.calls.counts() == {
        "s3:CreateBucket": 1,
        "s3:PutObject": 1,
        "sagemaker:CreateTrainingJob": 1,
    }
    assert {call.operation for call in service.calls.of_jobs} >= {
        "ListObjectsV2",
        "GetObject",
        "PutObject",
        "CreateLogGroup",
        "CreateLogStream",
        "PutLogEvents",
    }


def test_script_may_call_aws_unless_it_is_isolated(service: SageMakerService) -> None:
    script = (
        "import boto3, botocore.exceptions\n"
        "try:\n"
        "    boto3.client('s3').put_object(Bucket='training', Key='from-job', Body=b'')\n"
        "except botocore.exceptions.NoCredentialsError:\n"
        "    print('no credentials')\n"
    )
    sagemaker = service.client("sagemaker")
    sagemaker.create_training_job(**training_request(service, "open", script))
    isolated = training_request(service, "isolated", script, EnableNetworkIsolation=True)
    isolated["Environment"] = {"AWS_EC2_METADATA_DISABLED": "true"}
    sagemaker.create_training_job(**isolated)
    service.jobs.wait("open")
    service.jobs.wait("isolated")
    service.flush_logs()
    assert service.log("open") == []
    assert service.log("isolated") == ["no credentials"]
    keys = [call.parameters.get("Key") for call in service.calls.of_jobs]
    assert keys.count("from-job") == 1


def test_a_secret_is_found_wherever_it_is(service: SageMakerService) -> None:
    canary = "canary-4711"
    service.client("secretsmanager").create_secret(Name="s", SecretString=canary)
    assert service.find(canary) == []
    script = (
        "import os, pathlib\n"
        "word = 'canary' + '-4711'\n"
        "model = pathlib.Path(os.environ['SAGEMAKER_BASE_DIR']) / 'model'\n"
        "(model / 'notes.txt').write_text(word)\n"
        "print('log', word)\n"
    )
    request = training_request(service, "leaky", script, Environment={"PASSWORD": canary})
    service.client("sagemaker").create_training_job(**request)
    service.jobs.wait("leaky")
    service.flush_logs()
    found = service.find(canary)
    assert [where.partition(", ")[2] for where in found if where.startswith("request")] == [
        "sagemaker CreateTrainingJob",
        "logs PutLogEvents",
    ]
    assert "s3://training/models/leaky/output/model.tar.gz: notes.txt" in found


def test_jobs_are_found_by_their_tags(service: SageMakerService) -> None:
    sagemaker = service.client("sagemaker")
    for number in range(3):
        tags = [{"Key": "team", "Value": "pricing"}, {"Key": "number", "Value": str(number)}]
        sagemaker.create_training_job(
            **training_request(service, f"tagged-{number}", "", Tags=tags)
        )
    arns = [service.jobs[f"tagged-{number}"].arn for number in range(3)]
    pages = service.client("resourcegroupstaggingapi").get_paginator("get_resources")

    def find(*filters: dict[str, Any]) -> list[list[str]]:
        return [
            [resource["ResourceARN"] for resource in page["ResourceTagMappingList"]]
            for page in pages.paginate(
                ResourceTypeFilters=["sagemaker:training-job"],
                TagFilters=list(filters),
                ResourcesPerPage=2,
            )
        ]

    assert find({"Key": "team"}) == [arns[:2], arns[2:]]
    assert find({"Key": "team"}, {"Key": "number", "Values": ["1"]}) == [arns[1:2]]
    sagemaker.add_tags(ResourceArn=arns[0], Tags=[{"Key": "team", "Value": "other"}])
    assert find({"Key": "team", "Values": ["pricing"]}) == [arns[1:]]
    assert {"Key": "team", "Value": "other"} in sagemaker.list_tags(ResourceArn=arns[0])["Tags"]
    sagemaker.delete_tags(ResourceArn=arns[1], TagKeys=["team"])
    assert find({"Key": "team", "Values": ["pricing"]}) == [arns[2:]]


def test_only_one_of_many_creates_an_object(service: SageMakerService) -> None:
    service.create_bucket("once")
    s3 = service.client("s3")
    outcomes: list[int] = []

    def put(number: int) -> None:
        try:
            s3.put_object(Bucket="once", Key="k", Body=str(number).encode(), IfNoneMatch="*")
            outcomes.append(200)
        except ClientError as error:
            outcomes.append(error.response["ResponseMetadata"]["HTTPStatusCode"])

    threads = [threading.Thread(target=put, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [200] + [412] * 7

    upload = s3.create_multipart_upload(Bucket="once", Key="k")["UploadId"]
    part = s3.upload_part(Bucket="once", Key="k", UploadId=upload, PartNumber=1, Body=b"x")
    parts = {"Parts": [{"ETag": part["ETag"], "PartNumber": 1}]}
    with pytest.raises(ClientError, match="PreconditionFailed"):
        s3.complete_multipart_upload(
            Bucket="once", Key="k", UploadId=upload, MultipartUpload=parts, IfNoneMatch="*"
        )


def test_bucket_in_another_region_is_said_to_be_there(service: SageMakerService) -> None:
    service.create_bucket("in-frankfurt", "eu-central-1")
    head = service.client("s3").head_bucket(Bucket="in-frankfurt")
    assert head["BucketRegion"] == "eu-central-1"
    assert [call.status for call in service.calls.of("HeadBucket")] == [301, 200]


def test_what_moto_cannot_do_is_an_error_at_once(service: SageMakerService) -> None:
    with pytest.raises(ClientError, match="NotInStandIn"):
        service.client("sagemaker").create_context(
            ContextName="x", Source={"SourceUri": "x"}, ContextType="x"
        )
    assert service.calls.count("CreateContext") == 1


def test_services_around_sagemaker_answer(service: SageMakerService) -> None:
    account = service.client("sts").get_caller_identity()["Account"]
    assert account == service.account
    ecr = service.client("ecr")
    ecr.create_repository(repositoryName="xgboost")
    assert ecr.describe_repositories()["repositories"][0]["repositoryName"] == "xgboost"
    secrets = service.client("secretsmanager")
    secrets.create_secret(Name="snowflake", SecretString="{}")
    assert secrets.get_secret_value(SecretId="snowflake")["SecretString"] == "{}"
    assert service.client("iam").get_role(RoleName="sagemaker-execution")["Role"]["Arn"]


@pytest.mark.parametrize("architectures", [("amd64",), ("amd64", "arm64")])
def test_images_tell_what_they_are_built_for(
    service: SageMakerService, architectures: tuple[str, ...]
) -> None:
    tag = "-".join(architectures)
    uri = "683313688378.dkr.ecr.us-east-1.amazonaws.com/sagemaker-xgboost"
    digest = service.images.add(f"{uri}:{tag}", architectures)
    where = {"registryId": "683313688378", "repositoryName": "sagemaker-xgboost"}
    ecr = service.client("ecr")
    answer = ecr.batch_get_image(**where, imageIds=[{"imageTag": tag}, {"imageTag": "absent"}])
    (image,) = answer["images"]
    assert image["imageId"] == {"imageDigest": digest, "imageTag": tag}
    assert answer["failures"][0]["failureCode"] == "ImageNotFound"
    manifest = json.loads(image["imageManifest"])
    if len(architectures) == 1:
        layer = manifest["config"]["digest"]
        download = ecr.get_download_url_for_layer(**where, layerDigest=layer)
        with urllib.request.urlopen(download["downloadUrl"]) as content:
            assert json.loads(content.read())["architecture"] == "amd64"
    else:
        platforms = [entry["platform"]["architecture"] for entry in manifest["manifests"]]
        assert platforms == list(architectures)
    with pytest.raises(ecr.exceptions.RepositoryNotFoundException):
        ecr.batch_get_image(**where | {"repositoryName": "absent"}, imageIds=[{"imageTag": "x"}])


def test_there_is_one_service_in_a_process(service: SageMakerService) -> None:
    with pytest.raises(RuntimeError, match="moto knows one state only"):
        SageMakerService().__enter__()
