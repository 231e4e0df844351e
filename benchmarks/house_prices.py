"""The house sales as plain functions: landed and built by dbt in a fresh warehouse, without Dagster."""

import json
import subprocess
import sys
from pathlib import Path

from sf_sagemaker.deployment import home
from sf_sagemaker.periods import Cadence
from sf_sagemaker.warehouse.dataset import Relation
from sf_sagemaker.warehouse.duckdb import DuckDBWarehouse
from sf_sagemaker.warehouse.landing import land_periods

_ROOT = Path(__file__).resolve().parents[1]


def land_and_build(warehouse: DuckDBWarehouse, cadence: Cadence, weeks: tuple[str, str]) -> None:
    """Lands the weeks from the first to the last, and builds and tests their features.

    The warehouse is the one of SF_SAGEMAKER_HOME, which dbt's profile names.
    """
    first, last = (cadence.period(week) for week in weeks)
    table = Relation(schema_name="raw", name="house_sales")
    file = _ROOT / "data" / "king_county_house_sales.parquet"
    list(land_periods(warehouse, table, file, "sale_date", cadence.between(first.start, last.end)))
    bounds = {"period_start": first.key, "period_end": f"{last.end:%Y-%m-%d}"}
    subprocess.run(
        [
            str(Path(sys.executable).with_name("dbt")), "build", "--select", "house_prices",
            "--exclude-resource-type", "unit_test", "--vars", json.dumps(bounds),
            "--target-path", str(home() / "dbt"),
        ],
        cwd=_ROOT / "dbt_project",
        check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
