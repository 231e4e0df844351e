"""`make check-production`: whether the deployment `aws` has all that it needs, step by step."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import dagster as dg

import sf_sagemaker
from sf_sagemaker import deployment
from sf_sagemaker.aws_settings import InvalidDeployment
from sf_sagemaker.commands.check_aws import AwsChecks, Base, Endpoints, Instances, Transforms
from sf_sagemaker.commands.check_snowflake import SnowflakeChecks
from sf_sagemaker.commands.checks import run_checks
from sf_sagemaker.components import FineTunedLLM, XGBoostModel
from sf_sagemaker.components.autopilot_attributes import Autopilot
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
    aws = AwsChecks(
        parts.settings,
        parts.aws,
        parts.storage,
        parts.platform,
        list(_instances()),
        list(_bases()),
        list(_transforms()),
        list(_endpoints()),
        autopilot=any(_autopilot(model) for model in _models()),
        bedrock=any(_asks_claude(model) for model in _models()),
        default_subnets=any(model.compute.default_subnets for model in _models()),
        subnets=any(model.compute.subnets for model in _models()),
    )
    snowflake = SnowflakeChecks(
        parts.snowflake, parts.settings, parts.credentials, parts.warehouse, parts.storage
    )
    with closing(snowflake):
        return 0 if run_checks([*aws.checks(), *snowflake.checks()]) else 1


def _instances() -> Iterator[Instances]:
    """What the models in defs/ train on."""
    for model in _models():
        if _autopilot(model) is not None:  # which chooses them itself
            continue
        yield Instances(
            model=model.name,
            framework="xgboost" if isinstance(model, XGBoostModel) else "llm",
            instance_type=model.compute.instance_type,
            count=model.compute.instance_count,
            jobs=model.compute.parallel_jobs,
            spot=model.compute.spot,
            image=model.compute.image,
        )


def _bases() -> Iterator[Base]:
    """What the language models in defs/ are fine-tuned from."""
    for model in _models():
        if isinstance(model, FineTunedLLM) and model.base_model is not None:
            yield Base(model.name, model.base_model, model.compute.limits(), model.accept_eula)


def _transforms() -> Iterator[Transforms]:
    """What large periods of the models in defs/ are scored on, and the models of Autopilot asked."""
    for model in _models():
        scored = model.predictions
        if scored is not None and scored.enabled and scored.transform is not None:
            its = scored.transform
            yield Transforms(model.name, its.instance_type, its.instance_count)
        asked = _autopilot(model)
        if asked is not None:
            yield Transforms(model.name, asked.inference.instance_type, 1)


def _endpoints() -> Iterator[Endpoints]:
    """What the endpoints of the models in defs/ answer on."""
    for model in _models():
        its = model.endpoint
        if its is not None and its.enabled:
            kind = its.instance_type if its.serverless is None else None
            yield Endpoints(model.name, kind, its.instance_count)


def _autopilot(model: ModelComponent) -> Autopilot | None:
    return model.autopilot if isinstance(model, FineTunedLLM) else None


def _asks_claude(model: ModelComponent) -> bool:
    its = model.bedrock if isinstance(model, FineTunedLLM) else None
    return its is not None and its.enabled


def _models() -> Iterable[ModelComponent]:
    tree = dg.ComponentTree.for_project(Path(sf_sagemaker.__file__).parent)
    return tree.get_all_components(of_type=ModelComponent)


if __name__ == "__main__":
    sys.exit(main())
