"""What training may cost, and what it did, on a platform that bills: the local one, told to."""

from collections.abc import Callable
from dataclasses import replace

import dagster as dg
import pytest

from components.test_second_model import CHURN, DATASET, MODEL, subscriptions
from locations import Location, Project, failure_of, metadata_of
from sf_sagemaker.training.local import LocalTrainingPlatform
from sf_sagemaker.training.platform import JobDescription

pytestmark = pytest.mark.slow

PRICED = CHURN.replace(
    "{instance_count: 2}", "{instance_count: 2, price_per_hour: 1.5, max_cost: 7, spot: true}"
)


@pytest.fixture
def priced(
    project: Project, located: Callable[[], Location], monkeypatch: pytest.MonkeyPatch
) -> Location:
    monkeypatch.setattr(LocalTrainingPlatform, "bills", True)
    project.add("churn", PRICED)
    return located()


def test_a_run_that_could_cost_too_much_is_refused_as_a_whole(priced: Location) -> None:
    months = ("2023-04-01", "2023-06-01")
    result = priced.materialize([MODEL], partitions=months, tags={"dagster/max_retries": "2"})
    assert not result.success
    assert "3 jobs of 2 x ml.m5.xlarge for up to 1:00:00 could cost 9.00" in failure_of(result)
    run = priced.instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.tags["dagster/retry_on_asset_or_op_failure"] == "false"
    assert not list(priced.home.glob("storage/training-jobs/*"))


def test_a_model_says_what_it_cost(priced: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    describe = LocalTrainingPlatform.describe

    def billed(platform: LocalTrainingPlatform, name: str) -> JobDescription:
        return replace(
            describe(platform, name),
            spot=True,
            training_seconds=100.0,
            billable_seconds=36.0,
            page=f"https://console/{name}",
        )

    monkeypatch.setattr(LocalTrainingPlatform, "describe", billed)
    subscriptions(priced)
    result = priced.materialize([DATASET, MODEL], "2023-06-01")
    assert result.success, failure_of(result)
    model = metadata_of(result, MODEL)
    assert model["cost"] == pytest.approx(1.5 * 2 * 36 / 3600)
    assert model["spot_saving"] == pytest.approx(0.64)
    assert model["billable_seconds"] == 36.0
    assert model["instance_type"] == "ml.m5.xlarge"
    assert model["training_job_page"] == f"https://console/{model['training_job']}"
    [made] = [
        event.materialization
        for event in result.get_asset_materialization_events()
        if event.asset_key == dg.AssetKey(MODEL.split("/"))
    ]
    assert isinstance(made.metadata["training_job_page"], dg.UrlMetadataValue)
