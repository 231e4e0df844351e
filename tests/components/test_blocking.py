"""A failing dbt test of severity error keeps what is downstream from being built."""

import subprocess
import sys
from collections.abc import Callable

import dagster as dg
import duckdb
import pytest
import yaml

from locations import REPOSITORY, Location, Project, failure_of

pytestmark = pytest.mark.slow

RAW = "raw/house_sales"
FEATURES = ["staging/stg_house_sales", "features/house_price_features"]
DATASET = "house_prices/sampled_training_dataset"
MODEL = "house_prices/trained_xgboost_model"
WEEKS = ("2014-05-05", "2014-05-12")


@pytest.fixture
def location(project: Project, located: Callable[[], Location]) -> Location:
    """The demo's definitions, with a model that retrains by itself."""
    defs = REPOSITORY / "sf_sagemaker" / "defs"
    project.add("warehouse", (defs / "warehouse" / "defs.yaml").read_text())
    model = yaml.safe_load((defs / "house_prices" / "defs.yaml").read_text())
    model["attributes"]["sample"]["window"] = "2 weeks"
    model["attributes"]["retraining"] = {"mode": "automatic"}
    project.add("house_prices", yaml.safe_dump(model))
    made = located()
    assert made.materialize([RAW], partitions=WEEKS).success
    return made


def damage(location: Location) -> None:
    """A sale at a negative price, which the features' tests must not let pass."""
    with duckdb.connect(str(location.home / "warehouse.duckdb")) as connection:
        connection.execute(
            "update raw.house_sales set price = -price where sale_date = '2014-05-14'"
        )


def requested(location: Location) -> str | None:
    """The period for which one tick of the sensor asks, or None."""
    repository = location.definitions.get_repository_def()
    sensor = repository.get_sensor_def("house_prices_retraining")
    with dg.build_sensor_context(location.instance, repository_def=repository) as context:
        requests = sensor.evaluate_tick(context).run_requests or []
    assert len(requests) <= 1
    return requests[0].partition_key if requests else None


def test_in_a_run(location: Location) -> None:
    damage(location)
    result = location.materialize([*FEATURES, DATASET, MODEL], "2014-05-12")
    assert not result.success
    assert "house_price" in failure_of(result)
    materialized = {event.asset_key for event in result.get_asset_materialization_events()}
    assert dg.AssetKey(DATASET.split("/")) not in materialized
    assert dg.AssetKey(MODEL.split("/")) not in materialized


def test_in_automation(location: Location) -> None:
    assert requested(location) is None  # the features have not been built
    assert location.materialize(FEATURES, partitions=WEEKS).success
    assert requested(location) == WEEKS[1]

    damage(location)
    assert not location.materialize(FEATURES, WEEKS[1]).success
    assert requested(location) is None

    assert location.materialize([RAW], WEEKS[1]).success  # the week as it was delivered
    assert location.materialize(FEATURES, WEEKS[1]).success
    assert requested(location) == WEEKS[1]


def test_dbt_waits_for_a_warehouse_that_another_process_holds(
    location: Location, caplog: pytest.LogCaptureFixture
) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import duckdb, sys, time; connection = duckdb.connect(sys.argv[1]); print('held', flush=True);"
            "time.sleep(6)",
            str(location.home / "warehouse.duckdb"),
        ],
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    with caplog.at_level("INFO", logger="sf_sagemaker.warehouse.duckdb"):
        result = location.materialize(FEATURES, partitions=WEEKS)
    assert result.success, failure_of(result)
    assert holder.wait() == 0
    assert str(holder.pid) in caplog.text
