"""The same models through dbt-snowflake, against a stand-in that speaks Snowflake's protocol.

The stand-in is DuckDB underneath: this shows that macros, contracts and statements fit the adapter,
not that Snowflake computes the same.
"""

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::UserWarning:fakesnow"),
]

REPORTS_OF_A_MONTH = "incident_date >= '1996-08-01' and incident_date < '1996-09-01'"
SALES_OF_TWO_PLACES = "zipcode in (98103, 98001) and sale_date < '2014-10-01'"


def literal(value: object) -> str:
    """A value of a raw row in SQL."""
    if value is None:
        return "null"
    if isinstance(value, str | date):
        return "'" + str(value).replace("'", "''") + "'"
    return str(value)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """An unencrypted private key, as key-pair authentication wants it."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    path = tmp_path / "key.p8"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


def test_the_snowflake_target_builds_and_replaces_a_period(
    full_build, project_copy: Path, key_file: Path, monkeypatch: pytest.MonkeyPatch
):
    fakesnow = pytest.importorskip("fakesnow")
    import snowflake.connector
    from dbt.cli.main import dbtRunner

    local, _ = full_build
    for name, value in {
        "ACCOUNT": "fakesnow",
        "USER": "fake",
        "ROLE": "transformer",
        "WAREHOUSE": "transforming",
        "DATABASE": "ANALYTICS",
        "SCHEMA": "PUBLIC",
        "PRIVATE_KEY_PATH": str(key_file),
    }.items():
        monkeypatch.setenv(f"SNOWFLAKE_{name}", value)

    # Temporary tables are beyond the stand-in; a transient one stands in for them.
    settings = yaml.safe_load((project_copy / "dbt_project.yml").read_text())
    settings["models"]["sf_sagemaker"]["+tmp_relation_type"] = "transient"
    (project_copy / "dbt_project.yml").write_text(yaml.safe_dump(settings))

    def rows(select: str) -> list[tuple[Any, ...]]:
        cursor.execute(select)
        return [tuple(row) for row in cursor.fetchall()]

    def build(**variables: str) -> bool:
        outcome = dbtRunner().invoke(
            [
                *("build", "--target", "snowflake", "--exclude-resource-type", "unit_test"),
                *("--project-dir", str(project_copy), "--profiles-dir", str(project_copy)),
                *("--vars", json.dumps(variables), "--quiet"),
            ]
        )
        return outcome.success

    def copy_raw(table: str, condition: str) -> None:
        columns = local.query(
            "select column_name, data_type from duckdb_columns() "
            f"where schema_name = 'raw' and table_name = '{table}' order by column_index"
        )
        cursor.execute(
            f"create table RAW.{table} ({', '.join(' '.join(column) for column in columns)})"
        )
        values = (
            ", ".join(literal(value) for value in row)
            for row in local.query(f"from raw.{table} where {condition}")
        )
        cursor.execute(f"insert into RAW.{table} values ({'), ('.join(values)})")

    with fakesnow.server() as address:
        profile = yaml.safe_load((project_copy / "profiles.yml").read_text())
        profile["sf_sagemaker"]["outputs"]["snowflake"] |= {
            "host": address["host"],
            "port": address["port"],
            "protocol": "http",
            "threads": 1,
        }
        (project_copy / "profiles.yml").write_text(yaml.safe_dump(profile))

        connection = snowflake.connector.connect(
            **{**address, "session_parameters": {"CLIENT_OUT_OF_BAND_TELEMETRY_ENABLED": False}}
        )
        cursor = connection.cursor()
        for statement in (
            "create database ANALYTICS",
            "use database ANALYTICS",
            "create schema RAW",
            "create schema if not exists PUBLIC",
        ):
            cursor.execute(statement)
        copy_raw("house_sales", SALES_OF_TWO_PLACES)
        copy_raw("incident_reports", REPORTS_OF_A_MONTH)

        assert build()
        features = "from FEATURES.HOUSE_PRICE_FEATURES order by parcel_id, sale_date"
        first = rows(f"select * {features}")
        assert first == local.features(
            "zip_code in ('98103', '98001') and sale_date < '2014-10-01'"
        )
        examples = "FEATURES.INCIDENT_TRIAGE_EXAMPLES"
        assert rows(f"select * from {examples} order by report_id") == local.query(
            f"from features.incident_triage_examples where {REPORTS_OF_A_MONTH} order by report_id"
        )

        vanished = "sale_date = '2014-08-05'"
        cursor.execute(f"delete from RAW.HOUSE_SALES where {vanished}")
        assert build(period_start="2014-08-04", period_end="2014-08-11")
        left = rows(f"select parcel_id, sale_date {features}")
        gone = {(row[0], row[1]) for row in first} - set(left)
        assert gone
        assert {sale_date for _, sale_date in gone} == {date(2014, 8, 5)}
        connection.close()
