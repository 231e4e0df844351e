"""Fixtures for tests that need AWS: import them in a conftest.py."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sf_sagemaker.aws import Aws
from standins.sagemaker.service import SageMakerService


@contextmanager
def reachable_service() -> Iterator[SageMakerService]:
    """The service, for this process's clients and for those of processes that it starts."""
    with SageMakerService() as service, pytest.MonkeyPatch.context() as patch:
        for name, value in service.environment.items():
            patch.setenv(name, value)
        yield service


@pytest.fixture
def aws_service() -> Iterator[SageMakerService]:
    with reachable_service() as service:
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


@pytest.fixture(scope="module")
def aws(shared_service: SageMakerService) -> Iterator[Aws]:
    """Clients of the module's service; making them takes longer than most tests.

    One try a call: what is tried again is then a platform's and a run's own doing.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, value in shared_service.environment.items():
            patch.setenv(name, value)
        yield Aws(attempts=1)
