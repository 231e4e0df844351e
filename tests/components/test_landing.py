"""Landing a range of periods from a file that has a gap."""

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from locations import Location, Project, failure_of

pytestmark = pytest.mark.slow


def test_the_weeks_that_are_there_land_and_are_recorded(
    project: Project, located: Callable[[], Location], tmp_path: Path
) -> None:
    days = [date(2024, 1, 1) + timedelta(days=n) for n in range(28) if not 7 <= n < 14]
    pq.write_table(pa.table({"day": days, "value": range(len(days))}), tmp_path / "gap.parquet")
    project.add(
        "raw",
        f"""
        type: sf_sagemaker.components.LandedTable
        attributes:
          table: raw.measurements
          file: {tmp_path}/gap.parquet
          event_time: day
          partitions: {{every: week, start: "2024-01-01", end: "2024-01-29"}}
        """,
    )
    location = located()
    result = location.materialize(["raw/measurements"], partitions=("2024-01-01", "2024-01-22"))
    assert not result.success
    assert "[2024-01-08, 2024-01-15)" in failure_of(result)
    landed = location.instance.get_materialized_partitions(dg.AssetKey(["raw", "measurements"]))
    assert landed == {"2024-01-01", "2024-01-15", "2024-01-22"}
