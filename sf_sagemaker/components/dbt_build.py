"""One `dbt build`: dbt in a process of its own, and what it built as Dagster's events.

Row counts and columns come from the deployment's warehouse. dagster-dbt would ask dbt for them, which
costs several times what the build does: dbt is imported into the run's process, its version asked of
another process, and a core kept busy with waiting.
"""

import importlib.metadata
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
from dagster_dbt import DagsterDbtCliRuntimeError, DbtCliResource, DbtProject
from dagster_dbt.core.dbt_cli_event import DbtCliEventMessage
from dagster_dbt.core.dbt_cli_invocation import DbtCliInvocation
from packaging.version import Version

from sf_sagemaker.dbt_environment import DbtEnvironment
from sf_sagemaker.warehouse.catalog import Table, find_relation
from sf_sagemaker.warehouse.dataset import Relation
from sf_sagemaker.warehouse.warehouse import Session, Warehouse

ASSET_TYPES = ("model", "seed", "snapshot")  # what dbt builds and tests


class Dbt(DbtCliResource):
    """The dbt of this Python environment, whether or not the environment is on the PATH.

    dagster-dbt would ask another process for dbt's version, and open dbt's adapter in this one to
    fetch metadata by. The version is that of the installed package; `build` reads the metadata.
    """

    @classmethod
    def of(cls, project: DbtProject) -> "Dbt":
        return cls(
            project_dir=str(project.project_dir),
            profiles_dir=str(project.profiles_dir),
            dbt_executable=str(Path(sys.executable).with_name("dbt")),
        )

    @property
    def _cli_version(self) -> Version:
        return Version(importlib.metadata.version("dbt-core"))

    def _initialize_dbt_core_adapter(self, args: Sequence[str]) -> None:
        return None


def build(
    project: DbtProject,
    arguments: Sequence[str],
    context: dg.AssetExecutionContext,
    warehouse: Warehouse,
    environment: DbtEnvironment,
) -> Iterator[Any]:
    """Runs dbt for the selected assets and checks; yields their events with counts and columns.

    They come after dbt has ended: it may keep the warehouse to itself until then. Where dbt fails,
    what it built before is yielded, and then its error, DagsterDbtCliRuntimeError, is raised.
    """
    with environment.applied():
        invocation = Dbt.of(project).cli(arguments, context=context)
    results: list[DbtCliEventMessage] = []
    failure: DagsterDbtCliRuntimeError | None = None
    try:
        for message in invocation.stream_raw_events():
            if message.is_result_event:
                results.append(message)
    except DagsterDbtCliRuntimeError as error:
        failure = error
    if results:
        with warehouse.reading() as session:
            catalog = _Catalog(session, invocation.manifest)
            for result in results:
                yield from _events(result, invocation, catalog)
    if failure is not None:
        raise failure


class _Catalog:
    """The tables and views behind the nodes and sources of dbt's manifest."""

    def __init__(self, session: Session, manifest: Mapping[str, Any]) -> None:
        self._session = session
        self._manifest = manifest
        self._tables: dict[str, Table | None] = {}

    def node(self, unique_id: str) -> Mapping[str, Any]:
        return self._manifest["nodes"].get(unique_id) or self._manifest["sources"][unique_id]

    def parents(self, unique_id: str) -> Sequence[str]:
        """Ephemeral models among them are part of the node's own SQL, and left out."""
        parents = self._manifest["parent_map"].get(unique_id, ())
        return [parent for parent in parents if self.node(parent)["relation_name"]]

    def columns(self, unique_id: str) -> dict[str, dict[str, str]]:
        """Names and types as dagster-dbt takes them; none where there is no such relation."""
        table = self._table(unique_id)
        return (
            {column.name: {"data_type": column.data_type} for column in table.columns}
            if table
            else {}
        )

    def row_count(self, unique_id: str) -> int | None:
        """None for a view, where counting may cost as much as building a table."""
        table = self._table(unique_id)
        if table is None or self.node(unique_id)["config"]["materialized"] == "view":
            return None
        [(rows,)] = self._session.rows(f"select count(*) from {table.sql}")
        return rows

    def _table(self, unique_id: str) -> Table | None:
        if unique_id not in self._tables:
            node = self.node(unique_id)
            relation = Relation(
                name=node.get("identifier") or node["alias"],  # a source's, a node's
                schema_name=node["schema"],
                database=node["database"],
            )
            self._tables[unique_id] = find_relation(self._session, relation)
        return self._tables[unique_id]


def _events(
    result: DbtCliEventMessage, invocation: DbtCliInvocation, catalog: _Catalog
) -> Iterator[Any]:
    """Dagster's events for a node or test that dbt is done with."""
    unique_id = result.raw_event["data"]["node_info"]["unique_id"]
    built = catalog.node(unique_id)["resource_type"] in ASSET_TYPES
    if built:
        columns = {
            "columns": catalog.columns(unique_id),
            "parents": {
                catalog.node(parent)["relation_name"]: {"columns": catalog.columns(parent)}
                for parent in catalog.parents(unique_id)
            },
        }
        # dagster-dbt makes the schema of them and, with the compiled SQL, the lineage.
        result = type(result)(raw_event=result.raw_event, event_history_metadata=columns)
    for event in result.to_default_asset_events(
        manifest=invocation.manifest,
        dagster_dbt_translator=invocation.dagster_dbt_translator,
        context=invocation.context,
        target_path=invocation.target_path,
        project=invocation.project,
    ):
        rows = catalog.row_count(unique_id) if isinstance(event, dg.Output) else None
        if isinstance(event, dg.Output) and rows is not None:
            counted = {
                "dagster/row_count": rows,
                "dagster/storage_kind": invocation.manifest["metadata"]["adapter_type"],
            }
            event = event.with_metadata({**event.metadata, **counted})
        yield event
