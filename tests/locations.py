"""Code locations for tests: the repository's own, and projects of a test's own defs.yaml files."""

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster.components.testing.utils import DefsFolderSandbox, create_defs_folder_sandbox

REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass
class Location:
    """A code location with its own Dagster instance, warehouse and storage."""

    definitions: dg.Definitions
    instance: dg.DagsterInstance
    home: Path

    def materialize(
        self,
        keys: Sequence[str],
        partition: str | None = None,
        *,
        partitions: tuple[str, str] | None = None,
        run_config: dict[str, Any] | None = None,
        tags: dict[str, str] | None = None,
    ) -> dg.ExecuteInProcessResult:
        """One run over assets ("raw/house_sales"), of one partition or of a range in a single run."""
        all_tags = dict(tags or {})
        if partitions is not None:
            all_tags["dagster/asset_partition_range_start"] = partitions[0]
            all_tags["dagster/asset_partition_range_end"] = partitions[1]
        return self.definitions.resolve_implicit_global_asset_job_def().execute_in_process(
            asset_selection=[dg.AssetKey(key.split("/")) for key in keys],
            partition_key=partition,
            instance=self.instance,
            tags=all_tags,
            run_config=run_config,
            raise_on_error=False,
        )


def metadata_of(result: dg.ExecuteInProcessResult, key: str) -> dict[str, Any]:
    """The metadata of an asset's only materialization in a run, as plain values."""
    events = [
        event
        for event in result.get_asset_materialization_events()
        if event.asset_key == dg.AssetKey(key.split("/"))
    ]
    assert events, f"{key} was not materialized"
    return {name: value.value for name, value in events[-1].materialization.metadata.items()}


def failure_of(result: dg.ExecuteInProcessResult) -> str:
    """The text of a failed run's first error, with its causes."""
    for event in result.all_node_events:
        if event.is_step_failure:
            parts, error = [], event.step_failure_data.error
            while error is not None:
                parts.append(f"{error.cls_name}: {error.message}")
                error = error.cause
            return "\n".join(parts)
    raise AssertionError("no step of the run failed")


@contextmanager
def own_deployment(home: Path) -> Iterator[dg.DagsterInstance]:
    """The local deployment in a folder of its own, and a Dagster instance in there."""
    (home / "dagster").mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SF_SAGEMAKER_DEPLOYMENT", raising=False)
        patch.setenv("SF_SAGEMAKER_HOME", str(home))
        patch.setenv("DO_NOT_TRACK", "1")
        with dg.DagsterInstance.local_temp(str(home / "dagster")) as instance:
            yield instance


@dataclass
class Project:
    """A temporary Dagster project; `add` writes a defs.yaml and gives its path."""

    sandbox: DefsFolderSandbox
    stack: ExitStack = field(default_factory=ExitStack)

    def add(self, folder: str, text: str) -> Path:
        file = self.sandbox.defs_folder_path / folder / "defs.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text).lstrip())
        return file

    def add_warehouse(self) -> None:
        """The raw tables and dbt models of the repository's own defs/."""
        defs = REPOSITORY / "sf_sagemaker" / "defs"
        self.add("warehouse", (defs / "warehouse" / "defs.yaml").read_text())

    def definitions(self) -> dg.Definitions:
        """What the files describe, bound to the local deployment's resources."""
        from sf_sagemaker import deployment
        from sf_sagemaker.components.model_component import check_sources

        definitions = dg.Definitions.merge(
            self.stack.enter_context(self.sandbox.build_all_defs()),
            dg.Definitions(resources=deployment.resources(), executor=dg.in_process_executor),
        )
        check_sources(definitions)
        return definitions

    def mistake(self) -> str:
        """What the files are refused with: the error's text, and that of all that caused it."""
        with pytest.raises(Exception) as raised:
            self.definitions()
        parts: list[str] = []
        cause: BaseException | None = raised.value
        while cause is not None:
            parts.append(str(cause))
            cause = cause.__cause__ or cause.__context__
        return "\n".join(parts)


@contextmanager
def temporary_project() -> Iterator[Project]:
    with create_defs_folder_sandbox() as sandbox:
        for name in ("dbt_project", "data"):
            (sandbox.project_root / name).symlink_to(REPOSITORY / name)
        made = Project(sandbox)
        with made.stack:
            yield made
