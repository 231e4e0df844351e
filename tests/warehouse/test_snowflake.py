"""Snowflake as the warehouse, through the real connector against the stand-in.

The rows of datasets are compared with those that DuckDB exports from the same raw data.
"""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sf_sagemaker.aws import Aws
from sf_sagemaker.lifecycle.evaluation import Evaluation, PredictorScores, write_evaluation
from sf_sagemaker.lifecycle.evaluation_table import land_evaluations
from sf_sagemaker.lifecycle.intervals import Interval
from sf_sagemaker.periods import Cadence
from sf_sagemaker.s3 import S3Storage
from sf_sagemaker.storage import LocalStorage
from sf_sagemaker.warehouse import errors, snowflake_export
from sf_sagemaker.warehouse.dataset import DatasetSpec, Relation
from sf_sagemaker.warehouse.duckdb import DuckDBWarehouse
from sf_sagemaker.warehouse.export import (
    changed_periods,
    export_dataset,
    latest_manifest,
    read_rows,
    read_split,
    verify_files,
)
from sf_sagemaker.warehouse.landing import land_period, land_periods
from sf_sagemaker.warehouse.snowflake import SnowflakeWarehouse
from standins.s3 import new_bucket, s3_server
from standins.snowflake import SnowflakeService
from warehouse.snowflake_parts import (
    assert_same_rows,
    export_golden,
    rows_by_place,
)

DATA = Path(__file__).parents[2] / "data"
BUCKET = "datasets-of-a-test"
INTEGRATION = "S3_DATASETS"
LAST = "2024-01-15"

HOUSE_PRICES = DatasetSpec(
    model="house_prices",
    source=Relation(schema_name="raw", name="house_sales"),
    row_key=("parcel_id", "sale_date"),
    split_key=("parcel_id",),
    event_time="sale_date",
    target="price",
    target_kind="positive",
    exclude=("zipcode",),
    window="3 weeks",
    fraction=0.6,
    seed=7,
    shards=3,
)
INCIDENT_TRIAGE = DatasetSpec(
    model="incident_triage",
    source=Relation(schema_name="raw", name="incident_reports"),
    row_key=("report_id",),
    split_key=("remarks",),
    event_time="incident_date",
    target="effect",
    target_kind="class",
    features=("opid", "atype", "height", "speed", "num_engs"),
    window="4 months",
)
MODELS = {
    "house_prices": (
        HOUSE_PRICES,
        "king_county_house_sales",
        Cadence("week", datetime(2014, 4, 28), datetime(2015, 6, 1)),
        ["2014-11-17", "2014-11-24", "2014-12-01"],
    ),
    "incident_triage": (
        INCIDENT_TRIAGE,
        "faa_bird_strike_reports",
        Cadence("month", datetime(1996, 1, 1), datetime(1997, 1, 1)),
        ["1996-05-01", "1996-06-01", "1996-07-01", "1996-08-01"],
    ),
}


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    with s3_server() as client:
        new_bucket(client, BUCKET)
        yield client


@pytest.fixture
def service() -> Iterator[SnowflakeService]:
    with SnowflakeService() as service:
        yield service


@pytest.fixture
def snowflake(service: SnowflakeService) -> SnowflakeWarehouse:
    """Without a storage integration: rows are streamed."""
    return SnowflakeWarehouse(service.connect)


@pytest.fixture
def unloading(service: SnowflakeService) -> SnowflakeWarehouse:
    """With a storage integration: Snowflake writes the files."""
    return SnowflakeWarehouse(service.connect, integration=INTEGRATION)


@pytest.fixture
def s3_storage(s3: Any, tmp_path: Path) -> S3Storage:
    return S3Storage(Aws(), BUCKET, tmp_path.name)


@pytest.fixture
def snowflake_sales(service: SnowflakeService) -> SnowflakeService:
    """The table of sales as conftest has it, in Snowflake's own upper case."""
    rows = ", ".join(
        f"({i}, {i % 301}, date '2024-01-01' + {i % 21}, {100 + i % 97}, {i % 7 + 0.5}, "
        f"{'true' if i % 2 == 0 else 'false'}, '{['south', 'it' + chr(39) * 2 + 's', 'north'][i % 3]}')"
        for i in range(600)
    )
    service.sql(
        "create table SALES (sale_id bigint, parcel_id bigint, sold_on date, price bigint, "
        "rooms double, has_garden boolean, area varchar)",
        f"insert into SALES values {rows}",
    )
    return service


