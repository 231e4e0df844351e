"""What the deployment `aws` needs of AWS: who calls, storage, roles, images, quotas."""

import json
import re
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from sf_sagemaker.aws import AccessDenied, Aws, AwsError, translated
from sf_sagemaker.aws_settings import AwsSettings
from sf_sagemaker.commands.checks import Check, CheckFailed, NotChecked
from sf_sagemaker.containers.llm.base_model_name import BaseModelName
from sf_sagemaker.s3 import S3Storage
from sf_sagemaker.storage import KeyExists, KeyMissing
from sf_sagemaker.training.job import Limits
from sf_sagemaker.training.platform import JobNotFound, JobRefused
from sf_sagemaker.training.sagemaker import SageMakerTrainingPlatform

POLICIES = Path(__file__).resolve().parents[2] / "deploy" / "iam"
_SAGEMAKER = "sagemaker.amazonaws.com"


@dataclass(frozen=True)
class Instances:
    """What a model of the code location trains on: `count` instances a job, `jobs` of them at once."""

    model: str
    framework: str
    instance_type: str
    count: int
    jobs: int
    spot: bool
    image: str | None


@dataclass(frozen=True)
class Transforms:
    """What large periods of a model of the code location are scored on: `count` instances a job."""

    model: str
    instance_type: str
    count: int


@dataclass(frozen=True)
class Endpoints:
    """What a model of the code location answers on: `count` instances, which an update doubles.

    `instance_type` is None for a serverless endpoint.
    """

    model: str
    instance_type: str | None
    count: int


@dataclass(frozen=True)
class Base:
    """The base that a language model of the code location is fine-tuned from, under its limits."""

    model: str
    name: str
    limits: Limits
    accept_eula: bool


