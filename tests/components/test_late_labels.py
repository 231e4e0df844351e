"""Models whose labels are known late: what an update evaluates, and what a replay may know."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest

from locations import Location, failure_of, metadata_of, own_deployment, temporary_project
from sf_sagemaker.lifecycle.evaluation import Evaluation, evaluations_of, read_evaluations
from sf_sagemaker.storage import LocalStorage

pytestmark = pytest.mark.slow

WEEKS = [f"{date(2024, 1, 1) + timedelta(weeks=week)}" for week in range(14)]
TRAINED = 4
BREAK = 7  # from this week on, prices are a third higher
SOURCE = dg.AssetKey(["analytics", "sales"])

MODEL = """
type: sf_sagemaker.components.XGBoostModel
attributes:
  name: {name}
  source: {{table: analytics.sales}}
  row_key: [sale_id]
  event_time: sold_on
  {late}
  target: price
  target_transform: log
  exclude: [settled_on]
  partitions: {{every: week, start: "2024-01-01", end: "2024-04-08"}}
  sample: {{window: 3 weeks, seed: 3}}
  hyperparameters: {{objective: "reg:squarederror", num_round: 20, max_depth: 3, eta: 0.3}}
  evaluation: {{metric: median_absolute_percentage_error, max_age: 12 weeks}}
  decay: {{rolling: 2 weeks, min_rows: 100, max_bias: 0.1, max_relative_excess_error: 0.5}}
