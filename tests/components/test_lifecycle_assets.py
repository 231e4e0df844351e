"""Evaluation, champion and decay curve of two small models, from their YAML files."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest

from locations import (
    Location,
    Project,
    failure_of,
    metadata_of,
    own_deployment,
    temporary_project,
)
from sf_sagemaker.components.model_state import RetrainedModel, newest_training, read_state
from sf_sagemaker.lifecycle.retraining import ModelState
from sf_sagemaker.periods import Cadence

pytestmark = pytest.mark.slow

WEEKS = [f"{date(2024, 1, 1) + timedelta(weeks=week)}" for week in range(17)]
BREAK = 10  # from this week on, prices of `breaking` are a third higher
SHIFT = 12  # and from this one on, houses lie farther out

MODEL = """
type: sf_sagemaker.components.XGBoostModel
attributes:
  name: breaking
  source: {table: analytics.breaking}
  row_key: [sale_id]
  split_key: parcel_id
  event_time: sold_on
  target: price
  target_transform: log
  partitions: {every: week, start: "2024-01-01", end: "2024-04-29"}
  sample: {window: 3 weeks, seed: 3}
  hyperparameters: {objective: "reg:squarederror", num_round: 30, max_depth: 3, eta: 0.3}
  evaluation: {metric: median_absolute_percentage_error, max_age: 10 weeks}
  decay: {rolling: 2 weeks, min_rows: 300, max_bias: 0.05, max_relative_excess_error: 0.1}
  input_drift: {max_effect: 0.1, ignore: [season]}
  promotion: {margin: 0.02, min_rows: 50}
  freshness: {fail_window: 200 days}
  retraining: {mode: automatic, cool_down: 2}
