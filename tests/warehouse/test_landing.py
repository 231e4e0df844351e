"""Landing raw rows: idempotent, in any order, and nothing lost on bad input or a kill."""

import random
import signal
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sf_sagemaker.periods import Cadence, Period
from sf_sagemaker.warehouse import errors
from sf_sagemaker.warehouse.dataset import Relation
from sf_sagemaker.warehouse.duckdb import DuckDBWarehouse
from sf_sagemaker.warehouse.landing import Landed, land_period, land_periods

HOUSE_SALES = Path(__file__).parents[2] / "data" / "king_county_house_sales.parquet"
RAW = Relation(name="strikes", schema_name="raw")
WEEKS = Cadence("week", datetime(2024, 1, 1), datetime(2024, 1, 29))


def week(number: int) -> Period:
    return list(WEEKS.between(WEEKS.start, datetime(2024, 1, 29)))[number]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Three weeks of ten rows a day."""
    return write(tmp_path / "strikes.parquet", days=range(21))


def write(path: Path, days: Sequence[int], **columns: Any) -> Path:
    rows = [day for day in days for _ in range(10)]
    table = {
        "Report ID": pa.array(range(len(rows))),
        "occurred": pa.array([datetime(2024, 1, 1 + day, 12) for day in rows]),
        "remark": pa.array([f"remark {day}" for day in rows]),
        **columns,
    }
    present = {name: value for name, value in table.items() if value is not None}
    pq.write_table(pa.table(present), path)
    return path


def contents(warehouse: DuckDBWarehouse) -> list[tuple[Any, ...]]:
    with warehouse.reading() as session:
        return session.rows('select * from raw.strikes order by occurred, "Report ID"')


def test_a_period_lands_alone_and_again_without_change(
    warehouse: DuckDBWarehouse, file: Path
) -> None:
    landed = land_period(warehouse, RAW, file, "OCCURRED", week(1))
    assert landed == Landed(RAW, "2024-01-08", rows=70, previous_rows=0, unchanged=False)
    rows = contents(warehouse)
    assert {row[1].day for row in rows} == set(range(8, 15))
    size = warehouse.path.stat().st_size
    again = land_period(warehouse, RAW, file, "occurred", week(1))
    assert again == Landed(RAW, "2024-01-08", rows=70, previous_rows=70, unchanged=True)
    assert contents(warehouse) == rows
    assert warehouse.path.stat().st_size == size


def test_a_corrected_file_replaces_its_period_and_no_other(
    warehouse: DuckDBWarehouse, file: Path, tmp_path: Path
) -> None:
    list(land_periods(warehouse, RAW, file, "occurred", [week(0), week(1)]))
    before = contents(warehouse)
    corrected = write(tmp_path / "corrected.parquet", days=range(7, 9))
    landed = land_period(warehouse, RAW, corrected, "occurred", week(1))
    assert (landed.rows, landed.previous_rows, landed.unchanged) == (20, 70, False)
    assert contents(warehouse)[:70] == before[:70]
    assert len(contents(warehouse)) == 90


def test_weeks_in_any_order_end_in_the_same_table(tmp_path: Path) -> None:
    cadence = Cadence("week", datetime(2014, 4, 28), datetime(2015, 6, 1))
    periods = list(cadence.between(cadence.start, datetime(2015, 6, 1)))
    shuffled = random.Random(5).sample(periods, len(periods))
    tables = []
    for name, order in (("ordered", periods), ("shuffled", shuffled)):
        warehouse = DuckDBWarehouse(tmp_path / f"{name}.duckdb")
        table = Relation(name="house_sales", schema_name="raw")
        landed = list(land_periods(warehouse, table, HOUSE_SALES, "sale_date", order))
        assert sum(result.rows for result in landed) == 21_613
        with warehouse.reading() as session:
            tables.append(session.rows("select * from raw.house_sales order by all"))
    assert tables[0] == tables[1]


def test_results_come_as_periods_are_done(warehouse: DuckDBWarehouse, file: Path) -> None:
    # The file has no row of the last week, which keeps none of the others from landing.
    results = land_periods(warehouse, RAW, file, "occurred", [week(0), week(3), week(1)])
    assert next(results).partition == "2024-01-01"
    assert next(results).partition == "2024-01-08"
    with pytest.raises(errors.EmptyPartition, match=r"\[2024-01-22, 2024-01-29\)"):
        next(results)
    assert len(contents(warehouse)) == 140


def test_an_empty_period_leaves_the_rows_that_are_there(
    warehouse: DuckDBWarehouse, file: Path, tmp_path: Path
) -> None:
    land_period(warehouse, RAW, file, "occurred", week(2))
    before = contents(warehouse)
    other = write(tmp_path / "other.parquet", days=range(7))
    with pytest.raises(errors.EmptyPartition, match="unchanged"):
        land_period(warehouse, RAW, other, "occurred", week(2))
    assert contents(warehouse) == before


@pytest.mark.parametrize(
    ("columns", "parts"),
    [
        ({"remark": pa.array(range(210))}, ["remark", "VARCHAR", "BIGINT"]),
        ({"remark": None}, ["remark is missing"]),
        ({"wildlife": pa.array(range(210))}, ["wildlife is new"]),
    ],
)
def test_other_columns_are_refused_before_anything_is_deleted(
    warehouse: DuckDBWarehouse, file: Path, tmp_path: Path, columns: Any, parts: list[str]
) -> None:
    land_period(warehouse, RAW, file, "occurred", week(0))
    before = contents(warehouse)
    other = write(tmp_path / "other.parquet", days=range(21), **columns)
    with pytest.raises(errors.ColumnTypeChanged) as caught:
        land_period(warehouse, RAW, other, "occurred", week(0))
    for part in parts:
        assert part in str(caught.value)
    assert contents(warehouse) == before


@pytest.mark.parametrize("damage", ["missing", "empty", "no parquet", "footer", "data"])
def test_a_corrupt_file_changes_nothing(
    warehouse: DuckDBWarehouse, file: Path, damage: str
) -> None:
    land_period(warehouse, RAW, file, "occurred", week(0))
    before, content = contents(warehouse), file.read_bytes()
    half = len(content) // 2
    damaged = {
        "empty": b"",
        "no parquet": b"occurred,remark\n" * 50,
        "footer": content[:half],
        "data": content[:4] + bytes(half - 4) + content[half:],
    }
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(damaged[damage])
    with pytest.raises(errors.UnreadableFile, match=r"strikes\.parquet could not be loaded"):
        land_period(warehouse, RAW, file, "occurred", week(1))
    assert contents(warehouse) == before


def test_the_event_time_must_be_there_and_a_time(warehouse: DuckDBWarehouse, file: Path) -> None:
    with pytest.raises(errors.ColumnNotFound, match="did you mean occurred"):
        land_period(warehouse, RAW, file, "occured", week(0))
    with pytest.raises(errors.UnsupportedType, match="remark"):
        land_period(warehouse, RAW, file, "remark", week(0))


def test_file_names_are_taken_literally(warehouse: DuckDBWarehouse, tmp_path: Path) -> None:
    write(tmp_path / "strikes 1.parquet", days=range(14))
    odd = write(tmp_path / "strikes [1]*'.parquet", days=range(7))
    assert land_period(warehouse, RAW, odd, "occurred", week(0)).rows == 70
    with pytest.raises(errors.EmptyPartition):
        land_period(warehouse, RAW, odd, "occurred", week(1))


@pytest.mark.parametrize("statement", ["delete", "insert"])
def test_a_kill_in_the_middle_loses_nothing(
    warehouse: DuckDBWarehouse,
    file: Path,
    tmp_path: Path,
    start_python: Callable[..., Any],
    statement: str,
) -> None:
    land_period(warehouse, RAW, file, "occurred", week(0))
    before = contents(warehouse)
    corrected = write(tmp_path / "corrected.parquet", days=range(3))
    landing = start_python(
        """
import sys, time
from datetime import datetime
from pathlib import Path
from sf_sagemaker.periods import Period
from sf_sagemaker.warehouse.dataset import Relation
from sf_sagemaker.warehouse.duckdb import DuckDBSession, DuckDBWarehouse
from sf_sagemaker.warehouse.landing import land_period

run = DuckDBSession.execute

def execute(session, sql):
    run(session, sql)
    if sql.startswith(sys.argv[3]):
        print("there", flush=True)
        time.sleep(60)

DuckDBSession.execute = execute
table = Relation(name="strikes", schema_name="raw")
week = Period(datetime(2024, 1, 1), datetime(2024, 1, 8))
land_period(DuckDBWarehouse(sys.argv[1]), table, Path(sys.argv[2]), "occurred", week)
""",
        warehouse.path,
        corrected,
        statement,
    )
    assert landing.stdout.readline() == "there\n"
    landing.send_signal(signal.SIGKILL)
    landing.wait()
    assert contents(warehouse) == before
    assert land_period(warehouse, RAW, corrected, "occurred", week(0)).rows == 30
    assert len(contents(warehouse)) == 30
