"""JumpStart's public hub: DescribeHubContent for the models that tests put there."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from standins.sagemaker.requests import ApiError, Operations, Request

PUBLIC_HUB = "SageMakerPublicHub"


class Hub:
    """Models by name and version, the same in every region."""

    def __init__(self) -> None:
        self._documents: dict[str, dict[str, Mapping[str, Any]]] = {}

    def add(self, name: str, version: str, document: Mapping[str, Any]) -> None:
        """`document` has the fields of a model's HubContentDocument that matter to a test."""
        self._documents.setdefault(name, {})[version] = document

    def operations(self) -> Operations:
        return {("sagemaker", "DescribeHubContent"): self._describe}

    def _describe(self, request: Request) -> Mapping[str, Any]:
        wanted = request.parameters
        name = wanted["HubContentName"]
        versions = self._documents.get(name, {})
        is_here = wanted["HubName"] == PUBLIC_HUB and wanted["HubContentType"] == "Model"
        newest = max(versions, key=_numbers, default="")
        version = wanted.get("HubContentVersion", newest)
        if not is_here or version not in versions:
            raise ApiError("ResourceNotFound", f"HubContent {name} {version} does not exist.")
        arn = f"arn:aws:sagemaker:{request.region}:aws:hub"
        return {
            "HubContentName": name,
            "HubContentArn": f"{arn}-content/{PUBLIC_HUB}/Model/{name}/{version}",
            "HubContentVersion": version,
            "HubContentType": "Model",
            "DocumentSchemaVersion": "2.2.0",
            "HubName": PUBLIC_HUB,
            "HubArn": f"{arn}/{PUBLIC_HUB}",
            "HubContentDocument": json.dumps(versions[version]),
            "HubContentStatus": "Available",
            "CreationTime": datetime(2025, 1, 1, tzinfo=UTC),
        }


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
