"""What IAM policies allow, what calls need to be allowed, and IAM's own answer to that question.

Of the language of policies, what deploy/iam uses; anything else is an error, so that a policy isn't
taken to allow what it doesn't.
"""

import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from moto.core.responses import ActionResult
from moto.iam.responses import IamResponse

from standins.sagemaker.calls import Call

Policy = Mapping[str, Any]


@dataclass(frozen=True)
class Action:
    """One thing to be allowed: an action on a resource, with the condition keys of the request."""

    name: str
    resource: str
    context: Mapping[str, str] = field(default_factory=dict)


def listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def allows(policies: Sequence[Policy], action: Action) -> bool:
    """Whether policies allow an action, as IAM decides: any Deny beats every Allow."""
    effects = {statement["Effect"] for _, statement in matching(policies, action)}
    return "Allow" in effects and "Deny" not in effects


def matching(policies: Sequence[Policy], action: Action) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The statements that speak of an action, with the action's name as each writes it."""
    for policy in policies:
        for statement in policy["Statement"]:
            unknown = set(statement) - {"Sid", "Effect", "Action", "Resource", "Condition"}
            assert not unknown, f"the evaluator doesn't know {unknown}"
            named = [
                one
                for one in listed(statement["Action"])
                if _like(one.lower(), action.name.lower())
            ]
            if not named or not any(
                _like(one, action.resource) for one in listed(statement["Resource"])
            ):
                continue
            if _holds(statement.get("Condition", {}), action.context):
                yield named[0], statement


def _holds(conditions: Mapping[str, Mapping[str, Any]], context: Mapping[str, str]) -> bool:
    return all(
        _compares(operator, listed(wanted), context.get(key))
        for operator, keys in conditions.items()
        for key, wanted in keys.items()
    )


def _compares(operator: str, wanted: Sequence[str], found: str | None) -> bool:
    if operator.endswith("IfExists"):
        if found is None:
            return True
        operator = operator.removesuffix("IfExists")
    if found is None:
        return False
    if operator == "StringEquals":
        return found in wanted
    if operator == "StringLike":
        return any(_like(one, found) for one in wanted)
    raise AssertionError(f"the evaluator doesn't know the operator {operator}")


def _like(pattern: str, text: str) -> bool:
    """IAM's wildcards: * and ?, and nothing else."""
    return re.fullmatch(fnmatch.translate(pattern.replace("[", "[[]")), text) is not None


# What IAM is asked for, by the call: the service authorization reference.
_S3 = {
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "DeleteObject": "s3:DeleteObject",
}
_PULL = ("ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer")
JOIN_NETWORK = (
    "CreateNetworkInterface", "CreateNetworkInterfacePermission", "DeleteNetworkInterface",
    "DeleteNetworkInterfacePermission", "DescribeDhcpOptions", "DescribeNetworkInterfaces",
    "DescribeSecurityGroups", "DescribeSubnets", "DescribeVpcs",
)  # fmt: skip