class AwsChecks:
    """The steps, in order; each finds out something that later ones use."""

    def __init__(
        self,
        settings: AwsSettings,
        aws: Aws,
        storage: S3Storage,
        platform: SageMakerTrainingPlatform,
        instances: Sequence[Instances],
        bases: Sequence[Base] = (),
        transforms: Sequence[Transforms] = (),
        endpoints: Sequence[Endpoints] = (),
        *,
        autopilot: bool = False,
        bedrock: bool = False,
        default_subnets: bool = False,
        subnets: bool = False,
    ) -> None:
        """`autopilot`, `bedrock`, `default_subnets` and `subnets`: whether any model has that."""
        self._settings = settings
        self._aws = aws
        self._storage = storage
        self._platform = platform
        self._instances = instances
        self._bases = bases
        self._transforms = transforms
        self._endpoints = endpoints
        self._autopilot = autopilot
        self._bedrock = bedrock
        self._default_subnets = default_subnets
        self._subnets = subnets
        self._caller = ""

    def checks(self) -> Iterator[Check]:
        known = ["AWS credentials"]
        yield Check("AWS credentials", self._credentials)
        yield Check("SageMaker", self._sagemaker, needs=known)
        yield Check("bucket", self._bucket, needs=known)
        yield Check("storage", self._write, needs=["bucket"])
        yield Check("execution role", self._role, needs=known)
        yield Check("rights of the caller", self._caller_rights, needs=known)
        yield Check("rights of the execution role", self._role_rights, needs=known)
        if self._settings.bedrock_role_arn is not None:
            yield Check("batches of Bedrock", self._bedrock_rights, needs=known)
        yield Check("images", self._images, needs=known)
        yield Check("base models", self._base_models, needs=known)
        yield Check("quotas", self._quotas, needs=known)

    def _credentials(self) -> str:
        with translated("ask AWS who is calling"):
            identity = self._aws.client("sts").get_caller_identity()
        self._caller = identity["Arn"]
        account = self._settings.role_arn.split(":")[4]
        if identity["Account"] != account:
            raise CheckFailed(
                f"{self._caller} is of the account {identity['Account']}, and the execution role of "
                f"{account}: use credentials of that account, or correct SF_SAGEMAKER_ROLE_ARN"
            )
        return f"{self._caller}"

    def _sagemaker(self) -> str:
        """Asks for a job that isn't there, which needs the right to describe and nothing else."""
        with suppress(JobNotFound):
            self._platform.describe(f"sf-sagemaker-check-{uuid.uuid4().hex[:8]}")
        return f"answers in {self._settings.region}"

    def _bucket(self) -> str:
        self._storage.check()
        return f"{self._settings.bucket} is in {self._settings.region}"

    def _write(self) -> str:
        folder = f"check-production/{uuid.uuid4().hex}"
        key = f"{folder}/object"
        try:
            self._storage.create(key, b"first")
            try:
                self._storage.create(key, b"second")
            except KeyExists:
                pass
            else:
                raise CheckFailed(
                    f"{self._storage.uri(key)} was written twice: this storage ignores If-None-Match, on "
                    "which manifests and promotions rest. Use Amazon S3"
                )
            if self._storage.read(key) != b"first" or list(self._storage.list(folder)) != [key]:
                raise CheckFailed(f"{self._storage.uri(key)} does not hold what was written")
        finally:
            self._storage.delete(folder)
        try:
            self._storage.size(key)
        except KeyMissing:
            return f"{self._settings.storage}: writes once, reads, lists and deletes"
        raise CheckFailed(f"{self._storage.uri(key)} is still there after it was deleted")

    def _role(self) -> str:
        name = self._settings.role_arn.rpartition("/")[2]
        try:
            with translated(f"look at the role {name}"):
                role = self._aws.client("iam").get_role(RoleName=name)["Role"]
        except AccessDenied as error:
            raise NotChecked(_may_not_ask(error)) from error
        except AwsError as error:
            if error.code != "NoSuchEntity":
                raise
            raise CheckFailed(
                f"there is no role {self._settings.role_arn}: create it with "
                "deploy/iam/execution-role-trust.json, or correct SF_SAGEMAKER_ROLE_ARN"
            ) from error
        if role["Arn"] != self._settings.role_arn:
            raise CheckFailed(
                f"the role is {role['Arn']}, and SF_SAGEMAKER_ROLE_ARN {self._settings.role_arn}"
            )
        if not _trusts_sagemaker(role["AssumeRolePolicyDocument"]):
            raise CheckFailed(
                f"{_SAGEMAKER} may not assume {role['Arn']}: aws iam update-assume-role-policy, with "
                "deploy/iam/execution-role-trust.json"
            )
        return f"{role['Arn']}, which SageMaker may assume"

    def _caller_rights(self) -> str:
        names = ["caller-policy"]
        names += ["caller-transform-policy"] if self._transforms else []
        names += ["caller-serving-policy"] if self._endpoints else []
        names += ["caller-autopilot-policy"] if self._autopilot else []
        names += ["caller-llm-policy"] if "jumpstart" in self._kinds_of_bases else []
        names += ["caller-bedrock-policy"] if self._bedrock else []
        names += ["caller-default-subnets-policy"] if self._default_subnets else []
        names += ["caller-kms-policy"] if self._settings.kms_key else []
        return self._rights(_principal(self._caller), names)

    def _role_rights(self) -> str:
        names = ["execution-role-policy"]
        names += ["execution-role-transform-policy"] if self._transforms else []
        names += ["execution-role-serving-policy"] if self._endpoints else []
        names += ["execution-role-autopilot-policy"] if self._autopilot else []
        names += ["execution-role-llm-policy"] if self._kinds_of_bases & {"s3", "jumpstart"} else []
        in_vpc = self._settings.subnets or self._subnets or self._default_subnets
        names += ["execution-role-vpc-policy"] if in_vpc else []
        names += ["execution-role-kms-policy"] if self._settings.kms_key else []
        return self._rights(self._settings.role_arn, names)

    @property
    def _kinds_of_bases(self) -> set[str]:
        return {BaseModelName.parse(one.name).kind for one in self._bases}

    def _bedrock_rights(self) -> str:
        """What a batch takes, of the caller and of the role of batches."""
        asked = self._rights(_principal(self._caller), ["caller-bedrock-batch-policy"])
        names = ["bedrock-batch-role-policy"]
        names += ["execution-role-kms-policy"] if self._settings.kms_key else []
        return f"{asked}\n{self._rights(self._settings.bedrock_role_arn or '', names)}"

    def _rights(self, principal: str, policies: Sequence[str]) -> str:
        """Asks IAM for each action of the policies that the project comes with."""
        missing: list[str] = []
        asked = 0
        for statement in self._statements(policies):
            # One resource at a time: of several at once, the answer is about all of them together.
            for resource in self._resources(statement):
                for answer in self._simulate(principal, statement, resource):
                    asked += 1
                    if answer["EvalDecision"] != "allowed":
                        missing.append(f"{answer['EvalActionName']} on {resource}")
        if missing:
            files = ", ".join(f"deploy/iam/{name}.json" for name in policies)
            raise CheckFailed(
                f"{principal} may not:\n" + "\n".join(missing) + f"\nAttach {files} to it"
            )
        return f"all {asked} that {', '.join(policies)} names"

    def _resources(self, statement: Mapping[str, Any]) -> list[str]:
        """An example of each resource that a statement names."""
        account = self._settings.role_arn.split(":")[4]
        return [
            _example(resource.replace(":*:", f":{account}:"))
            for resource in _listed(statement["Resource"])
        ]

    def _simulate(
        self, principal: str, statement: Mapping[str, Any], resource: str
    ) -> list[dict[str, Any]]:
        request = {
            "PolicySourceArn": principal,
            "ActionNames": _listed(statement["Action"]),
            "ResourceArns": [resource],
            "ContextEntries": [
                {
                    "ContextKeyName": key,
                    "ContextKeyValues": [_example(_listed(values)[0])],
                    "ContextKeyType": "string",
                }
                for keys in statement.get("Condition", {}).values()
                for key, values in keys.items()
            ],
        }
        try:
            with translated(f"ask IAM what {principal} may do"):
                pages = self._aws.client("iam").get_paginator("simulate_principal_policy")
                return [
                    one for page in pages.paginate(**request) for one in page["EvaluationResults"]
                ]
        except AccessDenied as error:
            raise NotChecked(_may_not_ask(error)) from error
        except AwsError as error:
            if error.code not in ("NoSuchEntity", "InvalidInput"):  # a path left out, a root user
                raise
            raise NotChecked(
                f"IAM doesn't find {principal}, whose rights it was asked for"
            ) from error

    def _statements(self, policies: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        values = placeholders(self._settings)
        for name in policies:
            for statement in rendered(name, values)["Statement"]:
                if "${" not in json.dumps(statement):
                    yield statement

    def _images(self) -> str:
        found = {
            self._platform.image(one.framework, one.instance_type, one.image)
            for one in self._instances
        }
        by_tag = sorted(image for image in found if "@sha256:" not in image)
        if by_tag:
            raise NotChecked(
                "ECR doesn't tell this caller the digest of:\n"
                + "\n".join(by_tag)
                + "\nA training job may still pull it; its name then doesn't follow a new image of that tag"
            )
        return ", ".join(sorted(found)) or "no model trains"

    def _base_models(self) -> str:
        """Asks for each base as a run does, before it creates a job."""
        found, refused = [], []
        for one in self._bases:
            try:
                given = self._platform.base_model(one.name, one.limits, accept_eula=one.accept_eula)
            except JobRefused as error:
                refused.append(f"{one.model}: {error}")
            else:
                found.append(given.name)
        if refused:
            raise CheckFailed("\n".join(refused))
        return ", ".join(found) or "no language model is fine-tuned by a training job"

    def _quotas(self) -> str:
        """Each job by itself, since it waits for the instances of others; endpoints together, for good."""
        try:
            with translated("read SageMaker's quotas"):
                pages = self._aws.client("service-quotas").get_paginator("list_service_quotas")
                quotas = {
                    quota["QuotaName"]: quota["Value"]
                    for page in pages.paginate(ServiceCode="sagemaker")
                    for quota in page["Quotas"]
                }
        except AccessDenied as error:
            raise NotChecked(_may_not_ask(error)) from error
        short, tight = [], []
        for one in self._instances:
            use = "spot training job usage" if one.spot else "training job usage"
            name = f"{one.instance_type} for {use}"
            if name not in quotas:
                raise CheckFailed(
                    f"SageMaker has no quota {name!r} in {self._settings.region}: correct "
                    f"compute.instance_type of {one.model}"
                )
            has = f"{name}: {quotas[name]:g}"
            if quotas[name] < one.count:
                short.append(f"{has}, and a job of {one.model} needs {one.count}")
            elif quotas[name] < one.count * one.jobs:
                tight.append(
                    f"{has}, and a backfill of {one.model} asks for {one.count * one.jobs} at once: lower "
                    "compute.parallel_jobs, or ask for more"
                )
        for one in self._transforms:
            name = f"{one.instance_type} for transform job usage"
            found = quotas.get(name, 0)
            if found < one.count:
                short.append(f"{name}: {found:g}, and a period of {one.model} needs {one.count}")
        for instance_type, endpoints in self._endpoints_by_instance_type().items():
            name = f"{instance_type} for endpoint usage"
            found = quotas.get(name, 0)
            used = sum(one.count for one in endpoints)
            largest = max(endpoints, key=lambda one: one.count)
            if found < used:
                needs = ", ".join(f"{one.count} for {one.model}" for one in endpoints)
                short.append(f"{name}: {found:g}, and endpoints need {used}: {needs}")
            elif found < used + largest.count:
                tight.append(
                    f"{name}: {found:g}, and an update of the endpoint of {largest.model} takes "
                    f"endpoints to {used + largest.count} for a while: ask for more"
                )
        if short:
            raise CheckFailed(
                "\n".join(short)
                + "\nAsk for more: https://console.aws.amazon.com/servicequotas/home?region="
                f"{self._settings.region}#!/services/sagemaker/quotas, which may take days, or choose "
                "another instance type"
            )
        models = ", ".join(one.model for one in self._instances) or "no model"
        return "\n".join([f"enough for {models}", *tight])

    def _endpoints_by_instance_type(self) -> dict[str, list[Endpoints]]:
        """Those that have instances, of which all that are of a type share its quota."""
        found: defaultdict[str, list[Endpoints]] = defaultdict(list)
        for one in self._endpoints:
            if one.instance_type is not None:
                found[one.instance_type].append(one)
        return found


def placeholders(settings: AwsSettings) -> dict[str, str]:
    """What stands for the placeholders of deploy/iam; what isn't configured is left out."""
    values = {
        "AWS_REGION": settings.region,
        "AWS_ACCOUNT": settings.role_arn.split(":")[4],
        "BUCKET": settings.bucket,
        "PREFIX": settings.prefix,
        "ROLE_ARN": settings.role_arn,
    }
    if settings.kms_key is not None:
        values["KMS_KEY_ARN"] = settings.kms_key
    if settings.bedrock_role_arn is not None:
        values["BEDROCK_ROLE_ARN"] = settings.bedrock_role_arn
    if settings.snowflake_secret is not None:
        # An ARN ends with the name and six characters of AWS's own.
        named = re.fullmatch(r"arn:.*:secret:(.+)-\w{6}", settings.snowflake_secret)
        values["SECRET"] = named[1] if named else settings.snowflake_secret
    return values


def rendered(name: str, values: Mapping[str, str]) -> dict[str, Any]:
    """A policy of deploy/iam; a placeholder without a value stays."""
    return json.loads(Template((POLICIES / f"{name}.json").read_text()).safe_substitute(values))


def _principal(arn: str) -> str:
    """The role or user behind a caller's ARN: a session of a role is not what policies belong to."""
    session = re.fullmatch(r"arn:([\w-]+):sts::(\d+):assumed-role/([^/]+)/.+", arn)
    return f"arn:{session[1]}:iam::{session[2]}:role/{session[3]}" if session else arn


def _trusts_sagemaker(policy: Mapping[str, Any] | str) -> bool:
    document = json.loads(policy) if isinstance(policy, str) else policy
    return any(
        statement["Effect"] == "Allow"
        and isinstance(statement.get("Principal"), Mapping)
        and _SAGEMAKER in _listed(statement["Principal"].get("Service", ()))
        and "sts:AssumeRole" in _listed(statement["Action"])
        for statement in _listed(document["Statement"])
    )


def _listed(value: Any) -> list[Any]:
    """A policy has one of anything alone, and several in a list."""
    return list(value) if isinstance(value, list | tuple) else [value]


def _example(pattern: str) -> str:
    """A value that a pattern of a policy matches."""
    return pattern if pattern == "*" else pattern.replace("*", "check").replace("?", "x")


def _may_not_ask(error: AccessDenied) -> str:
    return f"{error}\nAttach deploy/iam/check-production-policy.json for as long as you check"
