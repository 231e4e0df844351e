"""Predictions against prices: the view that stands on the table of predictions."""

from datetime import date

import pytest

pytestmark = pytest.mark.slow

SELECTED = ("--select", "house_price_predictions", "source:predictions.house_prices")


def predict(warehouse, where: str = "true", factor: float = 1.1) -> None:
    warehouse.execute(
        f"""
        insert into predictions.house_prices
        select
            date_trunc('week', sale_date), parcel_id, sale_date, {factor} * price, 3, 'job-1',
            timestamp '2015-01-01 12:00:00'
        from features.house_price_features
        where {where}
        """
    )


def test_predictions_stand_beside_what_the_houses_sold_for(full_build, tmp_path):
    warehouse = full_build[0].copy_to(tmp_path / "copy")
    predict(warehouse, "sale_date < date '2014-09-01'")
    sold = warehouse.query(
        "select count(*) from features.house_price_features where sale_date < date '2014-09-01'"
    )
    # A house whose price isn't known yet.
    warehouse.execute(
        "insert into predictions.house_prices values "
        "('2015-06-01', 1, '2015-06-03', 100.0, 3, 'job-1', '2015-06-01 12:00:00')"
    )
    result = warehouse.dbt("build", *SELECTED)
    assert result.success, result.nodes
    view = "predictions.house_price_predictions"
    assert warehouse.query(
        f"""
        select
            count(*) - 1, count(actual_price), round(min(absolute_percentage_error), 6),
            round(max(absolute_percentage_error), 6), round(exp(median(log_ratio)), 6)
        from {view}
        """
    ) == [(sold[0][0], sold[0][0], 10.0, 10.0, 1.1)]
    unknown = warehouse.query(
        f"select actual_price, log_ratio, predicted_price from {view} where parcel_id = 1"
    )
    assert unknown == [(None, None, 100.0)]
    # A label that arrives later is seen without another build.
    warehouse.execute("update features.house_price_features set price = 2 * price")
    assert warehouse.query(f"select round(max(absolute_percentage_error), 6) from {view}") == [
        (45.0,)
    ]


def test_predictions_that_cant_be_right_fail_their_tests(full_build, tmp_path):
    warehouse = full_build[0].copy_to(tmp_path / "copy")
    week = f"sale_date = date '{date(2014, 8, 4)}'"
    predict(warehouse, week)
    predict(warehouse, week, factor=-1.0)
    result = warehouse.dbt("build", *SELECTED)
    assert not result.success
    failed = " ".join(result.named("fail"))
    assert "source_unique_combination_predictions_house_prices" in failed
    assert "source_accepted_range_predictions_house_prices_0__prediction" in failed
