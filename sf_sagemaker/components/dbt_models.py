"""dbt models as partitioned assets: one dbt build for a run's periods, tests as asset checks."""

import fcntl
import hashlib
import importlib.metadata
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import dagster as dg
from dagster_dbt import (
    DagsterDbtCliRuntimeError,
    DagsterDbtTranslator,
    DagsterDbtTranslatorSettings,
    DbtProject,
)
from pydantic import Field

from sf_sagemaker.components import dbt_build
from sf_sagemaker.components.attributes import Freshness, Partitions
from sf_sagemaker.components.component import Component
from sf_sagemaker.components.errors import invalid_attribute, suggest
from sf_sagemaker.dbt_environment import DbtEnvironment
from sf_sagemaker.errors import SfSagemakerError
from sf_sagemaker.warehouse.warehouse import Warehouse

PROJECT_FOLDER = "dbt_project"  # below the root of the repository

_SOURCE_FOLDERS = ("models", "macros", "tests", "seeds", "snapshots", "analyses")
_SOURCE_FILES = ("dbt_project.yml", "profiles.yml", "packages.yml", "dependencies.yml")

# What of the profile's variables dbt writes into the manifest: where relations lie.
_IN_MANIFEST = ("SNOWFLAKE_DATABASE", "SNOWFLAKE_SCHEMA")

# Where dagster-dbt looks for the selection of a run over all of a multi-asset.
_SELECT_TAG = "dagster_dbt/select"
# Without dbt's operators, wildcards and lists.
_PLAIN_SELECTION = re.compile(r"(tag:)?[\w.-]+")


class DbtProjectInvalid(SfSagemakerError):
    """A dbt project that dbt can't parse."""


class DbtModels(Component):
    """Some models of the dbt project, built by partition.

    Each run is one `dbt build` over the run's whole range of periods, given to dbt as the variables
    `period_start` and `period_end` (ISO dates, half-open). dbt tests become asset checks; a failing
    test of severity error fails the run before anything downstream starts.
    """

    select: str = Field(
        description="Models to build: a folder below models/ (a.b for the folder b in a), a model's name, "
        "or tag: and a dbt tag.",
        examples=["house_prices", "house_prices.staging", "house_price_features", "tag:weekly"],
    )
    partitions: Partitions = Field(
        description="Periods of the models: those of the raw tables that they read."
    )
    freshness: Freshness | None = Field(
        default=None, description="How long ago the newest build may be; no limit without it."
    )

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """One multi-asset for the selection, with its checks."""
        project = dbt_project(context.project_root)
        manifest = read_manifest(project)
        nodes = list(_asset_nodes(manifest))
        selected = [node["unique_id"] for node in nodes if _is_selected(node, self.select)]
        if not selected:
            raise invalid_attribute(
                context,
                "select",
                f"{self.select!r} matches no model; it must be a folder below models/, a model's name, or "
                f"tag: and a dbt tag. {suggest(self.select, _selectable(nodes))}",
            )
        specs, check_specs = _specs(manifest, selected, project)
        if self.freshness is not None:
            policy = self.freshness.policy()
            specs = [spec.replace_attributes(freshness_policy=policy) for spec in specs]

        # dagster-dbt's own decorator imports dbt's graph to evaluate a selection, which would be
        # the larger part of what this code location costs to load.
        @dg.multi_asset(
            name="dbt_build_" + re.sub(r"\W+", "_", self.select),
            specs=specs,
            check_specs=check_specs,
            can_subset=True,
            partitions_def=self.partitions.definition(),
            backfill_policy=dg.BackfillPolicy.single_run(),
            op_tags={_SELECT_TAG: self.select},
        )
        def build(
            context: dg.AssetExecutionContext,
            warehouse: dg.ResourceParam[Warehouse],
            dbt_environment: dg.ResourceParam[DbtEnvironment],
        ) -> Iterator[Any]:
            with warehouse.writing():
                pass  # waits, saying for whom, where another process holds the warehouse
            window = context.partition_time_window
            periods = {
                "period_start": f"{window.start:%Y-%m-%d}",
                "period_end": f"{window.end:%Y-%m-%d}",
            }
            # Unit tests test the SQL, not the rows: they belong to development and CI.
            arguments = ["build", "--exclude-resource-type", "unit_test"]
            arguments += ["--vars", json.dumps(periods)]
            yield from dbt_build.build(project, arguments, context, warehouse, dbt_environment)

        return dg.Definitions(assets=[build])


def dbt_project(project_root: Path) -> DbtProject:
    """The repository's dbt project, with its own profiles.yml."""
    folder = project_root / PROJECT_FOLDER
    # A target folder of its own: dbt's, used by hand, may hold the manifest of another target.
    target = Path("target", "dagster", os.environ.get("SF_SAGEMAKER_DEPLOYMENT") or "local")
    return DbtProject(project_dir=folder, profiles_dir=folder, target_path=target)


