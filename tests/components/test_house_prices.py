"""house_prices from raw rows to a trained model, through the repository's own code location."""

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import duckdb
import pytest

from locations import Location, failure_of, metadata_of

pytestmark = pytest.mark.slow

RAW = "raw/house_sales"
FEATURES = ["staging/stg_house_sales", "features/house_price_features"]
DATASET = "house_prices/sampled_training_dataset"
MODEL = "house_prices/trained_xgboost_model"
WEEKS = ("2014-04-28", "2015-03-02")
WEEK = "2014-12-29"


@pytest.fixture(scope="module")
def built(repository_location: Location) -> Location:
    """Raw rows of 45 weeks, and their features."""
    assert repository_location.materialize([RAW], partitions=WEEKS).success
    assert repository_location.materialize(FEATURES, partitions=WEEKS).success
    return repository_location


@pytest.fixture(scope="module")
def trained(built: Location) -> dg.ExecuteInProcessResult:
    """The run that built the dataset and the model of WEEK."""
    result = built.materialize([DATASET, MODEL], WEEK)
    assert result.success, failure_of(result)
    return result


def test_landing_again_changes_nothing(built: Location) -> None:
    again = metadata_of(built.materialize([RAW], partitions=WEEKS), RAW)
    assert again["changed_periods"] == 0
    assert again["dagster/row_count"] == again["previous_rows"] > 15_000


def test_the_dataset_says_what_it_holds(trained: dg.ExecuteInProcessResult) -> None:
    metadata = metadata_of(trained, DATASET)
    rows = {split: metadata[f"rows_{split}"] for split in ("train", "validation", "test")}
    assert sum(rows.values()) == metadata["dagster/row_count"] > 6_000
    assert rows["train"] > 6 * rows["test"] > 0
    assert metadata["window"] == "[2014-09-08, 2015-01-05)"
    assert metadata["window_full"] is True
    assert metadata["missing_periods"] == "none"
    assert len(metadata["window_periods"].records) == 17
    assert "md5" in metadata["sql"]
    assert len(metadata["sample"].records) == 8
    assert "data:image/png;base64," in metadata["target_distribution"]
    assert metadata["missing_target"] == metadata["not_sampled"] == 0


def test_the_model_says_what_it_is_worth(trained: dg.ExecuteInProcessResult) -> None:
    metadata = metadata_of(trained, MODEL)
    for rows in ("validation", "test", "next_period"):
        error = metadata[f"{rows}_median_absolute_percentage_error"]
        baseline = metadata[f"{rows}_baseline_median_absolute_percentage_error"]
        assert 5 < error < 12 < baseline, rows
        assert metadata[f"{rows}_mean_absolute_error"] > 10_000
        assert -0.2 < metadata[f"{rows}_bias"] < 0.2
    assert metadata["adopted"] is False
    assert metadata["attempt"] == 1
    assert metadata["training_job"].startswith("house-prices-2014-12-29-")
    assert metadata["model_card"]["partition"] == WEEK
    assert metadata["artifact"].endswith("model.tar.gz")
    assert "data:image/png;base64," in metadata["learning_curve"]
    assert "data:image/png;base64," in metadata["feature_importance"]


def test_progress_reaches_the_run_while_it_trains(
    built: Location, trained: dg.ExecuteInProcessResult
) -> None:
    messages = [entry.user_message for entry in built.instance.all_logs(trained.run_id)]
    rounds = [message for message in messages if "validation-rmse=" in message]
    assert len(rounds) >= 3, messages


def test_the_model_beats_the_baseline_in_its_check(trained: dg.ExecuteInProcessResult) -> None:
    evaluations = {e.check_name: e for e in trained.get_asset_check_evaluations()}
    assert evaluations["beats_baseline"].passed
    assert evaluations["window_unchanged"].passed


def test_the_same_again_reuses_and_adopts(
    built: Location, trained: dg.ExecuteInProcessResult
) -> None:
    again = built.materialize([DATASET, MODEL], WEEK)
    first, second = metadata_of(trained, MODEL), metadata_of(again, MODEL)
    assert metadata_of(again, DATASET)["reused"] is True
    assert second["adopted"] is True
    assert second["training_job"] == first["training_job"]
    assert second["trained_at"] == first["trained_at"]
    assert second["trained_at"] < datetime.now(UTC).timestamp()


def test_force_trains_another_attempt(built: Location, trained: dg.ExecuteInProcessResult) -> None:
    forced = built.materialize(
        [MODEL], WEEK, run_config={"ops": {MODEL.replace("/", "__"): {"config": {"force": True}}}}
    )
    before, after = metadata_of(trained, MODEL), metadata_of(forced, MODEL)
    assert after["adopted"] is False
    assert after["attempt"] > before["attempt"]
    log = Path(after["log"]).read_text()
    assert "[1/400]" in log
    assert "resum" not in log
    # The same rows, code and seed give the same model.
    assert after["test_mean_absolute_error"] == before["test_mean_absolute_error"]


def test_a_model_without_a_dataset_says_what_to_do(built: Location) -> None:
    result = built.materialize([MODEL], "2015-02-02")
    assert not result.success
    assert "materialize house_prices/sampled_training_dataset" in failure_of(result)


def test_winter_models_predict_the_following_weeks_within_the_known_range(built: Location) -> None:
    errors, baselines, weights = [], [], []
    for week in (
        "2014-11-03",
        "2014-11-24",
        "2014-12-15",
        "2015-01-05",
        "2015-01-26",
        "2015-02-16",
    ):
        result = built.materialize([DATASET, MODEL], week)
        assert result.success, failure_of(result)
        metadata = metadata_of(result, MODEL)
        errors.append(metadata["next_period_median_absolute_percentage_error"])
        baselines.append(metadata["next_period_baseline_median_absolute_percentage_error"])
        weights.append(metadata["next_period_rows"])
    mean = sum(e * w for e, w in zip(errors, weights, strict=True)) / sum(weights)
    # A week has some 300 rows and a standard error near 0.5 points; monthly figures lie in 8.3 - 9.8.
    assert mean < 9.8, errors
    assert all(e < b / 1.5 for e, b in zip(errors, baselines, strict=True))


def test_a_corrected_period_shows_in_the_datasets_that_hold_it(
    built: Location, trained: dg.ExecuteInProcessResult
) -> None:
    with duckdb.connect(str(built.home / "warehouse.duckdb")) as connection:
        connection.execute(
            "update features.house_price_features set price = price + 1 where sale_date = '2014-12-10'"
        )
    check = dg.AssetCheckKey(dg.AssetKey(DATASET.split("/")), "window_unchanged")
    result = _run_check(built, check)
    assert not result.passed
    assert result.metadata["changed_periods"].value == "2014-12-08"


def _run_check(location: Location, key: dg.AssetCheckKey) -> dg.AssetCheckEvaluation:
    selection = dg.AssetSelection.checks(key)
    job = dg.define_asset_job("only_the_check", selection=selection)
    definitions = dg.Definitions.merge(location.definitions, dg.Definitions(jobs=[job]))
    result = definitions.resolve_job_def("only_the_check").execute_in_process(
        instance=location.instance
    )
    [evaluation] = result.get_asset_check_evaluations()
    return evaluation