def land_both(local: DuckDBWarehouse, there: SnowflakeWarehouse, model: str) -> None:
    spec, file, cadence, keys = MODELS[model]
    periods = [cadence.period(key) for key in keys]
    for warehouse in (local, there):
        landing = land_periods(
            warehouse, spec.source, DATA / f"{file}.parquet", spec.event_time, periods
        )
        assert all(landed.rows for landed in landing)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("way", ["unloaded", "streamed"])
def test_datasets_hold_the_rows_that_duckdb_exports(
    warehouse: DuckDBWarehouse,
    storage: LocalStorage,
    snowflake: SnowflakeWarehouse,
    unloading: SnowflakeWarehouse,
    s3_storage: S3Storage,
    model: str,
    way: str,
) -> None:
    land_both(warehouse, snowflake, model)
    spec, _, cadence, keys = MODELS[model]
    here = export_dataset(warehouse, storage, spec, cadence, keys[-1], attempt="a")
    used = unloading if way == "unloaded" else snowflake
    there = export_dataset(used, s3_storage, spec, cadence, keys[-1], attempt="a")
    assert here.manifest.rows() > 100
    assert_same_rows(rows_by_place(s3_storage, there), rows_by_place(storage, here))
    for field in ("dropped", "partition", "spec_digest"):
        assert getattr(there.manifest, field) == getattr(here.manifest, field)
    assert there.manifest.target.classes == here.manifest.target.classes
    periods = [(it.partition, it.rows) for it in there.manifest.window.periods]
    assert periods == [(it.partition, it.rows) for it in here.manifest.window.periods]
    levels = {column.name: column.levels for column in here.manifest.columns}
    assert {column.name: column.levels for column in there.manifest.columns} == levels
    verify_files(s3_storage, there.manifest, there.key)
    again = export_dataset(used, s3_storage, spec, cadence, keys[-1], attempt="b")
    assert (again.reused, again.key) == (True, there.key)


def test_reading_rows_gives_what_duckdb_gives(
    warehouse: DuckDBWarehouse, snowflake: SnowflakeWarehouse
) -> None:
    land_both(warehouse, snowflake, "house_prices")
    bounds = datetime(2014, 11, 24), datetime(2014, 12, 8)
    here = read_rows(warehouse, HOUSE_PRICES, *bounds)
    there = read_rows(snowflake, HOUSE_PRICES, *bounds)
    assert there.num_rows > 300
    assert {str(kind) for kind in there.schema.types} <= {
        "int64",
        "double",
        "string",
        "date32[day]",
    }
    assert there.cast(here.schema).equals(here)
    with snowflake.reading() as session:
        query = 'select PARCEL_ID as "parcel", LAT as "lat" from RAW.HOUSE_SALES order by 1, 2'
        parts = list(session.batches(query, 100))
        whole = session.arrow(query)
    assert {part.num_rows for part in parts[:-1]} == {100}
    assert pa.Table.from_batches(parts).equals(whole)
    assert [str(kind) for kind in whole.schema.types] == ["int64", "double"]


def test_rows_come_in_the_order_that_was_asked_for(
    snowflake_sales: SnowflakeService, snowflake: SnowflakeWarehouse
) -> None:
    # Snowflake keeps an order in a statement's own result, and none in a RESULT_SCAN of it.
    with snowflake.reading() as session:
        rows = session.rows("select sale_id from SALES order by 1 desc")
        table = session.arrow('select SALE_ID as "id" from SALES order by 1 desc')
    assert [row[0] for row in rows] == table["id"].to_pylist() == list(range(599, -1, -1))
    sent = [it.sql for it in snowflake_sales.statements]
    assert sum("order by 1 desc" in sql for sql in sent) == 2
    assert not any("result_scan" in sql.lower() for sql in sent)


