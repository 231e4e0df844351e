"""The account's quotas for instances of jobs, and the Service Quotas API that tells them."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from botocore.session import get_session

from standins.sagemaker.requests import ApiError, Operations, Request
from standins.sagemaker.training_job import TrainingJob

TRAINING = "training job usage"
SPOT = "spot training job usage"
WARM_POOL = "training warm pool usage"
TRANSFORM = "transform job usage"
ENDPOINT = "endpoint usage"

# AWS gives no warm pools until one asks.
_DEFAULTS = {TRAINING: 20, SPOT: 20, WARM_POOL: 0, TRANSFORM: 20, ENDPOINT: 20}


@dataclass
class Quotas:
    """How many instances of a type an account may use at once, by what they are used for."""

    _set: dict[tuple[str, str], int] = field(default_factory=dict)

    def set(self, instance_type: str, instances: int, use: str = TRAINING) -> None:
        self._set[instance_type, use] = instances

    def clear(self) -> None:
        self._set.clear()

    def get(self, instance_type: str, use: str = TRAINING) -> int:
        return self._set.get((instance_type, use), _DEFAULTS[use])

    def check(self, job: TrainingJob, others: Iterable[TrainingJob]) -> None:
        """Raises ResourceLimitExceeded where the job doesn't fit in beside the running ones."""
        use = SPOT if job.spot else TRAINING
        used = sum(
            other.instance_count
            for other in others
            if other.running and other.instance_type == job.instance_type and other.spot == job.spot
        )
        self._check(job, use, used)
        if job.request["ResourceConfig"].get("KeepAlivePeriodInSeconds"):
            self._check(job, WARM_POOL, 0)

    def _check(self, job: TrainingJob, use: str, used: int) -> None:
        self.check_use(job.instance_type, job.instance_count, use, used)

    def check_use(self, instance_type: str, instances: int, use: str, used: int) -> None:
        """Raises ResourceLimitExceeded where instances don't fit in beside those that are used."""
        quota = self.get(instance_type, use)
        if used + instances > quota:
            raise ApiError(
                "ResourceLimitExceeded",
                f"The account-level service limit '{instance_type} for {use}' is {quota} "
                f"Instances, with current utilization of {used} Instances and a request delta of "
                f"{instances} Instances. Please use AWS Service Quotas to request an "
                "increase for this quota. If AWS Service Quotas is not available, contact AWS "
                "support to request an increase for this quota.",
            )

    def operations(self) -> Operations:
        return {
            ("service-quotas", "ListServiceQuotas"): self._list,
            ("service-quotas", "GetServiceQuota"): self._get,
        }

    def _all(self) -> list[dict[str, Any]]:
        model = get_session().get_service_model("sagemaker")
        types = model.shape_for("TrainingInstanceType").metadata["enum"]
        return [_quota(name, use, self.get(name, use)) for name in types for use in _DEFAULTS]

    def _list(self, request: Request) -> Mapping[str, Any]:
        _check_service(request)
        start = int(request.parameters.get("NextToken") or 0)
        end = start + int(request.parameters.get("MaxResults") or 100)
        quotas = self._all()
        page: dict[str, Any] = {"Quotas": quotas[start:end]}
        return page | {"NextToken": str(end)} if end < len(quotas) else page

    def _get(self, request: Request) -> Mapping[str, Any]:
        _check_service(request)
        for quota in self._all():
            if quota["QuotaCode"] == request.parameters["QuotaCode"]:
                return {"Quota": quota}
        raise _no_such_quota()


def _check_service(request: Request) -> None:
    if request.parameters["ServiceCode"] != "sagemaker":
        raise _no_such_quota()


def _no_such_quota() -> ApiError:
    return ApiError("NoSuchResourceException", "The request failed because the quota is unknown.")


def _quota(instance_type: str, use: str, instances: int) -> dict[str, Any]:
    name = f"{instance_type} for {use}"
    digest = hashlib.sha256(name.encode()).hexdigest()
    return {
        "ServiceCode": "sagemaker",
        "ServiceName": "Amazon SageMaker",
        "QuotaCode": f"L-{digest[:8].upper()}",
        "QuotaName": name,
        "Value": float(instances),
        "Unit": "None",
        "Adjustable": True,
        "GlobalQuota": False,
    }
