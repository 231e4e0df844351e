"""A project of its own for each test: defs.yaml files over the repository's dbt project and data."""

import textwrap
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import pytest
from dagster.components.testing.utils import DefsFolderSandbox, create_defs_folder_sandbox

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass
class Project:
    """A temporary Dagster project; `add` writes a defs.yaml, `definitions` loads them all."""

    sandbox: DefsFolderSandbox
    stack: ExitStack = field(default_factory=ExitStack)

    def add(self, folder: str, text: str) -> Path:
        file = self.sandbox.defs_folder_path / folder / "defs.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text).lstrip())
        return file

    def definitions(self) -> dg.Definitions:
        return self.stack.enter_context(self.sandbox.build_all_defs())


@pytest.fixture
def project() -> Iterator[Project]:
    with create_defs_folder_sandbox() as sandbox:
        for name in ("dbt_project", "data"):
            (sandbox.project_root / name).symlink_to(REPOSITORY / name)
        made = Project(sandbox)
        with made.stack:
            yield made
