"""Columns of the source beside the rows of a dataset."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from sf_sagemaker.periods import Cadence
from sf_sagemaker.storage import LocalStorage
from sf_sagemaker.warehouse.dataset import Relation
from sf_sagemaker.warehouse.duckdb import DuckDBWarehouse
from sf_sagemaker.warehouse.errors import ColumnNotFound
from sf_sagemaker.warehouse.export import export_dataset, read_split
from sf_sagemaker.warehouse.lookup import look_up

FIRST, LAST = datetime(2024, 1, 1), datetime(2024, 1, 22)


def test_values_are_found_by_the_keys_of_a_dataset(
    sales: DuckDBWarehouse, storage: LocalStorage, cadence: Cadence, make_spec: Callable[..., Any]
) -> None:
    spec = make_spec(
        row_key=("sold_on", "area", "SALE_ID"), split_key=("sale_id",), features=("parcel_id",)
    )
    export = export_dataset(sales, storage, spec, cadence, "2024-01-15", attempt="a")
    test = read_split(storage, export.manifest, export.key, "test").to_pylist()
    keys = [(row["sold_on"], row["area"], row["sale_id"]) for row in test]
    found = look_up(sales, spec, ["Rooms", "has_garden"], keys, FIRST, LAST)
    assert set(found) == set(keys)
    for key, (rooms, garden) in found.items():
        assert rooms is not None
        assert float(rooms) == key[2] % 7 + 0.5
        assert garden == ("true" if key[2] % 2 == 0 else "false")


def test_rows_of_other_times_and_rows_that_are_gone_are_not_found(
    sales: DuckDBWarehouse, make_spec: Callable[..., Any], run_sql: Callable[..., None]
) -> None:
    run_sql("delete from sales where sale_id = 2", "update sales set area = null where sale_id = 1")
    spec = make_spec()
    found = look_up(sales, spec, ["area"], {(1,), (2,), (20,)}, FIRST, datetime(2024, 1, 8))
    assert found == {(1,): (None,)}


def test_no_value_of_a_key_that_has_several_rows_by_now_is_missed(
    sales: DuckDBWarehouse, make_spec: Callable[..., Any], run_sql: Callable[..., None]
) -> None:
    run_sql("insert into sales select * replace ('elsewhere' as area) from sales where sale_id = 1")
    found = look_up(sales, make_spec(), ["area", "rooms"], {(1,)}, FIRST, LAST)
    assert len(found[1,]) == 4
    assert "elsewhere" in found[1,]


def test_a_column_that_isnt_there_is_named(
    sales: DuckDBWarehouse, make_spec: Callable[..., Any]
) -> None:
    with pytest.raises(ColumnNotFound, match=r"no column 'aera' \(did you mean area"):
        look_up(sales, make_spec(), ["aera"], {(1,)}, FIRST, LAST)


def test_names_are_quoted(
    warehouse: DuckDBWarehouse, make_spec: Callable[..., Any], run_sql: Callable[..., None]
) -> None:
    odd = 'nam"e; drop table sales'
    quoted = odd.replace('"', '""')
    run_sql(
        f"create table sales as select i as sale_id, i as parcel_id, date '2024-01-02' as sold_on, "
        f"i as price, i as rooms, 'Ann ' || i as \"{quoted}\" from range(3) as numbers(i)"
    )
    spec = make_spec(source=Relation(name="sales"), features=("rooms",))
    assert look_up(warehouse, spec, [odd], {(1,)}, FIRST, LAST) == {(1,): ("Ann 1",)}
