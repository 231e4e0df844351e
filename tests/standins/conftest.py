"""Fixtures for the tests of the stand-ins themselves."""

from standins.sagemaker.fixtures import service, shared_service

__all__ = ["service", "shared_service"]
