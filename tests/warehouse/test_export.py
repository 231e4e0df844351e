"""Exporting datasets: which rows and columns, in which files, under which manifest."""

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sf_sagemaker.periods import Cadence, InvalidPeriod
from sf_sagemaker.storage import LocalStorage
from sf_sagemaker.warehouse.dataset import DatasetSpec, Manifest, Relation, SplitFractions
from sf_sagemaker.warehouse.duckdb import DuckDBWarehouse
from sf_sagemaker.warehouse.errors import ColumnTypeChanged
from sf_sagemaker.warehouse.export import (
    Export,
    InvalidAttempt,
    export_dataset,
    latest_manifest,
    read_split,
)

HOUSE_SALES = Path(__file__).parents[2] / "data" / "king_county_house_sales.parquet"
LAST = "2024-01-15"


def rows_of(
    storage: LocalStorage, export: Export, split: str | None = None
) -> list[dict[str, Any]]:
    """All rows of a dataset's files, as the files hold them."""
    tables = [
        pq.ParquetFile(storage.path(f"{export.key}/{file.path}")).read()
        for file in export.manifest.files
        if split in (None, file.split)
    ]
    return pa.concat_tables(tables).to_pylist()


def test_the_real_house_sales(
    warehouse: DuckDBWarehouse, storage: LocalStorage, run_sql: Callable[..., None]
) -> None:
    run_sql("create schema raw", f"create table raw.house_sales as from '{HOUSE_SALES}'")
    spec = DatasetSpec(
        model="house_prices",
        source=Relation(name="house_sales", schema_name="raw"),
        row_key=("parcel_id", "sale_date"),
        split_key=("parcel_id",),
        event_time="sale_date",
        target="price",
        target_kind="positive",
        exclude=("zipcode",),
        window="17 weeks",
        shards=3,
    )
    cadence = Cadence("week", datetime(2014, 4, 28), datetime(2015, 6, 1))
    export = export_dataset(warehouse, storage, spec, cadence, "2014-12-01", attempt="first")
    manifest = export.manifest
    with warehouse.reading() as session:
        inside = "sale_date >= date '2014-08-11' and sale_date < date '2014-12-08'"
        wanted = session.rows(f"select count(*), sum(price) from raw.house_sales where {inside}")[0]
    rows = rows_of(storage, export)
    assert (len(rows), sum(row["price"] for row in rows)) == wanted
    assert manifest.rows() == len(rows)
    assert len(manifest.files) == 9
    partitions = [period.partition for period in manifest.window.periods]
    assert (partitions[0], partitions[-1]) == ("2014-08-11", "2014-12-01")
    assert len(partitions) == 17
    assert sum(period.rows for period in manifest.window.periods) == len(rows)
    assert manifest.window.full
    assert not manifest.window.missing
    parcels = {
        split: {row["parcel_id"] for row in rows_of(storage, export, split)}
        for split in ("train", "validation", "test")
    }
    assert not parcels["train"] & (parcels["validation"] | parcels["test"])
    assert not parcels["validation"] & parcels["test"]
    assert 0.75 < len(parcels["train"]) / sum(map(len, parcels.values())) < 0.85
    assert "zipcode" not in rows[0]


def test_layout_and_manifest(
    sales: DuckDBWarehouse,
    storage: LocalStorage,
    run_sql: Callable[..., None],
    cadence: Cadence,
    make_spec: Any,
) -> None:
    run_sql("update sales set area = null where sale_id = 7")
    spec = make_spec(shards=40)  # more shards than some splits have rows for
    export = export_dataset(sales, storage, spec, cadence, LAST, attempt="run-1")
    folder = storage.path(export.key)
    assert export.key == f"datasets/house_prices/{LAST}/{spec.digest}/run-1"
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.parquet"))
    assert found == sorted(
        f"{split}/shard={shard:03d}/part-0.parquet"
        for split in ("train", "validation", "test")
        for shard in range(40)
    )
    assert sorted(path.name for path in folder.iterdir()) == [
        "manifest.json",
        "test",
        "train",
        "validation",
    ]
    stored = Manifest.model_validate_json((folder / "manifest.json").read_text())
    assert stored == export.manifest
    assert json.loads((folder / "manifest.json").read_text())["version"] == 1
    for file in stored.files:
        footer = pq.read_metadata(folder / file.path)
        assert (file.rows, file.bytes) == (footer.num_rows, (folder / file.path).stat().st_size)
    assert any(file.rows == 0 for file in stored.files)
    assert len({str(pq.read_schema(folder / file.path)) for file in stored.files}) == 1
    assert stored.rows() == 600
    ids = [row["sale_id"] for row in rows_of(storage, export)]
    assert sorted(ids) == list(range(600))


