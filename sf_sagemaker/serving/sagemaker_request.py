"""An endpoint's configuration, and how it is updated, as requests of the SageMaker API."""

import math
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sf_sagemaker.serving.endpoint import EndpointOptions
from sf_sagemaker.serving.hosting import Instances, Rollout
from sf_sagemaker.serving.sagemaker_model import content_name
from sf_sagemaker.training.sagemaker_request import project_tag

# The same for all of an endpoint's models, so that its alarms and figures go on over an update.
VARIANT = "champion"
CONFIG = "config"

_LEAST_START = 60  # seconds
_TRAFFIC = {"all_at_once": "ALL_AT_ONCE", "canary": "CANARY", "linear": "LINEAR"}


def config_request(
    model: str, sagemaker_model: str, options: EndpointOptions, project: str
) -> dict[str, Any]:
    """The CreateEndpointConfig request, under the name that follows from it."""
    machines = options.hosting.machines
    variant: dict[str, Any] = {
        "VariantName": VARIANT,
        "ModelName": sagemaker_model,
        "InitialVariantWeight": 1.0,
    }
    if isinstance(machines, Instances):
        seconds = math.ceil(options.start_timeout.total_seconds())
        variant |= {
            "InstanceType": machines.instance_type,
            "InitialInstanceCount": machines.count,
            "ContainerStartupHealthCheckTimeoutInSeconds": max(seconds, _LEAST_START),
        }
    else:
        variant["ServerlessConfig"] = {
            "MemorySizeInMB": machines.memory,
            "MaxConcurrency": machines.max_concurrency,
        }
    what = {"ProductionVariants": [variant]}
    return {
        "EndpointConfigName": content_name(model, what, CONFIG),
        **what,
        "Tags": tags(model, project),
    }


def deployment_config(rollout: Rollout, alarms: Sequence[str]) -> dict[str, Any]:
    """The DeploymentConfig of an update."""
    routing: dict[str, Any] = {
        "Type": _TRAFFIC[rollout.traffic],
        "WaitIntervalInSeconds": _seconds(rollout.wait),
    }
    if rollout.traffic != "all_at_once":
        size = "CanarySize" if rollout.traffic == "canary" else "LinearStepSize"
        routing[size] = {"Type": "CAPACITY_PERCENT", "Value": rollout.step_percent}
    config: dict[str, Any] = {
        "BlueGreenUpdatePolicy": {
            "TrafficRoutingConfiguration": routing,
            "TerminationWaitInSeconds": _seconds(rollout.termination_wait),
            "MaximumExecutionTimeoutInSeconds": _seconds(rollout.max_duration),
        }
    }
    if alarms:
        config["AutoRollbackConfiguration"] = {"Alarms": [{"AlarmName": name} for name in alarms]}
    return config


def tags(model: str, project: str) -> list[dict[str, str]]:
    """The tags of all that belongs to a model's endpoint."""
    found = {**project_tag(project), "sf_sagemaker:model": model}
    return [{"Key": key, "Value": value} for key, value in found.items()]


def _seconds(duration: timedelta) -> int:
    return math.ceil(duration.total_seconds())
