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
    from sf_sagemaker.serving.autopilot_answers import AutopilotAnswers
    from sf_sagemaker.serving.bedrock import Bedrock
    from sf_sagemaker.serving.sagemaker_model import SageMakerModels
    from sf_sagemaker.serving.sagemaker_transform import (
        SageMakerBatchScoring,
        SageMakerTransforms,
    )
    from sf_sagemaker.snowflake_credentials import SnowflakeCredentials
    from sf_sagemaker.training.autopilot import AutopilotPlatform
    from sf_sagemaker.training.sagemaker import SageMakerTrainingPlatform
    from sf_sagemaker.warehouse.snowflake import SnowflakeWarehouse

DEPLOYMENTS = ("local", "aws")

_NO_AUTOPILOT = (
    "method: autopilot is SageMaker's, and SF_SAGEMAKER_DEPLOYMENT is local: set it to aws, or train with "
    "method: training_job"
)
_NO_TRANSFORMS = "batch transform jobs are SageMaker's, and SF_SAGEMAKER_DEPLOYMENT is local"


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


def name() -> str:
    """`SF_SAGEMAKER_DEPLOYMENT`, or `local`. Raises InvalidDeployment for what is neither."""
    configured = os.environ.get("SF_SAGEMAKER_DEPLOYMENT") or "local"
    if configured not in DEPLOYMENTS:
        raise InvalidDeployment(
            f"SF_SAGEMAKER_DEPLOYMENT is {configured!r}; it must be one of: {', '.join(DEPLOYMENTS)}"
        )
    return configured


def resources() -> Mapping[str, object]:
    """The resources that assets ask for by role: `warehouse`, `storage`, `training_platform`,
    `training_messages`, where its jobs report, `endpoint_host`, `batch_scoring`,
    `transform_platform`, `bedrock` and `dbt_environment`.

    Raises InvalidDeployment, before anything is read or started, where the environment is not right.
    """
    return _aws() if name() == "aws" else _local()


def _local() -> Mapping[str, object]:
    from sf_sagemaker.aws import Aws
    from sf_sagemaker.serving.autopilot_answers import UnavailableAnswers
    from sf_sagemaker.serving.batch import LocalBatchScoring
    from sf_sagemaker.serving.bedrock import Bedrock
    from sf_sagemaker.serving.local import LocalEndpointHost
    from sf_sagemaker.storage import LocalStorage
    from sf_sagemaker.training.local import LocalTrainingPlatform
    from sf_sagemaker.training.pipes import FileMessages
    from sf_sagemaker.training.unavailable import UnavailablePlatform
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
        "batch_scoring": LocalBatchScoring(platform.fetch_artifact),
        "transform_platform": UnavailablePlatform(_NO_TRANSFORMS),
        "autopilot_platform": UnavailablePlatform(_NO_AUTOPILOT),
        "autopilot_answers": UnavailableAnswers(_NO_AUTOPILOT),
        # Asks with whatever credentials of AWS there are, and none before it is used.
        "bedrock": Bedrock(Aws()),
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
    autopilot: "AutopilotPlatform"


def aws_parts() -> AwsParts:
    """The deployment `aws` as the environment describes it. Raises InvalidDeployment."""
    from sf_sagemaker.aws import Aws
    from sf_sagemaker.s3 import S3Storage
    from sf_sagemaker.snowflake_credentials import read_snowflake_credentials, secrets_manager
    from sf_sagemaker.snowflake_login import SnowflakeLogin
    from sf_sagemaker.training.autopilot import AutopilotPlatform
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
        autopilot=AutopilotPlatform(
            aws,
            storage,
            settings.role_arn,
            subnets=settings.subnets,
            security_groups=settings.security_groups,
            kms_key=settings.kms_key,
        ),
    )


def _aws() -> Mapping[str, object]:
    from sf_sagemaker.serving.sagemaker import SageMakerEndpointHost
    from sf_sagemaker.training.sagemaker_messages import SageMakerMessages

    parts = aws_parts()
    return {
        "warehouse": parts.warehouse,
        "storage": parts.storage,
        "training_platform": parts.platform,
        "training_messages": SageMakerMessages(parts.storage),
        "endpoint_host": SageMakerEndpointHost(models_of(parts)),
        "batch_scoring": _batch_scoring(parts),
        "transform_platform": _transforms(parts),
        "autopilot_platform": parts.autopilot,
        "autopilot_answers": _autopilot_answers(parts),
        "bedrock": bedrock_of(parts),
        "dbt_environment": DbtEnvironment(lambda: parts.credentials().dbt_environment()),
    }


def bedrock_of(parts: AwsParts) -> "Bedrock":
    """Bedrock, with batches where there is a role for them."""
    from sf_sagemaker.serving.bedrock import Bedrock
    from sf_sagemaker.serving.bedrock_batch import BatchJobs

    role_arn = parts.settings.bedrock_role_arn
    if role_arn is None:
        return Bedrock(parts.aws)
    kms_key = parts.settings.kms_key
    return Bedrock(parts.aws, BatchJobs(parts.aws, parts.storage, role_arn, kms_key=kms_key))


def _batch_scoring(parts: AwsParts) -> "SageMakerBatchScoring":
    """Batch transform jobs for large periods, this process for others."""
    from sf_sagemaker.serving.sagemaker_transform import SageMakerBatchScoring

    return SageMakerBatchScoring(
        _transforms(parts), models_of(parts), parts.platform.fetch_artifact
    )


def _autopilot_answers(parts: AwsParts) -> "AutopilotAnswers":
    """Where the models of Autopilot are asked."""
    from sf_sagemaker.serving.autopilot_answers import AutopilotAnswers

    return AutopilotAnswers(_transforms(parts), models_of(parts))


def _transforms(parts: AwsParts) -> "SageMakerTransforms":
    """Batch transform jobs of this deployment."""
    from sf_sagemaker.serving.sagemaker_transform import SageMakerTransforms

    settings = parts.settings
    return SageMakerTransforms(
        parts.aws, parts.storage, settings.role_arn, kms_key=settings.kms_key
    )


def models_of(parts: AwsParts) -> "SageMakerModels":
    """The SageMaker Models of this deployment's trained models."""
    from sf_sagemaker.serving.sagemaker_model import SageMakerModels

    settings = parts.settings
    return SageMakerModels(
        parts.aws,
        parts.storage,
        settings.role_arn,
        parts.platform.fetch_artifact,
        subnets=settings.subnets,
        security_groups=settings.security_groups,
    )
