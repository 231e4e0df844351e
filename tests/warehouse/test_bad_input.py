"""Bad input to an export: a typed error that says what to do, and storage as it was."""

from collections.abc import Callable
from typing import Any

import pytest

from sf_sagemaker.periods import Cadence
from sf_sagemaker.storage import LocalStorage
from sf_sagemaker.warehouse import errors
from sf_sagemaker.warehouse.catalog import find_columns
from sf_sagemaker.warehouse.dataset import Relation
from sf_sagemaker.warehouse.duckdb import DuckDBWarehouse
from sf_sagemaker.warehouse.export import export_dataset
from sf_sagemaker.warehouse.warehouse import SourceColumn

LAST = "2024-01-15"
NOTHING: tuple[str, ...] = ()

# (changes to the table, changes to the specification, the error, what its message names)
MISTAKES = [
    (
        NOTHING,
        {"source": Relation(name="sale")},
        errors.RelationNotFound,
        ["sale", "sales", "main.sales"],
    ),
    (
        NOTHING,
        {"source": Relation(name="sales", schema_name="raw")},
        errors.RelationNotFound,
        ["raw.sales"],
    ),
    (
        (
            "create schema a",
            "create schema b",
            "create table a.t as from sales",
            "create table b.t as from sales",
        ),
        {"source": Relation(name="t")},
        errors.AmbiguousName,
        ["a.t", "b.t"],
    ),
    (
        NOTHING,
        {"row_key": ("sale_idd",)},
        errors.ColumnNotFound,
        ["sale_idd", "did you mean sale_id", "rooms"],
    ),
    (NOTHING, {"split_key": ("parcel",)}, errors.ColumnNotFound, ["'parcel'", "parcel_id"]),
    (NOTHING, {"event_time": "when"}, errors.ColumnNotFound, ["'when'", "sold_on"]),
    (NOTHING, {"available_at": "known"}, errors.ColumnNotFound, ["'known'"]),
    (NOTHING, {"target": "prize"}, errors.ColumnNotFound, ["did you mean price"]),
    (NOTHING, {"exclude": ("room",)}, errors.ColumnNotFound, ["did you mean rooms"]),
    (NOTHING, {"features": ("rooms", "garden")}, errors.ColumnNotFound, ["'garden'", "has_garden"]),
    (NOTHING, {"row_key": ('x"; drop table sales; --',)}, errors.ColumnNotFound, ["drop table"]),
    (NOTHING, {"features": ("rooms", "price")}, errors.ConflictingRoles, ["price", "feature"]),
    (NOTHING, {"target": "sale_id"}, errors.ConflictingRoles, ["sale_id", "row_key"]),
    (NOTHING, {"features": ("rooms",), "exclude": ("Rooms",)}, errors.ConflictingRoles, ["rooms"]),
    (NOTHING, {"exclude": ("rooms", "has_garden", "area")}, errors.ConflictingRoles, ["no column"]),
    (
        NOTHING,
        {"row_key": ("rooms",)},
        errors.UnsupportedType,
        ["rooms", "DOUBLE", "row_key", "cast"],
    ),
    (NOTHING, {"event_time": "area"}, errors.UnsupportedType, ["area", "VARCHAR", "event_time"]),
    (NOTHING, {"target": "area"}, errors.UnsupportedType, ["area", "VARCHAR", "numeric"]),
    (
        NOTHING,
        {"target": "rooms", "target_kind": "class"},
        errors.UnsupportedType,
        ["rooms", "DOUBLE", "class"],
    ),
    (NOTHING, {"target_kind": "text"}, errors.UnsupportedType, ["price", "BIGINT", "text"]),
    (
        ("alter table sales add column built date", "alter table sales add column tags varchar[]"),
        {},
        errors.UnsupportedType,
        ["built (DATE)", "tags (VARCHAR[])", "exclude it"],
    ),
    (
        ("alter table sales add column shard integer",),
        {},
        errors.ReservedColumn,
        ["shard", "exclude"],
    ),
    (
        (
            "update sales set sale_id = 8 where sale_id = 7",
            "insert into sales from sales where sale_id = 9",
        ),
        {"row_key": ("SALE_ID",)},
        errors.DuplicateKeys,
        ["2 values", "4 rows", "sale_id=8 (2 rows)", "sale_id=9"],
    ),
    (
        ("update sales set sale_id = null where sale_id < 3",),
        {},
        errors.NullKeys,
        ["3 rows without sale_id"],
    ),
    (
        ("update sales set parcel_id = null where sale_id = 3",),
        {},
        errors.NullKeys,
        ["1 rows without parcel_id"],
    ),
    (
        ("delete from sales where sold_on >= date '2024-01-15'",),
        {},
        errors.EmptyPartition,
        ["[2024-01-15, 2024-01-22)"],
    ),
    (("delete from sales",), {}, errors.EmptyPartition, ["[2024-01-15, 2024-01-22)"]),
    (NOTHING, {"label_delay": 60}, errors.EmptyPartition, ["600 rows", "label_delay"]),
    (("update sales set price = null",), {}, errors.InvalidTarget, ["missing in all 600"]),
    (("update sales set price = 12",), {}, errors.InvalidTarget, ["12", "nothing to learn"]),
    (
        ("update sales set price = -5 where sale_id = 9",),
        {"target_kind": "positive"},
        errors.InvalidTarget,
        ["1 rows", "-5"],
    ),
    (
        (
            "alter table sales alter price type double",
            "update sales set price = 'inf' where sale_id = 9",
        ),
        {},
        errors.InvalidTarget,
        ["infinite"],
    ),
    (
        ("update sales set area = 'one'",),
        {"target": "area", "target_kind": "class"},
        errors.InvalidTarget,
        ["'one'"],
    ),
    (
        ("update sales set area = ' \n\u00a0' where sale_id % 10 = 3",),
        {"target": "area", "target_kind": "text", "string_features": "text"},
        errors.BlankTexts,
        ["of 600 rows of main.sales, 60 a blank area", "leave such rows out"],
    ),
    (
        (
            "alter table sales add column remark varchar default 'sold'",
            "update sales set remark = null where sale_id < 3",
        ),
        {"target": "area", "target_kind": "text", "string_features": "text"},
        errors.BlankTexts,
        ["3 a blank remark"],
    ),
    (
        ("delete from sales where sale_id > 15",),
        {"split_key": ("sale_id",), "window": "1 week"},
        errors.EmptySplit,
        ["train", "validation", "test"],
    ),
    (NOTHING, {"fraction": 0.001}, errors.EmptySplit, ["600 usable", "fraction"]),
    (
        (
            "insert into sales select 1000 + i, i, date '2024-01-16', i % 5, 1, true, 'a' || i "
            "from range(2000) r(i)",
        ),
        {},
        errors.TooManyLevels,
        ["area", "1,000", "exclude"],
    ),
    (
        ("alter table sales alter rooms type double", "update sales set rooms = 1e300"),
        {},
        errors.QueryFailed,
        ["1e+300", "FLOAT"],
    ),
]


