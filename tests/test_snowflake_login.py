"""Logging in to Snowflake through dagster-snowflake's resource, and what is seen of the secrets."""

import logging
import traceback
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)

from sf_sagemaker.aws_settings import SnowflakeSettings
from sf_sagemaker.snowflake_credentials import (
    SecretUnavailable,
    read_snowflake_credentials,
    secrets_manager,
)
from sf_sagemaker.snowflake_login import SnowflakeLogin
from sf_sagemaker.warehouse.errors import LoginRefused
from sf_sagemaker.warehouse.snowflake import SnowflakeWarehouse
from standins.sagemaker.fixtures import aws_service  # noqa: F401
from standins.sagemaker.service import SageMakerService
from standins.snowflake.service import SnowflakeService

pytestmark = pytest.mark.slow

PASSPHRASE = "canary-passphrase-6e1f"
PASSWORD = "canary-password-93ab"
TOKEN = "canary-token-55d0"
KEY = (
    rsa.generate_private_key(public_exponent=65537, key_size=2048)
    .private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(PASSPHRASE.encode()))
    .decode()
)
WAYS = {
    "key pair": {
        "SNOWFLAKE_PRIVATE_KEY": KEY,
        "SNOWFLAKE_PRIVATE_KEY_PASSPHRASE": PASSPHRASE,
    },
    "password": {"SNOWFLAKE_PASSWORD": PASSWORD},
    "OAuth token": {"SNOWFLAKE_TOKEN": TOKEN},
}
CANARIES = [PASSPHRASE, PASSWORD, TOKEN, *(line for line in KEY.splitlines() if len(line) == 64)]


@pytest.fixture(scope="module")
def snowflake() -> Iterator[SnowflakeService]:
    with SnowflakeService() as service:
        yield service


def login(service: SnowflakeService, environment: dict[str, str]) -> SnowflakeLogin:
    settings = SnowflakeSettings.model_validate(service.environment)
    return SnowflakeLogin(
        settings, lambda: read_snowflake_credentials(environment, lambda name: "")
    )


@pytest.mark.parametrize("way", WAYS)
def test_each_way_logs_in_and_shows_no_secret(
    snowflake: SnowflakeService,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    # dbt-snowflake silences the connector, where another test ran it in this process.
    monkeypatch.setattr(logging.getLogger("snowflake.connector"), "propagate", True)
    caplog.set_level(logging.DEBUG, logger="snowflake.connector")
    caplog.set_level(logging.DEBUG)
    warehouse = SnowflakeWarehouse(login(snowflake, WAYS[way]).connect)
    with warehouse.reading() as session:
        assert session.rows("select 1") == [(1,)]
    snowflake.refuse_login(390144, "JWT token is invalid. [0ce9eb56-821d-4ca9-a774-04ae89a0cf5a]")
    with pytest.raises(LoginRefused) as refused, warehouse.reading():
        pass
    said = "".join(traceback.format_exception(refused.value))
    for canary in CANARIES:
        assert canary not in said
        assert canary not in caplog.text
        assert canary not in repr(warehouse)
    assert len(caplog.records) > 10  # the connector talks at this level


def test_a_connection_is_closed_also_after_an_error(snowflake: SnowflakeService) -> None:
    opened = []

    def fail() -> None:
        with login(snowflake, WAYS["password"]).connect() as connection:
            opened.append(connection)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert opened[0].is_closed()
    with login(snowflake, WAYS["password"]).connect() as connection:
        opened.append(connection)
    assert opened[1].is_closed()


def test_a_rotated_password_is_used_from_the_next_connection_on(
    snowflake: SnowflakeService,
) -> None:
    environment = {"SNOWFLAKE_PASSWORD": "first"}
    read = []
    settings = SnowflakeSettings.model_validate(snowflake.environment)

    def credentials() -> object:
        read.append(environment["SNOWFLAKE_PASSWORD"])
        return read_snowflake_credentials(environment, lambda name: "")

    opener = SnowflakeLogin(settings, credentials)  # type: ignore[arg-type]
    with opener.connect():
        environment["SNOWFLAKE_PASSWORD"] = "second"
    with opener.connect():
        pass
    assert read == ["first", "second"]


def test_a_secret_comes_from_secrets_manager(
    aws_service: SageMakerService,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    from sf_sagemaker.aws import Aws

    caplog.set_level(logging.INFO)
    aws_service.client("secretsmanager").create_secret(
        Name="prod/snowflake", SecretString='{"token": "' + TOKEN + '"}'
    )
    aws_service.client("secretsmanager").create_secret(Name="binary", SecretBinary=TOKEN.encode())
    fetch = secrets_manager(Aws())
    environment = {"SF_SAGEMAKER_SNOWFLAKE_SECRET": "prod/snowflake"}
    found = read_snowflake_credentials(environment, fetch)
    assert found.token == TOKEN
    with pytest.raises(SecretUnavailable, match=r"prod/other.*There is no such secret"):
        fetch("prod/other")
    with pytest.raises(Exception, match="'binary' is binary") as binary:
        fetch("binary")
    assert TOKEN not in caplog.text + repr(found) + str(binary.value)
    assert aws_service.calls.count("GetSecretValue") == 3
    assert not aws_service.find(TOKEN)


def test_expired_credentials_of_aws_are_named(
    aws_service: SageMakerService,  # noqa: F811
) -> None:
    from sf_sagemaker.aws import Aws

    aws_service.faults.expire_credentials()
    with pytest.raises(SecretUnavailable, match="expired or wrong: renew them"):
        secrets_manager(Aws())("prod/snowflake")
