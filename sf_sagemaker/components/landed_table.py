"""A raw table that is landed by period from a Parquet file."""

import dagster as dg
from pydantic import Field

from sf_sagemaker.components.attributes import Freshness, Partitions
from sf_sagemaker.components.component import Component, owners_validator
from sf_sagemaker.components.errors import invalid_attribute
from sf_sagemaker.warehouse.dataset import Relation
from sf_sagemaker.warehouse.landing import Landed, land_periods
from sf_sagemaker.warehouse.warehouse import Warehouse


class LandedTable(Component):
    """A raw table of the warehouse; a partition's materialization replaces that period's rows.

    Each period is replaced in one transaction. Landing it again changes nothing, and a period that
    the file has no rows for is an error that leaves what was there.
    """

    table: str = Field(
        pattern=r"^[A-Za-z_]\w*\.[A-Za-z_]\w*$",
        description="schema.table; the asset's key is schema/table.",
        examples=["raw.house_sales"],
    )
    file: str = Field(
        description="Parquet file, relative to the root of the repository.",
        examples=["data/king_county_house_sales.parquet"],
    )
    event_time: str = Field(description="Date or timestamp column that puts a row into a period.")
    partitions: Partitions = Field(description="Periods that can be landed.")
    freshness: Freshness | None = Field(
        default=None, description="How long ago the newest landing may be; no limit without it."
    )
    description: str | None = Field(default=None, description="What the rows are, for the UI.")
    group: str | None = Field(default=None, description="Asset group; the schema without one.")
    owners: list[str] = Field(
        default=[], description="E-mail addresses, or teams as team:name.", examples=[["team:data"]]
    )
    tags: dict[str, str] = Field(default={}, description="Asset tags.")

    _owners = owners_validator()

    @property
    def asset_key(self) -> dg.AssetKey:
        return dg.AssetKey(self.table.split("."))

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """One asset."""
        schema, name = self.table.split(".")
        file = context.project_root / self.file
        if not file.is_file():
            raise invalid_attribute(context, "file", f"there is no file {file}")
        cadence = self.partitions.cadence()

        @dg.asset(
            key=self.asset_key,
            description=self.description,
            group_name=self.group or self.asset_key.path[0],
            owners=self.owners,
            tags=self.tags,
            kinds={"parquet", "table"},
            partitions_def=self.partitions.definition(),
            freshness_policy=self.freshness.policy() if self.freshness else None,
            backfill_policy=dg.BackfillPolicy.single_run(),
        )
        def land(
            context: dg.AssetExecutionContext, warehouse: dg.ResourceParam[Warehouse]
        ) -> dg.MaterializeResult:
            periods = [cadence.period(key) for key in context.partition_keys]
            landed: list[Landed] = []
            complete = False
            table = Relation(schema_name=schema, name=name)
            landing = land_periods(
                warehouse, table, file, self.event_time, periods, timezone=self.partitions.timezone
            )
            try:
                for result in landing:
                    landed.append(result)
                    context.log.info(
                        f"{result.partition}: {result.rows} rows"
                        + (
                            ", as before"
                            if result.unchanged
                            else f", {result.previous_rows} before"
                        )
                    )
                complete = True
            finally:
                # The run fails, and these periods have landed all the same.
                for result in () if complete else landed:
                    context.log_event(
                        dg.AssetMaterialization(
                            context.asset_key,
                            partition=result.partition,
                            metadata={"dagster/row_count": result.rows},
                        )
                    )
            return dg.MaterializeResult(
                metadata={
                    "dagster/row_count": sum(result.rows for result in landed),
                    "previous_rows": sum(result.previous_rows for result in landed),
                    "periods": len(landed),
                    "changed_periods": sum(not result.unchanged for result in landed),
                    "source_file": dg.MetadataValue.path(file),
                    "rows_by_period": dg.MetadataValue.table(
                        [
                            dg.TableRecord(
                                {"period": r.partition, "rows": r.rows, "before": r.previous_rows}
                            )
                            for r in landed
                        ]
                    ),
                }
            )

        return dg.Definitions(assets=[land])
