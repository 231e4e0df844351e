"""When a period that has ended is brought up to date, and for which period that is."""

from datetime import datetime
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from locations import Project
from sf_sagemaker.components.attributes import Partitions
from sf_sagemaker.components.lifecycle_attributes import Update
from sf_sagemaker.periods import InvalidPeriod

MODEL = """
type: sf_sagemaker.components.XGBoostModel
attributes:
  name: prices
  source: {table: analytics.sales}
  row_key: [sale_id]
  event_time: sold_on
  target: price
  partitions: {every: PERIOD, start: "START", end: "2026-01-01", timezone: ZONE}
  sample: {window: 3 PERIODs}
  update: {offset: OFFSET, max_retries: 4}
  hyperparameters: {objective: "reg:squarederror", num_round: 5}
"""


def tick(project: Project, at: str, **written: str) -> tuple[dg.ScheduleDefinition, object]:
    """The schedule, and what it answers at a local time: a request, or why there is none."""
    values = {"PERIOD": "week", "START": "2024-01-01", "ZONE": "UTC", "OFFSET": "3 hours"} | written
    text = MODEL
    for name, value in values.items():
        text = text.replace(name, value)
    project.add("prices", text)
    repository = project.definitions().get_repository_def()
    schedule = repository.get_schedule_def("prices_update")
    moment = datetime.fromisoformat(at).replace(tzinfo=ZoneInfo(values["ZONE"]))
    with dg.build_schedule_context(
        repository_def=repository, scheduled_execution_time=moment
    ) as context:
        data = schedule.evaluate_tick(context)
    return schedule, data.run_requests[0] if data.run_requests else data.skip_message


@pytest.mark.parametrize(
    ("every", "start", "offset", "cron", "at", "period"),
    [
        ("week", "2024-01-01", "3 hours", "0 3 * * 1", "2024-05-13 03:00", "2024-05-06"),
        ("week", "2024-01-07", "90 minutes", "30 1 * * 0", "2024-05-12 01:30", "2024-05-05"),
        ("week", "2024-01-06", "2 days", "0 0 * * 1", "2024-05-13 00:00", "2024-05-04"),
        ("day", "2024-01-01", "23 hours", "0 23 * * *", "2024-05-13 23:00", "2024-05-12"),
        ("month", "2024-01-01", "5 days", "0 0 6 * *", "2024-03-06 00:00", "2024-02-01"),
        ("quarter", "2024-01-01", "26 hours", "0 2 2 */3 *", "2024-04-02 02:00", "2024-01-01"),
        ("year", "2020-01-01", "27 days", "0 0 28 1 *", "2024-01-28 00:00", "2023-01-01"),
    ],
)  # fmt: skip
def test_a_period_is_updated_some_time_after_its_end(
    project: Project, every: str, start: str, offset: str, cron: str, at: str, period: str
) -> None:
    schedule, request = tick(project, at, PERIOD=every, START=start, OFFSET=offset)
    assert schedule.cron_schedule == cron
    assert isinstance(request, dg.RunRequest)
    assert (request.partition_key, request.run_key) == (period, period)
    assert request.tags["dagster/max_retries"] == "4"


def test_where_clocks_are_put_forward_the_same_period_is_meant(project: Project) -> None:
    # Half past two doesn't exist on that day, so the schedule's tick is at three.
    _, request = tick(
        project, "2024-03-31 03:00", PERIOD="day", OFFSET="150 minutes", ZONE="Europe/Zurich"
    )
    assert isinstance(request, dg.RunRequest)
    assert request.partition_key == "2024-03-30"


def test_after_the_last_period_nothing_is_asked_for(project: Project) -> None:
    _, answer = tick(project, "2026-01-12 03:00")
    assert "no period ended then: they go from 2024-01-01 until 2026-01-01" in str(answer)


def test_what_is_not_written() -> None:
    partitions = Partitions(every="week", start="2024-01-01")
    assert Update().cron(partitions) == "0 3 * * 1"
    assert Update().max_retries == 2


@pytest.mark.parametrize(
    ("every", "offset"),
    [("day", "1 day"), ("week", "7 days"), ("month", "4 weeks"), ("week", "1 month"), ("day", "90 seconds")],
)  # fmt: skip
def test_an_offset_is_shorter_than_a_period(every: str, offset: str) -> None:
    partitions = Partitions.model_validate({"every": every, "start": "2024-01-01"})
    with pytest.raises(InvalidPeriod, match=offset):
        Update(offset=offset).cron(partitions)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("offset: 8 days", ["update.offset", "'8 days' must be", "less than 7 days"]),
        ("offset: soon", ["update.offset", "'soon' is not a length of time"]),
        ("offset: 3 hours, max_retries: 11", ["update.max_retries", "at most 10"]),
    ],
)
def test_a_mistake_is_located(project: Project, wrong: str, says: list[str]) -> None:
    text = MODEL.replace("PERIOD", "week").replace("START", "2024-01-01").replace("ZONE", "UTC")
    file = project.add("prices", text.replace("offset: OFFSET, max_retries: 4", wrong))
    told = project.mistake()
    assert f"{file}:10" in told
    for phrase in says:
        assert phrase in told