def test_columns_have_stated_types_names_and_roles(
    warehouse: DuckDBWarehouse,
    storage: LocalStorage,
    run_sql: Callable[..., None],
    cadence: Cadence,
    make_spec: Any,
) -> None:
    run_sql(
        'create table "Sales" as select cast(i as integer) as "SALE_ID", '
        "'p' || i % 90 as Parcel_Id, "
        "timestamp '2024-01-01 10:00' + to_days(cast(i % 21 as integer)) "
        'as "Sold On", i % 3 = 0 as Flag, i as "Wörds", cast(i as decimal(9, 2)) as Dec, '
        "cast(i % 5 as varchar) as Cat, i % 4 > 1 as Expensive from range(400) r(i)"
    )
    spec = make_spec(
        source=Relation(name="SALES", schema_name="MAIN"),
        row_key=("Sale_ID",),
        split_key=("PARCEL_ID",),
        event_time="sold on",
        target="EXPENSIVE",
        target_kind="class",
    )
    export = export_dataset(warehouse, storage, spec, cadence, LAST, attempt="a")
    columns = {column.name: column for column in export.manifest.columns}
    assert [(c.name, c.source_name, c.type, c.kind, c.roles) for c in columns.values()] == [
        ("sale_id", "SALE_ID", "BIGINT", "key", ("row_key",)),
        ("parcel_id", "Parcel_Id", "VARCHAR", "key", ("split_key",)),
        ("sold on", "Sold On", "TIMESTAMP", "time", ("event_time",)),
        ("expensive", "Expensive", "VARCHAR", "categorical", ("target",)),
        ("flag", "Flag", "FLOAT", "numeric", ("feature",)),
        ("wörds", "Wörds", "FLOAT", "numeric", ("feature",)),
        ("dec", "Dec", "FLOAT", "numeric", ("feature",)),
        ("cat", "Cat", "VARCHAR", "categorical", ("feature",)),
    ]
    assert columns["cat"].levels == ("0", "1", "2", "3", "4")
    assert columns["dec"].source_type == "DECIMAL(9,2)"
    assert export.manifest.target.classes == ("false", "true")
    file = storage.path(f"{export.key}/{export.manifest.files[0].path}")
    types = {field.name: str(field.type) for field in pq.read_schema(file)}
    assert types == {
        "sale_id": "int64", "parcel_id": "string", "sold on": "timestamp[us]",
        "expensive": "string", "flag": "float", "wörds": "float", "dec": "float", "cat": "string",
    }  # fmt: skip


def test_a_key_is_a_feature_only_when_asked(
    sales: DuckDBWarehouse, storage: LocalStorage, cadence: Cadence, make_spec: Any
) -> None:
    spec = make_spec(features=("PARCEL_ID", "rooms"))
    export = export_dataset(sales, storage, spec, cadence, LAST, attempt="a")
    assert [(c.name, c.type, c.kind) for c in export.manifest.features] == [
        ("parcel_id", "BIGINT", "numeric"),
        ("rooms", "FLOAT", "numeric"),
    ]


