"""deploy/iam for endpoints: its policies allow every call that is made, and nothing that isn't."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from iam_principals import Principal, deployment, principal
from serving.sagemaker_site import AT_ONCE, BUCKET, PREFIX, ServingSite, options, serving_site
from sf_sagemaker.serving.hosting import AlarmRules
from standins.iam import Action, creating, needed, on_resource, passing, pulling
from standins.sagemaker.calls import Call

pytestmark = pytest.mark.slow

EVERYWHERE = {"sagemaker:ListModelPackages", "sagemaker:ListEndpointConfigs"}
PROJECT = on_resource({"sf_sagemaker:project": f"s3://{BUCKET}/{PREFIX}"})

# What operations are about, by the parameter that names it.
_KINDS = {
    "ModelName": "model",
    "EndpointConfigName": "endpoint-config",
    "EndpointName": "endpoint",
    "ModelPackageGroupName": "model-package-group",
}


@dataclass(frozen=True)
class Account:
    caller: Principal
    role: Principal


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    with serving_site(tmp_path_factory.mktemp("artifacts")) as site:
        site.service.calls.clear()
        _use(site)
        settings = deployment(site.service, BUCKET, PREFIX)
        did = [action for call in site.service.calls for action in actions_of(call)]
        yield Account(
            caller=principal(settings, did, "caller-serving-policy", general=["caller-policy"]),
            role=principal(
                settings,
                of_role(site.service.calls.of_jobs),
                "execution-role-serving-policy",
                general=["execution-role-policy"],
            ),
        )


def _use(site: ServingSite) -> None:
    """What runs do with an endpoint: deploy, update with alarms, ask, look, delete."""
    rules = AlarmRules(max_latency=timedelta(seconds=1))
    for version in (1, 2, 3):
        site.host.deploy("houses", site.model(version), options(replace(AT_ONCE, alarms=rules)))
    site.host.deploy("houses", site.model(3), options())  # without the second alarm
    site.again().describe("houses")
    site.host.review(site.model(3))
    site.host.invoke("houses", b"3,0.5,south", content_type="text/csv")
    site.host.stop("houses")


def actions_of(call: Call) -> Iterator[Action]:
    """What a call needs to be allowed: the service authorization reference."""
    p = call.parameters
    where = f"arn:aws:sagemaker:{call.request.region}:123456789012"
    if call.service == "cloudwatch":
        alarms = f"arn:aws:cloudwatch:{call.request.region}:123456789012:alarm"
        if "CompositeAlarm" in p.get("AlarmTypes", ()):  # API reference, DescribeAlarms
            yield Action("cloudwatch:DescribeAlarms", "*")
            return
        for name in p.get("AlarmNames", [p.get("AlarmName")]):
            yield Action(f"cloudwatch:{call.operation}", f"{alarms}:{name}")
            if "Tags" in p:
                yield Action("cloudwatch:TagResource", f"{alarms}:{name}")
        return
    if call.service not in ("sagemaker", "sagemaker-runtime"):
        yield from needed(call, {})
        return
    action = f"sagemaker:{call.operation}"
    if action in EVERYWHERE:
        yield Action(action, "*")
    elif call.operation == "ListTags":
        yield Action(action, p["ResourceArn"])
    elif call.operation == "DescribeModelPackage":
        yield Action(action, p["ModelPackageName"])
    elif call.operation == "CreateModelPackage":
        yield Action(action, f"{where}:model-package/{p['ModelPackageGroupName']}/1")
    elif call.operation.startswith("Create"):
        name = f"{call.operation.removeprefix('Create')}Name"
        resource = f"{where}:{_KINDS[name]}/{p[name]}"
        yield from creating(call, resource)
        if call.operation == "CreateEndpoint":
            config = f"{where}:endpoint-config/{p['EndpointConfigName']}"
            yield Action(action, config, PROJECT)
        if call.operation == "CreateModel":
            yield passing(p["ExecutionRoleArn"])
    else:
        for name, kind in _KINDS.items():
            if name in p:
                yield Action(action, f"{where}:{kind}/{p[name]}", PROJECT)


def of_role(calls: Sequence[Call]) -> list[Action]:
    """With what SageMaker does for an endpoint beside what the stand-in does."""
    group = "arn:aws:logs:us-east-1:123456789012:log-group:/aws/sagemaker/Endpoints/houses"
    logs = ("CreateLogGroup", "CreateLogStream", "DescribeLogStreams", "PutLogEvents")
    metrics = {"cloudwatch:namespace": "/aws/sagemaker/Endpoints"}
    return [
        *(action for call in calls for action in actions_of(call)),
        *(Action(f"logs:{action}", f"{group}:log-stream:AllTraffic/i-1") for action in logs),
        *pulling(
            "us-east-1:763104351884:repository/huggingface-pytorch-inference",
            "us-east-1:683313688378:repository/sagemaker-xgboost",
        ),
        Action("ecr:GetAuthorizationToken", "*"),
        Action("cloudwatch:PutMetricData", "*", metrics),
    ]


def test_every_call_of_a_caller_is_allowed(account: Account) -> None:
    account.caller.assert_allowed(
        "sagemaker:UpdateEndpoint", "sagemaker:DeleteEndpoint", "iam:PassRole"
    )


def test_every_call_for_an_endpoint_is_allowed_to_its_role(account: Account) -> None:
    account.role.assert_allowed("s3:GetObject", "cloudwatch:DescribeAlarms")


def test_no_policy_allows_more_than_is_needed(account: Account) -> None:
    account.caller.assert_no_more_than_needed()
    account.role.assert_no_more_than_needed()


def test_what_nobody_asked_for_is_refused(account: Account) -> None:
    where = "arn:aws:sagemaker:us-east-1:123456789012"
    others = on_resource({"sf_sagemaker:project": "s3://other/prefix"})
    account.caller.assert_refused(
        Action("sagemaker:CreateEndpoint", f"{where}:endpoint/another"),
        Action("sagemaker:UpdateEndpoint", f"{where}:endpoint/another", others),
        Action("sagemaker:DeleteEndpoint", f"{where}:endpoint/another"),
        Action("sagemaker:InvokeEndpoint", f"{where}:endpoint/another", others),
        Action("sagemaker:DeleteEndpointConfig", f"{where}:endpoint-config/another", others),
        # Who deploys doesn't approve.
        Action("sagemaker:UpdateModelPackage", f"{where}:model-package/houses/1", PROJECT),
        Action("sagemaker:DeleteModelPackage", f"{where}:model-package/houses/1", PROJECT),
        Action("cloudwatch:PutMetricAlarm", "arn:aws:cloudwatch:us-east-1:123456789012:alarm:a"),
        Action("cloudwatch:DeleteAlarms", "arn:aws:cloudwatch:us-east-1:123456789012:alarm:a"),
    )
    prefix = f"arn:aws:s3:::{BUCKET}/{PREFIX}"
    account.role.assert_refused(
        Action("s3:PutObject", f"{prefix}/serving/digest/model.tar.gz"),
        Action("s3:GetObject", f"{prefix}/champions/houses/000001.json"),
    )