def test_an_unload_is_one_statement_that_names_its_dataset(
    snowflake_sales: SnowflakeService,
    unloading: SnowflakeWarehouse,
    s3_storage: S3Storage,
    cadence: Cadence,
    make_spec: Any,
) -> None:
    spec = make_spec(shards=2)
    export = export_dataset(unloading, s3_storage, spec, cadence, LAST, attempt="run-1")
    (copy,) = [it for it in snowflake_sales.statements if it.sql.startswith("copy into 's3")]
    assert export.manifest.query_id == copy.query_id
    assert copy.asynchronous
    assert json.loads(copy.tag or "") == {"application": "sf_sagemaker", "dataset": export.key}
    assert copy.parameters["STATEMENT_TIMEOUT_IN_SECONDS"] == 3600
    assert s3_storage.uri(export.key) in copy.sql
    with_rows = [file for file in export.manifest.files if file.rows]
    assert all(f"data_{copy.query_id}_" in file.path for file in with_rows)
    names = [column.name for column in export.manifest.columns]
    for split in ("train", "validation", "test"):
        assert read_split(s3_storage, export.manifest, export.key, split).column_names == names


def test_queries_of_a_dataset_read_one_version_of_its_table(
    snowflake_sales: SnowflakeService,
    snowflake: SnowflakeWarehouse,
    storage: LocalStorage,
    cadence: Cadence,
    make_spec: Any,
) -> None:
    export = export_dataset(snowflake, storage, make_spec(), cadence, LAST, attempt="a")
    version = export.manifest.source_version
    assert version is not None
    moment = datetime.fromisoformat(version.replace(" +", "+"))
    assert abs(datetime.now(UTC) - moment) < timedelta(minutes=1)
    reading = [it.sql for it in snowflake_sales.statements if '"SALES"' in it.sql]
    assert len(reading) >= 3
    assert all(f"at(timestamp => cast('{version}' as timestamp_tz))" in sql for sql in reading)

    snowflake_sales.sql("create view SOLD as select * from SALES")
    spec = make_spec(source=Relation(name="sold"))
    export = export_dataset(snowflake, storage, spec, cadence, LAST, attempt="a")
    assert export.manifest.source_version is None


def test_a_table_without_time_travel_is_read_as_it_is(
    snowflake_sales: SnowflakeService,
    snowflake: SnowflakeWarehouse,
    storage: LocalStorage,
    cadence: Cadence,
    make_spec: Any,
) -> None:
    said = "Time travel data is not available for table SALES"
    snowflake_sales.fail(r"at\(timestamp", 707, said, state="02000", times=1)
    export = export_dataset(snowflake, storage, make_spec(), cadence, LAST, attempt="a")
    assert export.manifest.source_version is None
    assert export.manifest.rows() == 600
    assert "at(timestamp" not in export.manifest.sql
    snowflake_sales.fail(r"at\(timestamp", 3001, "Insufficient privileges to operate on table")
    with pytest.raises(errors.AccessDenied):
        export_dataset(snowflake, storage, make_spec(), cadence, LAST, attempt="b")


def test_every_shard_gets_the_same_number_of_files(
    snowflake_sales: SnowflakeService,
    service: SnowflakeService,
    s3_storage: S3Storage,
    cadence: Cadence,
    make_spec: Any,
) -> None:
    small = SnowflakeWarehouse(service.connect, integration=INTEGRATION, file_bytes=9000)
    spec = make_spec(shards=40)  # more shards than some splits have rows for
    export = export_dataset(small, s3_storage, spec, cadence, LAST, attempt="a")
    assert export.manifest.rows() == 600
    spec = make_spec(shards=2)
    export = export_dataset(small, s3_storage, spec, cadence, LAST, attempt="a")
    for split in ("train", "validation", "test"):
        files = [file for file in export.manifest.files if file.split == split]
        by_shard = [sum(file.shard == shard for file in files) for shard in range(2)]
        assert by_shard[0] == by_shard[1] >= (2 if split == "train" else 1)
    schemas = set()
    for file in export.manifest.files:
        with s3_storage.open(f"{export.key}/{file.path}") as opened:
            schemas.add(str(pq.read_schema(opened)))
    assert len(schemas) == 1