def test_missing_features_stay_missing_and_levels_are_those_of_train(
    sales: DuckDBWarehouse,
    storage: LocalStorage,
    run_sql: Callable[..., None],
    cadence: Cadence,
    make_spec: Any,
) -> None:
    first = export_dataset(sales, storage, make_spec(), cadence, LAST, attempt="a")
    held_out = rows_of(storage, first, "test")[0]["sale_id"]
    run_sql(
        f"update sales set area = 'unseen' where sale_id = {held_out}",
        "update sales set area = null, rooms = null where sale_id = 5",
    )
    export = export_dataset(sales, storage, make_spec(), cadence, LAST, attempt="b")
    rows = {row["sale_id"]: row for row in rows_of(storage, export)}
    assert (rows[5]["area"], rows[5]["rooms"], len(rows)) == (None, None, 600)
    area = next(column for column in export.manifest.columns if column.name == "area")
    assert area.levels == ("it's", "north", "south")


def test_labels_count_only_once_they_are_known(
    sales: DuckDBWarehouse,
    storage: LocalStorage,
    run_sql: Callable[..., None],
    cadence: Cadence,
    make_spec: Any,
) -> None:
    # The window ends before 22 January: a label of the 9th is known twelve days later, on the 21st.
    export = export_dataset(sales, storage, make_spec(label_delay=12), cadence, LAST, attempt="a")
    days = {row["sold_on"].isoformat() for row in rows_of(storage, export)}
    assert max(days) == "2024-01-09"
    late = export.manifest.dropped.label_not_yet_known
    assert late + export.manifest.rows() == 600
    assert late > 200
    assert export.manifest.window.missing == ("2024-01-15",)

    run_sql(
        "alter table sales add column settled_on date",
        "update sales set settled_on = sold_on + 12",
    )
    spec = make_spec(available_at="settled_on")
    spelt_out = export_dataset(sales, storage, spec, cadence, LAST, attempt="a")
    assert {row["sale_id"] for row in rows_of(storage, spelt_out)} == {
        row["sale_id"] for row in rows_of(storage, export)
    }

    run_sql(
        "alter table sales drop column settled_on",
        "alter table sales add column settled timestamp",
        "update sales set settled = cast(sold_on as timestamp) + interval 1 day where sale_id <> 3",
    )
    export = export_dataset(
        sales, storage, make_spec(available_at="SETTLED"), cadence, LAST, attempt="a"
    )
    known = {row["sale_id"] for row in rows_of(storage, export)}
    # The last day's rows are settled at the very end of the window, which is not before it.
    assert known == {i for i in range(600) if i % 21 < 20 and i != 3}


def test_dropped_rows_are_counted_by_reason(
    sales: DuckDBWarehouse,
    storage: LocalStorage,
    run_sql: Callable[..., None],
    cadence: Cadence,
    make_spec: Any,
) -> None:
    run_sql(
        "alter table sales alter price type double",
        "update sales set price = null where sale_id < 10",
        "update sales set price = 'nan' where sale_id between 10 and 14",
    )
    export = export_dataset(
        sales, storage, make_spec(fraction=0.5, label_delay=1), cadence, LAST, attempt="a"
    )
    dropped = export.manifest.dropped
    assert dropped.missing_target == 15
    assert dropped.label_not_yet_known == 28  # the labels of the last day are known the day after
    counted = dropped.not_sampled + dropped.missing_target + dropped.label_not_yet_known
    assert counted + export.manifest.rows() == 600
    assert 200 < dropped.not_sampled < 400


@pytest.mark.parametrize("window", ["1 week", "3 weeks", "10 weeks"])
def test_the_window_is_half_open_and_warm_up_is_marked(
    sales: DuckDBWarehouse, storage: LocalStorage, cadence: Cadence, make_spec: Any, window: str
) -> None:
    export = export_dataset(
        sales, storage, make_spec(window=window), cadence, "2024-01-08", attempt="a"
    )
    days = sorted({row["sold_on"].isoformat() for row in rows_of(storage, export)})
    start = "2024-01-08" if window == "1 week" else "2024-01-01"
    assert (days[0], days[-1]) == (start, "2024-01-14")
    assert (export.manifest.window.start, export.manifest.window.end) == (start, "2024-01-15")
    assert export.manifest.window.full == (window == "1 week")


