"""The same models through dbt-snowflake, against a stand-in that speaks Snowflake's protocol.

The stand-in is DuckDB underneath: this shows that macros, contracts and statements fit the adapter,
not that Snowflake computes the same.
"""

import json
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sf_sagemaker.periods import Cadence
from sf_sagemaker.warehouse.dataset import Relation
from sf_sagemaker.warehouse.landing import land_periods
from sf_sagemaker.warehouse.snowflake import SnowflakeWarehouse
from standins.snowflake import SnowflakeService

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).resolve().parents[2] / "dbt_project"
REPORTS_OF_A_MONTH = "incident_date >= '1996-08-01' and incident_date < '1996-09-01'"
SALES_OF_TWO_PLACES = "zipcode in (98103, 98001) and sale_date < '2014-10-01'"


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[SnowflakeService]:
    """The stand-in, and the variables that the target needs; other ways to log in are unset."""
    with SnowflakeService() as service:
        for name in (
            "SNOWFLAKE_PRIVATE_KEY_PATH",
            "SNOWFLAKE_AUTHENTICATOR",
            *(
                f"DBT_ENV_SECRET_SNOWFLAKE_{it}"
                for it in ("PRIVATE_KEY", "PRIVATE_KEY_PASSPHRASE", "PASSWORD", "TOKEN")
            ),
        ):
            monkeypatch.delenv(name, raising=False)
        for name, value in service.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("SF_SAGEMAKER_DEPLOYMENT", "aws")
        monkeypatch.setenv("DO_NOT_TRACK", "1")
        monkeypatch.setenv("DBT_TARGET_PATH", str(tmp_path / "target"))
        yield service


@pytest.fixture
def key_text() -> str:
    """An unencrypted private key, as key-pair authentication wants it."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def dbt(scratch: Path, *arguments: str, **variables: str) -> Any:
    """Runs dbt in this process over the project's own files, with the deployment's target."""
    from dbt.cli.main import dbtRunner

    return dbtRunner().invoke(
        [
            *arguments,
            *("--project-dir", str(PROJECT), "--profiles-dir", str(PROJECT)),
            *("--vars", json.dumps(variables), "--log-path", str(scratch / "logs"), "--quiet"),
        ]
    )


def land(service: SnowflakeService, table: pa.Table, name: str, event: str, folder: Path) -> None:
    """Lands rows into a raw table of the stand-in, as the raw assets do."""
    file = folder / f"{name}.parquet"
    pq.write_table(table, file)
    cadence = Cadence("month", datetime(1990, 1, 1), datetime(2016, 1, 1))
    months = sorted({value.strftime("%Y-%m-01") for value in table[event].to_pylist()})
    warehouse = SnowflakeWarehouse(service.connect)
    relation = Relation(schema_name="raw", name=name)
    periods = [cadence.period(month) for month in months]
    assert len(list(land_periods(warehouse, relation, file, event, periods))) == len(months)


def raw(local: Any, table: str, condition: str) -> pa.Table:
    import duckdb

    with duckdb.connect(str(local.path), read_only=True) as connection:
        return connection.sql(f"from raw.{table} where {condition}").to_arrow_table()


def test_the_snowflake_target_builds_twice_and_replaces_a_period(
    full_build: Any,
    service: SnowflakeService,
    key_text: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
):
    local, _ = full_build
    monkeypatch.setenv("DBT_ENV_SECRET_SNOWFLAKE_PRIVATE_KEY", key_text)
    monkeypatch.setenv("SNOWFLAKE_PRIVATE_KEY_PATH", "/the/text/goes/first")
    land(
        service,
        raw(local, "house_sales", SALES_OF_TWO_PLACES),
        "house_sales",
        "sale_date",
        tmp_path,
    )
    reports = raw(local, "incident_reports", REPORTS_OF_A_MONTH)
    land(service, reports, "incident_reports", "incident_date", tmp_path)

    service.sql(
        "create schema PREDICTIONS",
        "create table PREDICTIONS.HOUSE_PRICES (period date, parcel_id bigint, sale_date date, "
        "prediction double, model_version bigint, training_job varchar, predicted_at timestamp_ntz)",
    )

    def build(**variables: str) -> None:
        outcome = dbt(tmp_path, "build", **variables)
        statuses = {it.node.name: it.message for it in outcome.result if it.status == "error"}
        assert outcome.success, (outcome.exception, statuses)

    build()
    features = "from FEATURES.HOUSE_PRICE_FEATURES order by parcel_id, sale_date"
    first = service.sql(f"select * {features}")
    assert first == local.features("zip_code in ('98103', '98001') and sale_date < '2014-10-01'")
    examples = "FEATURES.INCIDENT_TRIAGE_EXAMPLES"
    assert service.sql(f"select * from {examples} order by report_id") == local.query(
        f"from features.incident_triage_examples where {REPORTS_OF_A_MONTH} order by report_id"
    )
    build()
    assert service.sql(f"select * {features}") == first

    service.sql("delete from RAW.HOUSE_SALES where sale_date = '2014-08-05'")
    build(period_start="2014-08-04", period_end="2014-08-11")
    left = service.sql(f"select parcel_id, sale_date {features}")
    gone = {(row[0], row[1]) for row in first} - set(left)
    assert gone
    assert {sale_date for _, sale_date in gone} == {date(2014, 8, 5)}
    logs = "".join(path.read_text() for path in (tmp_path / "logs").iterdir())
    assert key_text.splitlines()[1] not in logs


@pytest.mark.parametrize("way", ["password", "oauth", "key file"])
def test_other_ways_to_log_in(
    service: SnowflakeService,
    key_text: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    way: str,
):
    secret = "canary-of-a-secret"
    if way == "password":
        monkeypatch.setenv("DBT_ENV_SECRET_SNOWFLAKE_PASSWORD", secret)
    elif way == "oauth":
        monkeypatch.setenv("SNOWFLAKE_AUTHENTICATOR", "oauth")
        monkeypatch.setenv("DBT_ENV_SECRET_SNOWFLAKE_TOKEN", secret)
    else:
        (tmp_path / "key.p8").write_text(key_text)
        monkeypatch.setenv("SNOWFLAKE_PRIVATE_KEY_PATH", str(tmp_path / "key.p8"))
    assert dbt(tmp_path, "debug", "--connection").success
    sent = service.logins[-1]
    assert sent.get("PASSWORD") == (secret if way == "password" else None)
    assert sent.get("AUTHENTICATOR") == {"oauth": "OAUTH", "key file": "SNOWFLAKE_JWT"}.get(way)
    logs = "".join(path.read_text() for path in (tmp_path / "logs").iterdir())
    assert secret not in logs
