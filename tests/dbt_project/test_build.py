"""A plain `dbt build`: what it makes, what it says about it, and what stops it."""

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow


def test_the_real_sales_pass_every_test(full_build):
    warehouse, result = full_build
    assert result.success
    assert result.named("warn") == {"bedrooms_are_plausible"}
    assert not result.named("error", "fail", "skipped")
    assert len([status for status in result.nodes.values() if status == "pass"]) > 40
    assert warehouse.query(
        "select count(*), count(distinct (parcel_id, sale_date)) from features.house_price_features"
    ) == [(21613, 21613)]


def test_values_of_a_known_sale(full_build):
    warehouse, _ = full_build
    expected = warehouse.query(
        """
        select
            sale.price, 2014 - sale.yr_built, cast(sale.zipcode as varchar),
            (select count(*) from raw.house_sales as other
             where other.zipcode = sale.zipcode
               and other.sale_date between date '2014-09-02' and date '2014-11-30')
        from raw.house_sales as sale
        where sale.sale_date = date '2014-12-01'
        order by sale.parcel_id
        """
    )
    assert len(expected) > 30
    assert (
        warehouse.query(
            """
            select price, age_years, zip_code, local_sales from features.house_price_features
            where sale_date = date '2014-12-01' order by parcel_id
            """
        )
        == expected
    )


def test_every_model_source_and_column_is_described(manifest: dict[str, Any]):
    nodes = [node for node in manifest["nodes"].values() if node["resource_type"] == "model"]
    nodes += manifest["sources"].values()
    assert {node["name"] for node in nodes} >= {
        "house_sales",
        "stg_house_sales",
        "house_price_features",
    }
    for node in nodes:
        assert node["description"].strip(), node["unique_id"]
        for column in node["columns"].values():
            assert column["description"].strip(), f"{node['unique_id']}.{column['name']}"


def test_the_described_columns_are_those_of_the_warehouse(full_build, manifest: dict[str, Any]):
    warehouse, _ = full_build
    for schema, name, unique_id in (
        ("raw", "house_sales", "source.sf_sagemaker.raw.house_sales"),
        ("staging", "stg_house_sales", "model.sf_sagemaker.stg_house_sales"),
        ("features", "house_price_features", "model.sf_sagemaker.house_price_features"),
    ):
        node = {**manifest["sources"], **manifest["nodes"]}[unique_id]
        stored = warehouse.query(
            f"select column_name from duckdb_columns() "
            f"where schema_name = '{schema}' and table_name = '{name}'"
        )
        assert set(node["columns"]) == {column for (column,) in stored}


def test_models_carry_owner_group_and_contract(manifest: dict[str, Any]):
    for node in manifest["nodes"].values():
        if node["resource_type"] != "model":
            continue
        assert node["config"]["contract"]["enforced"], node["unique_id"]
        assert node["config"]["meta"]["owner"]
        assert node["config"]["meta"]["dagster"]["group"]
        assert node["config"]["meta"]["dagster"]["owners"]


def test_a_wrong_price_stops_the_build_and_leaves_the_features_alone(full_build, tmp_path: Path):
    warehouse = full_build[0].copy_to(tmp_path)
    before = warehouse.features()
    warehouse.execute(
        "update raw.house_sales set price = -1 where (parcel_id, sale_date) = "
        "(select (parcel_id, sale_date) from raw.house_sales limit 1)"
    )
    result = warehouse.dbt("build", "--exclude-resource-type", "unit_test")
    assert not result.success
    assert result.named("fail") == {"accepted_range_stg_house_sales_0__price"}
    assert "house_price_features" in result.named("skipped")
    assert warehouse.features() == before


def test_a_sale_that_landed_twice_stops_the_build(full_build, tmp_path: Path):
    warehouse = full_build[0].copy_to(tmp_path)
    warehouse.execute("insert into raw.house_sales from raw.house_sales limit 1")
    result = warehouse.dbt("build", "--exclude-resource-type", "unit_test")
    assert not result.success
    assert "source_unique_combination_raw_house_sales_parcel_id__sale_date" in result.named("fail")
    assert "house_price_features" in result.named("skipped")
