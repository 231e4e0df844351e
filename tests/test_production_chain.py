"""house_prices from raw rows to a champion on Snowflake and SageMaker, and the same on a laptop."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest

from locations import (
    REPOSITORY,
    Location,
    failure_of,
    metadata_of,
    own_deployment,
    temporary_project,
)
from production import Production, production
from sf_sagemaker import deployment
from sf_sagemaker.containers.xgboost.model import XGBoostModel, load_model
from sf_sagemaker.storage import Storage
from sf_sagemaker.training.platform import TrainingPlatform
from sf_sagemaker.warehouse.dataset import SPLITS
from sf_sagemaker.warehouse.manifests import read_manifest, read_split
from sf_sagemaker.warehouse.warehouse import Warehouse

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

RAW = "raw/house_sales"
FEATURES = ["staging/stg_house_sales", "features/house_price_features"]
DATASET = "house_prices/sampled_training_dataset"
MODEL = "house_prices/trained_xgboost_model"
EVALUATION = "house_prices/evaluation"
CHAMPION = "house_prices/champion"
ENDPOINT = "house_prices/endpoint"
DBT_TARGET = REPOSITORY / "dbt_project" / "target"
WEEKS = ("2014-07-28", "2014-12-29")
WEEK, NEXT_WEEK = "2014-12-22", "2014-12-29"
SCORED_WEEK = "2015-01-05"  # the first in which the champion is in force


@dataclass
class Built:
    """What a deployment made of the same raw rows."""

    rows: dict[str, pa.Table]
    model: XGBoostModel
    metadata: dict[str, dict]
    run_ids: list[str]


def build(location: Location, scratch: Path) -> Built:
    """Everything from the raw rows of some weeks to the first champion."""
    results = {}
    for keys, partition, weeks in (
        ([RAW], None, WEEKS),
        (FEATURES, None, WEEKS),
        ([DATASET, MODEL], WEEK, None),
        ([EVALUATION], NEXT_WEEK, None),
        ([CHAMPION], None, None),
    ):
        result = location.materialize(keys, partition, partitions=weeks)
        assert result.success, failure_of(result)
        results.update(dict.fromkeys(keys, result))
    metadata = {key: metadata_of(result, key) for key, result in results.items()}
    roles = deployment.resources()
    storage = cast(Storage, roles["storage"])
    platform = cast(TrainingPlatform, roles["training_platform"])
    [manifest_key] = [
        key for key in storage.list("datasets/house_prices") if key.endswith("/manifest.json")
    ]
    folder = manifest_key.rpartition("/")[0]
    manifest = read_manifest(storage, folder)
    return Built(
        rows={split: read_split(storage, manifest, folder, split) for split in SPLITS},
        model=load_model(platform.fetch_artifact(metadata[MODEL]["training_job"], scratch)),
        metadata=metadata,
        run_ids=list(dict.fromkeys(result.run_id for result in results.values())),
    )


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Built:
    home = tmp_path_factory.mktemp("local")
    with own_deployment(home) as instance:
        from sf_sagemaker.definitions import defs

        return build(Location(defs(), instance, home), home / "scratch")


@pytest.fixture(scope="module")
def location(here: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Production]:
    with production(tmp_path_factory.mktemp("production") / "home") as location:
        yield location


@pytest.fixture(scope="module")
def there(location: Production, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(location, tmp_path_factory.mktemp("scratch"))


def test_both_warehouses_give_the_same_rows(here: Built, there: Built) -> None:
    for split in SPLITS:
        ours, theirs = (
            built.rows[split].sort_by([("parcel_id", "ascending"), ("sale_date", "ascending")])
            for built in (here, there)
        )
        assert ours.num_rows == theirs.num_rows > 100
        assert ours.column_names == theirs.column_names
        for name in ours.column_names:
            assert ours[name].to_pylist() == theirs[name].cast(ours[name].type).to_pylist(), name


def test_both_platforms_give_the_same_model(here: Built, there: Built) -> None:
    rows = here.rows["test"]
    ours, theirs = here.model.predict(rows), there.model.predict(rows)
    np.testing.assert_allclose(theirs, ours, rtol=1e-3)


def test_the_champion_is_the_model(there: Built) -> None:
    champion, model = there.metadata[CHAMPION], there.metadata[MODEL]
    assert champion["champion"] == model["training_job"]
    assert champion["decision"] == "promote"
    assert there.metadata[EVALUATION]["models"] == 1
    assert model["log"].startswith("https://us-east-1.console.aws.amazon.com/cloudwatch/")
    assert model["adopted"] is False


def test_a_dataset_says_how_it_left_snowflake(location: Production, there: Built) -> None:
    dataset = there.metadata[DATASET]
    [copy] = [it for it in location.snowflake.statements if it.sql.startswith("copy into 's3")]
    assert dataset["query_id"] == copy.query_id
    assert f"cast('{dataset['source_version']}' as timestamp_tz)" in dataset["sql"]
    assert dataset["bytes"] > 10_000
    assert 0 < dataset["export_seconds"] < 600
    assert dataset["dagster/uri"] in copy.sql


def test_one_training_job_costs_few_calls(location: Production, there: Built) -> None:
    calls = location.aws.calls
    assert calls.count("CreateTrainingJob") == 1
    assert 1 <= calls.count("DescribeTrainingJob") <= 5
    assert calls.count("ListTrainingJobs") == 0
    assert len(location.aws.jobs) == 1


def test_the_same_again_exports_and_trains_nothing(location: Production, there: Built) -> None:
    again = location.materialize([DATASET, MODEL], WEEK)
    assert again.success, failure_of(again)
    assert metadata_of(again, DATASET)["reused"] is True
    assert metadata_of(again, MODEL)["adopted"] is True
    assert metadata_of(again, MODEL)["trained_at"] == there.metadata[MODEL]["trained_at"]
    assert len(location.aws.jobs) == 1


def test_the_champion_answers_behind_an_endpoint(location: Production, there: Built) -> None:
    result = location.materialize([ENDPOINT])
    assert result.success, failure_of(result)
    [check] = result.get_asset_check_evaluations()
    assert check.passed, check.metadata
    metadata = metadata_of(result, ENDPOINT)
    assert metadata["training_job"] == there.metadata[MODEL]["training_job"]
    assert metadata["address"] == (
        "https://runtime.sagemaker.us-east-1.amazonaws.com/endpoints/house-prices/invocations"
    )
    assert location.aws.endpoints["house-prices"].statuses == ["Creating", "InService"]
    there.run_ids.append(result.run_id)


def test_two_hosts_train_one_model_each_on_its_shard(location: Production, there: Built) -> None:
    text = (REPOSITORY / "sf_sagemaker/defs/house_prices/defs.yaml").read_text()
    text = text.replace("name: house_prices", "name: on_two_hosts")
    with temporary_project() as project:
        project.add_warehouse()
        project.add("on_two_hosts", text.replace("instance_count: 1", "instance_count: 2"))
        two = Location(project.definitions(), location.instance, location.home)
        keys = [key.replace("house_prices", "on_two_hosts") for key in (DATASET, MODEL)]
        result = two.materialize(keys, WEEK)
    assert result.success, failure_of(result)
    model = metadata_of(result, keys[1])
    job = location.aws.client("sagemaker").describe_training_job(
        TrainingJobName=model["training_job"]
    )
    assert job["ResourceConfig"]["InstanceCount"] == 2
    distributions = {
        channel["ChannelName"]: channel["DataSource"]["S3DataSource"]["S3DataDistributionType"]
        for channel in job["InputDataConfig"]
    }
    assert distributions["train"] == "ShardedByS3Key"
    assert distributions["test"] == "FullyReplicated"
    error = "test_median_absolute_percentage_error"
    assert model[error] == pytest.approx(there.metadata[MODEL][error], rel=0.1)


def test_a_large_period_is_scored_by_a_transform_job(location: Production, there: Built) -> None:
    key = "house_prices/predictions"
    text = (REPOSITORY / "sf_sagemaker/defs/house_prices/defs.yaml").read_text()
    scored = "predictions: {transform: {min_rows: 1, price_per_hour: 0.3}, batch_rows: 200}"
    assert "predictions: {}" in text
    for keys in ([RAW], FEATURES):
        landed = location.materialize(keys, SCORED_WEEK)
        assert landed.success, failure_of(landed)
    with temporary_project() as project:
        project.add_warehouse()
        project.add("house_prices", text.replace("predictions: {}", scored))
        large = Location(project.definitions(), location.instance, location.home)
        result = large.materialize([key], SCORED_WEEK)
    assert result.success, failure_of(result)
    metadata = metadata_of(result, key)
    assert metadata["transform_job"].startswith("house-prices-2015-01-05-")
    assert metadata["adopted"] is False
    run = location.instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.tags[f"sf_sagemaker/{metadata['transform_job']}"] == "transform job"
    assert metadata["cost"] > 0
    assert metadata["training_job"] == there.metadata[MODEL]["training_job"]
    by_job = _predictions()
    assert len(by_job) == metadata["dagster/row_count"] > 200
    assert len(location.aws.transforms) == 1
    here = location.materialize([key], SCORED_WEEK)
    assert here.success, failure_of(here)
    assert metadata_of(here, key)["previous_rows"] == len(by_job)
    in_process = _predictions()
    assert in_process.keys() == by_job.keys()
    for row, prediction in in_process.items():
        assert by_job[row] == pytest.approx(prediction, rel=1e-5)


def _predictions() -> dict[tuple[object, ...], float]:
    """What is stored in the warehouse, by row key."""
    warehouse = cast(Warehouse, deployment.resources()["warehouse"])
    with warehouse.reading() as session:
        rows = session.rows("select parcel_id, sale_date, prediction from predictions.house_prices")
    return {tuple(key): float(prediction) for *key, prediction in rows}


def test_no_secret_is_anywhere(location: Production, there: Built) -> None:
    stored = {
        f"events of run {run_id}": "".join(
            dg.serialize_value(entry) for entry in location.instance.all_logs(run_id)
        )
        for run_id in there.run_ids
    }
    stored |= {
        f"tags of run {run.run_id}": str(run.tags) + str(run.run_config)
        for run in location.instance.get_runs()
    }
    stored |= {
        str(path): path.read_text(errors="replace")
        for folder in (location.home, DBT_TARGET)
        for path in folder.rglob("*")
        if path.is_file()
    }
    stored |= {f"statement {it.query_id}": it.sql for it in location.snowflake.statements}
    assert len(stored) > 50
    for secret in location.secrets:
        assert location.aws.find(secret) == []
        assert [where for where, text in stored.items() if secret in text] == []
