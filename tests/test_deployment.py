"""Which implementation serves which role, and what is wrong with an environment."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locations import REPOSITORY
from sf_sagemaker import deployment
from sf_sagemaker.aws_settings import InvalidDeployment, read_settings
from sf_sagemaker.dbt_environment import DbtEnvironment

COMPLETE = {
    "SF_SAGEMAKER_DEPLOYMENT": "aws",
    "SF_SAGEMAKER_STORAGE": "s3://training-data/teams/analytics/",
    "SF_SAGEMAKER_ROLE_ARN": "arn:aws:iam::123456789012:role/training/sf_sagemaker",
    "AWS_REGION": "eu-central-1",
    "SNOWFLAKE_ACCOUNT": "MYORG-MYACCOUNT",
    "SNOWFLAKE_USER": "trainer@example.com",
    "SNOWFLAKE_ROLE": "TRANSFORMER",
    "SNOWFLAKE_WAREHOUSE": "TRANSFORMING",
    "SNOWFLAKE_DATABASE": "ANALYTICS",
    "SNOWFLAKE_SCHEMA": "PUBLIC",
}
ROLES = {
    "warehouse",
    "storage",
    "training_platform",
    "training_messages",
    "autopilot_platform",
    "autopilot_answers",
    "endpoint_host",
    "batch_scoring",
    "transform_platform",
    "bedrock",
    "dbt_environment",
}


@pytest.fixture
def complete(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in list(os.environ):
        if name.startswith(("AWS_", "SNOWFLAKE_", "SF_SAGEMAKER_")):
            monkeypatch.delenv(name)
    for name, value in COMPLETE.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_a_complete_environment_and_its_defaults() -> None:
    aws, snowflake = read_settings({**COMPLETE, "SF_SAGEMAKER_SUBNETS": "  "})
    assert (aws.bucket, aws.prefix) == ("training-data", "teams/analytics")
    assert aws.storage_integration is None
    assert aws.subnets == ()
    assert snowflake.schema_name == "PUBLIC"
    assert snowflake.port is None


def test_everything_that_may_be_set() -> None:
    aws, snowflake = read_settings(
        {
            **COMPLETE,
            "SF_SAGEMAKER_STORAGE_INTEGRATION": "S3_DATASETS",
            "SF_SAGEMAKER_SUBNETS": "subnet-0a1b2c3d, subnet-0a1b2c3d4e5f67890",
            "SF_SAGEMAKER_SECURITY_GROUPS": "sg-0a1b2c3d",
            "SF_SAGEMAKER_KMS_KEY": "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab",
            "SF_SAGEMAKER_SNOWFLAKE_SECRET": "prod/snowflake",
            "SNOWFLAKE_HOST": "myaccount.privatelink.snowflakecomputing.com",
            "SNOWFLAKE_PORT": "443",
            "SNOWFLAKE_PROTOCOL": "https",
        }
    )
    assert aws.subnets == ("subnet-0a1b2c3d", "subnet-0a1b2c3d4e5f67890")
    assert aws.security_groups == ("sg-0a1b2c3d",)
    assert snowflake.port == 443


def test_the_region_may_be_named_as_boto3_names_it() -> None:
    named = {name: value for name, value in COMPLETE.items() if name != "AWS_REGION"}
    assert read_settings({**named, "AWS_DEFAULT_REGION": "eu-west-1"})[0].region == "eu-west-1"
    both = {**COMPLETE, "AWS_DEFAULT_REGION": "eu-west-1"}
    assert read_settings(both)[0].region == "eu-central-1"


def test_everything_that_is_missing_or_wrong_is_one_error() -> None:
    with pytest.raises(InvalidDeployment) as raised:
        read_settings(
            {
                "SF_SAGEMAKER_STORAGE": "training-data/prefix",
                "SF_SAGEMAKER_ROLE_ARN": "sf_sagemaker",
                "SF_SAGEMAKER_SUBNETS": "subnet-0a1b2c3d",
                "SF_SAGEMAKER_KMS_KEY": "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab",
                "AWS_REGION": "eu-central-1",
                "SNOWFLAKE_ACCOUNT": "MYORG-MYACCOUNT.snowflakecomputing.com",
                "SNOWFLAKE_ROLE": "role; drop table x",
                "SNOWFLAKE_PORT": "many",
                "SF_SAGEMAKER_SNOWFLAKE_SECRET": '{"password": "pasted by mistake"}',
            }
        )
    problems = [line for line in str(raised.value).splitlines() if line.startswith("- ")]
    for name in (
        "SF_SAGEMAKER_STORAGE is 'training-data/prefix': expected s3://bucket/prefix",
        "SF_SAGEMAKER_ROLE_ARN is 'sf_sagemaker'",
        "SF_SAGEMAKER_SUBNETS and SF_SAGEMAKER_SECURITY_GROUPS",
        "SF_SAGEMAKER_KMS_KEY is a key of us-east-1",
        "SNOWFLAKE_ACCOUNT is 'MYORG-MYACCOUNT.snowflakecomputing.com'",
        "SNOWFLAKE_USER is not set: the user that logs in",
        "SNOWFLAKE_ROLE is 'role; drop table x'",
        "SNOWFLAKE_WAREHOUSE is not set",
        "SNOWFLAKE_DATABASE is not set",
        "SNOWFLAKE_SCHEMA is not set",
        "SNOWFLAKE_PORT is 'many'",
        "SF_SAGEMAKER_SNOWFLAKE_SECRET is wrong",
    ):
        assert len([problem for problem in problems if problem.startswith(f"- {name}")]) == 1, name
    assert len(problems) == 12
    assert "pasted by mistake" not in str(raised.value)


@pytest.mark.parametrize("name", sorted(set(COMPLETE) - {"SF_SAGEMAKER_DEPLOYMENT"}))
def test_each_variable_is_needed(name: str) -> None:
    with pytest.raises(InvalidDeployment) as raised:
        read_settings({**COMPLETE, name: ""})
    [problem] = [line for line in str(raised.value).splitlines() if line.startswith("- ")]
    assert problem.startswith(f"- {name} is not set: ")


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=30))
def test_what_reaches_sql_is_an_identifier_or_refused(value: str) -> None:
    try:
        _, snowflake = read_settings({**COMPLETE, "SNOWFLAKE_DATABASE": value})
    except InvalidDeployment:
        return
    assert snowflake.database == value.strip()
    assert snowflake.database.isascii()
    assert snowflake.database.replace("$", "_").isidentifier()


def test_roles_are_the_same_everywhere(complete: pytest.MonkeyPatch, tmp_path: Path) -> None:
    aws = deployment.resources()
    complete.setenv("SF_SAGEMAKER_DEPLOYMENT", "local")
    complete.setenv("SF_SAGEMAKER_HOME", str(tmp_path))
    local = deployment.resources()
    assert set(aws) == set(local) == ROLES
    for role in ROLES - {"bedrock", "dbt_environment", "endpoint_host"}:
        assert type(aws[role]) is not type(local[role])


def test_an_unknown_deployment_is_refused(complete: pytest.MonkeyPatch) -> None:
    complete.setenv("SF_SAGEMAKER_DEPLOYMENT", "azure")
    with pytest.raises(InvalidDeployment, match="'azure'; it must be one of: local, aws"):
        deployment.resources()


def test_no_resource_shows_a_secret(complete: pytest.MonkeyPatch) -> None:
    canary = "canary-password-2b7f"
    complete.setenv("SNOWFLAKE_PASSWORD", canary)
    parts = deployment.aws_parts()
    assert parts.credentials().password == canary
    for shown in (
        *deployment.resources().values(),
        parts,
        parts.credentials(),
        *vars(parts).values(),
    ):
        assert canary not in f"{shown!r} {shown} {vars(shown)}" or shown == parts.credentials()
        assert canary not in f"{shown!r} {shown}"


_LOAD = """
import json, socket, sys