def translator() -> DagsterDbtTranslator:
    """How dbt nodes become assets, the same everywhere: views and tables, with code references."""
    return DagsterDbtTranslator(
        DagsterDbtTranslatorSettings(enable_asset_checks=True, enable_code_references=True)
    )


def read_manifest(project: DbtProject) -> Mapping[str, Any]:
    """dbt's manifest of the project as its files are now; parses them first where they changed.

    The digest of the parsed files lies beside the manifest, so that loading the code location
    doesn't import dbt. A lock keeps processes that load at once from parsing over one another.
    Raises DbtProjectInvalid where dbt can't parse the project.
    """
    manifest = Path(project.manifest_path)
    parsed = manifest.with_name("manifest.digest")
    digest = _sources_digest(Path(project.project_dir))
    manifest.parent.mkdir(parents=True, exist_ok=True)
    with manifest.with_name("manifest.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (manifest.exists() and parsed.exists() and parsed.read_text() == digest):
            parsed.unlink(missing_ok=True)
            _parse(project)
            parsed.write_text(digest)
        return _loaded(manifest, digest)


@lru_cache(maxsize=1)  # each component asks for it; as objects, it is most of what loading makes
def _loaded(manifest: Path, digest: str) -> Mapping[str, Any]:
    """The manifest that was parsed from files of that digest."""
    return json.loads(manifest.read_text())


def find_model(
    context: dg.ComponentLoadContext, attribute: str, name: str
) -> tuple[Mapping[str, Any], dg.AssetKey]:
    """The dbt model of that name and its asset key.

    Raises InvalidAttribute, naming the models there are, where the project has none.
    """
    manifest = read_manifest(dbt_project(context.project_root))
    models = {
        node["name"]: node
        for node in manifest["nodes"].values()
        if node["resource_type"] == "model"
    }
    if name not in models:
        raise invalid_attribute(
            context, attribute, f"no dbt model is named {name!r}. {suggest(name, models)}"
        )
    return models[name], translator().get_asset_key(models[name])


def _asset_nodes(manifest: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The dbt nodes that are assets; an ephemeral model is only a part of others' SQL."""
    return (
        node
        for node in manifest["nodes"].values()
        if node["resource_type"] in dbt_build.ASSET_TYPES
        and node["config"]["materialized"] != "ephemeral"
    )


def _is_selected(node: Mapping[str, Any], select: str) -> bool:
    """Whether `dbt build --select` builds the node; selections that aren't plain match none.

    As in dbt, a folder may be preceded by the project's name, which also stands for all of it.
    """
    if not _PLAIN_SELECTION.fullmatch(select):
        return False
    if select.startswith("tag:"):
        return select.removeprefix("tag:") in node["tags"]
    paths = (node["fqn"], node["fqn"][1:])
    return node["name"] == select or any(
        f"{'.'.join(path)}.".startswith(f"{select}.") for path in paths
    )


def _selectable(nodes: Iterable[Mapping[str, Any]]) -> set[str]:
    """The folders, names and tags of nodes, as selections."""
    names: set[str] = set()
    for node in nodes:
        folders = node["fqn"][1:-1]
        names.update(".".join(folders[: depth + 1]) for depth in range(len(folders)))
        names.update(f"tag:{tag}" for tag in node["tags"])
        names.add(node["name"])
    return {name for name in names if _PLAIN_SELECTION.fullmatch(name)}


def _specs(
    manifest: Mapping[str, Any], unique_ids: Sequence[str], project: DbtProject
) -> tuple[Sequence[dg.AssetSpec], Sequence[dg.AssetCheckSpec]]:
    """The assets of dbt nodes, and the checks that their dbt tests are."""
    translate = translator()
    specs = [translate.get_asset_spec(manifest, unique_id, project) for unique_id in unique_ids]
    check_specs: list[dg.AssetCheckSpec] = []
    for unique_id, spec in zip(unique_ids, specs, strict=True):
        for child in manifest["child_map"][unique_id]:
            if child.startswith("test."):
                # None where the test is another model's, or no single one's.
                check = translate.get_asset_check_spec(spec, manifest, child, project)
                check_specs += [] if check is None else [check]
    return specs, check_specs


def _parse(project: DbtProject) -> None:
    try:
        dbt_build.Dbt.of(project).cli(
            ["parse", "--quiet"], target_path=project.manifest_path.parent
        ).wait()
    except DagsterDbtCliRuntimeError as error:
        raise DbtProjectInvalid(
            f"dbt can't parse {project.project_dir}: {error}. Run `dbt parse` there to see it alone"
        ) from error


def _sources_digest(folder: Path) -> str:
    files = [folder / name for name in _SOURCE_FILES if (folder / name).exists()]
    for name in _SOURCE_FOLDERS:
        files += sorted(path for path in (folder / name).rglob("*") if path.is_file())
    digest = hashlib.sha256(importlib.metadata.version("dbt-core").encode())
    for name in _IN_MANIFEST:
        digest.update(f"\0{name}\0{os.environ.get(name)}".encode())
    for file in files:
        digest.update(f"\0{file.relative_to(folder)}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()
