"""Base models for training jobs on SageMaker: how a job gets one, and what tells it from another.

A model in S3 or of JumpStart comes as an input channel, which needs no network. A model of the Hugging
Face hub is fetched by the program, so the job must have a way out.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sf_sagemaker.aws import AccessDenied, Aws, AwsError, translated
from sf_sagemaker.containers.llm.base_model import CHANNEL
from sf_sagemaker.containers.llm.base_model_name import BaseModelMissing, BaseModelName
from sf_sagemaker.containers.llm.s3_base_model import list_base_model
from sf_sagemaker.training.errors import BaseModelRefused
from sf_sagemaker.training.job import ExternalChannel
from sf_sagemaker.training.platform import GivenBaseModel

PUBLIC_HUB = "SageMakerPublicHub"  # where DescribeHubContent knows JumpStart's models
_ANYWHERE = "0.0.0.0/0"


def give_base_model(
    aws: Aws, name: BaseModelName, *, accept_eula: bool, isolated: bool, subnets: Sequence[str]
) -> GivenBaseModel:
    """How a job gets its base. `isolated` jobs have no network, others that of their subnets.

    Raises BaseModelRefused, and AwsError.
    """
    if name.kind in ("folder", "package"):
        how = " (step 7 of docs/production.md has the commands)" if name.kind == "package" else ""
        raise BaseModelRefused(
            f"base_model is {name.text!r}, which is on this machine, and a SageMaker job can't read it: "
            "copy the model's config.json, tokenizer files and *.safetensors to a prefix in S3 and name "
            f"that, s3://bucket/prefix{how}, or a hub id, or jumpstart:<model id>"
        )
    if name.kind == "s3":
        return _from_s3(aws, name)
    if name.kind == "jumpstart":
        return _from_jumpstart(aws, name, accept_eula=accept_eula)
    fetched = (
        f"base_model is {name.text!r}, which the job would fetch from the Hugging Face hub, and "
    )
    copy = "copy the model to S3 and name that (s3://bucket/prefix)"
    if isolated:
        raise BaseModelRefused(
            f"{fetched}compute.network_isolation cuts it off: {copy}, or let the job have network"
        )
    if subnets and _has_no_way_out(aws, subnets):
        raise BaseModelRefused(
            f"{fetched}its subnets {', '.join(subnets)} have no default route that a host without a "
            f"public address can take, such as one to a NAT gateway: {copy}, or add one"
        )
    return GivenBaseModel(name.text)


def _from_s3(aws: Aws, name: BaseModelName) -> GivenBaseModel:
    try:
        with translated(f"look at the base model {name.text}"):
            found = list_base_model(aws.client("s3"), name)
    except BaseModelMissing as error:
        raise BaseModelRefused(str(error)) from error
    except AwsError as error:
        if error.code != "NoSuchBucket":
            raise
        raise BaseModelRefused(f"base_model {name.text!r}: there is no such bucket") from error
    uri = name.name if name.is_archive else f"{name.name}/"
    return GivenBaseModel(name.name, ExternalChannel(CHANNEL, uri, found.identity))


def _from_jumpstart(aws: Aws, name: BaseModelName, *, accept_eula: bool) -> GivenBaseModel:
    """The S3 address of a model of JumpStart, whose versions don't change.

    The fields of the document are those that sagemaker.core.jumpstart.hub.interfaces reads.
    """
    version = {} if name.version is None else {"HubContentVersion": name.version}
    try:
        with translated(f"look up {name.text} in JumpStart"):
            content = aws.client("sagemaker").describe_hub_content(
                HubName=PUBLIC_HUB, HubContentType="Model", HubContentName=name.name, **version
            )
    except AwsError as error:
        if error.code not in ("ResourceNotFound", "ResourceNotFoundException"):
            raise
        raise BaseModelRefused(
            f"base_model {name.text!r}: JumpStart has no such model, or no such version of it, in "
            f"{aws.region}: take its id from JumpStart's list of models"
        ) from error
    document: Mapping[str, Any] = json.loads(content["HubContentDocument"])
    terms = document.get("HostingEulaUri")
    gated = bool(document.get("GatedBucket")) or bool(terms)
    if gated and not accept_eula:
        raise BaseModelRefused(
            f"base_model {name.text!r} has terms of use (an EULA{f', {terms}' if terms else ''}): read "
            "them, and set accept_eula: true beside base_model where you accept them"
        )
    uri = document.get("TrainingArtifactUri") or document.get("HostingArtifactUri")
    if not uri:
        raise BaseModelRefused(
            f"base_model {name.text!r}: JumpStart names no artifact of it to train from: take another "
            "model, or a copy in S3"
        )
    identity = f"{name.name}:{content['HubContentVersion']}"
    return GivenBaseModel(
        uri.rstrip("/"), ExternalChannel(CHANNEL, uri, identity, accept_eula=gated)
    )


def _has_no_way_out(aws: Aws, subnets: Sequence[str]) -> bool:
    """Whether no subnet has a route to the internet that a training job can take.

    False also where the caller may not find out.
    """
    ec2 = aws.client("ec2")
    try:
        with translated("look at the routes of the subnets"):
            described = ec2.describe_subnets(SubnetIds=list(subnets))["Subnets"]
            networks = sorted({one["VpcId"] for one in described})
            tables = ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": networks}])
    except AccessDenied:
        return False
    except AwsError as error:
        if error.code.startswith("InvalidSubnet"):
            return False  # what is wrong then, SageMaker says
        raise
    # A subnet without a table of its own has its network's main one.
    routes = {
        link.get("SubnetId", table["VpcId"]): table["Routes"]
        for table in tables["RouteTables"]
        for link in table["Associations"]
        if "SubnetId" in link or link.get("Main")
    }
    return not any(
        _leads_out(routes.get(one["SubnetId"], routes.get(one["VpcId"], []))) for one in described
    )


def _leads_out(routes: Sequence[Mapping[str, Any]]) -> bool:
    """Whether there is a default route, and not to an internet gateway.

    Such a gateway passes on nothing from hosts without a public address, as those of jobs are.
    """
    return any(
        route.get("DestinationCidrBlock") == _ANYWHERE
        and not route.get("GatewayId", "").startswith("igw-")
        for route in routes
    )
