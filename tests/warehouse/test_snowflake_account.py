"""The golden rows on a real Snowflake account, when SF_SAGEMAKER_TEST_SNOWFLAKE=1 says so.

It needs the variables of the deployment that concern Snowflake (SNOWFLAKE_ACCOUNT … SNOWFLAKE_SCHEMA
and a way to log in), works in a schema of its own, and drops it. With SF_SAGEMAKER_STORAGE and
SF_SAGEMAKER_STORAGE_INTEGRATION it unloads to S3, too, below a folder that it removes.
"""

import os
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from sf_sagemaker.aws import Aws
from sf_sagemaker.aws_settings import SnowflakeSettings
from sf_sagemaker.s3 import S3Storage
from sf_sagemaker.snowflake_credentials import read_snowflake_credentials, secrets_manager
from sf_sagemaker.snowflake_login import SnowflakeLogin
from sf_sagemaker.storage import LocalStorage
from sf_sagemaker.warehouse import errors
from sf_sagemaker.warehouse.duckdb import DuckDBWarehouse
from sf_sagemaker.warehouse.snowflake import Connect, SnowflakeWarehouse
from warehouse.snowflake_parts import assert_same_rows, export_golden, golden_spec

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.environ.get("SF_SAGEMAKER_TEST_SNOWFLAKE") != "1",
        reason="needs a Snowflake account: set SF_SAGEMAKER_TEST_SNOWFLAKE=1 and its variables",
    ),
]


@pytest.fixture(scope="module")
def connect() -> Connect:
    settings = SnowflakeSettings.model_validate(dict(os.environ))
    return SnowflakeLogin(
        settings, lambda: read_snowflake_credentials(os.environ, secrets_manager(Aws()))
    ).connect


@pytest.fixture(scope="module")
def schema(connect: Connect) -> Iterator[str]:
    """A schema for this run, in the database of the configuration."""
    name = f"SF_SAGEMAKER_TEST_{uuid.uuid4().hex[:12].upper()}"
    with SnowflakeWarehouse(connect).writing() as session:
        try:
            yield name
        finally:
            session.execute(f"drop schema if exists {name} cascade")


def test_streamed_rows_are_the_golden_ones(
    connect: Connect, schema: str, warehouse: DuckDBWarehouse, tmp_path: Path
) -> None:
    _, expected = export_golden(warehouse, LocalStorage(tmp_path / "here"), schema, tmp_path)
    there = LocalStorage(tmp_path / "there")
    export, rows = export_golden(SnowflakeWarehouse(connect), there, schema, tmp_path)
    assert_same_rows(rows, expected)
    assert export.manifest.source_version is not None


@pytest.mark.skipif(
    not {"SF_SAGEMAKER_STORAGE", "SF_SAGEMAKER_STORAGE_INTEGRATION"} <= set(os.environ),
    reason="needs SF_SAGEMAKER_STORAGE and SF_SAGEMAKER_STORAGE_INTEGRATION",
)
def test_unloaded_rows_are_the_golden_ones(
    connect: Connect, schema: str, warehouse: DuckDBWarehouse, tmp_path: Path
) -> None:
    root = urlsplit(os.environ["SF_SAGEMAKER_STORAGE"])
    storage = S3Storage(Aws(), root.netloc, f"{root.path.strip('/')}/{schema.lower()}")
    _, expected = export_golden(warehouse, LocalStorage(tmp_path / "here"), schema, tmp_path)
    used = SnowflakeWarehouse(
        connect, integration=os.environ["SF_SAGEMAKER_STORAGE_INTEGRATION"], file_bytes=10**6
    )
    try:
        _, rows = export_golden(used, storage, schema, tmp_path)
        assert_same_rows(rows, expected)
    finally:
        storage.delete("datasets")


def test_names_are_resolved_and_the_last_change_is_known(
    connect: Connect, schema: str, tmp_path: Path
) -> None:
    warehouse = SnowflakeWarehouse(connect)
    export_golden(warehouse, LocalStorage(tmp_path), schema, tmp_path)
    name = golden_spec(schema).source.name.upper()
    with warehouse.writing() as session:
        with pytest.raises(errors.QueryFailed, match="invalid identifier"):
            session.rows(f'select "price" from {schema}.{name}')
        ((database,),) = session.rows("select current_database()")
        altered = session.last_altered(database, schema, name)
        assert altered is not None
        assert datetime.now(UTC) - altered < timedelta(minutes=30)
        session.execute(f"delete from {schema}.{name} where price > 70")
        later = session.last_altered(database, schema, name)
        assert later is not None
        assert later > altered


def test_a_statement_is_cancelled_when_its_wait_ends(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(BaseException):
        pass

    def interrupted(seconds: float) -> None:
        monkeypatch.undo()
        raise Interrupted

    with SnowflakeWarehouse(connect).reading() as session:
        monkeypatch.setattr("sf_sagemaker.warehouse.snowflake.time.sleep", interrupted)
        with pytest.raises(Interrupted):
            session.execute("select system$wait(120)")
        ((status, message),) = session.rows(
            "select execution_status, error_message from table("
            "information_schema.query_history_by_session()) "
            "where query_text = 'select system$wait(120)' order by start_time desc limit 1"
        )
    assert status.startswith("FAILED")
    assert "cancel" in message
