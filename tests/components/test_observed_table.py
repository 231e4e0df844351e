"""Tables that others maintain: which of their periods Dagster is told of, and when."""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from sf_sagemaker.components.attributes import Partitions
from sf_sagemaker.components.observed_table import observed_table
from sf_sagemaker.warehouse.dataset import Relation
from sf_sagemaker.warehouse.duckdb import DuckDBWarehouse
from sf_sagemaker.warehouse.snowflake import SnowflakeWarehouse
from standins.snowflake import SnowflakeService

KEY = dg.AssetKey(["public", "churn"])
TODAY = datetime.now().replace(hour=0, minute=0, second=0, microsecond=0)
START = TODAY - timedelta(days=TODAY.weekday() + 21)  # three whole weeks ago


@pytest.fixture
def definitions() -> dg.Definitions:
    partitions = Partitions(every="week", start=START.date().isoformat())
    return observed_table(
        KEY,
        Relation(name="churn"),
        event_time="seen_on",
        cadence=partitions.cadence(),
        partitions_def=partitions.definition(),
    )


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def look(
    definitions: dg.Definitions, instance: dg.DagsterInstance, warehouse: Any, cursor: str | None
) -> tuple[dict[str, Any], str | None]:
    """What a look reports, by partition, and the cursor it leaves."""
    sensor = definitions.get_sensor_def("public_churn_changes")
    context = dg.build_sensor_context(
        instance=instance, cursor=cursor, resources={"warehouse": warehouse}
    )
    data = sensor.evaluate_tick(context)
    reported: dict[str, Any] = {str(event.partition): event for event in data.asset_events}
    return reported, data.cursor


def week(number: int) -> str:
    return (START + timedelta(weeks=number)).date().isoformat()


ROWS = [f"('{(START + timedelta(days=day)).date()}', {day}, 'a')" for day in range(22)]


def test_periods_are_reported_when_they_are_over_and_when_they_change(
    definitions: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    with SnowflakeService() as service:
        warehouse = SnowflakeWarehouse(service.connect)
        service.sql(
            "create table CHURN (seen_on date, value integer, name varchar)",
            f"insert into CHURN values {', '.join(ROWS)}",
        )
        reported, cursor = look(definitions, instance, warehouse, None)
        assert list(reported) == [week(0), week(1), week(2)]  # and not the week that goes on
        event = reported[week(1)]
        assert event.metadata["dagster/row_count"].value == 7
        seconds = event.metadata["dagster/last_updated_timestamp"].value
        assert abs(seconds - datetime.now().timestamp()) < 60
        reading = sum("hash(" in it.sql for it in service.statements)

        assert look(definitions, instance, warehouse, cursor)[0] == {}
        assert sum("hash(" in it.sql for it in service.statements) == reading  # not read again

        service.sql(f"update CHURN set value = -1 where seen_on = '{week(1)}'")
        changed, cursor = look(definitions, instance, warehouse, cursor)
        assert list(changed) == [week(1)]
        assert changed[week(1)].tags != event.tags

        # Nothing was altered, and meanwhile another week is over.
        earlier = json.loads(cursor or "") | {"current": week(2)}
        del earlier["periods"][week(2)]
        assert list(look(definitions, instance, warehouse, json.dumps(earlier))[0]) == [week(2)]


def test_a_warehouse_that_records_no_changes_is_read_each_time(
    definitions: dg.Definitions, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    warehouse = DuckDBWarehouse(tmp_path / "warehouse.duckdb")
    with warehouse.writing() as session:
        session.execute("create table churn (seen_on date, value integer, name varchar)")
        session.execute(f"insert into churn values {', '.join(ROWS)}")
    reported, cursor = look(definitions, instance, warehouse, None)
    assert list(reported) == [week(0), week(1), week(2)]
    assert look(definitions, instance, warehouse, cursor)[0] == {}
    with warehouse.writing() as session:
        session.execute(f"delete from churn where seen_on = '{week(2)}'")
    assert list(look(definitions, instance, warehouse, cursor)[0]) == [week(2)]
    asset = next(iter(definitions.resolve_all_asset_specs()))
    assert asset.partitions_def is not None
