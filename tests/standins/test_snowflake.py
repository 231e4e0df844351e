"""The stand-in for Snowflake refuses what Snowflake refuses, and unloads as it does."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from snowflake.connector.errors import ProgrammingError

from standins.s3 import new_bucket, s3_server
from standins.snowflake import SnowflakeService
from waiting import wait_until

BUCKET = "unloads-of-a-test"
UNLOAD = (
    "copy into 's3://{bucket}/{folder}/' from (select {columns} from NUMBERS) {partition} "
    "storage_integration = {integration} file_format = (type = parquet) header = true {more}"
)


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    with s3_server() as client:
        new_bucket(client, BUCKET)
        yield client


@pytest.fixture(scope="module")
def service() -> Iterator[SnowflakeService]:
    with SnowflakeService() as service:
        service.sql(
            "create table NUMBERS (id integer, half double, name varchar)",
            "insert into NUMBERS values "
            + ", ".join(f"({i}, {i / 2}, 'n{i % 2}')" for i in range(1000)),
        )
        yield service


def unload(service: SnowflakeService, folder: str, **changes: str) -> None:
    parts = {
        "bucket": BUCKET,
        "folder": folder,
        "columns": "cast(id as bigint) as id, half, name",
        "partition": "",
        "integration": "S3_DATASETS",
        "more": "",
    }
    service.sql(UNLOAD.format(**(parts | changes)))


def files(s3: Any, folder: str) -> dict[str, pa.Table]:
    listed = s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{folder}/").get("Contents", [])
    return {
        entry["Key"].removeprefix(f"{folder}/"): pq.read_table(
            pa.BufferReader(s3.get_object(Bucket=BUCKET, Key=entry["Key"])["Body"].read())
        )
        for entry in listed
    }


def test_an_unload_by_partition_chooses_names_and_sizes(s3: Any, service: SnowflakeService) -> None:
    partition = "partition by ('name=' || name)"
    unload(service, "small", partition=partition, more="max_file_size = 4000")
    found = files(s3, "small")
    assert {name.split("/")[0] for name in found} == {"name=n0", "name=n1"}
    assert all(name.split("/")[1].startswith("data_") for name in found)
    assert len(found) > 4
    assert sum(table.num_rows for table in found.values()) == 1000


def test_an_uncast_number_is_a_decimal(s3: Any, service: SnowflakeService) -> None:
    unload(service, "cast")
    unload(service, "uncast", columns="id")
    (cast,), (uncast,) = files(s3, "cast").values(), files(s3, "uncast").values()
    assert [str(kind) for kind in cast.schema.types] == ["int64", "double", "string"]
    assert str(uncast.schema.field("ID").type) == "decimal128(38, 0)"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"partition": "partition by (name)", "more": "overwrite = true"}, "OVERWRITE"),
        ({"partition": "partition by (area)"}, "invalid identifier"),
        ({"columns": "half", "partition": "partition by (name)"}, "invalid identifier"),
        ({"integration": "OTHER"}, "does not exist or not authorized"),
        ({"more": "max_file_size = 6000000000"}, "5 GB"),
        ({"columns": '"id"'}, "invalid identifier"),
    ],
)
def test_what_snowflake_refuses_to_unload(
    s3: Any, service: SnowflakeService, changes: dict[str, str], message: str
) -> None:
    with pytest.raises(ProgrammingError, match=message):
        unload(service, "refused", **changes)
    assert files(s3, "refused") == {}


@pytest.mark.parametrize(
    "sql",
    [
        'select "half" from NUMBERS',
        'select count(*) from "numbers"',
        'select n."name" from NUMBERS as n',
        'select "half" from (select half from NUMBERS)',
        'create table COPIED as select "id" from NUMBERS',
    ],
)
def test_names_in_the_wrong_case_are_unknown(service: SnowflakeService, sql: str) -> None:
    with pytest.raises(ProgrammingError, match=r"invalid identifier|does not exist"):
        service.sql(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "select Half from numbers",
        'select half as "half" from NUMBERS order by "half" limit 1',
        'select "half" from (select half as "half" from NUMBERS) limit 1',
        "with small as (select id as number from NUMBERS) select number from small limit 1",
    ],
)
def test_names_in_the_right_case_are_known(service: SnowflakeService, sql: str) -> None:
    assert service.sql(sql)


def test_a_temporary_table_is_its_sessions_own(service: SnowflakeService) -> None:
    with service.connect() as one, service.connect() as other:
        one.cursor().execute("create temporary table ANALYTICS.PUBLIC.MINE as select 1 as x")
        found = one.cursor().execute("select x from ANALYTICS.PUBLIC.MINE")
        assert found is not None
        assert found.fetchall() == [(1,)]
        with pytest.raises(ProgrammingError, match="does not exist"):
            other.cursor().execute("select x from MINE")
    with pytest.raises(ProgrammingError, match="does not exist"):
        service.sql("select x from MINE")


def test_a_statement_runs_by_itself_and_can_be_cancelled(service: SnowflakeService) -> None:
    with service.connect() as connection:
        cursor = connection.cursor()
        with service.hold("as slow"):
            cursor.execute_async("select 1 as slow")
            query = str(cursor.sfqid)
            assert connection.is_still_running(connection.get_query_status(query))
            connection.cursor().execute(f"select system$cancel_query('{query}')")
            wait_until(lambda: not connection.is_still_running(connection.get_query_status(query)))
            with pytest.raises(ProgrammingError, match="canceled"):
                connection.get_query_status_throw_if_error(query)
        cursor.execute_async("select 1 as quick")
        cursor.query_result(str(cursor.sfqid))
        assert cursor.fetchall() == [(1,)]
