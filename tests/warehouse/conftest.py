"""Warehouses, storage and specifications to try the warehouse room on."""

import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from sf_sagemaker.periods import Cadence
from sf_sagemaker.storage import LocalStorage
from sf_sagemaker.warehouse.dataset import DatasetSpec, Relation
from sf_sagemaker.warehouse.duckdb import DuckDBWarehouse

# Three weeks of six hundred sales, and everything that a table can have.
SALES = """
create table sales as
select
    i as sale_id,
    i % 301 as parcel_id,
    date '2024-01-01' + cast(i % 21 as integer) as sold_on,
    100 + i % 97 as price,
    cast(i % 7 + 0.5 as double) as rooms,
    i % 2 = 0 as has_garden,
    ['north', 'south', 'it''s'][1 + i % 3] as area
from range(600) as numbers(i)
"""


@pytest.fixture
def warehouse(tmp_path: Path) -> DuckDBWarehouse:
    return DuckDBWarehouse(tmp_path / "warehouse.duckdb", lock_timeout=20)


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "storage")


@pytest.fixture
def cadence() -> Cadence:
    return Cadence("week", datetime(2024, 1, 1), datetime(2024, 1, 22))


@pytest.fixture
def run_sql(warehouse: DuckDBWarehouse) -> Callable[..., None]:
    def run(*statements: str) -> None:
        with warehouse.writing() as session:
            for statement in statements:
                session.execute(statement)

    return run


@pytest.fixture
def sales(warehouse: DuckDBWarehouse, run_sql: Callable[..., None]) -> DuckDBWarehouse:
    """A warehouse with the table of sales."""
    run_sql(SALES)
    return warehouse


@pytest.fixture
def make_spec() -> Callable[..., DatasetSpec]:
    """A specification over the table of sales, with whatever is to differ."""

    def make(**changes: Any) -> DatasetSpec:
        values: dict[str, Any] = {
            "model": "house_prices",
            "source": Relation(name="sales"),
            "row_key": ("sale_id",),
            "split_key": ("parcel_id",),
            "event_time": "sold_on",
            "target": "price",
            "window": "3 weeks",
        }
        return DatasetSpec(**(values | changes))

    return make


@pytest.fixture
def start_python() -> Any:
    """Starts `python -c code` in another process; whatever still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, *arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *(str(argument) for argument in arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
