"""DbtModels against dbt: the same models for a selection, and the same assets as dagster-dbt's."""

import contextlib
import json
import shutil
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest

from locations import (
    REPOSITORY,
    Location,
    Project,
    failure_of,
    metadata_of,
    own_deployment,
    temporary_project,
)

# Names that are a folder's and a model's, or begin alike; a version; an ephemeral model; a seed.
FILES = {
    "dbt_project.yml": """
        name: shop
        profile: sf_sagemaker
        flags: {send_anonymous_usage_stats: false}
        models:
          shop:
            sales: {staging: {+tags: [staged]}}
    """,
    "models/sales/staging/stg_sales.sql": "select 1 as sale_id, 2 as amount",
    "models/sales/large_sales.sql": (
        "{{ config(materialized='table') }} select * from {{ ref('stg_sales') }} where amount > 1"
    ),
    "models/sales/only_sql.sql": (
        "{{ config(materialized='ephemeral', tags=['staged']) }} select * from {{ ref('stg_sales') }}"
    ),
    "models/sales_people/people.sql": (
        "{{ config(tags=['weekly', 'not plain']) }} select 1 as person_id"
    ),
    "models/sales_people/sales.sql": "select sale_id from {{ ref('only_sql') }}",
    "models/people/customers_v2.sql": "select 1 as customer_id",
    "models/broken/broken.sql": (
        "{{ config(materialized='table') }} "
        "select cast('a' || sale_id as integer) as number from {{ ref('large_sales') }}"
    ),
    "models/models.yml": """
        models:
          - name: stg_sales
            description: Sales as they were landed.
            columns:
              - name: sale_id
                data_tests: [unique, {not_null: {config: {severity: warn}}}]
          - name: large_sales
            columns:
              - name: sale_id
                data_tests: [{relationships: {to: ref('stg_sales'), field: sale_id}}]
          - name: customers
            latest_version: 2
            versions: [{v: 2, config: {tags: [weekly]}}]
    """,
    "seeds/regions.csv": "region_id\n1\n",
    "seeds/seeds.yml": "seeds: [{name: regions, config: {tags: [weekly]}}]",
    "tests/large_sales_are_sales.sql": (
        "select * from {{ ref('large_sales') }} where sale_id not in "
        "(select sale_id from {{ ref('stg_sales') }})"
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def shop() -> Iterator[Project]:
    """A project with the dbt project of FILES, parsed."""
    # dbt goes to its project's folder and stays there.
    with temporary_project() as project, contextlib.chdir(REPOSITORY):
        folder = project.sandbox.project_root / "dbt_project"
        folder.unlink()
        for name, text in FILES.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(textwrap.dedent(text))
        shutil.copy(REPOSITORY / "dbt_project" / "profiles.yml", folder)
        yield project


def definitions(project: Project, select: str) -> dg.Definitions:
    project.add(
        "warehouse",
        f"""
        type: sf_sagemaker.components.DbtModels
        attributes:
          select: {json.dumps(select)}
          partitions: {{every: week, start: "2014-04-28"}}
        """,
    )
    return project.definitions()


def multi_asset(made: dg.Definitions) -> dg.AssetsDefinition:
    [assets] = made.assets or []
    assert isinstance(assets, dg.AssetsDefinition)
    return assets


def dbt_list(project: Project, select: str) -> set[str]:
    """The unique ids of what `dbt build --select` would build as assets."""
    from dbt.cli.main import dbtRunner

    folder = str(project.sandbox.project_root / "dbt_project")
    listed = dbtRunner().invoke(
        ["ls", "--quiet", "--project-dir", folder, "--profiles-dir", folder, "--select", select,
         "--resource-type", "model", "--resource-type", "seed",
         "--output", "json", "--output-keys", "unique_id"]
    )  # fmt: skip
    assert listed.success, listed.exception
    ids = {json.loads(line)["unique_id"] for line in listed.result}  # type: ignore[union-attr]
    return ids - {"model.shop.only_sql"}


@pytest.mark.parametrize(
    "select",
    [
        "sales",
        "sales.staging",
        "sales_people",
        "sales.staging.stg_sales",
        "shop",
        "shop.sales",
        "people",
        "stg_sales",
        "customers",
        "regions",
        "tag:staged",
        "tag:weekly",
    ],
)
def test_a_selection_means_what_it_means_to_dbt(shop: Project, select: str) -> None:
    specs = multi_asset(definitions(shop, select)).specs
    selected = {spec.metadata["dagster_dbt/unique_id"] for spec in specs}
    assert selected == dbt_list(shop, select)


@pytest.mark.parametrize(
    "select",
    ["+stg_sales", "sales people", "sales,tag:staged", "*", "tag:stag*", "tag:not plain",
     "path:models/sales", "models/sales", "sale", "only_sql", "tag:"],
)  # fmt: skip
def test_other_selections_are_refused_with_what_is_allowed(shop: Project, select: str) -> None:
    with pytest.raises(Exception) as raised:
        definitions(shop, select)
    text = str(raised.value.__cause__ or raised.value)
    assert "defs.yaml:3 - attributes.select" in text, text
    assert f"{select!r} matches no model" in text
    assert "tag: and a dbt tag" in text
    for allowed in ("sales.staging", "sales_people", "stg_sales", "tag:weekly"):
        assert allowed in text
    assert "tag:not plain, " not in text


def test_assets_and_checks_are_those_of_dagster_dbt(shop: Project) -> None:
    from dagster_dbt import dbt_assets

    from sf_sagemaker.components import dbt_models

    project = dbt_models.dbt_project(shop.sandbox.project_root)
    made = multi_asset(definitions(shop, "shop"))

    @dbt_assets(
        manifest=dbt_models.read_manifest(project),
        project=project,
        select="shop",
        dagster_dbt_translator=dbt_models.translator(),
        partitions_def=made.partitions_def,
    )
    def expected() -> Iterator[dg.Output[None]]:
        yield from ()

    assert {spec.key: described(spec) for spec in made.specs} == {
        spec.key: described(spec) for spec in expected.specs
    }
    assert checks(made) == checks(expected)
    assert len(made.keys) > 5
    assert len(list(made.check_specs)) >= 3
    assert {check.blocking for check in made.check_specs} == {True, False}
    assert made.op.tags == expected.op.tags
    assert made.can_subset
    assert expected.can_subset
    assert made.backfill_policy == expected.backfill_policy


def described(spec: dg.AssetSpec) -> dg.AssetSpec:
    """The spec with what is compared by identity as plain values, and without its defs.yaml."""
    metadata: dict[str, Any] = dict(spec.metadata)
    manifest = metadata.pop("dagster_dbt/manifest").manifest
    folder = metadata.pop("dagster_dbt/project").project_dir
    settings = metadata.pop("dagster_dbt/dagster_dbt_translator").settings
    metadata.pop("dagster/component_origin", None)
    sql, *_ = metadata.pop("dagster/code_references").code_references
    return spec.replace_attributes(
        metadata={
            **metadata,
            "nodes": list(manifest["nodes"]),
            "folder": folder,
            "settings": settings,
            "sql": sql,
        }
    )


def checks(assets: dg.AssetsDefinition) -> dict[dg.AssetCheckKey, tuple[Any, ...]]:
    return {
        check.key: (
            check.blocking,
            check.description,
            {dep.asset_key for dep in check.additional_deps},
            check.metadata["dagster_dbt/unique_id"],
        )
        for check in assets.check_specs
    }


@pytest.mark.slow
def test_a_run_builds_the_chosen_models_and_no_other(
    shop: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = record_processes(monkeypatch)
    with own_deployment(tmp_path / "home") as instance:
        location = Location(definitions(shop, "sales"), instance, tmp_path / "home")

        every = location.materialize(["stg_sales", "large_sales", "sales"], "2014-05-05")
        assert every.success, failure_of(every)
        assert materialized(every) == tables(location) == {"stg_sales", "large_sales", "sales"}
        assert {check.check_name for check in every.get_asset_check_evaluations()} == {
            "unique_stg_sales_sale_id",
            "not_null_stg_sales_sale_id",
            "relationships_large_sales_sale_id__sale_id__ref_stg_sales_",
        }
        metadata = metadata_of(every, "large_sales")
        assert metadata["dagster/row_count"] == 1
        assert metadata["dagster/storage_kind"] == "duckdb"
        columns = [(c.name, c.type) for c in metadata["dagster/column_schema"].columns]
        assert columns == [("sale_id", "INTEGER"), ("amount", "INTEGER")]
        for name in ("sale_id", "amount"):
            [source] = metadata["dagster/column_lineage"].deps_by_column[name]
            assert source == dg.TableColumnDep(dg.AssetKey("stg_sales"), name)
        view = metadata_of(every, "stg_sales")
        assert "dagster/row_count" not in view
        assert len(view["dagster/column_schema"].columns) == 2

        one = location.materialize(["large_sales"], "2014-05-05")
        assert one.success, failure_of(one)
        assert materialized(one) == {"large_sales"}
    builds = [arguments[1] for arguments in started if Path(arguments[0]).name == "dbt"]
    assert builds == ["build", "build"]


@pytest.mark.slow
def test_what_was_built_before_a_failure_is_known(shop: Project, tmp_path: Path) -> None:
    with own_deployment(tmp_path / "home") as instance:
        location = Location(definitions(shop, "shop"), instance, tmp_path / "home")
        result = location.materialize(["stg_sales", "large_sales", "broken"], "2014-05-05")
    assert not result.success
    assert "DagsterDbtCliRuntimeError" in failure_of(result)
    assert materialized(result) == {"stg_sales", "large_sales"}
    assert metadata_of(result, "large_sales")["dagster/row_count"] == 1


def record_processes(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The arguments of every process that this one starts from now on."""
    started: list[list[str]] = []

    class Recorded(subprocess.Popen):
        def __init__(self, args: Any, *others: Any, **options: Any) -> None:
            started.append([args] if isinstance(args, str) else [*map(str, args)])
            super().__init__(args, *others, **options)

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    return started


def materialized(result: dg.ExecuteInProcessResult) -> set[str]:
    return {
        event.asset_key.to_user_string()
        for event in result.get_asset_materialization_events()
        if event.asset_key is not None
    }


def tables(location: Location) -> set[str]:
    with duckdb.connect(str(location.home / "warehouse.duckdb"), read_only=True) as connection:
        rows = connection.execute("select table_name from information_schema.tables").fetchall()
    return {name for (name,) in rows}
