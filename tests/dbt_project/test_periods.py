"""Landing period by period: the same features in any order, and nothing left behind."""

from datetime import date, timedelta
from pathlib import Path

import pytest

WEEK = timedelta(days=7)
FIRST = date(2014, 6, 2)
# Weeks that look back at one another, and one (the 15th) that no longer sees the first in full.
WEEKS = {number: FIRST + number * WEEK for number in (0, 3, 8, 13, 14)}

MODELS_ONLY = ("--exclude-resource-type", "unit_test")


@pytest.mark.slow
def test_weeks_in_any_order_give_the_features_of_one_build(warehouse, tmp_path: Path):
    # weeks 13 and 14 land together, as one range of a backfill
    for numbers in ((8,), (0,), (13, 14), (3,)):
        weeks = [WEEKS[number] for number in numbers]
        warehouse.land(weeks)
        result = warehouse.dbt("build", *MODELS_ONLY, period=(weeks[0], weeks[-1] + WEEK))
        assert result.success, result
        assert result.nodes["house_price_features"] == "success"

    at_once = warehouse.copy_to(tmp_path / "at_once")
    at_once.execute("drop table features.house_price_features")
    assert at_once.dbt("run").success
    assert len(at_once.features()) > 1500
    assert warehouse.features() == at_once.features()

    # a sale that has gone from raw when its week lands again goes from the features, and from the
    # price levels of the weeks that look back at it
    vanished = f"sale_date >= '{WEEKS[3]}' and sale_date < '{WEEKS[3] + WEEK}' and zipcode = 98103"
    assert warehouse.query(f"select count(*) from raw.house_sales where {vanished}")[0][0] > 3
    warehouse.execute(f"delete from raw.house_sales where {vanished}")
    before = warehouse.features()
    assert warehouse.dbt("build", *MODELS_ONLY, period=(WEEKS[3], WEEKS[3] + WEEK)).success
    at_once.execute(f"delete from raw.house_sales where {vanished}")
    assert at_once.dbt("run").success  # without a period, on a table that exists
    assert warehouse.features() == at_once.features()
    assert warehouse.features() != before


@pytest.mark.slow
def test_a_period_leaves_what_it_cannot_reach_alone(full_build, tmp_path: Path):
    warehouse = full_build[0].copy_to(tmp_path)
    # A mark that a rebuild would wipe out shows which rows were rebuilt.
    warehouse.execute("update features.house_price_features set floors = -1")
    period = (date(2014, 8, 4), date(2014, 8, 11))
    assert warehouse.dbt("run", period=period).success
    rebuilt = warehouse.query(
        "select min(sale_date), max(sale_date) from features.house_price_features where floors > 0"
    )
    assert rebuilt == [(date(2014, 8, 4), date(2014, 11, 8))]
    kept = "sale_date < '2014-08-04' or sale_date > '2014-11-08'"
    assert warehouse.query(
        f"select count(*) from features.house_price_features where ({kept}) and floors > 0"
    ) == [(0,)]
    assert warehouse.features("sale_date between '2014-08-04' and '2014-11-08'") == full_build[
        0
    ].features("sale_date between '2014-08-04' and '2014-11-08'")


@pytest.mark.slow
def test_a_failed_replacement_keeps_the_rows_it_was_to_replace(
    full_build, project_copy: Path, tmp_path: Path
):
    warehouse = full_build[0].copy_to(tmp_path)
    macro = project_copy / "macros/incremental_replace_period.sql"
    sql = macro.read_text()
    insert = "select {{ columns }} from {{ new_rows }}"
    assert sql.count(insert) == 1
    macro.write_text(sql.replace(insert, insert + " where error('the disk is full')"))

    before = warehouse.features()
    result = warehouse.dbt(
        "run", period=(date(2014, 8, 4), date(2014, 8, 11)), project=project_copy
    )
    assert not result.success
    assert warehouse.features() == before


@pytest.mark.parametrize(
    ("start", "end", "says"),
    [
        ("2014-08-04", None, "only one of period_start and period_end is given"),
        ("2014-08-11", "2014-08-04", "must be earlier than period_end"),
        ("4 August", "2014-08-11", "write a date as YYYY-MM-DD"),
    ],
)
@pytest.mark.slow
def test_a_period_that_is_none_is_refused(warehouse, start, end, says):
    variables = {"period_start": start} | ({"period_end": end} if end else {})
    result = warehouse.dbt("parse", variables=variables)
    assert not result.success
    assert says in result.message
