"""The deployment `aws` against the stand-ins for Snowflake and AWS, for tests."""

import json
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
SECRET = "sf_sagemaker/snowflake"
PASSPHRASE = "canary-passphrase-of-the-key"


@dataclass
class Production(Location):
    """A code location whose roles are played by Snowflake and AWS, both on 127.0.0.1."""

    aws: SageMakerService
    snowflake: SnowflakeService
    secrets: tuple[str, ...]


@contextmanager
def production(home: Path, *, integration: bool = True) -> Iterator[Production]:
    """The repository's own code location, set up as docs/production.md says.

    `secrets` are texts that must turn up nowhere: lines of the private key, its passphrase, and
    the key of the AWS credentials.
    """
    (home / "dagster").mkdir(parents=True)
    key = private_key()
    with (
        SageMakerService() as aws,
        SnowflakeService() as snowflake,
        pytest.MonkeyPatch.context() as patch,
    ):
        aws.create_bucket(BUCKET)
        aws.client("secretsmanager").create_secret(
            Name=SECRET,
            SecretString=json.dumps({"private_key": key, "private_key_passphrase": PASSPHRASE}),
        )
        variables = {
            **aws.environment,
            **snowflake.environment,
            "SF_SAGEMAKER_DEPLOYMENT": "aws",
            "SF_SAGEMAKER_HOME": str(home),
            "SF_SAGEMAKER_STORAGE": f"s3://{BUCKET}/{PREFIX}",
            "SF_SAGEMAKER_ROLE_ARN": aws.role_arn,
            "SF_SAGEMAKER_SNOWFLAKE_SECRET": SECRET,
            "DO_NOT_TRACK": "1",
            **({"SF_SAGEMAKER_STORAGE_INTEGRATION": INTEGRATION} if integration else {}),
        }
        for name, value in variables.items():
            patch.setenv(name, value)
        with dg.DagsterInstance.local_temp(str(home / "dagster")) as instance:
            from sf_sagemaker.definitions import defs

            lines = key.splitlines()[1:-1]
            secrets = (*lines[:-1], PASSPHRASE, aws.environment["AWS_SECRET_ACCESS_KEY"])
            yield Production(defs(), instance, home, aws, snowflake, secrets)


def private_key() -> str:
    """A private key as key-pair authentication wants it, encrypted with PASSPHRASE."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(PASSPHRASE.encode()),
    ).decode()
