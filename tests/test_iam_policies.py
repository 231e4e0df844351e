"""deploy/iam: its policies allow every call that is made, and nothing that isn't."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from iam_principals import Principal, deployment, principal
from sf_sagemaker.aws import Aws
from sf_sagemaker.commands.check_aws import (
    POLICIES,
    AwsChecks,
    Instances,
)
from sf_sagemaker.commands.checks import run_checks
from sf_sagemaker.s3 import S3Storage
from sf_sagemaker.snowflake_credentials import secrets_manager
from sf_sagemaker.training.job import RUN_TAG, Channel, Limits, Program, TrainingJob
from sf_sagemaker.training.platform import Pacing
from sf_sagemaker.training.run import TRAINING, run_job
from sf_sagemaker.training.sagemaker import SageMakerTrainingPlatform
from standins.iam import (
    JOIN_NETWORK,
    Action,
    Policy,
    allows,
    done_for,
    listed,
    needed,
    on_resource,
    passing,
    simulation,
)
from standins.sagemaker.calls import Calls
from standins.sagemaker.fixtures import reachable_service
from standins.sagemaker.service import SageMakerService
from waiting import wait_until

BUCKET, PREFIX = "training-data", "teams/analytics"
CALLER = "arn:aws:sts::123456789012:user/moto"  # as moto's STS knows the stand-in's key
CALLER_POLICIES = (
    "caller-policy",
    "caller-default-subnets-policy",
    "caller-kms-policy",
    "check-production-policy",
)
ROLE_POLICIES = ("execution-role-policy", "execution-role-vpc-policy", "execution-role-kms-policy")
KEY = "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
TRUST = ("execution-role-trust", "snowflake-role-trust", "bedrock-batch-role-trust")
# Policies of single features, each of which has tests of its own.
ELSEWHERE = (
    "caller-serving-policy",
    "execution-role-serving-policy",
    "caller-transform-policy",
    "execution-role-transform-policy",
    "caller-bedrock-policy",
    "caller-bedrock-batch-policy",
    "bedrock-batch-role-policy",
    "caller-autopilot-policy",
    "execution-role-autopilot-policy",
    "caller-llm-policy",
    "execution-role-llm-policy",
)

# Leaves a checkpoint and a model; runs until it is stopped where it is told to.
PROGRAM = """
import os, pathlib, sys, time
base = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"])
(base / "checkpoints").mkdir(exist_ok=True)
(base / "checkpoints" / "half.txt").write_text("half a model")
print("training")
if os.environ.get("WAIT"):
    time.sleep(600)
