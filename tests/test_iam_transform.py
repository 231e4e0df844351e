"""deploy/iam for batch transform: its policies allow every call that is made, and nothing that isn't."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from serving.transform_site import TransformSite, transform_site
from sf_sagemaker.commands.check_aws import rendered
from sf_sagemaker.serving.batch import NoHold
from standins.iam import Action, Policy, listed, needed, refused, unused
from standins.sagemaker.calls import Call
from standins.sagemaker.service import SageMakerService

pytestmark = pytest.mark.slow

CALLER, ROLE = "caller-transform-policy", "execution-role-transform-policy"
_TAGGED = ("CreateTransformJob", "CreateModel")


@dataclass(frozen=True)
class Account:
    """What was done in an account, and what each policy allows."""

    site: TransformSite
    policies: dict[str, Policy]
    calls: Sequence[Call]
    of_jobs: Sequence[Call]


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    folder: Path = tmp_path_factory.mktemp("site")
    with (
        SageMakerService() as service,
        pytest.MonkeyPatch.context() as patch,
        transform_site(service, folder, patch, "iam") as site,
    ):
        service.calls.clear()
        _use(site)
        values: dict[str, str] = {
            "AWS_REGION": service.region,
            "AWS_ACCOUNT": service.account,
            "BUCKET": site.storage.bucket,
            "PREFIX": site.storage.prefix,
            "ROLE_ARN": service.role_arn,
        }
        names = (CALLER, ROLE, "caller-policy", "execution-role-policy")
        policies: dict[str, Policy] = {name: rendered(name, values) for name in names}
        yield Account(site, policies, list(service.calls), service.calls.of_jobs)


def _use(site: TransformSite) -> None:
    """A period that is scored, and a job that is stopped."""

    class Cancelled(NoHold):
        def pause(self, seconds: float) -> None:
            raise KeyboardInterrupt

        def nobody_wants(self, name: str) -> bool:
            return True

    site.service.settings.starting_seconds = 30
    with pytest.raises(KeyboardInterrupt):
        site.transform(hold=Cancelled())
    site.service.settings.starting_seconds = 0
    assert site.transform().rows == 300
    site.service.flush_logs()


def actions_of(call: Call, site: TransformSite) -> Iterator[Action]:
    """What a call needs to be allowed, with the actions of this feature."""
    p = call.parameters
    where = f"arn:aws:sagemaker:{call.request.region}:123456789012"
    tags = {tag["Key"]: tag["Value"] for tag in p.get("Tags", [])} if call.service != "s3" else {}
    if call.operation in _TAGGED:
        name = p["TransformJobName"] if "TransformJobName" in p else p["ModelName"]
        kind = "transform-job" if "TransformJobName" in p else "model"
        context = {f"aws:RequestTag/{key}": value for key, value in tags.items()}
        yield Action(f"sagemaker:{call.operation}", f"{where}:{kind}/{name}", context)
        yield Action("sagemaker:AddTags", f"{where}:{kind}/{name}", context)
        if kind == "model":
            passed = {"iam:PassedToService": "sagemaker.amazonaws.com"}
            yield Action("iam:PassRole", p["ExecutionRoleArn"], passed)
    elif call.operation in ("StopTransformJob", "DescribeTransformJob"):
        name = p["TransformJobName"]
        its = site.service.transforms[name].tags
        context = {f"aws:ResourceTag/{key}": value for key, value in its.items()}
        yield Action(f"sagemaker:{call.operation}", f"{where}:transform-job/{name}", context)
    else:
        yield from needed(call, {})


def of_caller(account: Account) -> list[Action]:
    return [action for call in account.calls for action in actions_of(call, account.site)]


def of_role(account: Account) -> list[Action]:
    """With what SageMaker does for a job beside what the stand-in does."""
    group = "arn:aws:logs:us-east-1:123456789012:log-group:/aws/sagemaker/TransformJobs"
    pulled = [
        Action(f"ecr:{action}", f"arn:aws:ecr:us-east-1:683313688378:repository/{repository}")
        for repository in ("sagemaker-xgboost", "huggingface-pytorch-inference")
        for action in ("BatchCheckLayerAvailability", "BatchGetImage", "GetDownloadUrlForLayer")
    ]
    return [
        *(action for call in account.of_jobs for action in needed(call, {})),
        Action("logs:DescribeLogStreams", f"{group}:log-stream:"),
        *pulled,
    ]


def test_every_call_of_a_caller_is_allowed(account: Account) -> None:
    actions = of_caller(account)
    names = {action.name for action in actions}
    assert {"sagemaker:CreateTransformJob", "sagemaker:StopTransformJob", "iam:PassRole"} <= names
    policies = [account.policies["caller-policy"], account.policies[CALLER]]
    assert refused(policies, actions) == []


def test_every_call_for_a_job_is_allowed_to_its_role(account: Account) -> None:
    actions = of_role(account)
    assert {"s3:GetObject", "s3:PutObject", "logs:PutLogEvents"} <= {it.name for it in actions}
    policies = [account.policies["execution-role-policy"], account.policies[ROLE]]
    assert refused(policies, actions) == []


@pytest.mark.parametrize("name", [CALLER, ROLE])
def test_no_action_of_a_policy_is_unused(account: Account, name: str) -> None:
    actions = of_caller(account) if name == CALLER else of_role(account)
    assert unused(account.policies[name], actions) == set()
    for statement in account.policies[name]["Statement"]:
        assert "*" not in listed(statement["Resource"])
        assert not [action for action in listed(statement["Action"]) if "*" in action]


def test_what_nobody_asked_for_is_refused(account: Account) -> None:
    job = "arn:aws:sagemaker:us-east-1:123456789012:transform-job/another-teams"
    others = {"aws:ResourceTag/sf_sagemaker:project": "s3://other/prefix"}
    asked = [
        Action("sagemaker:CreateTransformJob", job),
        Action("sagemaker:StopTransformJob", job),
        Action("sagemaker:StopTransformJob", job, others),
        Action("sagemaker:DeleteModel", job.replace("transform-job", "model")),
    ]
    assert refused([account.policies[CALLER]], asked) == asked
    prefix = f"arn:aws:s3:::{account.site.storage.bucket}/{account.site.storage.prefix}"
    of_jobs = [
        Action("s3:PutObject", f"{prefix}/serving/digest/model.tar.gz"),
        Action("s3:GetObject", f"{prefix}/champions/houses/000001.json"),
        Action("s3:DeleteObject", f"{prefix}/transforms/houses/rows.jsonl"),
    ]
    assert refused([account.policies[ROLE]], of_jobs) == of_jobs
