"""A warehouse file and the real dbt, for tests of the SQL.

Raw rows are landed here with plain DuckDB: what is under test begins at the schema `raw`.
"""

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PROJECT = REPOSITORY / "dbt_project"
SALES = REPOSITORY / "data" / "king_county_house_sales.parquet"
REPORTS = REPOSITORY / "data" / "faa_bird_strike_reports.parquet"


@dataclass(frozen=True)
class DbtResult:
    """How an invocation ended; `nodes` maps names to statuses such as pass, fail and skipped."""

    success: bool
    nodes: dict[str, str]
    message: str

    def named(self, *statuses: str) -> set[str]:
        """The names of the nodes that ended in one of the statuses."""
        return {name for name, status in self.nodes.items() if status in statuses}


@dataclass(frozen=True)
class Warehouse:
    """A DuckDB file with raw rows, and dbt's local target pointed at it."""

    path: Path
    scratch: Path

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(self.path)) as connection:
            return connection.sql(sql).fetchall()

    def execute(self, sql: str) -> None:
        with duckdb.connect(str(self.path)) as connection:
            connection.execute(sql)

    def land(self, weeks: Iterable[date]) -> None:
        """Loads the weeks that start on the given Mondays."""
        for week in weeks:
            self.execute(
                f"""
                insert into raw.house_sales
                from '{SALES}'
                where sale_date >= '{week}' and sale_date < '{week + timedelta(days=7)}'
                """
            )

    def land_reports(self, start: date, end: date) -> None:
        """Loads the incident reports of the days in [start, end)."""
        self.execute(
            f"""
            insert into raw.incident_reports
            from '{REPORTS}'
            where incident_date >= '{start}' and incident_date < '{end}'
            """
        )

    def features(self, where: str = "true") -> list[tuple[Any, ...]]:
        """The rows of features, all columns, in the order of their key."""
        return self.query(
            f"from features.house_price_features where {where} order by parcel_id, sale_date"
        )

    def copy_to(self, folder: Path) -> "Warehouse":
        """A copy in another folder, under the same name: views name the file that they are in."""
        folder.mkdir(exist_ok=True)
        copy = Warehouse(folder / self.path.name, self.scratch)
        shutil.copyfile(self.path, copy.path)
        return copy

    def dbt(
        self,
        *arguments: str,
        period: tuple[date, date] | None = None,
        variables: dict[str, str] | None = None,
        project: Path = PROJECT,
    ) -> DbtResult:
        """Runs dbt in this process, as its command line would with these arguments."""
        from dbt.adapters.duckdb.connections import DuckDBConnectionManager
        from dbt.cli.main import dbtRunner

        if period is not None:
            variables = {"period_start": str(period[0]), "period_end": str(period[1])}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SF_SAGEMAKER_HOME", str(self.path.parent))
            patch.setenv("DO_NOT_TRACK", "1")
            outcome = dbtRunner().invoke(
                [
                    *arguments,
                    *("--project-dir", str(project), "--profiles-dir", str(project)),
                    *("--target-path", str(self.scratch / "target")),
                    *("--log-path", str(self.scratch / "logs")),
                    *("--vars", json.dumps(variables or {})),
                    "--quiet",
                ]
            )
        # dbt keeps the file open for its next invocation; a process of its own would close it.
        DuckDBConnectionManager.close_all_connections()
        results = getattr(outcome.result, "results", [])
        return DbtResult(
            success=outcome.success,
            nodes={result.node.name: str(result.status) for result in results},
            message=str(outcome.exception or ""),
        )


def empty_warehouse(folder: Path) -> Warehouse:
    """A warehouse in a folder of its own; what isn't dbt's to make is there, and has no rows yet."""
    warehouse = Warehouse(folder / "warehouse.duckdb", folder)
    warehouse.execute("create schema raw")
    warehouse.execute(f"create table raw.house_sales as from '{SALES}' limit 0")
    warehouse.execute(f"create table raw.incident_reports as from '{REPORTS}' limit 0")
    warehouse.execute("create schema predictions")
    warehouse.execute(
        """
        create table predictions.house_prices (
            period date, parcel_id bigint, sale_date date, prediction double,
            model_version bigint, training_job varchar, predicted_at timestamp
        )
        """
    )
    return warehouse


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    """An empty warehouse."""
    return empty_warehouse(tmp_path)


@pytest.fixture(scope="session")
def full_build(tmp_path_factory: pytest.TempPathFactory) -> tuple[Warehouse, DbtResult]:
    """All sales and reports, and how `dbt build` ended over them.

    Copy the warehouse before you change it.
    """
    warehouse = empty_warehouse(tmp_path_factory.mktemp("full_build"))
    warehouse.execute(f"insert into raw.house_sales from '{SALES}'")
    warehouse.execute(f"insert into raw.incident_reports from '{REPORTS}'")
    return warehouse, warehouse.dbt("build")


@pytest.fixture
def manifest(full_build: tuple[Warehouse, DbtResult]) -> dict[str, Any]:
    """What dbt knows of the project, as it wrote it to manifest.json."""
    warehouse, _ = full_build
    return json.loads((warehouse.scratch / "target" / "manifest.json").read_text())


@pytest.fixture
def project_copy(tmp_path: Path) -> Path:
    """A copy of the dbt project to change."""
    copy = tmp_path / "dbt_project"
    shutil.copytree(PROJECT, copy, ignore=shutil.ignore_patterns("target", "logs"))
    return copy
