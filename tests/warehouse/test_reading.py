"""Reading what was exported, and what the warehouse holds now."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pyarrow.parquet as pq
import pytest

from sf_sagemaker.periods import Cadence
from sf_sagemaker.storage import LocalStorage
from sf_sagemaker.warehouse.duckdb import DuckDBWarehouse
from sf_sagemaker.warehouse.errors import (
    ColumnNotFound,
    CorruptDataset,
    IncomparableFingerprints,
)
from sf_sagemaker.warehouse.export import (
    ChangedPeriod,
    Export,
    changed_periods,
    export_dataset,
    latest_manifest,
    read_rows,
    read_split,
    verify_files,
)

LAST = "2024-01-15"


@pytest.fixture
def export(
    sales: DuckDBWarehouse, storage: LocalStorage, cadence: Cadence, make_spec: Any
) -> Export:
    return export_dataset(sales, storage, make_spec(shards=2), cadence, LAST, attempt="a")


@pytest.mark.parametrize("damage", ["missing", "cut", "same size", "other rows"])
def test_a_damaged_file_is_named_with_what_was_expected(
    storage: LocalStorage, export: Export, damage: str
) -> None:
    verify_files(storage, export.manifest, export.key)
    file = export.manifest.files[3]
    path = storage.path(f"{export.key}/{file.path}")
    content = path.read_bytes()
    manifest = export.manifest
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[:-100])
    elif damage == "same size":
        path.write_bytes(content[:-100] + bytes(100))
    else:
        other = pq.ParquetFile(path).read().slice(1)
        pq.write_table(other, path)
        recorded = file.model_copy(update={"bytes": path.stat().st_size})
        files = [recorded if each == file else each for each in manifest.files]
        manifest = manifest.model_copy(update={"files": tuple(files)})
    with pytest.raises(CorruptDataset) as caught:
        verify_files(storage, manifest, export.key)
    parts = {
        "missing": [f"{file.bytes:,} bytes", "no such file"],
        "cut": [f"{file.bytes:,} bytes", f"{file.bytes - 100:,} bytes"],
        "same size": ["whole Parquet"],
        "other rows": [f"{file.rows:,} rows", f"{file.rows - 1:,} rows"],
    }
    for part in [file.path.replace("=", "%3D"), *parts[damage]]:
        assert part in str(caught.value).replace("=", "%3D")


def test_a_broken_manifest_is_named(storage: LocalStorage, export: Export, make_spec: Any) -> None:
    storage.path(f"{export.key}/manifest.json").write_text('{"version": 1}')
    with pytest.raises(CorruptDataset, match=r"a/manifest\.json"):
        latest_manifest(storage, make_spec(shards=2), LAST)


def test_splits_are_read_whole_or_in_part(storage: LocalStorage, export: Export) -> None:
    train = read_split(storage, export.manifest, export.key, "train")
    assert train.num_rows == export.manifest.rows("train")
    assert train.column_names == [column.name for column in export.manifest.columns]
    names = ["price", "sale_id"]
    head = read_split(storage, export.manifest, export.key, "train", limit=5, columns=names)
    assert head.column_names == names
    assert head.to_pylist() == train.select(names).slice(0, 5).to_pylist()
    assert read_split(storage, export.manifest, export.key, "test", limit=0).num_rows == 0


def test_only_periods_whose_rows_changed_are_reported(
    sales: DuckDBWarehouse,
    export: Export,
    cadence: Cadence,
    run_sql: Callable[..., None],
) -> None:
    manifest = export.manifest
    assert changed_periods(sales, manifest, cadence) == []
    run_sql(
        "create table other as from sales order by hash(sale_id)",
        "drop table sales",
        "alter table other rename to sales",
        "alter table sales add column unheard_of integer",
    )
    assert changed_periods(sales, manifest, cadence) == []
    run_sql("update sales set rooms = 12 where sale_id = 8", "delete from sales where sale_id < 3")
    rows = [period.rows for period in manifest.window.periods]
    assert changed_periods(sales, manifest, cadence) == [
        ChangedPeriod("2024-01-01", rows[0], rows[0] - 3),
        ChangedPeriod("2024-01-08", rows[1], rows[1]),
    ]
    run_sql("alter table sales drop column area")
    with pytest.raises(ColumnNotFound, match="area"):
        changed_periods(sales, manifest, cadence)


def test_fingerprints_of_another_version_are_not_compared(
    sales: DuckDBWarehouse, export: Export, cadence: Cadence
) -> None:
    other = export.manifest.fingerprint.model_copy(update={"algorithm": "duckdb-1.4-hash-sums"})
    manifest = export.manifest.model_copy(update={"fingerprint": other})
    with pytest.raises(IncomparableFingerprints, match=r"duckdb-1\.4.*duckdb-2\."):
        changed_periods(sales, manifest, cadence)


def test_rows_of_an_interval_are_as_a_dataset_would_hold_them(
    sales: DuckDBWarehouse,
    storage: LocalStorage,
    cadence: Cadence,
    make_spec: Any,
    run_sql: Callable[..., None],
    export: Export,
) -> None:
    run_sql("update sales set price = null where sale_id = 8")
    spec = make_spec(fraction=0.01, label_delay=2)
    rows = read_rows(sales, spec, datetime(2024, 1, 8), datetime(2024, 1, 15))
    ids = rows["sale_id"].to_pylist()
    assert ids == [i for i in range(600) if 7 <= i % 21 < 14 and i != 8]
    exported = storage.path(f"{export.key}/{export.manifest.files[0].path}")
    assert rows.schema.remove(len(rows.schema) - 1).equals(pq.read_schema(exported))
    # A row falls into the split in which every dataset of the model has it.
    for split in ("train", "validation", "test"):
        table = read_split(storage, export.manifest, export.key, split)  # type: ignore[arg-type]
        splits = rows["split"].to_pylist()
        of_split = [i for i, its in zip(ids, splits, strict=True) if its == split]
        assert of_split
        assert set(of_split) <= set(table["sale_id"].to_pylist())
    known = read_rows(
        sales, spec, datetime(2024, 1, 8), datetime(2024, 1, 15), known_by=datetime(2024, 1, 12)
    )
    assert max(known["sold_on"].to_pylist()).isoformat() == "2024-01-09"
    empty = read_rows(sales, spec, datetime(2025, 1, 1), datetime(2025, 1, 8))
    assert (empty.num_rows, empty.schema) == (0, rows.schema)