def on_request(tags: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """The condition keys of tags that a request gives, as {"Key": ..., "Value": ...}."""
    return {f"aws:RequestTag/{tag['Key']}": tag["Value"] for tag in tags}


def on_resource(tags: Mapping[str, str]) -> dict[str, str]:
    """The condition keys of tags that a resource has."""
    return {f"aws:ResourceTag/{key}": value for key, value in tags.items()}


def creating(call: Call, resource: str) -> Iterator[Action]:
    """What it takes to create a resource of SageMaker with tags."""
    context = on_request(call.parameters["Tags"])
    yield Action(f"sagemaker:{call.operation}", resource, context)
    yield Action("sagemaker:AddTags", resource, context)


def passing(role: str, service: str = "sagemaker.amazonaws.com") -> Action:
    """What it takes to hand a role to a service."""
    return Action("iam:PassRole", role, {"iam:PassedToService": service})


def pulling(*repositories: str) -> Iterator[Action]:
    """What it takes to pull images from repositories, given as region:account:repository/name."""
    for repository in repositories:
        for action in _PULL:
            yield Action(action, f"arn:aws:ecr:{repository}")


def needed(call: Call, tags: Mapping[str, Mapping[str, str]]) -> Iterator[Action]:
    """What a call needs of its own caller; `tags` are those of jobs by name."""
    p = call.parameters
    where = f"{call.request.region}:123456789012"
    match call.service, call.operation:
        case "s3", "ListObjectsV2":
            yield Action("s3:ListBucket", f"arn:aws:s3:::{p['Bucket']}", {"s3:prefix": p["Prefix"]})
        case "s3", "HeadBucket":
            yield Action("s3:ListBucket", f"arn:aws:s3:::{p['Bucket']}")
        case "s3", "DeleteObjects":
            for key in re.findall(r"<Key>(.*?)</Key>", call.request.body.decode()):
                yield Action("s3:DeleteObject", f"arn:aws:s3:::{p['Bucket']}/{key}")
        case "s3", operation:
            yield Action(_S3[operation], f"arn:aws:s3:::{p['Bucket']}/{p['Key']}")
        case "sagemaker", "CreateTrainingJob":
            job = f"arn:aws:sagemaker:{where}:training-job/{p['TrainingJobName']}"
            yield from creating(call, job)
            yield passing(p["RoleArn"])
            if (
                "KmsKeyId" in p["OutputDataConfig"]
            ):  # what is stored under the key, the caller reads
                yield Action("kms:Decrypt", p["OutputDataConfig"]["KmsKeyId"])
                yield Action("kms:GenerateDataKey", p["OutputDataConfig"]["KmsKeyId"])
        case "sagemaker", "StopTrainingJob":
            name = p["TrainingJobName"]
            job = f"arn:aws:sagemaker:{where}:training-job/{name}"
            yield Action("sagemaker:StopTrainingJob", job, on_resource(tags[name]))
        case "sagemaker", operation:
            name = p["TrainingJobName"]
            yield Action(f"sagemaker:{operation}", f"arn:aws:sagemaker:{where}:training-job/{name}")
        case "logs", operation:
            group = f"arn:aws:logs:{where}:log-group:{p['logGroupName']}"
            yield Action(f"logs:{operation}", f"{group}:log-stream:{p.get('logStreamName', '')}")
        case "ecr", operation:
            repository = f"{call.request.region}:{p['registryId']}:repository/{p['repositoryName']}"
            yield Action(f"ecr:{operation}", f"arn:aws:ecr:{repository}")
        case "secretsmanager", operation:
            yield Action(
                f"secretsmanager:{operation}",
                f"arn:aws:secretsmanager:{where}:secret:{p['SecretId']}-Ab1Cd2",
            )
        case "iam", "GetRole":
            yield Action("iam:GetRole", f"arn:aws:iam::123456789012:role/{p['RoleName']}")
        case "iam", "SimulatePrincipalPolicy":
            # moto's STS gives a user the ARN of no user that IAM knows
            principal = p["PolicySourceArn"].replace("aws:sts:", "aws:iam:")
            yield Action("iam:SimulatePrincipalPolicy", principal)
        case "resourcegroupstaggingapi", operation:
            yield Action(f"tag:{operation}", "*")
        case "service-quotas", operation:
            yield Action(f"servicequotas:{operation}", "*")
        case "ec2", operation:
            yield Action(f"ec2:{operation}", "*")
        case "sts", "GetCallerIdentity":
            return  # needs no permission
        case unknown:
            raise AssertionError(f"{unknown} is not known here")


def done_for(call: Call) -> Iterator[Action]:
    """What SageMaker does with the execution role for a job, beside what the stand-in does.

    https://docs.aws.amazon.com/sagemaker/latest/dg/sagemaker-roles.html, CreateTrainingJob API.
    """
    image = call.parameters["AlgorithmSpecification"]["TrainingImage"]
    match = re.fullmatch(r"(\d+)\.dkr\.ecr\.([\w-]+)\.amazonaws\.com/([^:@]+)[:@].+", image)
    assert match is not None
    account, region, repository = match.groups()
    yield Action("ecr:GetAuthorizationToken", "*")
    yield from pulling(f"{region}:{account}:repository/{repository}")
    metrics = {"cloudwatch:namespace": "/aws/sagemaker/TrainingJobs"}
    yield Action("cloudwatch:PutMetricData", "*", metrics)
    group = f"arn:aws:logs:{region}:123456789012:log-group:/aws/sagemaker/TrainingJobs"
    yield Action("logs:DescribeLogStreams", f"{group}:log-stream:")
    yield Action("logs:CreateLogGroup", f"{group}:log-stream:")
    if "VpcConfig" in call.parameters:
        for action in JOIN_NETWORK:
            yield Action(f"ec2:{action}", "*")
    if "KmsKeyId" in call.parameters["OutputDataConfig"]:
        for action in ("CreateGrant", "Decrypt", "GenerateDataKey"):
            yield Action(f"kms:{action}", call.parameters["OutputDataConfig"]["KmsKeyId"])


def refused(policies: Sequence[Policy], actions: Sequence[Action]) -> list[Action]:
    """The actions that policies don't allow."""
    return [action for action in actions if not allows(policies, action)]


def unused(policy: Policy, actions: Sequence[Action]) -> set[tuple[str, str]]:
    """What a policy allows by name, as (Sid, action), though none of the actions needs it."""
    used = {
        (statement["Sid"], written)
        for action in actions
        for written, statement in matching([policy], action)
    }
    there = {
        (statement["Sid"], action)
        for statement in policy["Statement"]
        for action in listed(statement["Action"])
    }
    return there - used


@contextmanager
def simulation(principals: Mapping[str, Sequence[Policy]]) -> Iterator[None]:
    """Lets moto's IAM answer SimulatePrincipalPolicy for principals with these policies."""

    def simulate_principal_policy(self: IamResponse) -> ActionResult:
        policies = principals[self._get_param("PolicySourceArn")]
        context = {
            entry["ContextKeyName"]: entry["ContextKeyValues"][0]
            for entry in self._get_param("ContextEntries", [])
        }
        results = [
            {
                "EvalActionName": name,
                "EvalResourceName": resource,
                "EvalDecision": "allowed"
                if allows(policies, Action(name, resource, context))
                else "implicitDeny",
            }
            for name in self._get_param("ActionNames")
            for resource in self._get_param("ResourceArns", ["*"])
        ]
        return ActionResult({"EvaluationResults": results, "IsTruncated": False})

    with patch.object(
        IamResponse, "simulate_principal_policy", simulate_principal_policy, create=True
    ):
        yield
