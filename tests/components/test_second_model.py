"""A second model is one new folder with one defs.yaml: another table, cadence and kind of target."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import dagster as dg
import duckdb
import pytest

from locations import Location, Project, failure_of, metadata_of
from sf_sagemaker import deployment

pytestmark = pytest.mark.slow

CHURN = """
type: sf_sagemaker.components.XGBoostModel
attributes:
  name: churn
  source: {table: analytics.subscriptions}
  row_key: [customer_id, billing_month]
  split_key: customer_id
  event_time: billing_month
  target: churned
  partitions: {every: month, start: "2023-01-01", end: "2024-01-01"}
  sample: {window: 3 months, fraction: 0.5, seed: 3}
  hyperparameters: {objective: "binary:logistic", num_round: 40, max_depth: 3, eta: 0.3}
  compute: {instance_count: 2}
  evaluation: {metric: auc, baseline_by: plan}
  owners: ["team:billing"]
"""
DATASET, MODEL = "churn/sampled_training_dataset", "churn/trained_xgboost_model"


def subscriptions(location: Location) -> None:
    """12 months of 2,000 customers whose churn follows plan, usage and complaints, with gaps."""
    with duckdb.connect(str(location.home / "warehouse.duckdb")) as connection:
        connection.execute("set threads = 1; select setseed(0.5)")
        connection.execute("""
            create schema analytics;
            create table analytics.subscriptions as
            with usage as (
                select
                    customer_id,
                    cast(month as date) as billing_month,
                    ['basic', 'family', 'pro'][1 + customer_id % 3] as plan,
                    if(random() < 0.1, null, random() * 30) as hours_used,
                    cast(floor(random() * 4) as integer) as complaints,
                    random() as luck
                from range(2000) as customers(customer_id),
                    generate_series(date '2023-01-01', date '2023-12-01', interval 1 month) as m(month)
            )
            select
                * exclude (luck),
                luck * 4 + complaints * 1.5 + if(plan = 'basic', 1.5, 0) - coalesce(hours_used, 15) / 10
                    > 3.5 as churned
            from usage
        """)


@pytest.fixture
def churn(project: Project, located: Callable[[], Location]) -> Location:
    project.add("churn", CHURN)
    location = located()
    subscriptions(location)
    return location


def test_one_yaml_file_makes_a_classifier_of_another_table(churn: Location) -> None:
    result = churn.materialize([DATASET, MODEL], "2023-06-01")
    assert result.success, failure_of(result)
    dataset, model = metadata_of(result, DATASET), metadata_of(result, MODEL)
    assert dataset["window"].startswith("[2023-04-01")
    assert 2_600 < dataset["dagster/row_count"] < 3_400  # half of three months of 2,000 customers
    assert dataset["not_sampled"] == 6_000 - dataset["dagster/row_count"]
    for rows in ("validation", "test", "next_period"):
        assert model[f"{rows}_auc"] > model[f"{rows}_baseline_auc"] + 0.1, rows
        assert 0 < model[f"{rows}_log_loss"] < model[f"{rows}_baseline_log_loss"], rows
    assert model["next_period_rows"] == 2_000
    [check] = [e for e in result.get_asset_check_evaluations() if e.check_name == "beats_baseline"]
    assert check.passed
    assert check.metadata["metric"].value == "auc"


def test_its_definitions_are_complete(churn: Location) -> None:
    graph = churn.definitions.resolve_asset_graph()
    node = graph.get(dg.AssetKey(MODEL.split("/")))
    assert node.group_name == "churn"
    assert node.owners == ["team:billing"]
    assert node.kinds >= {"xgboost"}
    assert graph.get(dg.AssetKey(DATASET.split("/"))).parent_keys == {
        dg.AssetKey(["analytics", "subscriptions"])
    }
    assert churn.definitions.resolve_job_def("churn_training")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("update analytics.subscriptions set churned = null", "target"),
        ("update analytics.subscriptions set churned = true", "every row"),
        (
            "insert into analytics.subscriptions "
            "select * from analytics.subscriptions where billing_month = '2023-05-01' limit 1",
            "(2 rows)",
        ),
        ("update analytics.subscriptions set customer_id = null where customer_id = 7", "null"),
        ("alter table analytics.subscriptions drop column churned", "churned"),
        ("delete from analytics.subscriptions where billing_month = '2023-06-01'", "no rows"),
        ("drop table analytics.subscriptions", "subscriptions"),
    ],
)
def test_bad_rows_fail_before_anything_is_stored(churn: Location, damage: str, says: str) -> None:
    with duckdb.connect(str(churn.home / "warehouse.duckdb")) as connection:
        connection.execute(damage)
    result = churn.materialize([DATASET, MODEL], "2023-06-01")
    assert not result.success
    assert says in failure_of(result).lower()
    assert not list((churn.home / "storage").rglob("*.parquet"))
    assert not (churn.home / "storage" / "training-jobs").exists()


def test_a_missing_baseline_column_fails_before_a_job_is_started(churn: Location) -> None:
    with duckdb.connect(str(churn.home / "warehouse.duckdb")) as connection:
        connection.execute("alter table analytics.subscriptions drop column plan")
    result = churn.materialize([DATASET, MODEL], "2023-06-01")
    assert not result.success
    assert "baseline_by is 'plan'" in failure_of(result)
    assert not (churn.home / "storage" / "training-jobs").exists()


def test_a_tables_changes_drive_retraining_and_freshness(
    project: Project, located: Callable[[], Location]
) -> None:
    project.add(
        "churn",
        CHURN.replace(
            "{table: analytics.subscriptions}",
            "{table: analytics.subscriptions, freshness: {fail_window: 40 days}}",
        )
        + "  freshness: {fail_window: 90 days}\n  retraining: {mode: automatic}\n",
    )
    location = located()
    subscriptions(location)
    repository = location.definitions.get_repository_def()
    table, model = dg.AssetKey(["analytics", "subscriptions"]), dg.AssetKey(MODEL.split("/"))
    specs = {spec.key: spec for spec in location.definitions.resolve_all_asset_specs()}
    days = {
        key: dg.FreshnessPolicy.time_window(timedelta(days=n))
        for key, n in ((table, 40), (model, 90))
    }
    assert {key: specs[key].freshness_policy for key in days} == days
    cursor = None

    def look() -> list[str]:
        """What a look at the table reports; Dagster stores it as its daemon would."""
        nonlocal cursor
        with dg.build_sensor_context(
            location.instance,
            cursor=cursor,
            repository_def=repository,
            resources={"warehouse": deployment.resources()["warehouse"]},
        ) as context:
            sensor = repository.get_sensor_def("analytics_subscriptions_changes")
            tick = sensor.evaluate_tick(context)
        cursor = tick.cursor
        for event in tick.asset_events:
            location.instance.report_runless_asset_event(event)
        return [str(event.partition) for event in tick.asset_events]

    def asked() -> tuple[str | None, str] | str:
        """The period that retraining asks for and why, or why it asks for none."""
        with dg.build_sensor_context(location.instance, repository_def=repository) as context:
            tick = repository.get_sensor_def("churn_retraining").evaluate_tick(context)
        for request in tick.run_requests or ():
            return request.partition_key, request.tags["sf_sagemaker/cause"]
        return tick.skip_message or ""

    def change(sql: str) -> None:
        with duckdb.connect(str(location.home / "warehouse.duckdb")) as connection:
            connection.execute(sql)

    change(
        "create table analytics.later as from analytics.subscriptions where billing_month > '2023-06-01'; "
        "delete from analytics.subscriptions where billing_month > '2023-06-01'"
    )
    assert "no period of the source has landed" in asked()
    assert look() == [f"2023-0{month}-01" for month in range(1, 7)]
    assert asked() == ("2023-06-01", "first")
    long_ago = dg.MetadataValue.timestamp(datetime.now(UTC) - timedelta(days=91))
    for key in (dg.AssetKey(DATASET.split("/")), model):
        location.instance.report_runless_asset_event(
            dg.AssetMaterialization(key, partition="2023-06-01", metadata={"trained_at": long_ago})
        )
    assert "2023-06-01" in asked()  # it is old, and there is nothing newer to learn from
    assert look() == []
    change(
        "insert into analytics.subscriptions from analytics.later where billing_month = '2023-07-01'"
    )
    assert look() == ["2023-07-01"]
    assert asked() == ("2023-07-01", "freshness")


def test_a_table_of_two_models_is_watched_once(
    project: Project, located: Callable[[], Location]
) -> None:
    project.add("churn", CHURN)
    project.add("winback", CHURN.replace("name: churn", "name: winback"))
    location = located()
    subscriptions(location)
    repository = location.definitions.get_repository_def()
    [table] = [
        spec
        for spec in location.definitions.resolve_all_asset_specs()
        if spec.key == dg.AssetKey(["analytics", "subscriptions"])
    ]
    assert "analytics.subscriptions" in str(table.description)
    sensor = repository.get_sensor_def("analytics_subscriptions_changes")
    with dg.build_sensor_context(
        instance=location.instance,
        repository_def=repository,
        resources={"warehouse": deployment.resources()["warehouse"]},
    ) as context:
        ticked = sensor.evaluate_tick(context)
    assert [event.partition for event in ticked.asset_events] == [
        f"2023-{month:02d}-01" for month in range(1, 13)
    ]
