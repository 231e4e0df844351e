"""deploy/iam for batch transform: its policies allow every call that is made, and nothing that isn't."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from iam_principals import Principal, deployment, principal
from serving.transform_site import TransformSite, transform_site
from sf_sagemaker.serving.batch import NoHold
from standins.iam import Action, creating, needed, on_resource, passing, pulling
from standins.sagemaker.calls import Call
from standins.sagemaker.service import SageMakerService

pytestmark = pytest.mark.slow

_TAGGED = ("CreateTransformJob", "CreateModel")


@dataclass(frozen=True)
class Account:
    site: TransformSite
    caller: Principal
    role: Principal


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
        settings = deployment(service, site.storage.bucket, site.storage.prefix)
        did = [action for call in service.calls for action in actions_of(call, site)]
        yield Account(
            site,
            caller=principal(settings, did, "caller-transform-policy", general=["caller-policy"]),
            role=principal(
                settings,
                of_role(service.calls.of_jobs),
                "execution-role-transform-policy",
                general=["execution-role-policy"],
            ),
        )


def _use(site: TransformSite) -> None:
    """A period that is scored, a job that is stopped, and jobs that are looked for."""

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
    site.transforms.jobs_of_runs(["a run"])
    site.service.flush_logs()


def actions_of(call: Call, site: TransformSite) -> Iterator[Action]:
    """What a call needs to be allowed, with the actions of this feature."""
    p = call.parameters
    where = f"arn:aws:sagemaker:{call.request.region}:123456789012"
    if call.operation in _TAGGED:
        name = p["TransformJobName"] if "TransformJobName" in p else p["ModelName"]
        kind = "transform-job" if "TransformJobName" in p else "model"
        yield from creating(call, f"{where}:{kind}/{name}")
        if kind == "model":
            yield passing(p["ExecutionRoleArn"])
    elif call.operation in ("StopTransformJob", "DescribeTransformJob"):
        name = p["TransformJobName"]
        context = on_resource(site.service.transforms[name].tags)
        yield Action(f"sagemaker:{call.operation}", f"{where}:transform-job/{name}", context)
    else:
        yield from needed(call, {})


def of_role(calls: Sequence[Call]) -> list[Action]:
    """With what SageMaker does for a job beside what the stand-in does."""
    group = "arn:aws:logs:us-east-1:123456789012:log-group:/aws/sagemaker/TransformJobs"
    images = "us-east-1:683313688378:repository"
    return [
        *(action for call in calls for action in needed(call, {})),
        Action("logs:DescribeLogStreams", f"{group}:log-stream:"),
        *pulling(f"{images}/sagemaker-xgboost", f"{images}/huggingface-pytorch-inference"),
    ]


def test_every_call_of_a_caller_is_allowed(account: Account) -> None:
    account.caller.assert_allowed(
        "sagemaker:CreateTransformJob", "sagemaker:StopTransformJob", "iam:PassRole",
        "tag:GetResources",
    )  # fmt: skip


def test_every_call_for_a_job_is_allowed_to_its_role(account: Account) -> None:
    account.role.assert_allowed("s3:GetObject", "s3:PutObject", "logs:PutLogEvents")


def test_no_policy_allows_more_than_is_needed(account: Account) -> None:
    account.caller.assert_no_more_than_needed()
    account.role.assert_no_more_than_needed()


def test_what_nobody_asked_for_is_refused(account: Account) -> None:
    job = "arn:aws:sagemaker:us-east-1:123456789012:transform-job/another-teams"
    others = on_resource({"sf_sagemaker:project": "s3://other/prefix"})
    account.caller.assert_refused(
        Action("sagemaker:CreateTransformJob", job),
        Action("sagemaker:StopTransformJob", job),
        Action("sagemaker:StopTransformJob", job, others),
        Action("sagemaker:DeleteModel", job.replace("transform-job", "model")),
    )
    prefix = f"arn:aws:s3:::{account.site.storage.bucket}/{account.site.storage.prefix}"
    account.role.assert_refused(
        Action("s3:PutObject", f"{prefix}/serving/digest/model.tar.gz"),
        Action("s3:GetObject", f"{prefix}/champions/houses/000001.json"),
        Action("s3:DeleteObject", f"{prefix}/transforms/houses/rows.jsonl"),
    )
