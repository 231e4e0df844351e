"""`make check-production`: whether the deployment `aws` has all that it needs, step by step."""

import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import dagster as dg

import sf_sagemaker
from sf_sagemaker import deployment
from sf_sagemaker.aws_settings import InvalidDeployment
from sf_sagemaker.commands.check_aws import AwsChecks, Instances
from sf_sagemaker.commands.check_snowflake import SnowflakeChecks
from sf_sagemaker.commands.checks import run_checks
from sf_sagemaker.components import XGBoostModel
from sf_sagemaker.components.model_component import ModelComponent


def main() -> int:
    """Prints what is there and what is missing. Returns 0, or 1 where anything is."""
    try:
        parts = deployment.aws_parts()
    except InvalidDeployment as invalid:
        print(f"FAILED   variables: {invalid}")
        return 1
    print(
        f"ok       variables: {parts.settings.storage}, Snowflake account {parts.snowflake.account}"
    )
    aws = AwsChecks(parts.settings, parts.aws, parts.storage, parts.platform, list(_instances()))
    snowflake = SnowflakeChecks(
        parts.snowflake, parts.settings, parts.credentials, parts.warehouse, parts.storage
    )
    with closing(snowflake):
        return 0 if run_checks([*aws.checks(), *snowflake.checks()]) else 1


def _instances() -> Iterator[Instances]:
    """What the models in defs/ train on."""
    tree = dg.ComponentTree.for_project(Path(sf_sagemaker.__file__).parent)
    for model in tree.get_all_components(of_type=ModelComponent):
        yield Instances(
            model=model.name,
            framework="xgboost" if isinstance(model, XGBoostModel) else "llm",
            instance_type=model.compute.instance_type,
            count=model.compute.instance_count,
            jobs=model.compute.parallel_jobs,
            spot=model.compute.spot,
            image=model.compute.image,
        )


if __name__ == "__main__":
    sys.exit(main())
