"""Fixtures over the code locations of tests/locations.py."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from locations import Location, Project, own_deployment, temporary_project
from standins.sagemaker.fixtures import aws, service, shared_service

__all__ = ["aws", "service", "shared_service"]


@pytest.fixture
def project() -> Iterator[Project]:
    with temporary_project() as made:
        yield made


@pytest.fixture
def located(project: Project, tmp_path: Path) -> Iterator[Callable[[], Location]]:
    """Makes a Location of the test's project, once its defs.yaml files are written."""
    with own_deployment(tmp_path / "home") as instance:
        yield lambda: Location(project.definitions(), instance, tmp_path / "home")


@pytest.fixture(scope="module")
def repository_location(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Location]:
    """The repository's own code location, empty, in a folder of this test module's."""
    from sf_sagemaker.definitions import defs

    home = tmp_path_factory.mktemp("deployment") / "home"
    with own_deployment(home) as instance:
        yield Location(defs(), instance, home)