def test_streamed_files_are_cut_at_their_size(storage: LocalStorage) -> None:
    rows = pa.table({"n": range(250_000)})
    schema, batches = rows.schema, []
    for split, shard in (("train", 0), ("train", 1)):
        places = {"__split": [split] * len(rows), "__shard": [shard] * len(rows)}
        batches += [pa.table({"n": rows["n"], **places})]
    snowflake_export.write(batches, schema, storage, "cut", file_bytes=1)
    snowflake_export.write(batches, schema, storage, "whole", file_bytes=10**9)
    read = {
        key: pq.read_table(storage.root / key)["n"].to_pylist()
        for folder in ("cut", "whole")
        for key in storage.list(folder)
    }
    # A file ends with the row group that reaches its size.
    for shard in ("000", "001"):
        parts = [read[f"cut/train/shard={shard}/part-{number}.parquet"] for number in range(3)]
        assert [len(part) for part in parts] == [100_000, 100_000, 50_000]
        assert list(chain(*parts)) == read[f"whole/train/shard={shard}/part-0.parquet"]
    assert len(read) == 8


@pytest.mark.parametrize("way", ["unloaded", "streamed"])
def test_zoned_times_decimals_and_large_numbers(
    service: SnowflakeService,
    snowflake: SnowflakeWarehouse,
    unloading: SnowflakeWarehouse,
    s3_storage: S3Storage,
    cadence: Cadence,
    make_spec: Any,
    way: str,
) -> None:
    # 23:30 UTC is the next day in Berlin, where the periods begin.
    rows = ", ".join(
        f"({2**62 + i}, '2024-01-{1 + i % 21:02d} 23:30:00 +00:00'::timestamp_tz, {i % 97}.25, "
        f"{i}.125, {'null' if i % 5 == 0 else i % 2 == 0})"
        for i in range(300)
    )
    service.sql(
        "create table ODD (id number(38,0), sold_at timestamp_tz, price number(10,2), weight number(12,3), "
        "flag boolean)",
        f"insert into ODD values {rows}",
    )
    spec = make_spec(
        source=Relation(name="odd"), row_key=("id",), split_key=("id",), event_time="sold_at",
        features=("weight", "flag"),
    )  # fmt: skip
    berlin = replace(cadence, timezone="Europe/Berlin")
    used = unloading if way == "unloaded" else snowflake
    export = export_dataset(used, s3_storage, spec, berlin, LAST, attempt="a")
    table = pa.concat_tables(
        read_split(s3_storage, export.manifest, export.key, split)
        for split in ("train", "validation", "test")
    ).sort_by("id")
    # The last day's rows fall into the next week.
    kept = [i for i in range(300) if i % 21 != 20]
    assert table["id"].to_pylist() == [2**62 + i for i in kept]
    assert table["sold_at"].to_pylist() == [datetime(2024, 1, 2 + i % 21, 0, 30) for i in kept]
    assert table["price"].to_pylist() == [i % 97 + 0.25 for i in kept]
    assert table["weight"].to_pylist() == [i + 0.125 for i in kept]
    assert table["flag"].to_pylist() == [None if i % 5 == 0 else float(i % 2 == 0) for i in kept]


@pytest.mark.parametrize("way", ["unloaded", "streamed"])
def test_golden_rows(
    warehouse: DuckDBWarehouse,
    service: SnowflakeService,
    snowflake: SnowflakeWarehouse,
    unloading: SnowflakeWarehouse,
    storage: LocalStorage,
    s3_storage: S3Storage,
    tmp_path: Path,
    way: str,
) -> None:
    used = unloading if way == "unloaded" else snowflake
    _, here = export_golden(warehouse, storage, "raw", tmp_path)
    export, there = export_golden(used, s3_storage, "raw", tmp_path)
    assert_same_rows(there, here)
    assert 150 < export.manifest.rows() < 350
    stored = service.sql(
        "select column_name from information_schema.columns where table_name = 'ODD_VALUES'"
    )
    assert {name for (name,) in stored} >= {"SOLD AT", "A NAME", "NUMBER"}