@pytest.mark.parametrize(
    ("statements", "changes", "error", "parts"),
    MISTAKES,
    ids=[f"{number}-{mistake[2].__name__}" for number, mistake in enumerate(MISTAKES)],
)
def test_a_mistake_is_a_clear_error_and_nothing_is_lost(
    sales: DuckDBWarehouse,
    storage: LocalStorage,
    run_sql: Callable[..., None],
    cadence: Cadence,
    make_spec: Any,
    statements: tuple[str, ...],
    changes: dict[str, Any],
    error: type[Exception],
    parts: list[str],
) -> None:
    export_dataset(sales, storage, make_spec(), cadence, LAST, attempt="good")
    before = {key: storage.read(key) for key in storage.list("datasets")}
    run_sql(*statements)
    with pytest.raises(error) as caught:
        export_dataset(sales, storage, make_spec(**changes), cadence, LAST, attempt="bad")
    assert type(caught.value) is error
    for part in parts:
        assert part in str(caught.value)
    assert {key: storage.read(key) for key in storage.list("datasets")} == before


def test_rows_outside_the_window_may_be_bad(
    sales: DuckDBWarehouse,
    storage: LocalStorage,
    run_sql: Callable[..., None],
    cadence: Cadence,
    make_spec: Any,
) -> None:
    run_sql("update sales set parcel_id = null, sale_id = 1 where sold_on < date '2024-01-08'")
    export = export_dataset(sales, storage, make_spec(window="2 weeks"), cadence, LAST, attempt="a")
    assert export.manifest.rows() > 350


def test_columns_that_differ_only_in_case_are_refused() -> None:
    columns = [SourceColumn("Price", "BIGINT"), SourceColumn("PRICE", "BIGINT")]
    with pytest.raises(errors.AmbiguousName, match="Price, PRICE"):
        find_columns(["price"], columns, "sales")


def test_a_missing_file_and_a_file_that_is_no_warehouse(
    warehouse: DuckDBWarehouse, storage: LocalStorage, cadence: Cadence, make_spec: Any
) -> None:
    with pytest.raises(errors.WarehouseNotFound, match=str(warehouse.path)):
        export_dataset(warehouse, storage, make_spec(), cadence, LAST, attempt="a")
    assert not warehouse.path.exists()
    warehouse.path.write_bytes(b"no database" * 1000)
    with pytest.raises(errors.WarehouseUnreadable, match=str(warehouse.path)):
        export_dataset(warehouse, storage, make_spec(), cadence, LAST, attempt="a")
