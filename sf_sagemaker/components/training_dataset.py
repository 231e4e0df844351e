"""The asset `<model>/sampled_training_dataset`, and the check that watches its window."""

from threading import Event
from typing import Any

import dagster as dg
from pydantic import Field

from sf_sagemaker.components import plots
from sf_sagemaker.components.attributes import AssetAttributes
from sf_sagemaker.components.partitioned import Materialized, materialize_each
from sf_sagemaker.storage import Storage
from sf_sagemaker.warehouse.dataset import SPLITS, DatasetSpec, Manifest
from sf_sagemaker.warehouse.export import (
    changed_periods,
    export_dataset,
    latest_manifest,
    read_split,
)
from sf_sagemaker.warehouse.warehouse import Warehouse

DATASET_ASSET = "sampled_training_dataset"  # the last part of the asset's key
DBT_MODEL = "dbt_model"  # in its metadata: the source, where dbt builds it

_SAMPLE_ROWS = 8


class TrainingDatasetConfig(dg.Config):
    """Run configuration of a dataset."""

    accept_type_changes: bool = Field(
        default=False,
        description="Export although a column's type differs from the last partition's dataset.",
    )


def training_dataset(
    *,
    spec: DatasetSpec,
    source_key: dg.AssetKey,
    dbt_model: str | None,
    attributes: AssetAttributes,
) -> tuple[dg.AssetsDefinition, dg.AssetChecksDefinition]:
    """The dataset asset of a model, and its check `window_unchanged`.

    `dbt_model` names the source where dbt builds it.
    """
    key = dg.AssetKey([spec.model, DATASET_ASSET])

    @dg.asset(
        key=key,
        description=(
            f"Rows of `{spec.source}` whose `{spec.event_time}` lies in the {spec.window} up to the end "
            "of the partition and whose label was known by then: sampled by key, split by "
            f"{', '.join(f'`{column}`' for column in spec.split_key)} so that no split key is in two "
            "splits, exported by the warehouse as Parquet and committed by a manifest."
        ),
        deps=[dg.AssetDep(source_key, partition_mapping=dg.IdentityPartitionMapping())],
        partitions_def=attributes.partitions_def,
        backfill_policy=dg.BackfillPolicy.single_run(),
        freshness_policy=attributes.freshness_policy,
        code_version=spec.digest,
        metadata={} if dbt_model is None else {DBT_MODEL: dbt_model},
        group_name=attributes.group,
        owners=attributes.owners,
        tags=attributes.tags,
        kinds={"parquet"},
    )
    def sampled_training_dataset(
        context: dg.AssetExecutionContext,
        config: TrainingDatasetConfig,
        warehouse: dg.ResourceParam[Warehouse],
        storage: dg.ResourceParam[Storage],
    ) -> dg.MaterializeResult:
        def export(partition: str, _: Event) -> Materialized:
            exported = export_dataset(
                warehouse,
                storage,
                spec,
                attributes.cadence,
                partition,
                attempt=context.run_id[:8],
                accept_type_changes=config.accept_type_changes,
            )
            manifest = exported.manifest
            context.log.info(
                f"{manifest.rows()} rows in {len(manifest.files)} files at "
                f"{storage.uri(exported.key)}" + (" (unchanged, reused)" if exported.reused else "")
            )
            return Materialized(
                metadata=_metadata(manifest, storage, exported.key, reused=exported.reused),
                data_version=manifest.fingerprint.value,
            )

        return materialize_each(context, export)

    @dg.asset_check(
        asset=key,
        name="window_unchanged",
        description="The rows of the newest dataset's window are still what the warehouse holds. "
        "Fails when a period was landed or corrected after the dataset was exported.",
    )
    def window_unchanged(
        context: dg.AssetCheckExecutionContext,
        warehouse: dg.ResourceParam[Warehouse],
        storage: dg.ResourceParam[Storage],
    ) -> dg.AssetCheckResult:
        partition = _partition_to_check(context, key)
        found = latest_manifest(storage, spec, partition) if partition else None
        if found is None:
            return dg.AssetCheckResult(
                passed=False,
                severity=dg.AssetCheckSeverity.WARN,
                metadata={"reason": f"no dataset of {partition or 'any period'} as configured now"},
            )
        changed = changed_periods(warehouse, found[0], attributes.cadence)
        return dg.AssetCheckResult(
            passed=not changed,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={
                "partition": partition,
                "changed_periods": ", ".join(period.partition for period in changed) or "none",
                "periods": len(found[0].window.periods),
            },
        )

    return sampled_training_dataset, window_unchanged


