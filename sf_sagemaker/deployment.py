"""Local or AWS: the one place that knows which implementation serves which role.

Reads the environment when asked, never at import. No secret is read here: what needs one reads it
when a step uses it.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sf_sagemaker.aws_settings import (
    AwsSettings,
    InvalidDeployment,
    SnowflakeSettings,
    read_settings,
)
from sf_sagemaker.dbt_environment import DbtEnvironment

if TYPE_CHECKING:
    from sf_sagemaker.aws import Aws
    from sf_sagemaker.s3 import S3Storage
    from sf_sagemaker.snowflake_credentials import SnowflakeCredentials
    from sf_sagemaker.training.sagemaker import SageMakerTrainingPlatform
    from sf_sagemaker.warehouse.snowflake import SnowflakeWarehouse

DEPLOYMENTS = ("local", "aws")


def home() -> Path:
    """The folder of the local deployment: warehouse file, storage, Dagster's own state.

    `SF_SAGEMAKER_HOME`, or `var` in the repository.
    """
    configured = os.environ.get("SF_SAGEMAKER_HOME")
    if configured is None:
        return Path(__file__).resolve().parent.parent / "var"
    if not Path(configured).is_absolute():
        raise InvalidDeployment(
            f"SF_SAGEMAKER_HOME is {configured!r}: it must be an absolute path, since dbt and "
            "training jobs run in other folders"
        )
    return Path(configured)


def resources() -> Mapping[str, object]:
    """The resources that assets ask for by role: `warehouse`, `storage`, `training_platform`,
    `training_messages`, where its jobs report, `endpoint_host` and `dbt_environment`.

    Raises InvalidDeployment, before anything is read or started, where the environment is not right.
    """
    name = os.environ.get("SF_SAGEMAKER_DEPLOYMENT") or "local"
    if name not in DEPLOYMENTS:
        raise InvalidDeployment(
            f"SF_SAGEMAKER_DEPLOYMENT is {name!r}; it must be one of: {', '.join(DEPLOYMENTS)}"
        )
    return _aws() if name == "aws" else _local()


def _local() -> Mapping[str, object]:
    from sf_sagemaker.serving.local import LocalEndpointHost
    from sf_sagemaker.storage import LocalStorage
    from sf_sagemaker.training.local import LocalTrainingPlatform
    from sf_sagemaker.training.pipes import FileMessages
    from sf_sagemaker.warehouse.duckdb import DuckDBWarehouse

    storage = LocalStorage(home() / "storage")
    # Converted base models stay with everything else of this deployment.
    cache = {"SF_SAGEMAKER_CACHE": str(home() / "cache")}
    platform = LocalTrainingPlatform(storage, environment=cache)
    return {
        "warehouse": DuckDBWarehouse(home() / "warehouse.duckdb", lock_timeout=300),
        "storage": storage,
        "training_platform": platform,
        "training_messages": FileMessages(platform.message_path),
        "endpoint_host": LocalEndpointHost(
            home() / "endpoints", platform.fetch_artifact, environment=cache
        ),
        "dbt_environment": DbtEnvironment(),
    }


@dataclass(frozen=True)
class AwsParts:
    """What the deployment `aws` is made of. Nothing in it has asked anything of anybody yet."""

    settings: AwsSettings
    snowflake: SnowflakeSettings
    aws: "Aws"
    credentials: "Callable[[], SnowflakeCredentials]"
    warehouse: "SnowflakeWarehouse"
    storage: "S3Storage"
    platform: "SageMakerTrainingPlatform"


def aws_parts() -> AwsParts:
    """The deployment `aws` as the environment describes it. Raises InvalidDeployment."""
    from sf_sagemaker.aws import Aws
    from sf_sagemaker.s3 import S3Storage
    from sf_sagemaker.snowflake_credentials import read_snowflake_credentials, secrets_manager
    from sf_sagemaker.snowflake_login import SnowflakeLogin
    from sf_sagemaker.training.sagemaker import SageMakerTrainingPlatform
    from sf_sagemaker.warehouse.snowflake import SnowflakeWarehouse

    settings, snowflake = read_settings(os.environ)
    aws = Aws(settings.region)
    storage = S3Storage(aws, settings.bucket, settings.prefix)

    def credentials() -> "SnowflakeCredentials":
        return read_snowflake_credentials(os.environ, secrets_manager(aws))

    return AwsParts(
        settings=settings,
        snowflake=snowflake,
        aws=aws,
        credentials=credentials,
        warehouse=SnowflakeWarehouse(
            SnowflakeLogin(snowflake, credentials).connect,
            integration=settings.storage_integration,
        ),
        storage=storage,
        platform=SageMakerTrainingPlatform(
            aws,
            storage,
            settings.role_arn,
            subnets=settings.subnets,
            security_groups=settings.security_groups,
            kms_key=settings.kms_key,
        ),
    )


def _aws() -> Mapping[str, object]:
    from sf_sagemaker.serving.local import LocalEndpointHost
    from sf_sagemaker.training.sagemaker_messages import SageMakerMessages

    parts = aws_parts()
    return {
        "warehouse": parts.warehouse,
        "storage": parts.storage,
        "training_platform": parts.platform,
        "training_messages": SageMakerMessages(parts.storage),
        # Endpoints are processes of this machine here, too; their models come from S3.
        "endpoint_host": LocalEndpointHost(home() / "endpoints", parts.platform.fetch_artifact),
        "dbt_environment": DbtEnvironment(lambda: parts.credentials().dbt_environment()),
    }