"""
# Fourteen weeks of 140 sales, all of them there from the start; a label is known in 3, 10 or 17 days.
SALES = f"""
create schema analytics;
create table analytics.sales as
select
    i as sale_id,
    date '2024-01-01' + cast(i // 20 as integer) as sold_on,
    date '2024-01-01' + cast(i // 20 + 3 + 7 * (i % 3) as integer) as settled_on,
    cast(1 + i % 6 as double) as rooms,
    (hash(i + 13) % 1000) / 1000.0 as place,
    cast(100 * (1 + i % 6) * exp(
        0.17 * ((hash(i) % 1000) / 1000.0 + (hash(i + 7) % 1000) / 1000.0 - 1)
        + if(i >= 140 * {BREAK}, 0.3, 0)) as double) as price
from range(14 * 140) as numbers(i)
"""


@dataclass
class Site(Location):
    """One model in a replay: the table holds everything, and weeks land one after another."""

    name: str = ""

    def land(self, week: int) -> dg.ExecuteInProcessResult:
        """What the replay sensor asks for, which must be that week, and its run."""
        repository = self.definitions.get_repository_def()
        sensor = repository.get_sensor_def(f"{self.name}_replay")
        with dg.build_sensor_context(self.instance, repository_def=repository) as context:
            [request] = sensor.evaluate_tick(context).run_requests or []
        assert request.partition_key == WEEKS[week]
        self.instance.report_runless_asset_event(
            dg.AssetMaterialization(SOURCE, partition=WEEKS[week])
        )
        return self.run(f"{self.name}_update", week)

    def run(self, job: str, week: int) -> dg.ExecuteInProcessResult:
        result = self.definitions.resolve_job_def(job).execute_in_process(
            partition_key=WEEKS[week], instance=self.instance, raise_on_error=False
        )
        assert result.success, failure_of(result)
        return result

    def evaluate(self, week: int, **config: Any) -> Evaluation:
        run_config = {"ops": {f"{self.name}__evaluation": {"config": config}}} if config else None
        result = self.materialize([f"{self.name}/evaluation"], WEEKS[week], run_config=run_config)
        assert result.success, failure_of(result)
        return evaluations_of(self.storage, self.name, WEEKS[week])[-1]

    @property
    def storage(self) -> LocalStorage:
        return LocalStorage(self.home / "storage")

    def labels(self) -> list[int]:
        """How many labels the newest evaluation of each week has."""
        return [evaluation.rows for evaluation in read_evaluations(self.storage, self.name)]


@pytest.fixture
def located(tmp_path: Path) -> Iterator[Callable[[str, str], Site]]:
    with ExitStack() as stack:
        project = stack.enter_context(temporary_project())
        home = tmp_path / "home"
        instance = stack.enter_context(own_deployment(home))

        def make(name: str, late: str) -> Site:
            project.add(name, MODEL.format(name=name, late=late))
            with duckdb.connect(str(home / "warehouse.duckdb")) as connection:
                connection.execute(SALES)
            return Site(project.definitions(), instance, home, name)

        yield make


def replayed(site: Site) -> list[tuple[str, str]]:
    """Replays all weeks, a model being trained in one of them: what the decay check says of each."""
    states = []
    for week in range(len(WEEKS)):
        landed = site.land(week)
        decay = next(
            check for check in landed.get_asset_check_evaluations() if check.check_name == "decay"
        )
        period = decay.metadata.get("period")
        states.append((decay.metadata["state"].value, str(period.value) if period else ""))
        if week == TRAINED:
            site.run(f"{site.name}_training", week)
    return states


def test_labels_that_are_known_after_a_delay(located: Callable[[str, str], Site]) -> None:
    site = located("delayed", "label_delay: 10")
    states = replayed(site)
    # Of the last week nothing is known yet, of the one before four days.
    assert site.labels() == [140] * 12 + [80, 0]
    for week, partition in enumerate(WEEKS[:11]):
        made = evaluations_of(site.storage, "delayed", partition)
        assert [one.rows for one in made] == [0, 80, 140], "at its end, and when labels were known"
        ends = [date.fromisoformat(WEEKS[week]) + timedelta(weeks=n) for n in (1, 2, 3)]
        assert [one.known_by.date() for one in made if one.known_by] == ends
        assert [one.unlabelled for one in made] == [140, 60, 0]
    # What a week's run has evaluated again is recorded as that week's own materialization.
    records = site.instance.fetch_materializations(
        dg.AssetKey(["delayed", "evaluation"]), limit=200
    ).records
    partitions = [record.partition_key for record in records]
    assert partitions.count(WEEKS[3]) == 3
    rows = duckdb.connect(str(site.home / "warehouse.duckdb")).execute(
        "select count(distinct evaluated_at) from lifecycle.delayed_evaluations "
        f"where period = '{WEEKS[6]}'"
    )
    assert rows.fetchall() == [(3,)]
    # The break shows when labels of its week are known, in the run of the week after, and not before.
    known = [period for _, period in states]
    assert known[BREAK] == WEEKS[BREAK - 1]
    assert [state for state, _ in states[TRAINED + 3 : BREAK + 1]] == ["healthy"] * (
        BREAK - TRAINED - 2
    )
    assert states[BREAK + 2] == ("decayed", WEEKS[BREAK + 1])


def test_labels_that_say_when_they_were_known(located: Callable[[str, str], Site]) -> None:
    site = located("settled", "available_at: settled_on")
    states = replayed(site)
    made = evaluations_of(site.storage, "settled", WEEKS[6])
    assert made[0].rows < 50, "a third of the labels are known in three days"
    assert [one.rows for one in made] == sorted({one.rows for one in made})
    assert made[-1].rows == 140
    assert site.labels()[:11] == [140] * 11
    with duckdb.connect(str(site.home / "warehouse.duckdb")) as connection:
        for evaluation in (
            one for week in WEEKS for one in evaluations_of(site.storage, "settled", week)
        ):
            assert evaluation.known_by is not None
            [(known,)] = connection.execute(
                "select count(*) from analytics.sales where sold_on >= $1 and sold_on < $1 + 7 "
                "and settled_on < $2",
                [date.fromisoformat(evaluation.partition), evaluation.known_by.date()],
            ).fetchall()
            assert evaluation.rows == known
    assert "decayed" not in [state for state, _ in states[:BREAK]]
    assert states[-1][0] == "decayed"


def test_a_champion_is_in_force_after_what_has_landed_and_not_after_what_is_labelled(
    located: Callable[[str, str], Site],
) -> None:
    site = located("delayed", "label_delay: 10")
    for week in range(8):
        site.land(week)
    trained = metadata_of(site.run("delayed_training", 5), "delayed/champion")
    assert (trained["as_of"], trained["in_force_from"]) == (WEEKS[7], WEEKS[8])
    assert trained["age_periods"] == 2


def test_a_person_may_say_which_labels_count(located: Callable[[str, str], Site]) -> None:
    site = located("delayed", "label_delay: 10")
    site.land(0)
    site.land(1)
    assert site.evaluate(0).rows == 80
    assert site.evaluate(1, known_by="2024-03-01").rows == 140
    assert site.labels() == [80, 140], "of the other weeks nothing is said"
    for wrong in ("March", "2024-3-1"):
        result = site.materialize(
            ["delayed/evaluation"],
            WEEKS[0],
            run_config={"ops": {"delayed__evaluation": {"config": {"known_by": wrong}}}},
        )
        assert "known_by" in failure_of(result)


def test_of_a_source_of_which_nothing_is_reported_all_is_known_that_there_is(
    located: Callable[[str, str], Site],
) -> None:
    site = located("delayed", "label_delay: 10")
    assert site.evaluate(5).rows == 140


def test_a_period_that_can_not_be_evaluated_again_keeps_no_other_from_it(
    located: Callable[[str, str], Site],
) -> None:
    site = located("delayed", "label_delay: 10")
    for week in range(3):
        site.land(week)
    stray = site.home / "storage" / "evaluations" / "delayed" / WEEKS[1] / "notes" / "a.txt"
    stray.parent.mkdir()
    stray.write_text("a file that doesn't belong there")
    site.land(3)
    assert site.labels() == [140, 80, 80, 0]
    stray.unlink()
    stray.parent.rmdir()
    site.land(4)
    assert site.labels() == [140, 140, 140, 80, 0]
