"""The predictions asset: a period's rows, scored by the champion in force, in the warehouse."""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest

from components.serving_location import SPEC, WEEKS, Site, serving_site
from locations import failure_of, metadata_of
from sf_sagemaker.containers.xgboost.model import load_model
from sf_sagemaker.serving.predictions import SCHEMA
from sf_sagemaker.warehouse.export import read_rows
from sf_sagemaker.warehouse.warehouse import Warehouse

pytestmark = pytest.mark.slow

KEY = "houses/predictions"
TABLE = f"{SCHEMA}.houses"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home: Path = tmp_path_factory.mktemp("deployment") / "home"
    with serving_site(home) as made:
        made.train(2)
        made.train(4)
        yield made


def test_a_period_is_scored_by_the_champion_that_was_in_force(site: Site, tmp_path: Path) -> None:
    warehouse = site.resources["warehouse"]
    for week, version in ((3, 1), (4, 1), (5, 2), (6, 2)):
        result = site.materialize([KEY], WEEKS[week])
        assert result.success, failure_of(result)
        metadata = metadata_of(result, KEY)
        assert metadata["model_version"] == version
        assert metadata["dagster/row_count"] == 200
        assert metadata["dagster/table_name"] == TABLE
    rows = _rows(warehouse, 5)
    job = _log(site)[1]["training_job"]
    model = load_model(site.resources["training_platform"].fetch_artifact(job, tmp_path))
    expected = dict(zip(rows["sale_id"].to_pylist(), model.predict(rows).tolist(), strict=True))
    found = site.sql(
        f"select sale_id, prediction, model_version, training_job from {TABLE} "
        f"where period = '{WEEKS[5]}'"
    )
    assert len(found) == 200
    assert {(version, name) for *_, version, name in found} == {(2, job)}
    np.testing.assert_allclose([expected[key] for key, *_ in found], [row[1] for row in found])


def test_scoring_again_replaces_and_leaves_other_periods(site: Site) -> None:
    site.materialize([KEY], WEEKS[5])
    before = site.sql(f"select * exclude predicted_at from {TABLE} order by all")
    again = metadata_of(site.materialize([KEY], WEEKS[5]), KEY)
    assert again["previous_rows"] == again["dagster/row_count"] == 200
    assert site.sql(f"select * exclude predicted_at from {TABLE} order by all") == before


def test_rows_without_a_label_and_of_a_new_category_are_scored(site: Site) -> None:
    site.sql(
        f"update analytics.houses set price = null, area = 'east' where sold_on = '{WEEKS[7]}'"
    )
    result = site.materialize([KEY], WEEKS[7])
    assert metadata_of(result, KEY)["dagster/row_count"] == 200
    unlabelled = site.sql(
        f"select count(prediction) from {TABLE} join analytics.houses using (sale_id) "
        "where price is null"
    )
    assert unlabelled == [(29,)]


def test_rows_that_are_gone_have_no_predictions(site: Site) -> None:
    site.materialize([KEY], WEEKS[6])
    site.sql("create table kept as from analytics.houses")
    site.sql(f"delete from analytics.houses where sold_on between '{WEEKS[6]}' and '2024-02-18'")
    result = site.materialize([KEY], WEEKS[6])
    metadata = metadata_of(result, KEY)
    assert (metadata["dagster/row_count"], metadata["previous_rows"]) == (0, 200)
    assert site.sql(f"select count(*) from {TABLE} where period = '{WEEKS[6]}'") == [(0,)]
    site.sql("insert into analytics.houses from kept where sold_on between "
             f"'{WEEKS[6]}' and '2024-02-18'")  # fmt: skip
    site.sql("drop table kept")


def test_a_range_of_periods_in_which_one_has_no_champion(site: Site) -> None:
    result = site.materialize([KEY], partitions=(WEEKS[1], WEEKS[4]))
    assert not result.success
    error = failure_of(result)
    assert "2 of 4 partitions of houses/predictions failed" in error
    assert f"no champion of houses was in force when {WEEKS[2]} began" in error
    assert f"the first is in force from {WEEKS[3]}" in error
    periods = {str(period) for (period,) in site.sql(f"select distinct period from {TABLE}")}
    assert {WEEKS[3], WEEKS[4]} <= periods
    assert WEEKS[2] not in periods


def update(site: Site, week: int) -> dg.ExecuteInProcessResult:
    return site.definitions.resolve_job_def("houses_update").execute_in_process(
        partition_key=WEEKS[week], instance=site.instance, raise_on_error=False
    )


def test_an_update_scores_its_period_whatever_becomes_of_the_evaluation(site: Site) -> None:
    site.sql(f"delete from {TABLE}")
    assert update(site, 6).success
    assert site.sql(f"select count(*), max(model_version) from {TABLE}") == [(200, 2)]

    (damaged,) = (site.home / "storage" / "evaluations").glob(f"houses/{WEEKS[6]}/*/scores.parquet")
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    failed = update(site, 5)
    damaged.write_bytes(whole)
    assert {event.step_key for event in failed.all_node_events if event.is_step_failure} == {
        "houses__evaluation"
    }
    assert site.sql(f"select count(*) from {TABLE} where period = '{WEEKS[5]}'") == [(200,)]


def test_an_update_leaves_out_a_period_in_which_no_champion_was_in_force(site: Site) -> None:
    result = update(site, 1)
    assert result.success, failure_of(result)
    assert site.sql(f"select count(*) from {TABLE} where period = '{WEEKS[1]}'") == [(0,)]
    (record,) = site.instance.fetch_observations(dg.AssetKey(KEY.split("/")), limit=1).records
    observation = record.asset_observation
    assert observation is not None
    assert observation.partition == WEEKS[1]
    assert f"the first is in force from {WEEKS[3]}" in str(observation.metadata["skipped"].value)
    partitions = site.instance.get_materialized_partitions(dg.AssetKey(KEY.split("/")))
    assert WEEKS[1] not in partitions


def test_a_column_that_the_model_needs_and_the_source_has_no_more(site: Site) -> None:
    site.sql("alter table analytics.houses rename area to district")
    result = site.materialize([KEY], WEEKS[5])
    assert "no column 'area'" in failure_of(result)
    site.sql("alter table analytics.houses rename district to area")
    assert site.materialize([KEY], WEEKS[5]).success


def _log(site: Site) -> list[dict[str, Any]]:
    entries = sorted((site.home / "storage/champions/houses").glob("*.json"))
    return [json.loads(entry.read_text()) for entry in entries]


def _rows(warehouse: Warehouse, week: int) -> pa.Table:
    start = datetime.fromisoformat(WEEKS[week])
    return read_rows(warehouse, SPEC, start, start + timedelta(weeks=1))
