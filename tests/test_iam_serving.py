"""deploy/iam for endpoints: its policies allow every call that is made, and nothing that isn't."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from serving.sagemaker_site import AT_ONCE, BUCKET, PREFIX, ServingSite, options, serving_site
from sf_sagemaker.commands.check_aws import rendered
from sf_sagemaker.serving.hosting import AlarmRules
from standins.iam import Action, Policy, listed, needed, refused, unused
from standins.sagemaker.calls import Call

pytestmark = pytest.mark.slow

CALLER, ROLE = "caller-serving-policy", "execution-role-serving-policy"
EVERYWHERE = {"sagemaker:ListModelPackages", "sagemaker:ListEndpointConfigs"}
PROJECT = {"aws:ResourceTag/sf_sagemaker:project": f"s3://{BUCKET}/{PREFIX}"}

# What operations are about, by the parameter that names it.
_KINDS = {
    "ModelName": "model",
    "EndpointConfigName": "endpoint-config",
    "EndpointName": "endpoint",
    "ModelPackageGroupName": "model-package-group",
}


@dataclass(frozen=True)
class Account:
    """What was done in an account, and what each policy allows."""

    policies: Mapping[str, Policy]
    calls: Sequence[Call]
    of_role: Sequence[Call]


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    with serving_site(tmp_path_factory.mktemp("artifacts")) as site:
        site.service.calls.clear()
        _use(site)
        values = {
            "AWS_REGION": site.service.region,
            "AWS_ACCOUNT": site.service.account,
            "BUCKET": BUCKET,
            "PREFIX": PREFIX,
            "ROLE_ARN": site.service.role_arn,
        }
        names = (CALLER, ROLE, "caller-policy", "execution-role-policy")
        policies = {name: rendered(name, values) for name in names}
        yield Account(policies, list(site.service.calls), site.service.calls.of_jobs)


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
        context = {f"aws:RequestTag/{tag['Key']}": tag["Value"] for tag in p["Tags"]}
        yield Action(action, resource, context)
        yield Action("sagemaker:AddTags", resource, context)
        if call.operation == "CreateEndpoint":
            config = f"{where}:endpoint-config/{p['EndpointConfigName']}"
            yield Action(action, config, PROJECT)
        if call.operation == "CreateModel":
            passed = {"iam:PassedToService": "sagemaker.amazonaws.com"}
            yield Action("iam:PassRole", p["ExecutionRoleArn"], passed)
    else:
        for name, kind in _KINDS.items():
            if name in p:
                yield Action(action, f"{where}:{kind}/{p[name]}", PROJECT)


def of_caller(account: Account) -> list[Action]:
    return [action for call in account.calls for action in actions_of(call)]


def of_role(account: Account) -> list[Action]:
    """With what SageMaker does for an endpoint beside what the stand-in does."""
    group = "arn:aws:logs:us-east-1:123456789012:log-group:/aws/sagemaker/Endpoints/houses"
    repository = "arn:aws:ecr:us-east-1:763104351884:repository/huggingface-pytorch-inference"
    xgboost = "arn:aws:ecr:us-east-1:683313688378:repository/sagemaker-xgboost"
    pull = ("BatchCheckLayerAvailability", "BatchGetImage", "GetDownloadUrlForLayer")
    logs = ("CreateLogGroup", "CreateLogStream", "DescribeLogStreams", "PutLogEvents")
    metrics = {"cloudwatch:namespace": "/aws/sagemaker/Endpoints"}
    return [
        *(action for call in account.of_role for action in actions_of(call)),
        *(Action(f"logs:{action}", f"{group}:log-stream:AllTraffic/i-1") for action in logs),
        *(Action(f"ecr:{action}", where) for action in pull for where in (repository, xgboost)),
        Action("ecr:GetAuthorizationToken", "*"),
        Action("cloudwatch:PutMetricData", "*", metrics),
    ]


def test_every_call_of_a_caller_is_allowed(account: Account) -> None:
    actions = of_caller(account)
    names = {action.name for action in actions}
    assert {"sagemaker:UpdateEndpoint", "sagemaker:DeleteEndpoint", "iam:PassRole"} <= names
    policies = [account.policies["caller-policy"], account.policies[CALLER]]
    assert refused(policies, actions) == []


def test_every_call_for_an_endpoint_is_allowed_to_its_role(account: Account) -> None:
    actions = of_role(account)
    assert {"s3:GetObject", "cloudwatch:DescribeAlarms"} <= {action.name for action in actions}
    policies = [account.policies["execution-role-policy"], account.policies[ROLE]]
    assert refused(policies, actions) == []


@pytest.mark.parametrize("name", [CALLER, ROLE])
def test_no_action_of_a_policy_is_unused(account: Account, name: str) -> None:
    actions = of_caller(account) if name == CALLER else of_role(account)
    assert unused(account.policies[name], actions) == set()
    for statement in account.policies[name]["Statement"]:
        actions = listed(statement["Action"])
        assert not [action for action in actions if "*" in action]
        if "*" in listed(statement["Resource"]):
            assert set(actions) <= EVERYWHERE


def test_what_nobody_asked_for_is_refused(account: Account) -> None:
    where = "arn:aws:sagemaker:us-east-1:123456789012"
    others = {"aws:ResourceTag/sf_sagemaker:project": "s3://other/prefix"}
    asked = [
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
    ]
    assert refused([account.policies[CALLER]], asked) == asked
    prefix = f"arn:aws:s3:::{BUCKET}/{PREFIX}"
    of_endpoints = [
        Action("s3:PutObject", f"{prefix}/serving/digest/model.tar.gz"),
        Action("s3:GetObject", f"{prefix}/champions/houses/000001.json"),
    ]
    assert refused([account.policies[ROLE]], of_endpoints) == of_endpoints