def _partition_to_check(context: dg.AssetCheckExecutionContext, key: dg.AssetKey) -> str:
    """The partition that this run materialized, or else the newest one that was ever materialized."""
    tagged = context.op_execution_context.run.tags.get("dagster/partition")
    return tagged or max(context.instance.get_materialized_partitions(key), default="")


def _metadata(manifest: Manifest, storage: Storage, key: str, *, reused: bool) -> dict[str, Any]:
    sample = read_split(storage, manifest, key, "train", limit=_SAMPLE_ROWS)
    metadata: dict[str, Any] = {
        "dagster/row_count": manifest.rows(),
        "bytes": manifest.bytes(),
        "missing_target": manifest.dropped.missing_target,
        "label_not_yet_known": manifest.dropped.label_not_yet_known,
        "not_sampled": manifest.dropped.not_sampled,
        "window_full": manifest.window.full,
        "window": f"[{manifest.window.start}, {manifest.window.end})",
        "missing_periods": ", ".join(manifest.window.missing) or "none",
        "reused": reused,
        "export_seconds": manifest.export_seconds,
        "fingerprint": manifest.fingerprint.value,
        "dagster/uri": storage.uri(key),
        "splits": dg.MetadataValue.table(
            [
                dg.TableRecord({"split": s, "rows": manifest.rows(s), "bytes": manifest.bytes(s)})
                for s in SPLITS
            ]
        ),
        "window_periods": dg.MetadataValue.table(
            [
                dg.TableRecord(
                    {"period": p.partition, "rows": p.rows, "fingerprint": p.fingerprint.value}
                )
                for p in manifest.window.periods
            ]
        ),
        "dagster/column_schema": dg.TableSchema(
            columns=[
                dg.TableColumn(
                    name=column.name, type=column.type, description=", ".join(column.roles)
                )
                for column in manifest.columns
            ]
        ),
        "sql": dg.MetadataValue.md(f"```sql\n{manifest.sql}\n```"),
        "sample": dg.MetadataValue.table(
            [
                dg.TableRecord({name: _plain(value) for name, value in row.items()})
                for row in sample.to_pylist()
            ]
        ),
    }
    for split in SPLITS:
        metadata[f"rows_{split}"] = manifest.rows(split)
    if manifest.query_id is not None:
        metadata["query_id"] = manifest.query_id
    if manifest.source_version is not None:
        metadata["source_version"] = manifest.source_version
    distribution = _target_distribution(storage, manifest, key)
    if distribution is not None:
        metadata["target_distribution"] = distribution
    return metadata


def _plain(value: object) -> str | int | float | bool | None:
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _target_distribution(
    storage: Storage, manifest: Manifest, key: str
) -> dg.MarkdownMetadataValue | None:
    target = manifest.target
    if target.kind == "text":
        return None
    values = read_split(storage, manifest, key, "train", columns=[target.name])[target.name]
    if target.kind == "class":
        counts = {str(c["values"]): int(c["counts"]) for c in values.value_counts().to_pylist()}
        return plots.class_distribution(dict(sorted(counts.items())), target.name)
    return plots.target_distribution(values.to_numpy(), target.name, log=target.kind == "positive")
