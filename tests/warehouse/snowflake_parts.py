"""What the tests of Snowflake share: datasets as rows that two warehouses can be compared by."""

from datetime import date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sf_sagemaker.periods import Cadence
from sf_sagemaker.storage import Storage
from sf_sagemaker.warehouse.dataset import SPLITS, DatasetSpec, Relation
from sf_sagemaker.warehouse.export import Export, export_dataset
from sf_sagemaker.warehouse.landing import land_periods
from sf_sagemaker.warehouse.manifests import open_parquet
from sf_sagemaker.warehouse.warehouse import Warehouse

WEEKS = Cadence("week", datetime(2024, 1, 1), datetime(2024, 1, 22))


def golden_spec(schema: str) -> DatasetSpec:
    """A dataset over everything that two warehouses could see differently.

    A key of several columns with names in mixed case and a text beyond ASCII, a sample, shards,
    missing and tiny values, booleans, 32-bit floats, an event time with a time of day.
    """
    return DatasetSpec(
        model="golden",
        source=Relation(schema_name=schema, name="odd_values"),
        row_key=("A Name", "number", "day"),
        split_key=("day",),
        event_time="Sold At",
        target="PRICE",
        features=("tiny", "small", "flag", "words"),
        window="3 weeks",
        fraction=0.5,
        seed=3,
        shards=4,
    )


def export_golden(
    warehouse: Warehouse, storage: Storage, schema: str, scratch: Path
) -> tuple[Export, dict[tuple[str, int], pa.Table]]:
    """Lands the golden values and exports their dataset: the export, and its rows."""
    numbers = range(500)
    days = [date(2024, 1, 1) + timedelta(days=i % 21) for i in numbers]
    values = {
        "Sold At": pa.array(
            [datetime(it.year, it.month, it.day, 23, 59, 59, 123456) for it in days],
            pa.timestamp("us"),
        ),
        "day": pa.array(days),
        "A Name": pa.array([f"nä'me\\|{i % 50}" for i in numbers]),
        "number": pa.array(numbers, pa.int32()),
        "price": pa.array([None if i % 50 == 3 else i / 7 for i in numbers]),
        "tiny": pa.array([1e-30 if i % 3 else None for i in numbers]),
        "small": pa.array([i / 3 for i in numbers], pa.float32()),
        "flag": pa.array([i % 2 == 0 for i in numbers]),
        "words": pa.array([None if i % 9 == 4 else f"wörd {i % 5}" for i in numbers]),
    }
    file = scratch / "odd values.parquet"
    pq.write_table(pa.table(values), file)
    spec = golden_spec(schema)
    weeks = [WEEKS.period(key) for key in ("2024-01-01", "2024-01-08", "2024-01-15")]
    landed = list(land_periods(warehouse, spec.source, file, "sold at", weeks))
    assert sum(it.rows for it in landed) == len(numbers)
    again = list(land_periods(warehouse, spec.source, file, "sold at", weeks))
    assert all(it.unchanged for it in again)
    export = export_dataset(warehouse, storage, spec, WEEKS, "2024-01-15", attempt="a")
    assert export.manifest.dropped.missing_target == 10
    return export, rows_by_place(storage, export)


def rows_by_place(storage: Storage, export: Export) -> dict[tuple[str, int], pa.Table]:
    """The rows of each split and shard in the order of their keys, features as XGBoost sees them.

    Warehouses differ in the width of a feature's type and the order of rows: neither is left here.
    """
    found: dict[tuple[str, int], list[pa.Table]] = {}
    manifest = export.manifest
    names = [column.name for column in manifest.columns]
    for file in manifest.files:
        with open_parquet(storage, f"{export.key}/{file.path}") as parquet:
            table = parquet.read(columns=names).select(names)
        for column in manifest.columns:
            place = table.schema.get_field_index(column.name)
            if column.kind == "numeric" and pa.types.is_floating(table.schema.field(place).type):
                kind = pa.float64() if "target" in column.roles else pa.float32()
                values = pc.cast(table.column(place), kind, safe=False)
                table = table.set_column(place, pa.field(column.name, kind), values)
        found.setdefault((file.split, file.shard), []).append(table)
    keys = [(name.lower(), "ascending") for name in manifest.spec.row_key]
    return {place: pa.concat_tables(parts).sort_by(keys) for place, parts in found.items()}


def assert_same_rows(
    one: dict[tuple[str, int], pa.Table], other: dict[tuple[str, int], pa.Table]
) -> None:
    """The same rows, bit for bit, in the same splits and shards."""
    assert set(one) == set(other)
    assert {split for split, _ in one} == set(SPLITS)
    for place, rows in one.items():
        assert rows.schema.names == other[place].schema.names
        assert rows.equals(other[place]), place
