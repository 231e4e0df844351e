"""Steps over a range: each partition stands or falls alone, and several trainings run side by side."""

import os
import signal
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import dagster as dg
import pytest

from sf_sagemaker.components.partitioned import Materialized, materialize_each
from sf_sagemaker.errors import SfSagemakerError
from sf_sagemaker.storage import LocalStorage
from sf_sagemaker.training.holding import job_tag
from sf_sagemaker.training.job import Program, TrainingJob
from sf_sagemaker.training.local import LocalTrainingPlatform
from sf_sagemaker.training.pipes import FileMessages, PipesTrainingClient
from sf_sagemaker.training.platform import JobNotFound, JobStatus
from waiting import wait_until

KEY = dg.AssetKey(["prices", "thing"])
WEEKS = ["2024-01-01", "2024-01-08", "2024-01-15", "2024-01-22"]
PARTITIONS = dg.WeeklyPartitionsDefinition(
    start_date="2024-01-01", end_date="2024-01-29", day_offset=1
)

# Says that it has begun, and waits to be released; fails where a file of its partition says so.
WAITING = """
import os, pathlib, sys, time
from dagster_pipes import open_dagster_pipes

folder, partition = pathlib.Path({folder!r}), os.environ["SM_HP_PARTITION"]
with open_dagster_pipes() as pipes:
    print("a line of the log")
    (folder / (partition + ".begun")).touch()
    while not (folder / "go").exists():
        time.sleep(0.01)
    if (folder / (partition + ".fails")).exists():
        sys.exit("out of memory")
    pipes.log.info("trained " + partition)
(pathlib.Path(os.environ["SM_MODEL_DIR"]) / "model.txt").write_text("a model")
"""


class Unlucky(SfSagemakerError):
    """What fails a partition in these tests."""