def test_changed_periods_are_told(
    snowflake_sales: SnowflakeService,
    snowflake: SnowflakeWarehouse,
    storage: LocalStorage,
    cadence: Cadence,
    make_spec: Any,
) -> None:
    manifest = export_dataset(snowflake, storage, make_spec(), cadence, LAST, attempt="a").manifest
    assert changed_periods(snowflake, manifest, cadence) == []
    snowflake_sales.sql("update SALES set price = price + 1 where sold_on = '2024-01-09'")
    changed = changed_periods(snowflake, manifest, cadence)
    assert [(it.partition, it.recorded_rows == it.present_rows) for it in changed] == [
        ("2024-01-08", True)
    ]
    later = export_dataset(snowflake, storage, make_spec(), cadence, LAST, attempt="b")
    assert not later.reused


def test_landing_is_idempotent_and_replaces_a_period(
    service: SnowflakeService, snowflake: SnowflakeWarehouse, tmp_path: Path
) -> None:
    raw = Relation(schema_name="raw", name="strikes")
    weeks = Cadence("week", datetime(2024, 1, 1), datetime(2024, 1, 29))

    def write(name: str, days: range, remark: str) -> Path:
        file = tmp_path / name
        table = {
            "Report ID": pa.array(days),
            "occurred": pa.array([datetime(2024, 1, 1 + day, 12) for day in days]),
            "remark": pa.array([remark for _ in days]),
        }
        pq.write_table(pa.table(table), file)
        return file

    first = write("first's file.parquet", range(21), "first")
    landed = land_period(snowflake, raw, first, "OCCURRED", weeks.period("2024-01-08"))
    assert (landed.rows, landed.previous_rows, landed.unchanged) == (7, 0, False)
    again = land_period(snowflake, raw, first, "occurred", weeks.period("2024-01-08"))
    assert (again.rows, again.previous_rows, again.unchanged) == (7, 7, True)
    land_period(snowflake, raw, first, "occurred", weeks.period("2024-01-01"))
    rows = service.sql('select * from RAW.STRIKES order by "REPORT ID"')
    assert [row[0] for row in rows] == list(range(14))
    assert rows[3] == (3, datetime(2024, 1, 4, 12), "first")

    second = write("second.parquet", range(7, 9), "second")
    landed = land_period(snowflake, raw, second, "occurred", weeks.period("2024-01-08"))
    assert (landed.rows, landed.previous_rows, landed.unchanged) == (2, 7, False)
    rows = service.sql('select "REPORT ID", remark from RAW.STRIKES order by 1')
    assert rows[-2:] == [(7, "second"), (8, "second")]
    assert len(rows) == 9

    with pytest.raises(errors.EmptyPartition):
        land_period(snowflake, raw, second, "occurred", weeks.period("2024-01-01"))
    (tmp_path / "cut.parquet").write_bytes(second.read_bytes()[:-20])
    with pytest.raises(errors.UnreadableFile, match="not whole Parquet"):
        land_period(
            snowflake, raw, tmp_path / "cut.parquet", "occurred", weeks.period("2024-01-08")
        )
    service.fail("^insert into", 100038, "Numeric value 'x' is not recognized", state="22018")
    with pytest.raises(errors.QueryFailed, match="not recognized"):
        land_period(snowflake, raw, first, "occurred", weeks.period("2024-01-08"))
    assert service.sql('select "REPORT ID", remark from RAW.STRIKES order by 1') == rows


@pytest.mark.parametrize("way", ["unloaded", "streamed"])
def test_a_window_without_rows_exports_nothing(
    snowflake_sales: SnowflakeService,
    snowflake: SnowflakeWarehouse,
    unloading: SnowflakeWarehouse,
    s3_storage: S3Storage,
    cadence: Cadence,
    make_spec: Any,
    way: str,
) -> None:
    snowflake_sales.sql("delete from SALES where sold_on >= '2024-01-15'")
    used = unloading if way == "unloaded" else snowflake
    with pytest.raises(errors.EmptyPartition, match="no rows whose sold_on"):
        export_dataset(used, s3_storage, make_spec(), cadence, LAST, attempt="a")
    assert list(s3_storage.list("datasets")) == []


