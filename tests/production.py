"""The deployment `aws` against the stand-ins for Snowflake and AWS, for tests."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from locations import Location
from standins.sagemaker import SageMakerService
from standins.snowflake import SnowflakeService
from standins.snowflake.service import INTEGRATION

BUCKET = "models-of-the-team"
PREFIX = "sf_sagemaker"


@dataclass
class Production(Location):
    """A code location whose roles are played by Snowflake and AWS, both on 127.0.0.1."""

    aws: SageMakerService
    snowflake: SnowflakeService
    secrets: tuple[str, ...]


@contextmanager
def production(home: Path, *, integration: bool = True) -> Iterator[Production]:
    """The repository's own code location, with every variable of docs/production.md set.

    `secrets` are texts that must turn up nowhere: of the private key, and of the AWS credentials.
    """
    (home / "dagster").mkdir(parents=True)
    key = private_key()
    with (
        SageMakerService() as aws,
        SnowflakeService() as snowflake,
        pytest.MonkeyPatch.context() as patch,
    ):
        aws.create_bucket(BUCKET)
        variables = {
            **aws.environment,
            **snowflake.environment,
            "SF_SAGEMAKER_DEPLOYMENT": "aws",
            "SF_SAGEMAKER_HOME": str(home),
            "SF_SAGEMAKER_STORAGE": f"s3://{BUCKET}/{PREFIX}",
            "SF_SAGEMAKER_ROLE_ARN": aws.role_arn,
            "SNOWFLAKE_PRIVATE_KEY": key,
            "DO_NOT_TRACK": "1",
            **({"SF_SAGEMAKER_STORAGE_INTEGRATION": INTEGRATION} if integration else {}),
        }
        for name, value in variables.items():
            patch.setenv(name, value)
        with dg.DagsterInstance.local_temp(str(home / "dagster")) as instance:
            from sf_sagemaker.definitions import defs

            secrets = (key.splitlines()[1], aws.environment["AWS_SECRET_ACCESS_KEY"])
            yield Production(defs(), instance, home, aws, snowflake, secrets)


def private_key() -> str:
    """A private key as key-pair authentication wants it, without a passphrase."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
