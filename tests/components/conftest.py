"""Fixtures over the code locations of tests/locations.py."""

from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from locations import Location, Project, own_deployment, temporary_project


@pytest.fixture
def project() -> Iterator[Project]:
    with temporary_project() as made:
        yield made


@pytest.fixture
def located(project: Project, tmp_path: Path) -> Iterator[Callable[[], Location]]:
    """Makes a Location of the test's project, once its defs.yaml files are written."""
    from sf_sagemaker import deployment

    with own_deployment(tmp_path / "home") as instance:

        def locate() -> Location:
            definitions = dg.Definitions.merge(
                project.definitions(),
                dg.Definitions(resources=deployment.resources(), executor=dg.in_process_executor),
            )
            return Location(definitions, instance, tmp_path / "home")

        yield locate


@pytest.fixture(scope="module")
def repository_location(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Location]:
    """The repository's own code location, empty, in a folder of this test module's."""
    from sf_sagemaker.definitions import defs

    home = tmp_path_factory.mktemp("deployment") / "home"
    with own_deployment(home) as instance:
        yield Location(defs(), instance, home)
