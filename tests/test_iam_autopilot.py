"""deploy/iam for method: autopilot: its policies allow every call that is made, and nothing that isn't."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from iam_principals import Principal, deployment, principal
from sf_sagemaker.aws import Aws
from standins.iam import Action, creating, needed, on_resource, passing, pulling
from standins.sagemaker.calls import Call
from standins.sagemaker.fixtures import reachable_service
from training.test_autopilot import Site


@dataclass(frozen=True)
class Account:
    site: Site
    caller: Principal
    role: Principal


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    with reachable_service() as service:
        service.settings.stop_grace_seconds = 1
        site = Site(service, Aws())
        service.calls.clear()
        _use(site, tmp_path_factory.mktemp("artifacts"))
        did = [action for call in service.calls for action in actions_of(call, site)]
        settings = deployment(service, site.storage.bucket, site.storage.prefix)
        yield Account(
            site,
            caller=principal(settings, did, "caller-autopilot-policy", general=["caller-policy"]),
            role=principal(
                settings,
                of_role(site),
                "execution-role-autopilot-policy",
                general=["execution-role-policy"],
            ),
        )


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
            yield from creating(call, job)
            yield passing(p["RoleArn"])
        case "StopAutoMLJob":
            context = on_resource(site.service.automl[p["AutoMLJobName"]].tags)
            yield Action("sagemaker:StopAutoMLJob", f"{where}/{p['AutoMLJobName']}", context)
        case "DescribeAutoMLJobV2":
            yield Action("sagemaker:DescribeAutoMLJobV2", f"{where}/{p['AutoMLJobName']}")
        case "ListCandidatesForAutoMLJob":
            yield Action("sagemaker:ListCandidatesForAutoMLJob", "*")
        case _:
            yield from needed(call, {job.name: job.tags for job in site.service.jobs.all()})


def of_role(site: Site) -> list[Action]:
    """With what SageMaker does for a job beside what the stand-in does."""
    job = "arn:aws:sagemaker:us-east-1:123456789012:training-job/any"
    images = "us-east-1:763104351884:repository"
    return [
        *(action for call in site.service.calls.of_jobs for action in actions_of(call, site)),
        *pulling(f"{images}/huggingface-pytorch-tgi-inference", f"{images}/djl-inference"),
        Action("sagemaker:DescribeTrainingJob", job),
        Action("s3:GetObject", "arn:aws:s3:::jumpstart-cache-prod-us-east-1/falcon/weights"),
    ]


def test_every_call_of_a_caller_is_allowed(account: Account) -> None:
    account.caller.assert_allowed(
        "sagemaker:CreateAutoMLJobV2", "sagemaker:StopAutoMLJob", "tag:GetResources"
    )


def test_every_call_for_a_job_is_allowed_to_its_role(account: Account) -> None:
    account.role.assert_allowed(
        "sagemaker:CreateTrainingJob", "sagemaker:StopTrainingJob", "iam:PassRole"
    )


def test_no_policy_allows_more_than_is_needed(account: Account) -> None:
    account.caller.assert_no_more_than_needed()
    account.role.assert_no_more_than_needed()


def test_what_nobody_asked_for_is_refused(account: Account) -> None:
    job = "arn:aws:sagemaker:us-east-1:123456789012:automl-job/another-teams"
    others = on_resource({"sf_sagemaker:project": "s3://other/prefix"})
    account.caller.assert_refused(
        Action("sagemaker:CreateAutoMLJobV2", job),
        Action("sagemaker:StopAutoMLJob", job),
        Action("sagemaker:StopAutoMLJob", job, others),
        Action("sagemaker:CreateTrainingJob", job.replace("automl-job", "training-job")),
    )
    prefix = f"arn:aws:s3:::{account.site.storage.bucket}/{account.site.storage.prefix}"
    account.role.assert_refused(
        Action("s3:PutObject", f"{prefix}/autopilot-data/m/training/examples.parquet"),
        Action("s3:GetObject", f"{prefix}/champions/m/000001.json"),
        Action("s3:DeleteObject", f"{prefix}/autopilot-jobs/m/model.tar.gz"),
        Action("iam:PassRole", f"{account.site.service.role_arn}-admin"),
    )