def test_what_a_dead_run_left_is_no_part_of_a_dataset(
    snowflake_sales: SnowflakeService,
    unloading: SnowflakeWarehouse,
    s3_storage: S3Storage,
    cadence: Cadence,
    make_spec: Any,
) -> None:
    spec = make_spec()
    folder = f"datasets/{spec.model}/{LAST}/{spec.digest}/run"
    began = json.dumps({"started_at": datetime.now(UTC).isoformat()}).encode()
    s3_storage.create(f"{folder}/started.json", began)
    s3_storage.create(f"{folder}/train/shard=000/data_dead_0_0_0.snappy.parquet", b"half")
    export = export_dataset(unloading, s3_storage, spec, cadence, LAST, attempt="run")
    assert export.key == f"{folder}-2"
    assert export.manifest.rows() == 600
    assert not any("data_dead" in file.path for file in export.manifest.files)
    verify_files(s3_storage, export.manifest, export.key)


class Interrupted(BaseException):
    """What a signal's handler raises."""


@pytest.mark.parametrize(
    ("way", "statement"), [("unloaded", "copy into 's3"), ("streamed", '"__order"$')]
)
def test_a_statement_is_cancelled_with_its_run(
    snowflake_sales: SnowflakeService,
    snowflake: SnowflakeWarehouse,
    unloading: SnowflakeWarehouse,
    s3_storage: S3Storage,
    cadence: Cadence,
    make_spec: Any,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    statement: str,
) -> None:
    service, sleep = snowflake_sales, time.sleep

    def interrupted_when_waiting(seconds: float) -> None:
        if threading.current_thread() is threading.main_thread() and service.running(statement):
            monkeypatch.undo()
            raise Interrupted
        sleep(seconds)

    monkeypatch.setattr("sf_sagemaker.warehouse.snowflake.time.sleep", interrupted_when_waiting)
    used = unloading if way == "unloaded" else snowflake
    with service.hold(statement), pytest.raises(Interrupted):
        export_dataset(used, s3_storage, make_spec(), cadence, LAST, attempt="a")
    (held,) = [it for it in service.statements if it.cancelled.is_set()]
    assert held.status == "ABORTED"
    assert any(f"system$cancel_query('{held.query_id}')" in it.sql for it in service.statements)
    assert list(s3_storage.list("datasets")) == []
    export = export_dataset(used, s3_storage, make_spec(), cadence, LAST, attempt="a")
    assert export.manifest.rows() == 600


# Exports to local storage in a process of its own, as a run worker does: SIGTERM raises there.
EXPORT = """
import json, signal, sys
from datetime import datetime
from pathlib import Path
import snowflake.connector
from sf_sagemaker.periods import Cadence
from sf_sagemaker.storage import LocalStorage
from sf_sagemaker.warehouse.dataset import DatasetSpec
from sf_sagemaker.warehouse.export import export_dataset
from sf_sagemaker.warehouse.snowflake import SnowflakeWarehouse

def interrupted(*_):
    raise KeyboardInterrupt("SIGTERM")

signal.signal(signal.SIGTERM, interrupted)
arguments, spec, root = sys.argv[1:]
export_dataset(
    SnowflakeWarehouse(lambda: snowflake.connector.connect(**json.loads(arguments))),
    LocalStorage(Path(root)), DatasetSpec.model_validate_json(spec),
    Cadence("week", datetime(2024, 1, 1), datetime(2024, 1, 22)), "2024-01-15", attempt="a",
)
"""


@pytest.mark.slow
def test_sigterm_cancels_the_statement_that_a_process_waits_for(
    snowflake_sales: SnowflakeService, storage: LocalStorage, make_spec: Any, start_python: Any
) -> None:
    arguments = json.dumps(snowflake_sales.connection_arguments)
    statement = "create temporary table"
    with snowflake_sales.hold(statement):
        spec = make_spec().model_dump_json()
        process = start_python(EXPORT, arguments, spec, storage.root)
        while not snowflake_sales.running(statement):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        process.terminate()
        _, said = process.communicate(timeout=60)
    assert "KeyboardInterrupt: SIGTERM" in said
    (held,) = [it for it in snowflake_sales.statements if it.sql.startswith(statement)]
    assert held.status == "ABORTED"
    assert list(storage.list("datasets")) == []


