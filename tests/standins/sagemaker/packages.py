"""The Model Registry: groups of model packages, and their approval.

A ClientToken that was used gives the package that it made, as often as it is sent.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from standins.sagemaker.aws_state import AwsState
from standins.sagemaker.requests import Operations, Request, ValidationError

_PENDING = "PendingManualApproval"
_ECHOED = (
    "ModelPackageGroupName",
    "ModelPackageDescription",
    "InferenceSpecification",
    "ModelMetrics",
    "CustomerMetadataProperties",
)


@dataclass
class Package:
    """A version of a group. `approval` is what a person, or an earlier request, said."""

    request: dict[str, Any]
    arn: str
    version: int
    approval: str
    created: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def group(self) -> str:
        return self.request["ModelPackageGroupName"]


@dataclass
class Group:
    request: dict[str, Any]
    arn: str
    packages: list[Package] = field(default_factory=list)


class Packages:
    """All groups of an account, by region and name."""

    def __init__(self, state: AwsState) -> None:
        self._account = state.account
        self._lock = threading.Lock()
        self._groups: dict[tuple[str, str], Group] = {}
        self._by_token: dict[str, Package] = {}

    def operations(self) -> Operations:
        return {
            ("sagemaker", "CreateModelPackageGroup"): self._create_group,
            ("sagemaker", "DescribeModelPackageGroup"): self._describe_group,
            ("sagemaker", "CreateModelPackage"): self._create,
            ("sagemaker", "DescribeModelPackage"): self._describe,
            ("sagemaker", "UpdateModelPackage"): self._update,
            ("sagemaker", "ListModelPackages"): self._list,
        }

    def __getitem__(self, group: str) -> list[Package]:
        """The packages of a group, oldest first, in whatever region."""
        return next(found.packages for (_, name), found in self._groups.items() if name == group)

    def tags(self, arn: str) -> dict[str, str] | None:
        """The tags of a group; None where there is none of that ARN."""
        for group in self._groups.values():
            if group.arn == arn:
                return {tag["Key"]: tag["Value"] for tag in group.request.get("Tags", [])}
        return None

    def _create_group(self, request: Request) -> Mapping[str, Any]:
        name = request.parameters["ModelPackageGroupName"]
        arn = f"{self._arn(request)}:model-package-group/{name}"
        with self._lock:
            if (request.region, name) in self._groups:
                raise ValidationError(f"Model Package Group already exists: {arn}")
            self._groups[request.region, name] = Group(dict(request.parameters), arn)
        return {"ModelPackageGroupArn": arn}

    def _describe_group(self, request: Request) -> Mapping[str, Any]:
        group = self._group(request)
        return {
            "ModelPackageGroupName": request.parameters["ModelPackageGroupName"],
            "ModelPackageGroupArn": group.arn,
            "CreationTime": datetime.now(UTC),
            "CreatedBy": {},
            "ModelPackageGroupStatus": "Completed",
        }

    def _create(self, request: Request) -> Mapping[str, Any]:
        wanted = dict(request.parameters)
        token = wanted.get("ClientToken")
        group = self._group(request)
        with self._lock:
            if token in self._by_token:
                return {"ModelPackageArn": self._by_token[token].arn}
            version = len(group.packages) + 1
            arn = f"{self._arn(request)}:model-package/{wanted['ModelPackageGroupName']}/{version}"
            approval = wanted.get("ModelApprovalStatus") or _PENDING
            package = Package(wanted, arn, version, approval)
            group.packages.append(package)
            if token is not None:
                self._by_token[token] = package
        return {"ModelPackageArn": arn}

    def _describe(self, request: Request) -> Mapping[str, Any]:
        package = self._package(request, request.parameters["ModelPackageName"])
        return {
            **{name: package.request[name] for name in _ECHOED if package.request.get(name)},
            "ModelPackageName": f"{package.group}/{package.version}",
            "ModelPackageArn": package.arn,
            "ModelPackageVersion": package.version,
            "CreationTime": package.created,
            "ModelPackageStatus": "Completed",
            "ModelPackageStatusDetails": {"ValidationStatuses": []},
            "ModelApprovalStatus": package.approval,
            "ApprovalDescription": package.request.get("ApprovalDescription", ""),
        }

    def _update(self, request: Request) -> Mapping[str, Any]:
        package = self._package(request, request.parameters["ModelPackageArn"])
        package.approval = request.parameters.get("ModelApprovalStatus") or package.approval
        if description := request.parameters.get("ApprovalDescription"):
            package.request["ApprovalDescription"] = description
        return {"ModelPackageArn": package.arn}

    def _list(self, request: Request) -> Mapping[str, Any]:
        wanted = request.parameters
        packages = list(self._group(request).packages)
        if wanted.get("SortOrder", "Descending") == "Descending":
            packages.reverse()
        start = int(wanted.get("NextToken") or 0)
        end = start + int(wanted.get("MaxResults") or 10)
        page: dict[str, Any] = {
            "ModelPackageSummaryList": [
                {
                    "ModelPackageGroupName": package.group,
                    "ModelPackageVersion": package.version,
                    "ModelPackageArn": package.arn,
                    "ModelPackageDescription": package.request.get("ModelPackageDescription", ""),
                    "CreationTime": package.created,
                    "ModelPackageStatus": "Completed",
                    "ModelApprovalStatus": package.approval,
                }
                for package in packages[start:end]
            ]
        }
        return page | {"NextToken": str(end)} if end < len(packages) else page

    def _group(self, request: Request) -> Group:
        name = request.parameters["ModelPackageGroupName"]
        group = self._groups.get((request.region, name))
        if group is None:
            arn = f"{self._arn(request)}:model-package-group/{name}"
            raise ValidationError(f"Model Package Group {arn} does not exist.")
        return group

    def _package(self, request: Request, arn: str) -> Package:
        for group in self._groups.values():
            for package in group.packages:
                if package.arn == arn:
                    return package
        raise ValidationError(f"ModelPackage {arn} does not exist.")

    def _arn(self, request: Request) -> str:
        return f"arn:aws:sagemaker:{request.region}:{self._account}"