@dataclass
class Ranges:
    """Runs of an asset over ranges of partitions, in a real instance."""

    instance: dg.DagsterInstance
    parallel: int = 1
    built: list[str] = field(default_factory=list)
    step: list[dg.AssetExecutionContext] = field(default_factory=list)

    def run(
        self,
        build: Callable[[str, Event], Materialized],
        *,
        partitions: tuple[str, str] | None = (WEEKS[0], WEEKS[-1]),
        partition: str | None = None,
        raise_on_error: bool = False,
    ) -> dg.ExecuteInProcessResult:
        check = dg.AssetCheckSpec("worth_it", asset=KEY)

        @dg.asset(
            key=KEY,
            partitions_def=PARTITIONS,
            backfill_policy=dg.BackfillPolicy.single_run(),
            check_specs=[check],
            code_version="7",
        )
        def thing(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
            self.step.append(context)
            return materialize_each(context, build, parallel=self.parallel)

        tags = {}
        if partition is None and partitions is not None:
            tags = {
                "dagster/asset_partition_range_start": partitions[0],
                "dagster/asset_partition_range_end": partitions[1],
            }
        job = dg.Definitions(assets=[thing]).resolve_implicit_global_asset_job_def()
        return job.execute_in_process(
            instance=self.instance,
            tags=tags,
            partition_key=partition,
            raise_on_error=raise_on_error,
        )

    def count(self, key: str, interrupted: Event) -> Materialized:
        """Builds a partition, and notes it."""
        self.built.append(key)
        return Materialized({"week": int(key[-2:])}, f"version {key}", [verdict(key)])

    def recorded(self) -> dict[str, dict[str, Any]]:
        """The newest metadata of each materialized partition, as plain values."""
        records = self.instance.fetch_materializations(KEY, limit=100).records
        return {
            record.partition_key: {
                name: value.value for name, value in record.asset_materialization.metadata.items()
            }
            for record in reversed(records)
            if record.partition_key and record.asset_materialization
        }

    def events(self, run_id: str) -> list[dg.DagsterEvent]:
        logs = self.instance.all_logs(run_id)
        return [entry.dagster_event for entry in logs if entry.dagster_event is not None]

    def error(self, run_id: str) -> str:
        """The failed step's error with its causes."""
        [failure] = [event for event in self.events(run_id) if event.is_step_failure]
        parts, error = [], failure.step_failure_data.error
        while error is not None:
            parts.append(f"{error.cls_name}: {error.message}")
            error = error.cause
        return "\n".join(parts)


def verdict(key: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(check_name="worth_it", passed=True, metadata={"of": key})


@pytest.fixture
def ranges(tmp_path: Path) -> Iterator[Ranges]:
    overrides = {"telemetry": {"enabled": False}}
    with dg.DagsterInstance.local_temp(str(tmp_path), overrides=overrides) as instance:
        yield Ranges(instance)


def test_each_partition_of_a_range_has_its_own_metadata_and_the_newest_one_the_checks(
    ranges: Ranges,
) -> None:
    result = ranges.run(ranges.count)
    assert result.success
    assert ranges.built == WEEKS
    assert ranges.recorded() == {week: {"week": int(week[-2:])} for week in WEEKS}
    [evaluation] = result.get_asset_check_evaluations()
    assert evaluation.metadata["of"].value == WEEKS[-1]


def test_a_single_partition_has_its_data_version_and_checks(ranges: Ranges) -> None:
    result = ranges.run(ranges.count, partition=WEEKS[1])
    assert result.success
    [event] = result.get_asset_materialization_events()
    assert (event.materialization.tags or {})["dagster/data_version"] == f"version {WEEKS[1]}"
    assert ranges.recorded() == {WEEKS[1]: {"week": 8}}
    [evaluation] = result.get_asset_check_evaluations()
    assert evaluation.metadata["of"].value == WEEKS[1]


def test_what_fails_is_named_and_what_succeeded_is_recorded(ranges: Ranges) -> None:
    def build(key: str, interrupted: Event) -> Materialized:
        if key in (WEEKS[0], WEEKS[2]):
            raise Unlucky(f"nothing came of {key}")
        return ranges.count(key, interrupted)

    result = ranges.run(build)
    assert not result.success
    error = ranges.error(result.run_id)
    assert "PartitionsFailed: 2 of 4 partitions of prices/thing failed" in error
    for week in (WEEKS[0], WEEKS[2]):
        assert f"{week}: nothing came of {week}" in error
    for week in (WEEKS[1], WEEKS[3]):
        assert f"{week}: " not in error
    assert ranges.recorded() == {WEEKS[1]: {"week": 8}, WEEKS[3]: {"week": 22}}
    # Retraining compares the code that a partition was built with, whatever became of the run.
    kept = ranges.instance.fetch_materializations(KEY, limit=1).records[0].asset_materialization
    assert kept is not None
    assert kept.tags == {
        "dagster/code_version": "7",
        "dagster/data_version": f"version {WEEKS[3]}",
    }
    # Whoever mends the cause launches only what is missing.
    again = ranges.run(ranges.count, partitions=(WEEKS[0], WEEKS[0]))
    assert again.success
    assert set(ranges.recorded()) == {WEEKS[0], WEEKS[1], WEEKS[3]}


def test_a_single_partition_fails_with_its_own_error(ranges: Ranges) -> None:
    def build(key: str, interrupted: Event) -> Materialized:
        raise Unlucky("nothing came of it")

    result = ranges.run(build, partition=WEEKS[0])
    assert not result.success
    assert "Unlucky: nothing came of it" in ranges.error(result.run_id)
    assert "PartitionsFailed" not in ranges.error(result.run_id)


def test_a_defect_of_the_code_ends_the_run_and_loses_nothing(ranges: Ranges) -> None:
    def build(key: str, interrupted: Event) -> Materialized:
        if key == WEEKS[2]:
            raise ZeroDivisionError("a defect")
        return ranges.count(key, interrupted)

    result = ranges.run(build)
    assert not result.success
    assert "ZeroDivisionError: a defect" in ranges.error(result.run_id)
    assert set(ranges.recorded()) == {WEEKS[0], WEEKS[1]}
    assert WEEKS[3] not in ranges.built


@pytest.mark.parametrize("parallel", [1, 2, 4])
def test_as_many_partitions_are_built_at_once_as_allowed(ranges: Ranges, parallel: int) -> None:
    ranges.parallel = parallel
    lock, at_once, most = threading.Lock(), 0, 0
    full = threading.Barrier(parallel)

    def build(key: str, interrupted: Event) -> Materialized:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        full.wait(20)  # broken, and the run fails, unless as many are built at once
        with lock:
            at_once -= 1
        return ranges.count(key, interrupted)

    assert ranges.run(build).success
    assert most == parallel
    assert sorted(ranges.built) == WEEKS


@dataclass
class Trainings:
    """An asset whose partitions are trained by jobs of the local platform, steered by files."""

    ranges: Ranges
    folder: Path
    platform: LocalTrainingPlatform
    client: PipesTrainingClient

    def job(self, partition: str) -> TrainingJob:
        script = self.folder / "train.py"
        return TrainingJob(
            model="prices",
            partition=partition,
            program=Program("train.py", {"train.py": script}),
            image="test",
            dataset_fingerprint="abc",
            channels=(),
            hyperparameters={"partition": partition},
            seed=7,
        )

    def train(self, partition: str, interrupted: Event) -> Materialized:
        result = self.client.run(
            context=self.ranges.step[-1],
            job=self.job(partition),
            platform=self.platform,
            interrupted=interrupted,
        ).result
        return Materialized(
            {"job": result.name, "adopted": result.adopted}, result.name, [verdict(partition)]
        )

    def run(self, *, raise_on_error: bool = False) -> dg.ExecuteInProcessResult:
        return self.ranges.run(self.train, raise_on_error=raise_on_error)

    def begun(self) -> list[str]:
        return sorted(file.stem for file in self.folder.glob("*.begun"))

    def release(self) -> None:
        (self.folder / "go").touch()

    def status(self, week: str, attempt: int = 1) -> JobStatus | None:
        try:
            return self.platform.describe(self.job(week).name(attempt)).status
        except JobNotFound:
            return None


@pytest.fixture
def trainings(ranges: Ranges, tmp_path: Path) -> Iterator[Trainings]:
    (tmp_path / "train.py").write_text(textwrap.dedent(WAITING.format(folder=str(tmp_path))))
    platform = LocalTrainingPlatform(LocalStorage(tmp_path / "storage"), grace_seconds=5)
    ranges.parallel = 2
    client = PipesTrainingClient(FileMessages(platform.message_path), poll_seconds=0.02)
    trainings = Trainings(ranges, tmp_path, platform, client)
    yield trainings
    trainings.release()  # whatever a failed test left behind


def test_trainings_run_side_by_side_and_only_what_failed_is_trained_again(
    trainings: Trainings, capfd: pytest.CaptureFixture[str]
) -> None:
    bad = trainings.folder / f"{WEEKS[1]}.fails"
    bad.touch()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(trainings.run)
        wait_until(lambda: len(trainings.begun()) == 2)
        time.sleep(0.5)
        assert trainings.begun() == WEEKS[:2], "two may train at once"
        trainings.release()
        first = running.result(60)
    assert not first.success
    error = trainings.ranges.error(first.run_id)
    assert "1 of 4 partitions of prices/thing failed" in error
    assert f"{WEEKS[1]}: training job {trainings.job(WEEKS[1]).name(1)} failed" in error
    assert "out of memory" in error
    recorded = trainings.ranges.recorded()
    assert {week: one["adopted"] for week, one in recorded.items()} == dict.fromkeys(
        (WEEKS[0], WEEKS[2], WEEKS[3]), False
    )
    # What each job reported has reached the run that waited for all of them.
    messages = [entry.user_message for entry in trainings.ranges.instance.all_logs(first.run_id)]
    assert sorted(text for text in messages if text.startswith("trained")) == [
        f"trained {week}" for week in (WEEKS[0], WEEKS[2], WEEKS[3])
    ]
    run = trainings.ranges.instance.get_run_by_id(first.run_id)
    assert run is not None
    for week in WEEKS:
        assert job_tag(trainings.job(week).name(1)).items() <= run.tags.items(), week

    bad.unlink()
    again = trainings.run()
    assert again.success
    recorded = trainings.ranges.recorded()
    assert {week: one["adopted"] for week, one in recorded.items()} == {
        week: week != WEEKS[1] for week in WEEKS
    }
    assert recorded[WEEKS[1]]["job"] == trainings.job(WEEKS[1]).name(2)


@pytest.fixture
def interrupt(trainings: Trainings) -> Iterator[Callable[[Callable[[str], None]], None]]:
    """Interrupts this process once two trainings run, as a run worker is interrupted."""
    with ThreadPoolExecutor(1) as pool:

        def begin(first: Callable[[str], None]) -> None:
            wait_until(lambda: len(trainings.begun()) == 2)
            first(trainings.ranges.instance.get_runs(limit=1)[0].run_id)
            os.kill(os.getpid(), signal.SIGINT)

        yield lambda first: pool.submit(begin, first) and None


def cancel(trainings: Trainings, run_id: str) -> None:
    run = trainings.ranges.instance.get_run_by_id(run_id)
    assert run is not None
    trainings.ranges.instance.report_run_canceling(run)


def test_cancelling_the_run_of_a_range_stops_its_jobs_and_begins_no_other(
    trainings: Trainings, interrupt: Callable[[Callable[[str], None]], None]
) -> None:
    interrupt(lambda run_id: cancel(trainings, run_id))
    with pytest.raises(dg.DagsterExecutionInterruptedError):
        trainings.run(raise_on_error=True)
    for week in WEEKS[:2]:
        wait_until(lambda week=week: trainings.status(week) is JobStatus.STOPPED)
    assert [trainings.status(week) for week in WEEKS[2:]] == [None, None]


def test_a_job_that_another_run_wants_outlives_the_cancelled_range(
    trainings: Trainings, interrupt: Callable[[Callable[[str], None]], None]
) -> None:
    def also_wanted(run_id: str) -> None:
        other = dg.DagsterRun(
            job_name="prices_training",
            status=dg.DagsterRunStatus.STARTED,
            tags=job_tag(trainings.job(WEEKS[1]).name(1)),
        )
        trainings.ranges.instance.add_run(other)
        cancel(trainings, run_id)

    interrupt(also_wanted)
    with pytest.raises(dg.DagsterExecutionInterruptedError):
        trainings.run(raise_on_error=True)
    wait_until(lambda: trainings.status(WEEKS[0]) is JobStatus.STOPPED)
    assert trainings.status(WEEKS[1]) is JobStatus.IN_PROGRESS


def test_any_other_interruption_leaves_the_jobs_for_the_next_run(
    trainings: Trainings, interrupt: Callable[[Callable[[str], None]], None]
) -> None:
    interrupt(lambda run_id: None)
    with pytest.raises(dg.DagsterExecutionInterruptedError):
        trainings.run(raise_on_error=True)
    assert [trainings.status(week) for week in WEEKS[:2]] == [JobStatus.IN_PROGRESS] * 2
    trainings.release()
    assert trainings.run().success
    adopted = {week: one["adopted"] for week, one in trainings.ranges.recorded().items()}
    assert adopted == {WEEKS[0]: True, WEEKS[1]: True, WEEKS[2]: False, WEEKS[3]: False}


def test_what_was_built_before_an_interruption_is_recorded(
    ranges: Ranges,
) -> None:
    def build(key: str, interrupted: Event) -> Materialized:
        if key == WEEKS[2]:
            os.kill(os.getpid(), signal.SIGINT)
            assert interrupted.wait(20), "a partition is told when the run is interrupted"
            raise Unlucky("interrupted")
        return ranges.count(key, interrupted)

    with pytest.raises(dg.DagsterExecutionInterruptedError):
        ranges.run(build, raise_on_error=True)
    assert ranges.recorded() == {WEEKS[0]: {"week": 1}, WEEKS[1]: {"week": 8}}
    assert WEEKS[3] not in ranges.built