# Lands a week in a process of its own; the statements of its transaction run in the foreground.
LAND = """
import json, signal, sys
from datetime import datetime
from pathlib import Path
import snowflake.connector
from sf_sagemaker.periods import Cadence
from sf_sagemaker.warehouse.dataset import Relation
from sf_sagemaker.warehouse.landing import land_period
from sf_sagemaker.warehouse.snowflake import SnowflakeWarehouse

def interrupted(*_):
    raise KeyboardInterrupt("SIGTERM")

signal.signal(signal.SIGTERM, interrupted)
arguments, file = sys.argv[1:]
land_period(
    SnowflakeWarehouse(lambda: snowflake.connector.connect(**json.loads(arguments))),
    Relation(schema_name="raw", name="strikes"), Path(file), "day",
    Cadence("week", datetime(2024, 1, 1)).period("2024-01-08"),
)
"""


@pytest.mark.slow
def test_sigterm_cancels_a_landing_and_leaves_the_period_as_it_was(
    service: SnowflakeService, snowflake: SnowflakeWarehouse, tmp_path: Path, start_python: Any
) -> None:
    period = Cadence("week", datetime(2024, 1, 1)).period("2024-01-08")
    days = [datetime(2024, 1, 8 + i).date() for i in range(7)]
    for name in ("first", "second"):
        table = pa.table({"day": pa.array(days), "remark": pa.array([name] * 7)})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    raw = Relation(schema_name="raw", name="strikes")
    land_period(snowflake, raw, tmp_path / "first.parquet", "day", period)
    before = service.sql("select * from RAW.STRIKES order by day")
    with service.hold("^insert into"):
        arguments = json.dumps(service.connection_arguments)
        process = start_python(LAND, arguments, tmp_path / "second.parquet")
        while not service.running("^insert into"):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode != 0
    (held,) = [it for it in service.statements if it.sql.startswith("insert into")]
    assert held.status == "ABORTED"
    assert service.sql("select * from RAW.STRIKES order by day") == before


def test_evaluations_land_beside_a_view_of_the_newest(
    service: SnowflakeService, snowflake: SnowflakeWarehouse, storage: LocalStorage
) -> None:
    weeks = Cadence("week", datetime(2024, 1, 1), datetime(2024, 1, 22))
    for hour, error in ((10, 0.3), (11, 0.2)):
        bounds = Interval(error, error - 0.1, error + 0.1)
        scores = PredictorScores(
            "reference", None, None, False, 40, 0, bounds, Interval(float("nan"), 0.0, 1.0)
        )
        evaluation = Evaluation(
            model="house_prices",
            partition="2024-01-08",
            evaluated_at=datetime(2024, 2, 1, hour, tzinfo=UTC),
            metric="mae",
            key="",
            rows=40,
            scores=(scores,),
        )
        write_evaluation(storage, evaluation, {})
        landed = land_evaluations(snowflake, storage, "house_prices", weeks.period("2024-01-08"))
        assert landed is not None
    assert landed.rows == 2
    rows = service.sql("select error, bias from LIFECYCLE.HOUSE_PRICES_LATEST_EVALUATIONS")
    assert rows == [(0.2, None)]


