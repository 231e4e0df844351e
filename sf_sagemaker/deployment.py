"""Local or AWS: the one place that knows which implementation serves which role.

Reads the environment when asked, never at import. No secret is read here.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from sf_sagemaker.errors import SfSagemakerError

DEPLOYMENTS = ("local",)


class InvalidDeployment(SfSagemakerError):
    """A deployment's environment variable that is missing or wrong."""


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
    """The resources that assets ask for by role: `warehouse`, `storage`, `training_platform` and
    `training_messages`, where its jobs report."""
    name = os.environ.get("SF_SAGEMAKER_DEPLOYMENT", "local")
    if name not in DEPLOYMENTS:
        raise InvalidDeployment(
            f"SF_SAGEMAKER_DEPLOYMENT is {name!r}; it must be one of: {', '.join(DEPLOYMENTS)}"
        )
    return _local()


def _local() -> Mapping[str, object]:
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
    }
