"""A table that something else maintains, as an external asset whose periods a sensor reports.

A period is reported once it is over, and again when its rows have become others. What Dagster then
sees is what it sees of a raw table that is landed here: freshness and retraining follow from it.
"""

import json
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg

from sf_sagemaker.periods import Cadence
from sf_sagemaker.warehouse.changes import PeriodRows, last_altered, period_rows
from sf_sagemaker.warehouse.dataset import Relation
from sf_sagemaker.warehouse.warehouse import Warehouse

_DATA_VERSION = "dagster/data_version"
_INTERVAL = 300  # seconds between two looks


def observed_table(
    key: dg.AssetKey,
    relation: Relation,
    *,
    event_time: str,
    cadence: Cadence,
    partitions_def: dg.PartitionsDefinition,
    freshness_policy: dg.FreshnessPolicy | None = None,
    group: str | None = None,
    interval: int = _INTERVAL,
) -> dg.Definitions:
    """The external asset of a table, and the sensor `<key>_changes` that looks after it.

    The table is read when it was altered since, or when another period is over; where the warehouse
    doesn't record changes (DuckDB, views), it is read at each look. `event_time` is the column that
    puts a row into a period.
    """

    @dg.sensor(
        name="_".join((*key.path, "changes")),
        minimum_interval_seconds=interval,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Reports the periods of {relation} that are over, and those that changed.",
    )
    def changes(
        context: dg.SensorEvaluationContext, warehouse: dg.ResourceParam[Warehouse]
    ) -> dg.SensorResult | dg.SkipReason:
        seen = json.loads(context.cursor) if context.cursor else {}
        now = datetime.now(ZoneInfo(cadence.timezone)).replace(tzinfo=None)
        current = cadence.containing(now)
        with warehouse.reading() as session:
            altered = last_altered(session, relation)
            looked_at = {
                "altered": altered.isoformat() if altered else None,
                "current": current.key if current else None,
            }
            if altered and looked_at == {name: seen.get(name) for name in looked_at}:
                return dg.SkipReason(f"{relation} has not changed since {altered}")
            periods = period_rows(session, relation, event_time, cadence)
        over = {it: rows for it, rows in periods.items() if cadence.period(it).end <= now}
        before = seen.get("periods", {})
        changed = [rows for it, rows in sorted(over.items()) if before.get(it) != rows.version]
        versions = {it: rows.version for it, rows in sorted(over.items())}
        return dg.SensorResult(
            asset_events=[_reported(key, rows, altered) for rows in changed],
            cursor=json.dumps({**looked_at, "periods": versions}),
        )

    asset = dg.AssetSpec(
        key,
        description=f"`{relation}`, which something other than this project maintains.",
        partitions_def=partitions_def,
        freshness_policy=freshness_policy,
        group_name=group,
        kinds={"table"},
    )
    return dg.Definitions(assets=[asset], sensors=[changes])


def _reported(
    key: dg.AssetKey, rows: PeriodRows, altered: datetime | None
) -> dg.AssetMaterialization:
    metadata: dict[str, Any] = {
        "dagster/row_count": rows.rows,
        # Without a record of the change, the time at which it was seen bounds it.
        "dagster/last_updated_timestamp": dg.MetadataValue.timestamp(altered or datetime.now(UTC)),
    }
    return dg.AssetMaterialization(
        key, partition=rows.partition, metadata=metadata, tags={_DATA_VERSION: rows.version}
    )