def test_zoned_timestamps_fall_into_periods_of_the_models_time_zone(
    warehouse: DuckDBWarehouse, storage: LocalStorage, run_sql: Callable[..., None], make_spec: Any
) -> None:
    # One row an hour, from two days before the first period to its end and beyond.
    run_sql(
        "create table sales as select i as sale_id, i as parcel_id, i % 9 as price, i as rooms, "
        "timestamptz '2024-01-06 00:00:00+00' + to_hours(cast(i as integer)) as sold_on "
        "from range(400) r(i)"
    )
    cadence = Cadence("week", datetime(2024, 1, 8), timezone="America/Los_Angeles")
    export = export_dataset(
        warehouse, storage, make_spec(window="1 week"), cadence, "2024-01-08", attempt="a"
    )
    rows = {row["sale_id"]: row["sold_on"] for row in rows_of(storage, export)}
    # Midnight in Los Angeles is 08:00 UTC: 56 hours after the first row.
    assert sorted(rows) == list(range(56, 56 + 7 * 24))
    assert rows[56] == datetime(2024, 1, 8)


def test_rows_lie_in_the_same_order_whatever_the_source(
    sales: DuckDBWarehouse,
    storage: LocalStorage,
    run_sql: Callable[..., None],
    cadence: Cadence,
    make_spec: Any,
) -> None:
    first = export_dataset(sales, storage, make_spec(), cadence, LAST, attempt="a")
    rows = rows_of(storage, first)
    storage.delete(first.key)
    run_sql("create table other as from sales order by hash(sale_id)", "drop table sales")
    run_sql("alter table other rename to sales")
    again = export_dataset(sales, storage, make_spec(), cadence, LAST, attempt="a")
    assert not again.reused
    assert rows_of(storage, again) == rows
    assert [row["sale_id"] for row in rows] != sorted(row["sale_id"] for row in rows)
    assert again.manifest.fingerprint == first.manifest.fingerprint


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    order=st.integers(0, 10**6),
    sale=st.integers(0, 599),
    change=st.sampled_from(["rooms = 1e6", "area = null", "price = 7777", "parcel_id = 9999"]),
)
def test_the_fingerprint_depends_on_the_rows_and_not_on_their_order(
    sales: DuckDBWarehouse,
    tmp_path: Path,
    cadence: Cadence,
    make_spec: Any,
    run_sql: Callable[..., None],
    order: int,
    sale: int,
    change: str,
) -> None:
    run_sql(
        f"create or replace table shuffled as from sales order by hash(sale_id, {order})",
        "create or replace table altered as from shuffled",
        f"update altered set {change} where sale_id = {sale}",
    )
    found = {}
    for table in ("sales", "shuffled", "altered"):
        storage = LocalStorage(tmp_path / f"{table}-{order}-{sale}")
        storage.delete("datasets")
        spec = make_spec(source=Relation(name=table))
        found[table] = export_dataset(sales, storage, spec, cadence, LAST, attempt="a").manifest
    assert found["shuffled"].fingerprint == found["sales"].fingerprint
    assert found["altered"].fingerprint != found["sales"].fingerprint
    differing = [
        before.partition
        for before, after in zip(
            found["sales"].window.periods, found["altered"].window.periods, strict=True
        )
        if before != after
    ]
    assert differing == [cadence.containing(datetime(2024, 1, 1 + sale % 21)).key]  # type: ignore[union-attr]


def test_the_fingerprint_covers_the_split_and_not_the_shards(
    sales: DuckDBWarehouse, storage: LocalStorage, cadence: Cadence, make_spec: Any
) -> None:
    def fingerprint(**changes: Any) -> str:
        spec = make_spec(**changes)
        return export_dataset(
            sales, storage, spec, cadence, LAST, attempt="a"
        ).manifest.fingerprint.value

    plain = fingerprint()
    assert fingerprint(shards=4) == plain
    assert fingerprint(salt="other") != plain
    assert fingerprint(splits=SplitFractions(train=0.6, validation=0.2, test=0.2)) != plain
    assert fingerprint(exclude=("rooms",)) != plain


