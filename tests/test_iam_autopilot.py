"""deploy/iam for method: autopilot: its policies allow every call that is made, and nothing that isn't."""

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from sf_sagemaker.aws import Aws
from sf_sagemaker.commands.check_aws import rendered
from standins.iam import Action, Policy, needed, refused, unused
from standins.sagemaker.calls import Call
from standins.sagemaker.service import SageMakerService
from training.test_autopilot import Site

CALLER, ROLE = "caller-autopilot-policy", "execution-role-autopilot-policy"


@dataclass(frozen=True)
class Account:
    """What was done in an account, and what each policy allows."""

    site: Site
    policies: dict[str, Policy]
    calls: Sequence[Call]
    of_jobs: Sequence[Call]


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    with SageMakerService() as service, pytest.MonkeyPatch.context() as patch:
        service.settings.stop_grace_seconds = 1
        for name, value in service.environment.items():
            patch.setenv(name, value)
        site = Site(service, Aws())
        service.calls.clear()
        _use(site, tmp_path_factory.mktemp("artifacts"))
        values = {
            "AWS_REGION": service.region,
            "AWS_ACCOUNT": service.account,
            "BUCKET": site.storage.bucket,
            "PREFIX": site.storage.prefix,
            "ROLE_ARN": service.role_arn,
        }
        names = (CALLER, ROLE, "caller-policy", "execution-role-policy")
        policies: dict[str, Policy] = {name: rendered(name, values) for name in names}
        yield Account(site, policies, list(service.calls), service.calls.of_jobs)


def _use(site: Site, folder: Path) -> None:
    """A job that trains, and one that is stopped."""
    result = site.run(site.job())
    site.platform.fetch_artifact(result.name, folder)
    site.platform.jobs_of_runs([uuid.uuid4().hex])
    job = site.job(hyperparameters={"epochCount": "2"})
    site.service.automl.hold(job.name(1))

    def pause(seconds: float) -> None:
        if site.service.automl[job.name(1)].training_job is not None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        site.run(job, pause=pause, should_stop=lambda name: True)
    site.service.automl.wait(job.name(1))


def actions_of(call: Call, site: Site) -> Iterator[Action]:
    """What a call needs to be allowed, with the actions of this feature."""
    p = call.parameters
    where = f"arn:aws:sagemaker:{call.request.region}:123456789012:automl-job"
    match call.operation:
        case "CreateAutoMLJobV2":
            job = f"{where}/{p['AutoMLJobName']}"
            context = {f"aws:RequestTag/{tag['Key']}": tag["Value"] for tag in p["Tags"]}
            yield Action("sagemaker:CreateAutoMLJobV2", job, context)
            yield Action("sagemaker:AddTags", job, context)
            passed = {"iam:PassedToService": "sagemaker.amazonaws.com"}
            yield Action("iam:PassRole", p["RoleArn"], passed)
        case "StopAutoMLJob":
            tags = site.service.automl[p["AutoMLJobName"]].tags
            context = {f"aws:ResourceTag/{key}": value for key, value in tags.items()}
            yield Action("sagemaker:StopAutoMLJob", f"{where}/{p['AutoMLJobName']}", context)
        case "DescribeAutoMLJobV2":
            yield Action("sagemaker:DescribeAutoMLJobV2", f"{where}/{p['AutoMLJobName']}")
        case "ListCandidatesForAutoMLJob":
            yield Action("sagemaker:ListCandidatesForAutoMLJob", "*")
        case _:
            yield from needed(call, {job.name: job.tags for job in site.service.jobs.all()})


def of_caller(account: Account) -> list[Action]:
    return [action for call in account.calls for action in actions_of(call, account.site)]


def of_role(account: Account) -> list[Action]:
    """With what SageMaker does for a job beside what the stand-in does."""
    job = "arn:aws:sagemaker:us-east-1:123456789012:training-job/any"
    pulled = [
        Action(f"ecr:{action}", f"arn:aws:ecr:us-east-1:763104351884:repository/{repository}")
        for repository in ("huggingface-pytorch-tgi-inference", "djl-inference")
        for action in ("BatchCheckLayerAvailability", "BatchGetImage", "GetDownloadUrlForLayer")
    ]
    return [
        *(action for call in account.of_jobs for action in actions_of(call, account.site)),
        *pulled,
        Action("sagemaker:DescribeTrainingJob", job),
        Action("s3:GetObject", "arn:aws:s3:::jumpstart-cache-prod-us-east-1/falcon/weights"),
    ]


def test_every_call_of_a_caller_is_allowed(account: Account) -> None:
    actions = of_caller(account)
    names = {action.name for action in actions}
    assert {"sagemaker:CreateAutoMLJobV2", "sagemaker:StopAutoMLJob", "tag:GetResources"} <= names
    policies = [account.policies["caller-policy"], account.policies[CALLER]]
    assert refused(policies, actions) == []


def test_every_call_for_a_job_is_allowed_to_its_role(account: Account) -> None:
    actions = of_role(account)
    names = {action.name for action in actions}
    assert {"sagemaker:CreateTrainingJob", "sagemaker:StopTrainingJob", "iam:PassRole"} <= names
    policies = [account.policies["execution-role-policy"], account.policies[ROLE]]
    assert refused(policies, actions) == []


@pytest.mark.parametrize(("name", "actions"), [(CALLER, of_caller), (ROLE, of_role)])
def test_no_action_of_a_policy_is_unused(
    account: Account, name: str, actions: Callable[[Account], list[Action]]
) -> None:
    assert unused(account.policies[name], actions(account)) == set()


def test_what_nobody_asked_for_is_refused(account: Account) -> None:
    job = "arn:aws:sagemaker:us-east-1:123456789012:automl-job/another-teams"
    others = {"aws:ResourceTag/sf_sagemaker:project": "s3://other/prefix"}
    asked = [
        Action("sagemaker:CreateAutoMLJobV2", job),
        Action("sagemaker:StopAutoMLJob", job),
        Action("sagemaker:StopAutoMLJob", job, others),
        Action("sagemaker:CreateTrainingJob", job.replace("automl-job", "training-job")),
    ]
    assert refused([account.policies[CALLER]], asked) == asked
    prefix = f"arn:aws:s3:::{account.site.storage.bucket}/{account.site.storage.prefix}"
    of_jobs = [
        Action("s3:PutObject", f"{prefix}/autopilot-data/m/training/examples.parquet"),
        Action("s3:GetObject", f"{prefix}/champions/m/000001.json"),
        Action("s3:DeleteObject", f"{prefix}/autopilot-jobs/m/model.tar.gz"),
        Action("iam:PassRole", f"{account.site.service.role_arn}-admin"),
    ]
    assert refused([account.policies[ROLE]], of_jobs) == of_jobs
