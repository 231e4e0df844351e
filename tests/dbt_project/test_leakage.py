"""Features of a sale know no price of its own day, and a change that let them would be caught."""

from datetime import date, timedelta
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_prices_from_a_day_on_reach_only_later_features(full_build, tmp_path: Path):
    original, _ = full_build
    day = date(2014, 11, 12)
    inflated = original.copy_to(tmp_path / "inflated")
    inflated.execute(f"update raw.house_sales set price = price * 10 where sale_date >= '{day}'")
    assert inflated.dbt("run").success

    changed = inflated.query(
        f"""
        attach '{original.path}' as original (read_only);
        select sale_date
        from (
            from features.house_price_features select * exclude (price)
            except
            from original.features.house_price_features select * exclude (price)
        )
        """
    )
    days = {sale_date for (sale_date,) in changed}
    assert min(days) > day
    # a day later the first of the inflated prices are known, and from then on they stay
    sales_after = inflated.query(
        f"select count(*) from features.house_price_features where sale_date > '{day}'"
    )[0][0]
    assert day + timedelta(days=1) in days
    assert len(changed) > 0.95 * sales_after


def test_a_price_level_that_included_the_day_itself_would_fail_the_build(
    full_build, project_copy: Path, tmp_path: Path
):
    model = project_copy / "models/house_prices/features/house_price_features.sql"
    strict = "wanted.sale_date > earlier.sale_date"
    sql = model.read_text()
    assert sql.count(strict) == 1
    model.write_text(sql.replace(strict, "wanted.sale_date >= earlier.sale_date"))

    warehouse = full_build[0].copy_to(tmp_path / "leaking")
    result = warehouse.dbt("build", "--exclude-resource-type", "unit_test", project=project_copy)
    assert not result.success
    assert result.named("fail") == {"house_price_features_know_no_price_of_the_day"}