"""

# Sixteen weeks of 200 sales and one without any; luck spreads prices by some ten percent.
SALES = """
create schema if not exists analytics;
create table analytics.{name} as
with drawn as (
    select
        i,
        i // 200 as week,
        0.17 * ((hash(i) % 1000) / 1000.0 + (hash(i + 7) % 1000) / 1000.0 - 1) as luck,
        (hash(i + 13) % 1000) / 1000.0 as place
    from range(16 * 200) as numbers(i)
)
select
    i as sale_id,
    i % 499 as parcel_id,
    date '2024-01-01' + cast(7 * week + (i % 200) // 29 as integer) as sold_on,
    cast(1 + i % 6 as double) as rooms,
    ['north', 'south', 'west'][1 + i % 3] as area,
    place + if(week >= {shift}, 0.4, 0) as distance,
    if(week < 5, 'winter', 'spring') as season,
    cast(100 * (1 + i % 6) * (1 + i % 3) * exp(luck + {level}) as double) as price
from drawn
"""


def sales(home: Path) -> None:
    with duckdb.connect(str(home / "warehouse.duckdb")) as connection:
        for name, level in (
            ("breaking", f"if(week >= {BREAK}, 0.3, 0)"),
            ("rising", "0.03 * week"),
        ):
            connection.execute(SALES.format(name=name, level=level, shift=SHIFT))


def add_models(project: Project) -> None:
    project.add("breaking", MODEL)
    project.add("rising", MODEL.replace("breaking", "rising"))


@dataclass
class Site(Location):
    """A location of both models."""

    def train(self, model: str, week: int) -> dg.ExecuteInProcessResult:
        """One run of the model's job."""
        return self.definitions.resolve_job_def(f"{model}_training").execute_in_process(
            partition_key=WEEKS[week], instance=self.instance, raise_on_error=False
        )

    def evaluate(self, model: str, *weeks: int) -> dg.ExecuteInProcessResult:
        key = f"{model}/evaluation"
        if len(weeks) == 1:
            return self.materialize([key], WEEKS[weeks[0]])
        return self.materialize([key], partitions=(WEEKS[weeks[0]], WEEKS[weeks[-1]]))

    def champion(self, model: str = "breaking", **config: Any) -> dg.ExecuteInProcessResult:
        run_config = {"ops": {f"{model}__champion": {"config": config}}} if config else None
        return self.materialize([f"{model}/champion"], run_config=run_config)

    def sql(self, statement: str) -> list[tuple]:
        with duckdb.connect(str(self.home / "warehouse.duckdb")) as connection:
            return connection.execute(statement).fetchall()

    def log(self, model: str = "breaking") -> list[dict[str, Any]]:
        """The promotion log, as its files are."""
        folder = self.home / "storage" / "champions" / model
        return [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]


@dataclass(frozen=True)
class Made:
    """A deployment's folder, and the runs that filled it."""

    home: Path
    trained: dg.ExecuteInProcessResult  # breaking: dataset, model and champion of week 2
    healthy: dg.ExecuteInProcessResult  # breaking: its champion, weeks 3 to 9 being evaluated
    backfilled: dg.ExecuteInProcessResult  # rising: models of the weeks 1 to 8
    evaluated: dg.ExecuteInProcessResult  # rising: weeks 2 to 9


def checks_of(result: dg.ExecuteInProcessResult) -> Mapping[str, dg.AssetCheckEvaluation]:
    return {
        evaluation.check_name: evaluation for evaluation in result.get_asset_check_evaluations()
    }


def figures(check: dg.AssetCheckEvaluation) -> dict[str, Any]:
    return {name: value.value for name, value in check.metadata.items()}


def recorded(location: Location, key: str) -> dict[str, dict[str, Any]]:
    """The newest metadata of each partition of an asset, as plain values."""
    asset = dg.AssetKey(key.split("/"))
    records = location.instance.fetch_materializations(asset, limit=200).records
    return {
        record.partition_key: {
            name: value.value for name, value in record.asset_materialization.metadata.items()
        }
        for record in reversed(records)
        if record.partition_key and record.asset_materialization
    }


def state_of(site: Location, model: str) -> ModelState:
    repository, weeks = site.definitions.get_repository_def(), Cadence("week", datetime(2024, 1, 1))
    return read_state(site.instance, repository, retrained(model), weeks, datetime.now(UTC))


def retrained(model: str) -> RetrainedModel:
    names = ("sampled_training_dataset", "trained_xgboost_model", "champion")
    source = dg.AssetKey(["analytics", model])
    return RetrainedModel(model, source, *(dg.AssetKey([model, name]) for name in names))


def succeeded(result: dg.ExecuteInProcessResult) -> dg.ExecuteInProcessResult:
    assert result.success, failure_of(result)
    return result


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Copied for each test."""
    home = tmp_path_factory.mktemp("deployment") / "home"
    with temporary_project() as project, own_deployment(home) as instance:
        add_models(project)
        site = Site(project.definitions(), instance, home)
        sales(home)
        trained = succeeded(site.train("breaking", 2))
        succeeded(site.evaluate("breaking", *range(3, 10)))
        healthy = succeeded(site.champion())
        built = ["rising/sampled_training_dataset", "rising/trained_xgboost_model"]
        backfilled = succeeded(site.materialize(built, partitions=(WEEKS[1], WEEKS[8])))
        evaluated = succeeded(site.evaluate("rising", *range(2, 10)))
    return Made(home, trained, healthy, backfilled, evaluated)


@pytest.fixture
def site(made: Made, tmp_path: Path) -> Iterator[Site]:
    home = tmp_path / "home"
    shutil.copytree(made.home, home)
    with ExitStack() as stack:
        project = stack.enter_context(temporary_project())
        instance = stack.enter_context(own_deployment(home))
        add_models(project)
        yield Site(project.definitions(), instance, home)


def test_models_of_a_range_are_trained_in_one_run_and_recorded_each(made: Made, site: Site) -> None:
    models = recorded(site, "rising/trained_xgboost_model")
    assert sorted(models) == WEEKS[1:9]
    assert len({metadata["training_job"] for metadata in models.values()}) == 8
    assert {metadata["adopted"] for metadata in models.values()} == {False}
    assert all(0 < metadata["test_mean_absolute_error"] < 500 for metadata in models.values())
    datasets = recorded(site, "rising/sampled_training_dataset")
    assert [datasets[week]["window_full"] for week in WEEKS[1:4]] == [False, True, True]
    weeks = Cadence("week", datetime(2024, 1, 1), datetime(2024, 1, 15))
    trained = newest_training(site.instance, retrained("rising"), weeks)
    assert trained is not None
    assert (trained.partition, trained.warm_up) == (WEEKS[1], True)
    assert state_of(site, "breaking").champion
    # The check of a range is that of its newest partition.
    assert checks_of(made.backfilled)["beats_baseline"].passed


def test_a_week_that_failed_is_the_only_one_that_is_built_by_the_next_run(site: Site) -> None:
    site.sql(
        f"update analytics.rising set price = -price where sold_on = '{WEEKS[11]}'"  # weeks 11 to 13
    )
    built = ["rising/sampled_training_dataset", "rising/trained_xgboost_model"]
    failed = site.materialize(built[:1], partitions=(WEEKS[10], WEEKS[11]))
    assert not failed.success
    error = failure_of(failed)
    assert "1 of 2 partitions of rising/sampled_training_dataset failed" in error
    assert f"{WEEKS[11]}: " in error
    assert "negative" in error
    assert WEEKS[10] in recorded(site, built[0])
    assert WEEKS[11] not in recorded(site, built[0])
    site.sql("update analytics.rising set price = abs(price)")
    again = succeeded(site.materialize(built[:1], partitions=(WEEKS[10], WEEKS[11])))
    reused = {week: recorded(site, built[0])[week]["reused"] for week in WEEKS[10:12]}
    assert reused == {WEEKS[10]: True, WEEKS[11]: False}
    assert again.success


def test_evaluations_of_a_range_have_numbers_that_the_ui_can_plot(made: Made, site: Site) -> None:
    evaluations = recorded(site, "rising/evaluation")
    assert sorted(evaluations) == WEEKS[2:10]
    first, last = evaluations[WEEKS[2]], evaluations[WEEKS[9]]
    assert (first["models"], last["models"]) == (1, 8)
    assert (last["youngest_model_age"], last["oldest_model_age"]) == (1, 8)
    assert last["rows"] == 200
    assert last["metric"] == "median_absolute_percentage_error"
    for name in ("error", "bias"):
        for predictor in ("youngest_model", "oldest_model", "reference"):
            assert isinstance(last[f"{predictor}_{name}"], float), predictor
    assert last["oldest_model_error"] > 1.5 * last["youngest_model_error"]
    assert last["oldest_model_bias"] < last["youngest_model_bias"] < 0
    scores = [record.data for record in last["scores"].records]
    assert [record["age"] for record in scores] == [*range(1, 9), None]
    assert [record["warm_up"] for record in scores] == [False] * 7 + [True, False]
    assert all(record["error_low"] <= record["error"] <= record["error_high"] for record in scores)
    rows = site.sql(
        "select predictor, round(error, 6) from lifecycle.rising_latest_evaluations "
        f"where period = '{WEEKS[9]}' and age = 1"
    )
    assert rows == [
        (
            recorded(site, "rising/trained_xgboost_model")[WEEKS[8]]["training_job"],
            pytest.approx(last["youngest_model_error"], abs=1e-5),
        )
    ]


def test_corrected_labels_add_an_evaluation_which_wins(site: Site) -> None:
    before = recorded(site, "rising/evaluation")[WEEKS[9]]
    late = f"sold_on >= '{WEEKS[9]}' and sold_on < '{WEEKS[10]}'"
    site.sql(f"update analytics.rising set price = 2 * price where {late}")
    site.sql(f"update analytics.rising set price = null where {late} and sale_id % 4 = 0")
    after = metadata_of(succeeded(site.evaluate("rising", 9)), "rising/evaluation")
    assert (before["rows"], after["rows"]) == (200, 150)
    assert after["youngest_model_bias"] < before["youngest_model_bias"] - 0.5
    table = "select count(*), count(distinct evaluated_at), min(scored_rows) from lifecycle.rising_"
    of_week = f"evaluations where period = '{WEEKS[9]}'"
    assert site.sql(f"{table}{of_week}") == [(18, 2, 150)]
    assert site.sql(f"{table}latest_{of_week}") == [(9, 1, 150)]
    kept = list((site.home / "storage" / "evaluations" / "rising" / WEEKS[9]).iterdir())
    assert len(kept) == 2


def test_a_period_without_rows_is_evaluated_and_no_verdict_changes(made: Made, site: Site) -> None:
    before = figures(checks_of(made.healthy)["decay"])
    metadata = metadata_of(succeeded(site.evaluate("breaking", 16)), "breaking/evaluation")
    assert metadata["rows"] == 0
    assert not [name for name in metadata if name.endswith(("_error", "_bias"))]
    champion = succeeded(site.champion())
    assert metadata_of(champion, "breaking/champion")["as_of"] == WEEKS[9]
    assert checks_of(champion)["decay"].passed
    assert before["state"] == "healthy"


def test_a_champion_of_which_nothing_is_known_yet_has_no_verdict(made: Made) -> None:
    metadata = metadata_of(made.trained, "breaking/champion")
    assert (metadata["version"], metadata["partition"]) == (1, WEEKS[2])
    assert (metadata["age_days"], metadata["age_periods"]) == (0, 0)
    assert (metadata["as_of"], metadata["in_force_from"]) == (WEEKS[2], WEEKS[3])
    decay = checks_of(made.trained)["decay"]
    assert decay.passed
    assert figures(decay)["state"] == "no verdict"
    assert "not been in force in any evaluated period" in figures(decay)["reason"]
    drift = checks_of(made.trained)["input_drift"]
    assert drift.passed
    assert figures(drift)["state"] == "steady"
    assert "not been in force" in figures(checks_of(made.trained)["evaluated"])["reason"]


def test_a_healthy_champion_shows_its_figures_and_limits(made: Made) -> None:
    metadata = metadata_of(made.healthy, "breaking/champion")
    assert metadata["champion"] == metadata_of(made.trained, "breaking/champion")["champion"]
    assert (metadata["age_days"], metadata["age_periods"]) == (49, 7)
    assert "data:image/png;base64," in metadata["decay"]
    assert [record.data["kind"] for record in metadata["log"].records] == ["first"]
    decay = checks_of(made.healthy)["decay"]
    assert decay.passed
    said = figures(decay)
    assert said["state"] == "healthy"
    assert (said["period"], said["version"], said["rows"], said["periods"]) == (WEEKS[9], 1, 400, 2)
    assert (said["max_bias"], said["max_relative_excess_error"], said["min_rows"]) == (
        0.05,
        0.1,
        300,
    )
    assert said["bias_low"] <= said["bias"] <= said["bias_high"]
    assert abs(said["bias"]) < 0.05
    assert said["error"] > 0
    assert said["reference_error"] > 0
    assert "relative_excess_error" in said
    assert "data:image/png;base64," in said["plot"]


def test_a_break_is_noticed_a_new_model_takes_over_and_a_person_rolls_back(site: Site) -> None:
    assert succeeded(site.evaluate("breaking", BREAK)).success
    broken = succeeded(site.champion())
    decay = checks_of(broken)["decay"]
    assert not decay.passed
    assert decay.severity is dg.AssetCheckSeverity.ERROR
    said = figures(decay)
    assert (said["state"], said["period"]) == ("decayed", WEEKS[BREAK])
    assert "bias" in said["causes"]
    assert "limit 0.05" in said["reason"]
    assert metadata_of(broken, "breaking/champion").get("decision") is None

    # The labels of the week after next are late, its inputs are not.
    labels = "create table labels as select sale_id, price from analytics.breaking"
    site.sql(f"{labels}; update analytics.breaking set price = null where sold_on >= '{WEEKS[12]}'")
    succeeded(site.evaluate("breaking", 11, 12))
    champion = succeeded(site.champion())
    assert metadata_of(champion, "breaking/champion")["as_of"] == WEEKS[12]
    decay = figures(checks_of(champion)["decay"])
    assert (decay["period"], decay["rows"]) == (WEEKS[11], 400), (
        "what is labelled is not pushed out"
    )
    drift = checks_of(champion)["input_drift"]
    assert not drift.passed
    assert drift.severity is dg.AssetCheckSeverity.WARN
    said = figures(drift)
    assert (said["state"], said["ignored"]) == ("drifted", "season")
    assert "distance" in said["reason"]
    table = {record.data["feature"]: record.data["effect"] for record in said["features"].records}
    assert "season" not in table
    assert table["distance"] > 0.1 > table["rooms"]
    assert "data:image/png;base64," in said["plot"]

    site.sql(
        "update analytics.breaking as late set price = labels.price from labels "
        "where late.sale_id = labels.sale_id"
    )
    succeeded(site.evaluate("breaking", 12))
    retrained = succeeded(site.train("breaking", 12))  # its window begins with the break
    metadata = metadata_of(retrained, "breaking/champion")
    assert (metadata["decision"], metadata["version"]) == ("promote", 2)
    assert (metadata["partition"], metadata["in_force_from"]) == (WEEKS[12], WEEKS[13])
    assert metadata["comparison_challenger_error"] < metadata["comparison_champion_error"] / 2
    assert metadata["comparison_difference_high"] < metadata["comparison_margin"]
    assert figures(checks_of(retrained)["decay"])["state"] == "no verdict"
    assert checks_of(retrained)["decay"].passed

    succeeded(site.evaluate("breaking", 13, 14, 15))
    mended = succeeded(site.champion())
    assert figures(checks_of(mended)["decay"])["state"] == "healthy"
    assert "decision" not in metadata_of(mended, "breaking/champion")

    back = succeeded(site.champion(version=1))
    metadata = metadata_of(back, "breaking/champion")
    assert (metadata["version"], metadata["partition"]) == (3, WEEKS[2])
    assert metadata["in_force_from"] == WEEKS[16]
    assert "by a person" in metadata["reason"]
    assert figures(checks_of(back)["decay"])["state"] == "no verdict"
    again = succeeded(site.champion())
    assert metadata_of(again, "breaking/champion")["version"] == 3
    assert [entry["kind"] for entry in site.log()] == ["first", "promotion", "rollback"]
    assert site.log()[2]["run_id"] == back.run_id


def test_a_version_that_there_is_not_is_refused(site: Site) -> None:
    unknown = site.champion(version=7)
    assert not unknown.success
    assert "breaking has no champion of version 7: its log has 1 of them" in failure_of(unknown)
    none = site.champion("rising", version=1)
    assert not none.success
    assert "rising has no champion of version 1: its log has 0 of them" in failure_of(none)
    job = site.champion(confirm="job-x")
    assert not job.success
    assert "breaking has no model of the training job 'job-x'" in failure_of(job)


def test_a_corrupt_promotion_fails_the_run_and_names_the_file(site: Site) -> None:
    file = site.home / "storage" / "champions" / "breaking" / "000001.json"
    file.write_text(file.read_text().replace('"version": 1', '"version": "one"'))
    result = site.champion()
    assert not result.success
    assert str(file) in failure_of(result)
    assert "is not a promotion" in failure_of(result)


def test_a_champion_whose_artifact_is_gone_says_what_can_be_done(site: Site) -> None:
    job = site.log()[0]["training_job"]
    [artifact] = (site.home / "storage" / "training-jobs" / job).rglob("model.tar.gz")
    artifact.unlink()
    left_out = metadata_of(succeeded(site.evaluate("breaking", BREAK)), "breaking/evaluation")
    [record] = left_out["left_out"].records
    assert record.data["predictor"] == job
    assert "is gone" in record.data["reason"]

    result = succeeded(site.train("breaking", 12))
    challenger = recorded(site, "breaking/trained_xgboost_model")[WEEKS[12]]["training_job"]
    metadata = metadata_of(result, "breaking/champion")
    assert (metadata["decision"], metadata["champion"]) == ("keep", job)
    assert f"version 1 of the champions of breaking, {job}" in metadata["decision_reason"]
    assert "model.tar.gz is gone" in metadata["decision_reason"]
    assert f"`confirm: {challenger}`" in metadata["decision_reason"]
    comparison = checks_of(result)["comparison"]
    assert not comparison.passed
    assert comparison.severity is dg.AssetCheckSeverity.WARN
    assert figures(comparison)["reason"] == metadata["decision_reason"]
    evaluated = checks_of(result)["evaluated"]
    assert not evaluated.passed
    assert "it was left out. " in figures(evaluated)["reason"]
    assert "model.tar.gz is gone" in figures(evaluated)["reason"]
    # What the champion did before it was lost still has its verdict.
    decay = figures(checks_of(result)["decay"])
    assert (decay["period"], decay["state"]) == (WEEKS[BREAK], "no verdict")
    assert f"no scores of {job}" in decay["reason"]
    assert checks_of(succeeded(site.champion(confirm=challenger)))["comparison"].passed
    assert [entry["training_job"] for entry in site.log()] == [job, challenger]


def test_a_rollback_to_a_model_whose_artifact_is_gone_changes_nothing(site: Site) -> None:
    succeeded(site.evaluate("breaking", 10, 11, 12))
    succeeded(site.train("breaking", 12))
    log = site.log()
    assert [entry["kind"] for entry in log] == ["first", "promotion"]
    [artifact] = (site.home / "storage" / "training-jobs" / log[0]["training_job"]).rglob(
        "model.tar.gz"
    )
    artifact.unlink()
    refused = site.champion(version=1)
    assert not refused.success
    assert f"{log[0]['training_job']}/output/model.tar.gz is gone" in failure_of(refused)
    assert site.log() == log


def test_a_rollback_whose_run_failed_afterwards_can_be_repeated(site: Site) -> None:
    succeeded(site.evaluate("breaking", 10, 11, 12))
    succeeded(site.train("breaking", 12))
    site.sql("alter table analytics.breaking rename to elsewhere")
    assert not site.champion(version=1).success
    assert [entry["kind"] for entry in site.log()] == ["first", "promotion", "rollback"]
    site.sql("alter table analytics.elsewhere rename to breaking")
    metadata = metadata_of(succeeded(site.champion(version=1)), "breaking/champion")
    assert (metadata["version"], metadata["partition"]) == (3, WEEKS[2])
    assert [entry["kind"] for entry in site.log()] == ["first", "promotion", "rollback"]


def test_a_feature_of_another_type_has_drifted_and_decay_has_its_verdict(site: Site) -> None:
    site.sql(
        "create or replace table analytics.breaking as "
        "select * replace ('r' || cast(rooms as integer) as rooms) from analytics.breaking"
    )
    champion = succeeded(site.champion())
    drift = checks_of(champion)["input_drift"]
    assert not drift.passed
    assert drift.severity is dg.AssetCheckSeverity.WARN
    said = figures(drift)
    assert "rooms (its type changed from float to string)" in said["reason"]
    rooms = said["features"].records[0].data
    assert (rooms["feature"], rooms["before"], rooms["now"]) == (
        "rooms",
        "type float",
        "type string",
    )
    assert figures(checks_of(champion)["decay"])["state"] == "healthy"

    site.sql(
        "create or replace table analytics.breaking as "
        "select * replace (sold_on as rooms) from analytics.breaking"
    )
    champion = succeeded(site.champion())
    drift = checks_of(champion)["input_drift"]
    assert not drift.passed
    assert "rooms (DATE) is a feature: features are numbers" in figures(drift)["reason"]
    assert figures(checks_of(champion)["decay"])["state"] == "healthy"


def test_a_champion_that_has_decayed_stays_so_when_rows_become_few(site: Site) -> None:
    site.sql(f"delete from analytics.breaking where sold_on >= '{WEEKS[11]}' and sale_id % 10 > 0")
    succeeded(site.evaluate("breaking", *range(BREAK, 13)))
    champion = succeeded(site.champion())
    decay = checks_of(champion)["decay"]
    assert not decay.passed
    assert figures(decay)["state"] == "no verdict"
    reason = figures(decay)["reason"]
    assert decay.description == reason
    assert reason.startswith("decayed by its bias")
    assert "before, and no verdict since to release it: 40 rows in 2 periods" in reason
    assert checks_of(champion)["evaluated"].passed, "it is just as old as max_age"


def test_a_champion_that_is_too_old_to_be_evaluated_is_a_warning(site: Site) -> None:
    succeeded(site.evaluate("breaking", 13, 14, 15))
    champion = succeeded(site.champion())
    job = site.log()[0]["training_job"]
    decay = checks_of(champion)["decay"]
    assert decay.passed, "nothing is known of it"
    assert figures(decay)["state"] == "no verdict"
    evaluated = checks_of(champion)["evaluated"]
    assert not evaluated.passed
    assert evaluated.severity is dg.AssetCheckSeverity.WARN
    assert evaluated.description == (
        f"the evaluation of {WEEKS[15]} has no scores of {job}, so that its decay can't be seen: it was "
        "13 periods old, and evaluation.max_age is 10 periods. Train another model, or raise "
        "evaluation.max_age and evaluate the period again"
    )


def test_without_any_model_all_three_say_so(
    project: Project, located: Callable[[], Location]
) -> None:
    add_models(project)
    location = located()
    sales(location.home)
    site = Site(location.definitions, location.instance, location.home)
    refused = site.champion(version=1)
    assert not refused.success
    assert "no champion to go back to" in failure_of(refused)
    champion = succeeded(site.champion())
    assert not state_of(site, "breaking").champion
    assert "none yet" in metadata_of(champion, "breaking/champion")["champion"]
    said = checks_of(champion)
    assert {figures(said[name])["state"] for name in ("decay", "input_drift")} == {"no verdict"}
    assert figures(said["comparison"])["reason"] == "there is no challenger"
    assert all(check.passed for check in checks_of(champion).values())
    evaluation = metadata_of(succeeded(site.evaluate("breaking", 4)), "breaking/evaluation")
    assert (evaluation["models"], evaluation["rows"]) == (0, 200)
    curve = succeeded(site.materialize(["breaking/decay_curve"]))
    metadata = metadata_of(curve, "breaking/decay_curve")
    assert metadata["recommendation"] == "too little is evaluated"
    assert checks_of(curve)["freshness_window"].passed


def test_the_decay_curve_warns_of_a_window_that_is_too_long(site: Site) -> None:
    result = succeeded(site.materialize(["rising/decay_curve"]))
    metadata = metadata_of(result, "rising/decay_curve")
    ages = {record.data["age"]: record.data for record in metadata["ages"].records}
    assert ages[1]["excess"] == 0
    assert ages[4]["excess"] > ages[2]["excess"] > 0.1
    assert 1 <= metadata["crossing_age_low"] <= metadata["crossing_age"] < 2
    assert metadata["recommended_freshness_window_days"] < 7
    assert metadata["evaluated_periods"] == 8
    assert metadata["models"] == 7, "the warm-up is left out"
    for plot in ("error_by_training_and_evaluation", "excess_by_age"):
        assert "data:image/png;base64," in metadata[plot]
    check = checks_of(result)["freshness_window"]
    assert not check.passed
    assert check.severity is dg.AssetCheckSeverity.WARN
    assert "the configured 200 days is too long" in figures(check)["reason"]


@pytest.mark.parametrize(
    ("right", "wrong", "line", "says"),
    [
        ("max_age: 10 weeks", "max_age: 10 days", 13,
         ["evaluation.max_age", "'10 days' is not a whole number of periods, each of which is a week"]),
        ("max_age: 10 weeks", "max_age: 3 months", 13, ["evaluation.max_age", "each of which is a week"]),
        ("max_age: 10 weeks", "max_age: for ever", 13, ["evaluation.max_age", "17 weeks"]),
        ("metric: median_absolute_percentage_error", "metric: median_absolute_percentage_eror", 13,
         ["evaluation.metric", "did you mean 'median_absolute_percentage_error'"]),
        ("metric: median_absolute_percentage_error", "metric: bias", 13, ["evaluation.metric", "'bias'"]),
        ("rolling: 2 weeks", "rolling: 10 days", 14, ["decay.rolling", "each of which is a week"]),
        ("rolling: 2 weeks", "rolling: 2", 14, ["rolling", "string"]),
        ("max_bias: 0.05", "max_bias: 0", 14, ["decay.max_bias", "greater than 0"]),
        ("max_relative_excess_error: 0.1", "max_relative_excess_error: -0.1", 14,
         ["decay.max_relative_excess_error", "greater than 0"]),
        ("min_rows: 300", "min_rows: 0", 14, ["decay.min_rows", "at least 1"]),
        ("max_effect: 0.1", "max_effect: 1", 15, ["input_drift.max_effect", "less than 1"]),
        ("ignore: [season]", "ignored: [season]", 15, ["input_drift.ignored", "did you mean 'ignore'"]),
        ("margin: 0.02", "margin: -0.02", 16, ["promotion.margin", "at least 0", "-0.02"]),
        ("margin: 0.02", "margin: 2", 16, ["promotion.margin", "at most 1"]),
        ("min_rows: 50", "min_rows: 0", 16, ["promotion.min_rows", "at least 1"]),
        ("min_rows: 50", "confirm: perhaps", 16, ["promotion.confirm"]),
        ("fail_window: 200 days", "fail_window: 7 months", 17, ["freshness", "has no fixed duration"]),
        ("mode: automatic", "mode: sometimes", 18, ["retraining.mode"]),
    ],
)  # fmt: skip
def test_a_mistake_is_located_and_explained(
    project: Project, right: str, wrong: str, line: int, says: list[str]
) -> None:
    file = project.add("breaking", MODEL.replace(right, wrong, 1))
    text = project.mistake()
    assert f"{file}:{line}" in text, text
    for phrase in says:
        assert phrase in text, text


@pytest.mark.parametrize(("every", "start"), [("month", "2024-01-01"), ("year", "2020-01-01")])
def test_what_is_not_written_suits_every_cadence(project: Project, every: str, start: str) -> None:
    plain = MODEL[: MODEL.index("  evaluation:")].replace("3 weeks", f"3 {every}s")
    plain = plain.replace("every: week", f"every: {every}").replace(', end: "2024-04-29"', "")
    project.add("breaking", plain.replace("2024-01-01", start))
    graph = project.definitions().resolve_asset_graph()
    description = graph.get(dg.AssetKey(["breaking", "evaluation"])).description or ""
    assert "up to 26 periods old" in description


def test_jobs_schedule_and_sensors(project: Project) -> None:
    add_models(project)
    definitions = project.definitions()
    keys = {
        job: {
            key.to_user_string()
            for key in definitions.resolve_job_def(job).asset_layer.selected_asset_keys
        }
        for job in ("breaking_training", "breaking_update")
    }
    assert keys == {
        "breaking_training": {
            "breaking/sampled_training_dataset",
            "breaking/trained_xgboost_model",
            "breaking/champion",
        },
        "breaking_update": {"breaking/evaluation", "breaking/champion"},
    }
    repository = definitions.get_repository_def()
    schedule = repository.get_schedule_def("breaking_update")
    assert schedule.job_name == "breaking_update"
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    replay = repository.get_sensor_def("breaking_replay")
    assert replay.job_name == "breaking_update"
    assert replay.default_status is dg.DefaultSensorStatus.STOPPED
    assert repository.has_sensor_def("breaking_retraining")


class Replay:
    """Ticks of the replay sensor of the repository's house_prices, over a real instance."""

    source = dg.AssetKey(["features", "house_price_features"])
    model = dg.AssetKey(["house_prices", "trained_xgboost_model"])

    def __init__(self, location: Location) -> None:
        self.weeks = [f"{date(2014, 4, 28) + timedelta(weeks=week)}" for week in range(57)]
        self.instance = location.instance
        self.repository = location.definitions.get_repository_def()

    def lands(self, key: dg.AssetKey, week: int) -> None:
        self.instance.report_runless_asset_event(
            dg.AssetMaterialization(key, partition=self.weeks[week])
        )

    def tick(self) -> dg.RunRequest | str:
        """The request, or why there is none."""
        sensor = self.repository.get_sensor_def("house_prices_replay")
        with dg.build_sensor_context(self.instance, repository_def=self.repository) as context:
            tick = sensor.evaluate_tick(context)
        return tick.run_requests[0] if tick.run_requests else tick.skip_message or ""

    def asks_for(self) -> str | None:
        asked = self.tick()
        assert isinstance(asked, dg.RunRequest), asked
        assert asked.run_key == asked.partition_key
        return asked.partition_key


def test_replay_goes_from_period_to_period_and_waits_for_what_a_period_led_to(
    repository_location: Location,
) -> None:
    replay = Replay(repository_location)
    assert replay.asks_for() == replay.weeks[0]
    assert replay.asks_for() == replay.weeks[0], "the run key keeps it from being launched twice"
    replay.lands(replay.source, 0)
    assert replay.asks_for() == replay.weeks[1]

    # A first model is due once its window of 17 weeks is full.
    replay.lands(replay.source, 15)
    assert replay.asks_for() == replay.weeks[16]
    replay.lands(replay.source, 16)
    assert replay.tick() == f"a retraining for {replay.weeks[16]} is due (first)"

    run = dg.DagsterRun(
        job_name="house_prices_training",
        status=dg.DagsterRunStatus.STARTED,
        asset_selection=frozenset({replay.model}),
    )
    replay.instance.add_run(run)
    assert replay.tick() == f"run {run.run_id} is in progress"
    replay.instance.report_run_canceled(run)
    assert "is due (first)" in str(replay.tick())

    replay.lands(replay.model, 16)
    assert replay.asks_for() == replay.weeks[17]
    replay.lands(replay.source, 56)
    assert replay.tick() == f"the last period, {replay.weeks[56]}, has landed"


def test_replay_launches_all_that_a_period_needs(repository_location: Location) -> None:
    job = repository_location.definitions.resolve_job_def("house_prices_update")
    assert {key.to_user_string() for key in job.asset_layer.selected_asset_keys} == {
        "raw/house_sales",
        "staging/stg_house_sales",
        "features/house_price_features",
        "house_prices/predictions",
        "house_prices/evaluation",
        "house_prices/champion",
    }