(base / "model" / "model.txt").write_text("a model")
"""


@dataclass(frozen=True)
class Account:
    service: SageMakerService
    caller: Principal
    role: Principal
    snowflake: Principal


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    with reachable_service() as service:
        service.settings.stop_grace_seconds = 1
        service.create_bucket(BUCKET)
        service.client("secretsmanager").create_secret(Name="prod/snowflake", SecretString="{}")
        settings = deployment(
            service,
            BUCKET,
            PREFIX,
            SF_SAGEMAKER_KMS_KEY=KEY,
            SF_SAGEMAKER_SNOWFLAKE_SECRET="prod/snowflake",
        )
        aws = Aws(settings.region)
        storage = S3Storage(aws, settings.bucket, settings.prefix)
        platform = SageMakerTrainingPlatform(
            aws,
            storage,
            settings.role_arn,
            kms_key=settings.kms_key,
            pacing=Pacing(poll=0.1, longest_poll=0.2, settle=0.6, retry=0.1),
        )
        custom = _push_image(service)
        service.calls.clear()
        _use(storage, platform, tmp_path_factory.mktemp("program"), custom)
        secrets_manager(aws)("prod/snowflake")
        everything = principal(
            settings, [], *CALLER_POLICIES, *ROLE_POLICIES, "snowflake-role-policy"
        ).policies
        with simulation({CALLER: everything, service.role_arn: everything}):
            instances = Instances("m", "xgboost", "ml.m5.xlarge", 1, 1, spot=False, image=None)
            assert run_checks(AwsChecks(settings, aws, storage, platform, [instances]).checks())
        yield Account(
            service,
            caller=principal(settings, of_caller(service.calls), *CALLER_POLICIES),
            role=principal(settings, of_role(service.calls), *ROLE_POLICIES),
            snowflake=principal(settings, [], "snowflake-role-policy"),
        )


def _push_image(service: SageMakerService) -> str:
    """An image for one architecture only, which is written in its configuration."""
    ecr = service.client("ecr")
    ecr.create_repository(repositoryName="own-image")
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": "sha256:" + "a" * 64,
            "size": 2,
        },
        "layers": [],
    }
    ecr.put_image(repositoryName="own-image", imageManifest=json.dumps(manifest), imageTag="1")
    return f"{service.account}.dkr.ecr.{service.region}.amazonaws.com/own-image:1"


def _use(storage: S3Storage, platform: SageMakerTrainingPlatform, folder: Path, image: str) -> None:
    """What runs do with storage and platform: datasets, jobs of all kinds, their ends."""
    for shard in range(2):
        storage.create(f"datasets/m/train/shard={shard}/part.txt", b"rows")
    storage.create("datasets/m/manifest.json", b"{}")
    with storage.write("datasets/m/large") as file:  # in parts
        file.write(b"x" * 17 * 2**20)

    def give_up() -> None:
        with storage.write("datasets/m/larger") as file:
            file.write(b"x" * 17 * 2**20)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        give_up()
    with storage.open("datasets/m/large") as file:
        file.read(10)
    storage.delete("datasets/m/large")
    script = folder / "train.py"
    script.write_text(PROGRAM)
    job = TrainingJob(
        model="m",
        partition="2015-04-27",
        program=Program("train.py", {"train.py": script}),
        image=platform.image("xgboost", "ml.m5.xlarge"),
        dataset_fingerprint="abc",
        channels=(
            Channel("train", "datasets/m/train", "sharded"),
            Channel("manifest", "datasets/m/manifest.json"),
        ),
        hyperparameters={},
        seed=7,
        limits=Limits(max_runtime=timedelta(minutes=1)),
        tags={RUN_TAG: "a run"},
    )
    trained = run_job(job, platform, TRAINING, on_log=lambda line: None)
    platform.fetch_artifact(trained.name, folder / "artifact")
    platform.jobs_of_runs(["a run"])

    in_network = replace(
        job,
        partition="2015-05-04",
        image=platform.image("xgboost", custom=image),
        limits=replace(job.limits, default_subnets=True, spot=True),
    )
    platform.create(in_network, in_network.name(1), {"WAIT": "1"})
    platform.stop(in_network.name(1))
    wait_until(lambda: platform.describe(in_network.name(1)).status.ended, pause=0.1)


def of_caller(calls: Calls) -> list[Action]:
    tags = {
        call.parameters["TrainingJobName"]: {
            tag["Key"]: tag["Value"] for tag in call.parameters["Tags"]
        }
        for call in calls.of("CreateTrainingJob")
    }
    return [action for call in calls for action in needed(call, tags)]


def of_role(calls: Calls) -> list[Action]:
    created = calls.of("CreateTrainingJob")
    assert len(created) == 2
    return [
        *(action for call in calls.of_jobs for action in needed(call, {})),
        *(action for call in created for action in done_for(call)),
    ]


def test_every_call_of_a_caller_is_allowed(account: Account) -> None:
    assert len(account.caller.actions) > 50
    account.caller.assert_allowed()


def test_every_call_for_a_job_is_allowed_to_its_role(account: Account) -> None:
    account.role.assert_allowed(
        "s3:GetObject", "s3:PutObject", "s3:ListBucket", "logs:PutLogEvents"
    )


def test_no_policy_allows_more_than_is_needed(account: Account) -> None:
    account.caller.assert_no_more_than_needed()
    account.role.assert_no_more_than_needed()


def test_what_nobody_asked_for_is_refused(account: Account) -> None:
    job = "arn:aws:sagemaker:us-east-1:123456789012:training-job/another-teams"
    others = on_resource({"sf_sagemaker:project": f"s3://{BUCKET}/teams/other"})
    role = account.service.role_arn
    bucket = f"arn:aws:s3:::{BUCKET}"
    secret = "arn:aws:secretsmanager:us-east-1:123456789012:secret"
    account.caller.assert_refused(
        Action("sagemaker:StopTrainingJob", job),
        Action("sagemaker:StopTrainingJob", job, others),
        Action("sagemaker:CreateTrainingJob", job),
        Action("sagemaker:CreateEndpoint", job),
        passing(f"{role}-admin"),
        passing(role, "ec2.amazonaws.com"),
        Action("s3:GetObject", f"{bucket}/teams/other/data.parquet"),
        Action("s3:GetObject", f"{bucket}/{PREFIX}-other/data.parquet"),
        Action("s3:PutObject", f"arn:aws:s3:::other/{PREFIX}/data.parquet"),
        Action("s3:ListBucket", bucket, {"s3:prefix": "teams/other/"}),
        Action("s3:DeleteBucket", bucket),
        Action("secretsmanager:GetSecretValue", f"{secret}:prod/other-Ab1Cd2"),
        Action("iam:GetRole", f"{role}-admin"),
        Action("kms:Decrypt", KEY.replace("1234abcd", "5678abcd")),
    )  # fmt: skip
    prefix = f"{bucket}/{PREFIX}"
    account.role.assert_refused(
        Action("s3:PutObject", f"{prefix}/datasets/m/manifest.json"),
        Action("s3:PutObject", f"{prefix}/champions/m/000001.json"),
        Action("s3:PutObject", f"{prefix}/code/digest/code.tar.gz"),
        Action("s3:DeleteObject", f"{prefix}/training-jobs/m/output/model.tar.gz"),
        Action("s3:GetObject", f"{bucket}/teams/other/data.parquet"),
        Action("s3:ListBucket", bucket, {"s3:prefix": "teams/other/"}),
        Action("sagemaker:CreateTrainingJob", job),
        Action("secretsmanager:GetSecretValue", f"{secret}:prod/snowflake-Ab1Cd2"),
        Action("cloudwatch:PutMetricData", "*", {"cloudwatch:namespace": "billing"}),
    )  # fmt: skip
    account.snowflake.assert_refused(
        Action("s3:PutObject", f"{prefix}/training-jobs/m/output/model.tar.gz"),
        Action("s3:ListBucket", bucket, {"s3:prefix": f"{PREFIX}/champions/"}),
        Action("s3:PutObject", f"{bucket}/datasets/x"),
    )
    unload = Action("s3:PutObject", f"{prefix}/datasets/m/2015/data_0_0.snappy.parquet")
    assert allows(account.snowflake.policies, unload)


# Actions that IAM knows no resources for, or SageMaker's documentation gives none; and alarms, which
# CloudWatch describes to others only where they aren't composite.
_EVERYWHERE = {
    "tag:GetResources", "servicequotas:ListServiceQuotas", "ecr:GetAuthorizationToken",
    "sagemaker:ListModelPackages", "sagemaker:ListEndpointConfigs",
    "sagemaker:ListCandidatesForAutoMLJob",
    "bedrock:ListModelInvocationJobs", "cloudwatch:PutMetricData", "cloudwatch:DescribeAlarms",
    "ec2:DescribeRouteTables",
    *(f"ec2:{action}" for action in JOIN_NETWORK),
}  # fmt: skip


def test_every_file_is_known_and_says_no_more_than_it_must() -> None:
    files = sorted(POLICIES.glob("*.json"))
    names = {*CALLER_POLICIES, *ROLE_POLICIES, *TRUST, *ELSEWHERE, "snowflake-role-policy"}
    assert {file.stem for file in files} == names
    for file in files:
        policy: dict[str, Any] = json.loads(file.read_text())
        assert policy["Version"] == "2012-10-17"
        for statement in policy["Statement"]:
            assert statement["Effect"] == "Allow"
            actions = listed(statement["Action"])
            assert not [action for action in actions if "*" in action], file
            if file.stem in TRUST:
                assert actions == ["sts:AssumeRole"]
                assert statement["Condition"]["StringEquals"], "anybody's confused deputy"
            elif "*" in listed(statement["Resource"]):
                assert set(actions) <= _EVERYWHERE, file


def test_placeholders_are_all_explained() -> None:
    found = {
        name
        for file in POLICIES.glob("*.json")
        for name in re.findall(r"\$\{(\w+)\}", file.read_text())
    }
    explained = (POLICIES.parents[1] / "docs" / "production.md").read_text()
    assert found == {
        "AWS_REGION", "AWS_ACCOUNT", "BUCKET", "PREFIX", "ROLE_ARN", "SECRET", "KMS_KEY_ARN",
        "BEDROCK_ROLE_ARN",
        "SNOWFLAKE_IAM_USER_ARN", "SNOWFLAKE_EXTERNAL_ID",
    }  # fmt: skip
    assert not [name for name in found if f"{name}=" not in explained]


def test_the_evaluator_decides_as_iam_does() -> None:
    def policy(effect: str, action: Any, resource: Any, condition: Any = None) -> Policy:
        statement = {"Sid": "S", "Effect": effect, "Action": action, "Resource": resource}
        return {"Statement": [statement | ({"Condition": condition} if condition else {})]}

    get = Action("s3:GetObject", "arn:aws:s3:::b/prefix/key", {"aws:tag": "x"})
    assert not allows([], get)
    assert allows([policy("Allow", "s3:Get*", "arn:aws:s3:::b/prefix/*")], get)
    assert allows([policy("Allow", "S3:getobject", "arn:aws:s3:::b/prefix/ke?")], get)
    assert not allows([policy("Allow", "s3:Get?", "arn:aws:s3:::b/prefix/*")], get)
    assert not allows([policy("Allow", "s3:GetObject", "arn:aws:s3:::b/prefix")], get)
    everything = policy("Allow", "*", "*")
    assert not allows([everything, policy("Deny", "s3:*", "*")], get)
    for condition, expected in (
        ({"StringEquals": {"aws:tag": ["y", "x"]}}, True),
        ({"StringEquals": {"aws:tag": "X"}}, False),
        ({"StringEquals": {"absent": "x"}}, False),
        ({"StringLike": {"aws:tag": "?"}}, True),
        ({"StringLikeIfExists": {"absent": "x"}}, True),
        ({"StringLikeIfExists": {"aws:tag": "y"}}, False),
        ({"StringEquals": {"aws:tag": "x"}, "StringLike": {"aws:tag": "y"}}, False),
    ):
        assert allows([policy("Allow", "*", "*", condition)], get) is expected, condition
    with pytest.raises(AssertionError, match="doesn't know the operator"):
        allows([policy("Allow", "*", "*", {"IpAddress": {"aws:tag": "x"}})], get)
