"""Fixtures for tests that need AWS: import them in a conftest.py."""

from collections.abc import Iterator

import pytest

from standins.sagemaker.service import SageMakerService


@pytest.fixture
def aws_service(monkeypatch: pytest.MonkeyPatch) -> Iterator[SageMakerService]:
    """The service, for this process's clients and for those of processes that it starts."""
    with SageMakerService() as service:
        for name, value in service.environment.items():
            monkeypatch.setenv(name, value)
        yield service


@pytest.fixture(scope="module")
def shared_service() -> Iterator[SageMakerService]:
    """One service for the tests of a module, which use names of their own."""
    with SageMakerService() as service:
        yield service


@pytest.fixture
def service(shared_service: SageMakerService) -> Iterator[SageMakerService]:
    """The module's service without faults, limits, or settings of an earlier test."""
    yield shared_service
    shared_service.faults.clear()
    shared_service.limits.clear()
    shared_service.quotas.clear()
    shared_service.reset_settings()
    shared_service.bedrock.reset()
    shared_service.calls.clear()