def no_network(*arguments, **named):
    raise AssertionError(f"loading connects: {arguments}")

socket.socket.connect = no_network
socket.getaddrinfo = no_network
from sf_sagemaker.definitions import defs
resources = sorted(defs().resources)
heavy = ("boto3", "botocore", "snowflake.connector", "sagemaker", "dagster_snowflake", "dagster_aws",
         "dbt.cli")
print(json.dumps([resources, [name for name in heavy if name in sys.modules]]))
"""


@pytest.mark.slow
def test_the_code_location_loads_without_network_and_credentials(
    complete: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    complete.setenv("AWS_CONFIG_FILE", "/dev/null")
    complete.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    loaded = subprocess.run(
        [sys.executable, "-c", _LOAD], cwd=REPOSITORY, capture_output=True, text=True, timeout=300
    )
    assert loaded.returncode == 0, loaded.stderr
    resources, heavy = json.loads(loaded.stdout.splitlines()[-1])
    assert set(resources) >= ROLES
    assert heavy == []


def test_dbt_has_secrets_while_it_is_started_and_not_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SNOWFLAKE_AUTHENTICATOR", "of the surroundings")
    monkeypatch.delenv("DBT_ENV_SECRET_SNOWFLAKE_PASSWORD", raising=False)
    secrets = {"DBT_ENV_SECRET_SNOWFLAKE_PASSWORD": "canary", "SNOWFLAKE_AUTHENTICATOR": ""}
    environment = DbtEnvironment(lambda: secrets)
    with environment.applied():
        shown = subprocess.run(["env"], capture_output=True, text=True, check=True).stdout
    assert "DBT_ENV_SECRET_SNOWFLAKE_PASSWORD=canary" in shown.splitlines()
    assert "SNOWFLAKE_AUTHENTICATOR=" in shown.splitlines()
    assert "DBT_ENV_SECRET_SNOWFLAKE_PASSWORD" not in os.environ
    assert os.environ["SNOWFLAKE_AUTHENTICATOR"] == "of the surroundings"
    with pytest.raises(ZeroDivisionError), environment.applied():
        raise ZeroDivisionError
    assert "DBT_ENV_SECRET_SNOWFLAKE_PASSWORD" not in os.environ
    assert "canary" not in repr(environment)