def test_a_dataset_is_reused_only_while_its_rows_and_files_are_the_same(
    sales: DuckDBWarehouse,
    storage: LocalStorage,
    run_sql: Callable[..., None],
    cadence: Cadence,
    make_spec: Any,
) -> None:
    spec = make_spec()

    def export(attempt: str) -> Export:
        return export_dataset(sales, storage, spec, cadence, LAST, attempt=attempt)

    first = export("a")
    assert not first.reused
    second = export("b")
    assert second.reused
    assert (second.key, second.manifest) == (first.key, first.manifest)
    assert not list(storage.list(f"datasets/house_prices/{LAST}/{spec.digest}/b"))

    storage.path(f"{first.key}/{first.manifest.files[0].path}").write_bytes(b"PAR1")
    repaired = export("b")
    assert not repaired.reused
    assert repaired.key.endswith("/b")
    assert repaired.manifest.fingerprint == first.manifest.fingerprint

    run_sql("delete from sales where sale_id = 17")
    changed = export("b")  # the name is taken
    assert not changed.reused
    assert changed.key.endswith("/b-2")
    assert changed.manifest.attempt == "b-2"
    latest = latest_manifest(storage, spec, LAST)
    assert latest == (changed.manifest, changed.key)
    assert latest_manifest(storage, spec, "2024-01-08") is None


def test_a_changed_type_is_refused_until_it_is_accepted(
    sales: DuckDBWarehouse,
    storage: LocalStorage,
    run_sql: Callable[..., None],
    cadence: Cadence,
    make_spec: Any,
) -> None:
    spec = make_spec()
    export_dataset(sales, storage, spec, cadence, "2024-01-08", attempt="a")
    run_sql("alter table sales alter rooms type decimal(9, 1)")
    export_dataset(sales, storage, spec, cadence, LAST, attempt="a")  # numbers are numbers
    run_sql("alter table sales alter rooms type varchar")
    files = list(storage.list("datasets"))
    with pytest.raises(ColumnTypeChanged) as caught:
        export_dataset(sales, storage, spec, cadence, "2024-01-01", attempt="b")
    for part in ("rooms", "DOUBLE", "VARCHAR", "2024-01-08", "2024-01-01"):
        assert part in str(caught.value)
    assert list(storage.list("datasets")) == files
    export_dataset(
        sales, storage, spec, cadence, "2024-01-01", attempt="b", accept_type_changes=True
    )
    # Once accepted for a partition, its next export needs no more acceptance.
    run_sql("delete from sales where sale_id = 0")
    assert not export_dataset(sales, storage, spec, cadence, "2024-01-01", attempt="c").reused


def test_partitions_and_attempts_are_checked(
    sales: DuckDBWarehouse, storage: LocalStorage, cadence: Cadence, make_spec: Any
) -> None:
    with pytest.raises(InvalidPeriod):
        export_dataset(sales, storage, make_spec(), cadence, "2024-01-02", attempt="a")
    for attempt in ("", "../up", "a/b", "x" * 101):
        with pytest.raises(InvalidAttempt):
            export_dataset(sales, storage, make_spec(), cadence, LAST, attempt=attempt)
    assert not list(storage.list("datasets"))


def test_a_million_rows_on_several_threads_are_one_file_a_shard(
    tmp_path: Path, storage: LocalStorage, cadence: Cadence, make_spec: Any
) -> None:
    warehouse = DuckDBWarehouse(tmp_path / "large.duckdb", threads=4, memory_limit="1GB")
    with warehouse.writing() as session:
        session.execute(
            "create table sales as select i as sale_id, i // 3 as parcel_id, i % 99 as price, "
            "i * 0.5 as rooms, date '2024-01-01' + cast(i % 21 as integer) as sold_on "
            "from range(1000000) r(i)"
        )
    export = export_dataset(warehouse, storage, make_spec(shards=2), cadence, LAST, attempt="a")
    assert export.manifest.rows() == 1_000_000
    assert [(file.split, file.shard) for file in export.manifest.files] == [
        (split, shard) for split in ("train", "validation", "test") for shard in (0, 1)
    ]
    train = read_split(storage, export.manifest, export.key, "train", columns=["sale_id"])
    assert len(set(train["sale_id"].to_pylist())) == export.manifest.rows("train")