FAULTS: dict[str, tuple[str, int, str, type[errors.WarehouseError], str]] = {
    "integration": (
        "^copy into 's3",
        2003,
        "SQL compilation error: Integration 'S3_DATASETS' does not exist or not authorized.",
        errors.IntegrationRefused,
        "GRANT USAGE ON INTEGRATION",
    ),
    "role of the integration": (
        "^copy into 's3",
        3167,
        "Error assuming AWS_ROLE. Please verify the role and externalId are configured correctly",
        errors.IntegrationRefused,
        "trust Snowflake's user",
    ),
    "privilege": (
        "^create temporary table",
        3001,
        "SQL access control error: Insufficient privileges to operate on schema 'PUBLIC'",
        errors.AccessDenied,
        "Grant it",
    ),
    "no warehouse": (
        "count",
        606,
        "No active warehouse selected in the current session. Select an active warehouse.",
        errors.ComputeUnavailable,
        "AUTO_RESUME",
    ),
    "quota of a monitor": (
        "count",
        90073,
        "Warehouse 'TRANSFORMING' cannot be resumed because resource monitor 'M' has exceeded its quota",
        errors.ComputeUnavailable,
        "resource monitor",
    ),
    "time limit": (
        "^copy into 's3",
        630,
        "Statement reached its statement or warehouse timeout of 3,600 second(s) and was canceled.",
        errors.StatementStopped,
        "larger warehouse",
    ),
    "anything else": (
        "^create temporary table",
        100183,
        "Division by zero",
        errors.QueryFailed,
        "Division by zero",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_failures_say_what_to_do_and_commit_nothing(
    snowflake_sales: SnowflakeService,
    unloading: SnowflakeWarehouse,
    s3_storage: S3Storage,
    cadence: Cadence,
    make_spec: Any,
    case: str,
) -> None:
    pattern, number, message, expected, advice = FAULTS[case]
    snowflake_sales.fail(pattern, number, message)
    with pytest.raises(expected, match=advice) as raised:
        export_dataset(unloading, s3_storage, make_spec(), cadence, LAST, attempt="a")
    assert message.split(".")[0] in str(raised.value)
    assert list(s3_storage.list("datasets")) == []
    assert latest_manifest(s3_storage, make_spec(), LAST) is None


@pytest.mark.parametrize(
    ("number", "message", "advice"),
    [
        (390144, "JWT token is invalid. [some-id]", "RSA_PUBLIC_KEY"),
        (390189, "Role 'X' specified in the connect string is not granted to this user.", "grant"),
        (390100, "Incorrect username or password was specified.", "user name or password"),
        (390318, "OAuth access token expired. [some-id]", "fetch another"),
    ],
)
def test_a_refused_login_says_what_to_renew(
    service: SnowflakeService,
    snowflake: SnowflakeWarehouse,
    number: int,
    message: str,
    advice: str,
) -> None:
    service.refuse_login(number, message)
    with pytest.raises(errors.LoginRefused, match=advice) as raised, snowflake.reading():
        pass
    assert "snow" not in str(raised.value).replace("Snowflake", "").replace("SNOWFLAKE", "")


def test_an_account_that_is_not_there(service: SnowflakeService) -> None:
    import snowflake.connector

    arguments = {**service.connection_arguments, "port": 9, "login_timeout": 2}
    warehouse = SnowflakeWarehouse(lambda: snowflake.connector.connect(**arguments))
    with pytest.raises(errors.WarehouseUnreachable, match="SNOWFLAKE_ACCOUNT"), warehouse.reading():
        pass


def test_an_integration_that_is_no_identifier(service: SnowflakeService) -> None:
    with pytest.raises(errors.IntegrationRefused, match="not an identifier"):
        SnowflakeWarehouse(service.connect, integration="S3; drop table X")


def test_unloading_needs_s3(
    snowflake_sales: SnowflakeService,
    unloading: SnowflakeWarehouse,
    storage: LocalStorage,
    cadence: Cadence,
    make_spec: Any,
) -> None:
    with pytest.raises(errors.ExportFailed, match="unloads to S3"):
        export_dataset(unloading, storage, make_spec(), cadence, LAST, attempt="a")


def test_the_time_of_a_tables_last_change(
    snowflake_sales: SnowflakeService, snowflake: SnowflakeWarehouse, warehouse: DuckDBWarehouse
) -> None:
    with snowflake.reading() as session:
        first = session.last_altered("ANALYTICS", "PUBLIC", "SALES")
        assert first is not None
        assert abs(datetime.now(UTC) - first) < timedelta(minutes=1)
        assert session.last_altered("ANALYTICS", "PUBLIC", "SALES") == first
        snowflake_sales.sql("delete from SALES where sale_id = 1")
        second = session.last_altered("ANALYTICS", "PUBLIC", "SALES")
        assert second is not None
        assert second > first
