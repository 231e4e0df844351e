"""SageMaker Models: CreateModel, DescribeModel, DeleteModel, ListModels."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

from standins.sagemaker.aws_state import AwsState, S3Location
from standins.sagemaker.faults import Faults
from standins.sagemaker.requests import ApiError, Operations, Request, ValidationError
from standins.sagemaker.serving_container import definitions_of


@dataclass
class Model:
    """What was asked for; `request` has the containers (`definitions_of`)."""

    request: dict[str, Any]
    arn: str
    created: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def name(self) -> str:
        return self.request["ModelName"]


class Models:
    """All Models of an account, by region and name."""

    def __init__(self, state: AwsState, faults: Faults) -> None:
        self._state = state
        self._faults = faults
        self._lock = threading.Lock()
        self._models: dict[tuple[str, str], Model] = {}

    def operations(self) -> Operations:
        return {
            ("sagemaker", "CreateModel"): self._create,
            ("sagemaker", "DescribeModel"): self._describe,
            ("sagemaker", "DeleteModel"): self._delete,
            ("sagemaker", "ListModels"): self._list,
        }

    def find(self, region: str, name: str) -> Model | None:
        """The Model of that name, for what refers to it."""
        with self._lock:
            return self._models.get((region, name))

    def all(self) -> list[Model]:
        """In the order of their creation."""
        with self._lock:
            return list(self._models.values())

    def _create(self, request: Request) -> Mapping[str, Any]:
        wanted = dict(request.parameters)
        name = wanted["ModelName"]
        arn = f"arn:aws:sagemaker:{request.region}:{self._state.account}:model/{name}"
        check_role(wanted.get("ExecutionRoleArn"), self._state, self._faults)
        containers = list(definitions_of(wanted))
        if not containers or (wanted.get("PrimaryContainer") and wanted.get("Containers")):
            raise ValidationError("You must provide either PrimaryContainer or Containers")
        with self._lock:
            if (request.region, name) in self._models:
                raise ValidationError(f'Cannot create already existing model "{arn}".')
            for container in containers:
                self._check_container(container)
            self._models[request.region, name] = Model(wanted, arn)
        return {"ModelArn": arn}

    def _describe(self, request: Request) -> Mapping[str, Any]:
        model = self._found(request)
        kept = ("ModelName", "PrimaryContainer", "Containers", "ExecutionRoleArn", "VpcConfig")
        answer = {name: model.request[name] for name in kept if model.request.get(name)}
        return answer | {
            "ModelArn": model.arn,
            "CreationTime": model.created,
            "EnableNetworkIsolation": bool(model.request.get("EnableNetworkIsolation")),
        }

    def _delete(self, request: Request) -> Mapping[str, Any]:
        self._found(request)
        with self._lock:
            del self._models[request.region, request.parameters["ModelName"]]
        return {}

    def _list(self, request: Request) -> Mapping[str, Any]:
        part = request.parameters.get("NameContains", "")
        found = [model for model in reversed(self.all()) if part in model.name]
        return {
            "Models": [
                {"ModelName": model.name, "ModelArn": model.arn, "CreationTime": model.created}
                for model in found[: request.parameters.get("MaxResults") or 10]
            ]
        }

    def _found(self, request: Request) -> Model:
        name = request.parameters["ModelName"]
        model = self.find(request.region, name)
        if model is None:
            arn = f"arn:aws:sagemaker:{request.region}:{self._state.account}:model/{name}"
            raise ValidationError(f'Could not find model "{arn}".')
        return model

    def _check_container(self, container: Mapping[str, Any]) -> None:
        if not container.get("Image") and not container.get("ModelPackageName"):
            raise ValidationError("A container needs an Image or a ModelPackageName")
        address = container.get("ModelDataUrl")
        if address is None:
            return
        location = S3Location.parse(address)
        if self._state.bucket_region(location.bucket) is None or not self._state.has_object(
            location
        ):
            raise ValidationError(
                f"Could not find model data at {address}. Please ensure that the role has "
                "s3:GetObject permissions and that the object is located in the region."
            )


def check_role(arn: str | None, state: AwsState, faults: Faults) -> None:
    """Raises ApiError for a role that the caller may not pass, or that SageMaker can't assume."""
    if arn is None:
        raise ValidationError("ExecutionRoleArn is required")
    if not faults.may_pass(arn):
        raise ApiError(
            "AccessDeniedException",
            f"User: arn:aws:iam::{state.account}:user/caller is not authorized to perform: "
            f"iam:PassRole on resource: {arn} because no identity-based policy allows the "
            "iam:PassRole action",
        )
    policy = state.trust_policy(arn)
    if policy is None or "sagemaker.amazonaws.com" not in unquote(policy):
        raise ValidationError(
            f"Could not assume role {arn}. Please ensure that the role exists and allows "
            "principal 'sagemaker.amazonaws.com' to assume the role."
        )
