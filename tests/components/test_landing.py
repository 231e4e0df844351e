"""Landing a range of periods from a file that has a gap."""

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from locations import Location, Project, failure_of

pytestmark = pytest.mark.slow

WEEKS = ["2024-01-01", "2024-01-08", "2024-01-15", "2024-01-22"]
TABLE = dg.AssetKey(["raw", "measurements"])


@pytest.fixture
def measured(
    project: Project, located: Callable[[], Location], tmp_path: Path
) -> Callable[[list[date]], Location]:
    """A location that lands measurements, numbered, of the days given."""

    def make(days: list[date]) -> Location:
        pq.write_table(
            pa.table({"day": days, "value": range(len(days))}), tmp_path / "days.parquet"
        )
        project.add(
            "raw",
            f"""
            type: sf_sagemaker.components.LandedTable
            attributes:
              table: raw.measurements
              file: {tmp_path}/days.parquet
              event_time: day
              partitions: {{every: week, start: "2024-01-01", end: "2024-01-29"}}
            """,
        )
        return located()

    return make


def test_the_weeks_that_are_there_land_and_are_recorded(
    measured: Callable[[list[date]], Location],
) -> None:
    location = measured(
        [date(2024, 1, 1) + timedelta(days=n) for n in range(28) if not 7 <= n < 14]
    )
    result = location.materialize(["raw/measurements"], partitions=(WEEKS[0], WEEKS[-1]))
    assert not result.success
    assert "[2024-01-08, 2024-01-15)" in failure_of(result)
    landed = location.instance.get_materialized_partitions(TABLE)
    assert landed == {WEEKS[0], WEEKS[2], WEEKS[3]}


def test_weeks_before_one_that_the_warehouse_refuses_are_recorded(
    measured: Callable[[list[date]], Location],
) -> None:
    location = measured([date(2024, 1, 1) + timedelta(days=n) for n in range(28)])
    with duckdb.connect(location.home / "warehouse.duckdb") as connection:
        connection.execute("create schema raw")
        connection.execute(
            "create table raw.measurements (day date, value bigint check (value < 14))"
        )
    result = location.materialize(["raw/measurements"], partitions=(WEEKS[0], WEEKS[-1]))
    assert "QueryFailed" in failure_of(result)
    assert location.instance.get_materialized_partitions(TABLE) == set(WEEKS[:2])
