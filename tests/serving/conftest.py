"""Endpoints in a folder of the test's own, which end with it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.models import Artifacts
from sf_sagemaker.serving.local import LocalEndpointHost
from standins.sagemaker.fixtures import service, shared_service

__all__ = ["service", "shared_service"]


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path / "artifacts")


@pytest.fixture
def host(tmp_path: Path, artifacts: Artifacts) -> Iterator[LocalEndpointHost]:
    made = LocalEndpointHost(
        tmp_path / "endpoints", artifacts.fetch, environment={"OMP_NUM_THREADS": "1"}
    )
    yield made
    if made.root.exists():
        for folder in made.root.iterdir():
            made.stop(folder.name)
