"""deploy/iam for base models: its policies allow every call that is made, and nothing that isn't."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from iam_principals import Principal, deployment, principal
from sf_sagemaker.aws import Aws
from sf_sagemaker.containers.llm.base_model import find_base_model
from sf_sagemaker.s3 import S3Storage
from sf_sagemaker.training.errors import BaseModelRefused
from sf_sagemaker.training.job import Limits, Program, TrainingJob
from sf_sagemaker.training.platform import Pacing
from sf_sagemaker.training.run import TRAINING, run_job
from sf_sagemaker.training.sagemaker import SageMakerTrainingPlatform
from standins.iam import Action, needed
from standins.sagemaker.calls import Call
from standins.sagemaker.fixtures import reachable_service

BUCKET, PREFIX = "training-data", "teams/analytics"
JUMPSTART = "jumpstart-cache-prod-us-east-1"
GATED = "jumpstart-private-cache-prod-us-east-1"
FILES = ("config.json", "tokenizer.json", "model.safetensors")
PROGRAM = """
import os, pathlib
base = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"])
assert (base / "input" / "data" / "base_model" / "config.json").exists()
(base / "model" / "model.txt").write_text("a model")
"""


@dataclass(frozen=True)
class Account:
    caller: Principal
    role: Principal


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    with reachable_service() as service:
        for bucket, folder in (
            (BUCKET, f"{PREFIX}/base-models/tiny"),
            (JUMPSTART, "open"),
            (GATED, "gated"),
        ):
            service.create_bucket(bucket)
            for name in FILES:
                service.client("s3").put_object(Bucket=bucket, Key=f"{folder}/{name}", Body=b"{}")
        service.hub.add("open", "1.0.0", {"TrainingArtifactUri": f"s3://{JUMPSTART}/open/"})
        service.hub.add(
            "gated", "1.0.0", {"TrainingArtifactUri": f"s3://{GATED}/gated/", "GatedBucket": True}
        )
        aws = Aws(attempts=1)
        platform = SageMakerTrainingPlatform(
            aws,
            S3Storage(aws, BUCKET, PREFIX),
            service.role_arn,
            pacing=Pacing(poll=0.1, longest_poll=0.2, settle=0.3, retry=0.1),
        )
        subnet = service.client("ec2").describe_subnets()["Subnets"][0]["SubnetId"]
        service.calls.clear()
        _use(platform, tmp_path_factory.mktemp("program"), subnet)
        settings = deployment(service, BUCKET, PREFIX)
        yield Account(
            caller=principal(
                settings,
                [action for call in service.calls for action in actions_of(call)],
                "caller-llm-policy",
                general=["caller-policy"],
            ),
            role=principal(
                settings,
                [action for call in service.calls.of_jobs for action in needed(call, {})],
                "execution-role-llm-policy",
                general=["execution-role-policy"],
            ),
        )


def _use(platform: SageMakerTrainingPlatform, folder: Path, subnet: str) -> None:
    """A job on each kind of base that comes as a channel, and what is asked before and after."""
    script = folder / "train.py"
    script.write_text(PROGRAM)
    bases = (f"s3://{BUCKET}/{PREFIX}/base-models/tiny", "jumpstart:open", "jumpstart:gated:1.0.0")
    for number, base in enumerate(bases):
        given = platform.base_model(base, Limits(), accept_eula=base.startswith("jumpstart:gated"))
        assert given.channel is not None
        job = TrainingJob(
            model=f"m{number}",
            partition="2015-04-27",
            program=Program("train.py", {"train.py": script}),
            image="123456789012.dkr.ecr.us-east-1.amazonaws.com/training:1",
            dataset_fingerprint="abc",
            channels=(),
            hyperparameters={},
            seed=7,
            limits=Limits(instance_type="ml.g5.xlarge"),
            external=(given.channel,),
        )
        run_job(job, platform, TRAINING, on_log=lambda line: None)
        if not base.startswith("jumpstart:gated"):
            find_base_model(given.name, folder / "cache")
    with pytest.raises(BaseModelRefused, match="no default route"):
        platform.base_model("org/name", Limits(subnets=(subnet,)), accept_eula=False)


def actions_of(call: Call) -> Iterator[Action]:
    p = call.parameters
    if call.operation == "DescribeHubContent":
        arn = f"arn:aws:sagemaker:{call.request.region}:aws:hub"
        content = (
            f"{p['HubContentType']}/{p['HubContentName']}/{p.get('HubContentVersion', '1.0.0')}"
        )
        yield Action("sagemaker:DescribeHubContent", f"{arn}/{p['HubName']}")
        yield Action("sagemaker:DescribeHubContent", f"{arn}-content/{p['HubName']}/{content}")
    else:
        yield from needed(call, {})


def test_every_call_of_a_caller_is_allowed(account: Account) -> None:
    account.caller.assert_allowed(
        "sagemaker:DescribeHubContent", "ec2:DescribeRouteTables", "s3:ListBucket"
    )


def test_every_call_for_a_job_is_allowed_to_its_role(account: Account) -> None:
    account.role.assert_allowed("s3:GetObject")
    read = {action.resource for action in account.role.actions if action.name == "s3:GetObject"}
    assert {f"arn:aws:s3:::{GATED}/gated/{name}" for name in FILES} <= read


def test_no_policy_allows_more_than_is_needed(account: Account) -> None:
    account.caller.assert_no_more_than_needed()
    account.role.assert_no_more_than_needed()


def test_what_nobody_asked_for_is_refused(account: Account) -> None:
    hub = "arn:aws:sagemaker:us-east-1:123456789012:hub-content/ours/Model/secret/1.0.0"
    account.caller.assert_refused(
        Action("sagemaker:DescribeHubContent", hub),
        Action("s3:GetObject", f"arn:aws:s3:::{GATED}/gated/model.safetensors"),
        Action("s3:PutObject", f"arn:aws:s3:::{JUMPSTART}/open/model.safetensors"),
        Action("ec2:CreateRoute", "*"),
    )
    account.role.assert_refused(
        Action("s3:PutObject", f"arn:aws:s3:::{BUCKET}/{PREFIX}/base-models/tiny/config.json"),
        Action("s3:GetObject", f"arn:aws:s3:::{BUCKET}/{PREFIX}/champions/m/000001.json"),
        Action("s3:GetObject", "arn:aws:s3:::jumpstart-cache-prod-eu-west-1/open/config.json"),
        Action("sagemaker:DescribeHubContent", hub),
    )
