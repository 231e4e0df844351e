"""deploy/compose: the files agree with one another and with what the deployment reads."""

import re
from typing import Any

import pytest
import yaml

from locations import REPOSITORY
from sf_sagemaker.aws_settings import AwsSettings, SnowflakeSettings
from sf_sagemaker.snowflake_credentials import SECRET_VARIABLE

COMPOSE = REPOSITORY / "deploy" / "compose"


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((COMPOSE / name).read_text())


@pytest.fixture
def variables() -> dict[str, str]:
    lines = (COMPOSE / "deployment.env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_runs_get_every_variable_that_the_deployment_reads(variables: dict[str, str]) -> None:
    given = set(read("dagster.yaml")["run_launcher"]["config"]["env_vars"])
    # The launcher fails for one that isn't set.
    assert given <= set(variables)
    read_by_us = {
        field.alias
        for model in (AwsSettings, SnowflakeSettings)
        for field in model.model_fields.values()
    }
    assert read_by_us <= given
    assert SECRET_VARIABLE in given


def test_the_example_holds_no_secret(variables: dict[str, str]) -> None:
    secret = [name for name in variables if re.search("PASSWORD|SECRET_ACCESS_KEY|TOKEN", name)]
    assert len(secret) == 3
    assert not [name for name in secret if variables[name]]
    assert "*.env" in (COMPOSE / ".gitignore").read_text().splitlines()


def test_ports_are_bound_to_this_machine_alone() -> None:
    services = read("compose.yaml")["services"]
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports == ["127.0.0.1:3000:3000"]


def test_names_agree_between_compose_and_the_launcher() -> None:
    compose = read("compose.yaml")
    launcher = read("dagster.yaml")["run_launcher"]["config"]
    assert compose["networks"]["sf_sagemaker"]["name"] == launcher["network"]
    mounted = [volume.split(":") for volume in launcher["container_kwargs"]["volumes"]]
    for volume, path in mounted:
        name = volume.removeprefix(f"{compose['name']}_")
        assert name in compose["volumes"]
        assert f"{name}:{path}" in compose["services"]["code-location"]["volumes"]
    [server] = read("workspace.yaml")["load_from"]
    command = compose["services"]["code-location"]["command"]
    assert server["grpc_server"]["host"] == "code-location"
    assert str(server["grpc_server"]["port"]) in command
    image = compose["services"]["code-location"]["image"]
    assert compose["services"]["code-location"]["environment"]["DAGSTER_CURRENT_IMAGE"] == image
    assert (
        read("dagster.yaml")["storage"]["postgres"]["postgres_db"]["hostname"]
        in compose["services"]
    )


def test_the_image_is_made_of_what_the_context_lets_through() -> None:
    allowed = {
        line.removeprefix("!")
        for line in (COMPOSE / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = [
        source
        for line in (COMPOSE / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY ")
        for source in line.split()[1:-1]
    ]
    assert set(copied) == allowed
    assert not [source for source in copied if not (REPOSITORY / source).exists()]
